"""Medical SAM Adapter with space adapters only, for 2-D images (Wu et al. 2023, arXiv 2304.12620)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amsam_ray.config.key_groups import ALWAYS, BOX_PROMPT, MASK_LOSS, OPTIMISER
from amsam_ray.config.methods import MethodSpec
from amsam_ray.config.params import MethodParams
from amsam_ray.config.protocol import Protocol
from amsam_ray.models.recipe import Recipe

if TYPE_CHECKING:
    from amsam_ray.models.backbone import Backbone
    from amsam_ray.models.parts.encoder_tail import EncoderTail
    from amsam_ray.models.parts.head import TwoChannelDecoder


def _adapt_decoder(decoder: TwoChannelDecoder, params: MethodParams) -> None:
    """Add three bottlenecks to each block of the two-way transformer; of the head, train only what SAM lacks.

    As published, train the whole decoder instead, without bottlenecks and without a background.
    """
    from amsam_ray.models.parts.space_adapters import add_decoder_bottlenecks

    if params.protocol == "published":
        decoder.train_with_one_channel(unused=False)
        return
    add_decoder_bottlenecks(decoder.transformer, params.adaptor_ratio)


def _adapt_encoder(backbone: Backbone, params: MethodParams) -> EncoderTail:
    """Add two bottlenecks to each encoder block; as published, windows are padded before the normalisation."""
    from amsam_ray.models.parts.encoder_tail import EncoderTail
    from amsam_ray.models.parts.space_adapters import add_encoder_bottlenecks, pad_first

    tail = EncoderTail(backbone)
    published = params.protocol == "published"
    add_encoder_bottlenecks(tail.blocks, backbone.width, params.adaptor_ratio, random=published)
    if published:
        pad_first(tail.blocks)
    return tail


METHOD = MethodSpec(
    name="med_sa",
    title="Medical SAM Adapter (space adapters)",
    paper="Wu et al. 2023, arXiv 2304.12620",
    trains="bottleneck adapters in encoder blocks and decoder",
    prompt="detector box, or default",
    keys={"adaptor_ratio": ALWAYS, **BOX_PROMPT, **OPTIMISER, **MASK_LOSS, "protocol": ALWAYS},
    defaults={"levels": 1, "detector": "on", "head": "warm", "lr": 1e-4, "weight_decay": 0.0},
    recipe=Recipe(_adapt_decoder, _adapt_encoder, learned_prompt=False),
    published=Protocol(
        fixes={"head": "warm", "loss": "bce", "weight_decay": 0.0, "warmup": 0.0},
        loss_side=256,
        loss_resize="nearest",
        schedule="constant",
        notes=(
            "binary cross-entropy with object pixels doubled, at 256 x 256 pixels, on one logit",
            "a constant rate (Adam; the scheduler is never stepped)",
            "no bottlenecks in the decoder; the whole mask decoder trains",
            "a random start of the bottlenecks' up-projections",
            "windows are padded before the first normalisation of a block",
        ),
    ),
)
