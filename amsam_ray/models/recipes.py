"""What each registered method puts into SAM: an encoder part, a decoder part and a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from amsam_ray.config.params import MethodParams
from amsam_ray.models.backbone import Backbone
from amsam_ray.models.parts.contrastive_adaptors import contrastive_encoder
from amsam_ray.models.parts.encoder_tail import EncoderTail
from amsam_ray.models.parts.head import TwoChannelDecoder
from amsam_ray.models.parts.high_pass import HighPassTail
from amsam_ray.models.parts.lora import add_decoder_lora, add_encoder_lora
from amsam_ray.models.parts.space_adapters import med_sa_decoder, med_sa_encoder
from amsam_ray.models.parts.tensor_sharing import make_trainable


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
    encoder: Callable[[Backbone, MethodParams], EncoderTail | None] | None = None
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


def lora_encoder(backbone: Backbone, params: MethodParams) -> EncoderTail:
    """LoRA on q and v of every encoder block (SAMed)."""
    tail = EncoderTail(backbone)
    add_encoder_lora(tail.blocks, params.rank)
    tail.foldable = True
    return tail


RECIPES: dict[str, Recipe] = {
    "sam": Recipe(frozen_decoder, learned_prompt=False),
    "samed": Recipe(full_decoder, lora_encoder),
    "med_sa": Recipe(med_sa_decoder, med_sa_encoder, learned_prompt=False),
    "sam_adapter": Recipe(full_decoder, HighPassTail),
    "blo_sam": Recipe(lora_decoder),
    "am_sam": Recipe(lora_decoder),
    "mca_sam": Recipe(full_decoder, contrastive_encoder),
    "am_mca_sam": Recipe(lora_decoder, contrastive_encoder),
}
