"""What each registered method puts into SAM: an encoder part, a decoder part and a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from amsam_ray.models.backbone import Backbone
from amsam_ray.models.encoder_tail import EncoderTail
from amsam_ray.models.head import TwoChannelDecoder
from amsam_ray.models.lora import add_decoder_lora
from amsam_ray.models.params import MethodParams
from amsam_ray.models.share import make_trainable


@dataclass(frozen=True)
class Recipe:
    """How to build one method.

    What is copied from SAM is frozen unless a recipe says otherwise; what is new trains unless it says otherwise.

    Attributes:
        decoder: changes a two-channel decoder in place.
        encoder: builds the changed end of the encoder; None leaves the encoder frozen and its output cached.
        learned_prompt: whether the prompt embedding A trains (in the upper level, or with the rest if
            ``levels`` is 1).
    """

    decoder: Callable[[TwoChannelDecoder, MethodParams], None]
    encoder: Callable[[Backbone, MethodParams], EncoderTail] | None = None
    learned_prompt: bool = True


def frozen_decoder(decoder: TwoChannelDecoder, params: MethodParams) -> None:
    """SAM's decoder as it is (zero-shot)."""
    decoder.requires_grad_(False)


def full_decoder(decoder: TwoChannelDecoder, params: MethodParams) -> None:
    """The whole mask decoder trains (SAMed, SAM-Adapter, MCA-SAM)."""
    make_trainable(decoder)


def lora_decoder(decoder: TwoChannelDecoder, params: MethodParams) -> None:
    """LoRA in the transformer; output tokens, upscaling and hypernetworks train (BLO-SAM, AM-SAM)."""
    decoder.train_output()
    add_decoder_lora(decoder.transformer, params.rank)


RECIPES: dict[str, Recipe] = {
    "sam": Recipe(frozen_decoder, learned_prompt=False),
    "blo_sam": Recipe(lora_decoder),
    "am_sam": Recipe(lora_decoder),
}
