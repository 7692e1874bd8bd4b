"""SAM-Adapter: hints from high frequencies before every encoder block (Chen et al. 2023, arXiv 2304.09148)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amsam_ray.config.key_groups import ALWAYS, MASK_LOSS, OPTIMISER
from amsam_ray.config.methods import MethodSpec
from amsam_ray.config.params import MethodParams
from amsam_ray.models.recipe import Recipe, train_decoder

if TYPE_CHECKING:
    from amsam_ray.models.backbone import Backbone
    from amsam_ray.models.parts.encoder_tail import EncoderTail


def _adapt_encoder(backbone: Backbone, params: MethodParams) -> EncoderTail:
    """Add the high-pass hints to every encoder block."""
    from amsam_ray.models.parts.high_pass import HighPassTail

    return HighPassTail(backbone, params.adaptor_ratio)


METHOD = MethodSpec(
    name="sam_adapter",
    title="SAM-Adapter",
    paper="Chen et al. 2023, arXiv 2304.09148",
    trains="per-block light MLPs over patch embedding and high-pass component, shared up-projection, mask decoder",
    prompt="learned default",
    keys={"freq_ratio": ALWAYS, "adaptor_ratio": ALWAYS, **OPTIMISER, **MASK_LOSS},
    defaults={
        "levels": 1,
        "head": "warm",
        "loss": "bce_iou",
        "lr": 2e-4,
        "weight_decay": 0.0,
        "adaptor_ratio": 32,
    },
    recipe=Recipe(train_decoder, _adapt_encoder),
)
