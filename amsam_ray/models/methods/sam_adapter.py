"""SAM-Adapter: hints from high frequencies before every encoder block (Chen et al. 2023, arXiv 2304.09148)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amsam_ray.config.key_groups import ALWAYS, MASK_LOSS, OPTIMISER
from amsam_ray.config.methods import MethodSpec
from amsam_ray.config.params import MethodParams
from amsam_ray.config.protocol import Protocol
from amsam_ray.models.recipe import Recipe, train_decoder

if TYPE_CHECKING:
    from amsam_ray.models.backbone import Backbone
    from amsam_ray.models.parts.encoder_tail import EncoderTail
    from amsam_ray.models.parts.head import TwoChannelDecoder


def _train_decoder(decoder: TwoChannelDecoder, params: MethodParams) -> None:
    """Train the whole mask decoder; as published also the hypernetworks of the unused tokens, and no background."""
    if params.protocol == "published":
        decoder.train_with_one_channel(unused=True)
    else:
        train_decoder(decoder, params)


def _adapt_encoder(backbone: Backbone, params: MethodParams) -> EncoderTail:
    """Add the high-pass hints to every encoder block."""
    from amsam_ray.models.parts.high_pass import HighPassTail

    return HighPassTail(backbone, params.adaptor_ratio, random=params.protocol == "published")


METHOD = MethodSpec(
    name="sam_adapter",
    title="SAM-Adapter",
    paper="Chen et al. 2023, arXiv 2304.09148",
    trains="per-block light MLPs over patch embedding and high-pass component, shared up-projection, mask decoder",
    prompt="learned default",
    keys={"freq_ratio": ALWAYS, "adaptor_ratio": ALWAYS, **OPTIMISER, **MASK_LOSS, "protocol": ALWAYS},
    defaults={
        "levels": 1,
        "head": "warm",
        "loss": "bce_iou",
        "lr": 2e-4,
        "weight_decay": 0.0,
        "adaptor_ratio": 32,
    },
    recipe=Recipe(_train_decoder, _adapt_encoder),
    published=Protocol(
        fixes={"head": "warm", "loss": "bce_iou", "weight_decay": 0.01, "warmup": 0.0},
        loss_side="input",
        schedule="cosine",
        notes=(
            "the loss at the size of the encoder's input",
            "AdamW's weight decay of 0.01",
            "a cosine of the rate to 1e-7 over the epochs (20 in the paper's code), constant within an epoch",
            "a random start of the up-projection, and a zero one of the high-pass embedding's bias",
            "the three unused hypernetworks decay; one logit, so the background stays zero",
        ),
    ),
)
