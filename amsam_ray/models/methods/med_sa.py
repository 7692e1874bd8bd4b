"""Medical SAM Adapter with space adapters only, for 2-D images (Wu et al. 2023, arXiv 2304.12620)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amsam_ray.config.key_groups import ALWAYS, BOX_PROMPT, MASK_LOSS, OPTIMISER
from amsam_ray.config.methods import MethodSpec
from amsam_ray.config.params import MethodParams
from amsam_ray.models.recipe import Recipe

if TYPE_CHECKING:
    from amsam_ray.models.backbone import Backbone
    from amsam_ray.models.parts.encoder_tail import EncoderTail
    from amsam_ray.models.parts.head import TwoChannelDecoder


def _adapt_decoder(decoder: TwoChannelDecoder, params: MethodParams) -> None:
    """Add three bottlenecks to each block of the two-way transformer; of the head, train only what SAM lacks."""
    from amsam_ray.models.parts.space_adapters import add_decoder_bottlenecks

    add_decoder_bottlenecks(decoder.transformer, params.adaptor_ratio)


def _adapt_encoder(backbone: Backbone, params: MethodParams) -> EncoderTail:
    """Add two bottlenecks to each encoder block."""
    from amsam_ray.models.parts.encoder_tail import EncoderTail
    from amsam_ray.models.parts.space_adapters import add_encoder_bottlenecks

    tail = EncoderTail(backbone)
    add_encoder_bottlenecks(tail.blocks, backbone.width, params.adaptor_ratio)
    return tail


METHOD = MethodSpec(
    name="med_sa",
    title="Medical SAM Adapter (space adapters)",
    paper="Wu et al. 2023, arXiv 2304.12620",
    trains="bottleneck adapters in encoder blocks and decoder",
    prompt="detector box, or default",
    keys={"adaptor_ratio": ALWAYS, **BOX_PROMPT, **OPTIMISER, **MASK_LOSS},
    defaults={"levels": 1, "detector": "on", "head": "warm", "lr": 1e-4, "weight_decay": 0.0},
    recipe=Recipe(_adapt_decoder, _adapt_encoder, learned_prompt=False),
)
