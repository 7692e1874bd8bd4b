"""AM-SAM with MCA-SAM's contrastive adaptors: this project's combination of arXiv 2410.09714 and 2408.05936."""

from __future__ import annotations

from amsam_ray.config.key_groups import (
    ALWAYS,
    BILEVEL,
    BOX_PROMPT,
    CALIBRATION,
    CONTRASTIVE_ADAPTORS,
    MASK_LOSS,
    OPTIMISER,
)
from amsam_ray.config.methods import MethodSpec
from amsam_ray.models.recipe import Recipe, adapt_decoder, contrastive_encoder

METHOD = MethodSpec(
    name="am_mca_sam",
    title="AM-SAM with multi-scale contrastive adaptors",
    paper="this project, from arXiv 2410.09714 and 2408.05936",
    trains="LoRA as AM-SAM, and contrastive adaptors before encoder blocks",
    prompt="detector box and learned prompt, upper level",
    keys={
        "rank": ALWAYS,
        **BOX_PROMPT,
        **OPTIMISER,
        **MASK_LOSS,
        **BILEVEL,
        **CALIBRATION,
        **CONTRASTIVE_ADAPTORS,
    },
    defaults={"detector": "on", "calibration": "sample", "head": "warm", "adaptors": "mc"},
    recipe=Recipe(adapt_decoder, contrastive_encoder),
    rank_limit=lambda backbone: backbone.decoder_attention_width,
)
