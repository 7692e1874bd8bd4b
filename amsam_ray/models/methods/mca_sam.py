"""MCA-SAM: multi-scale contrastive adaptors in the encoder (Zhou et al. 2024, arXiv 2408.05936)."""

from __future__ import annotations

from amsam_ray.config.key_groups import CONTRASTIVE_ADAPTORS, MASK_LOSS, OPTIMISER
from amsam_ray.config.methods import MethodSpec
from amsam_ray.models.recipe import Recipe, contrastive_encoder, train_decoder

METHOD = MethodSpec(
    name="mca_sam",
    title="MCA-SAM",
    paper="Zhou et al. 2024, arXiv 2408.05936",
    trains="token- and sample-level contrastive adaptors before encoder blocks, mask decoder",
    prompt="learned default",
    keys={**OPTIMISER, **MASK_LOSS, **CONTRASTIVE_ADAPTORS},
    defaults={
        "levels": 1,
        "head": "warm",
        "adaptors": "mc",
        "loss": "bce_iou",
        "lr": 2e-4,
        "weight_decay": 0.0,
    },
    recipe=Recipe(train_decoder, contrastive_encoder),
)
