"""How a method changes SAM (its decoder, the end of its encoder and its prompt), or builds a network of its own.

Imports no torch.

The functions of a recipe import torch and the parts inside, so that listing the methods stays cheap. Those that
several methods share are here; the others are in the file of their method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amsam_ray.config.params import MethodParams

if TYPE_CHECKING:
    import torch

    from amsam_ray.models.backbone import Backbone
    from amsam_ray.models.parts.encoder_tail import EncoderTail
    from amsam_ray.models.parts.head import TwoChannelDecoder
    from amsam_ray.models.trained_model import TrainedModel


@dataclass(frozen=True)
class Recipe:
    """The functions that build one method.

    What is copied from SAM stays frozen unless a function makes it trainable; what is new trains unless a function
    freezes it.

    Attributes:
        decoder: changes a two-channel decoder in place.
        encoder: builds the end of the encoder from the first changed block on. None, as a field or as the returned
            value, leaves the encoder frozen and its output cached.
        learned_prompt: True if the prompt embedding A trains, in the upper level or, with ``levels: 1``, together
            with the rest.
    """

    decoder: Callable[[TwoChannelDecoder, MethodParams], None]
    encoder: Callable[[Backbone, MethodParams], EncoderTail | None] | None = None
    learned_prompt: bool = True


@dataclass(frozen=True)
class NetworkRecipe:
    """The function that builds a method that is not SAM.

    Attributes:
        build: given the method's name, its parameters, the frozen SAM (None unless ``features: sam``), the device, and
            whether the tensors that an adapter file holds are loaded next, so that no published file is read for them.
    """

    build: Callable[[str, MethodParams, Backbone | None, torch.device, bool], TrainedModel]


def train_decoder(decoder: TwoChannelDecoder, params: MethodParams) -> None:
    """Train the whole mask decoder (SAMed, SAM-Adapter, MCA-SAM)."""
    from amsam_ray.models.parts.tensor_sharing import make_trainable

    make_trainable(decoder)


def adapt_decoder(decoder: TwoChannelDecoder, params: MethodParams) -> None:
    """Add LoRA to the transformer; train output tokens, upscaling and hypernetworks (BLO-SAM, AM-SAM)."""
    from amsam_ray.models.parts.lora import add_decoder_lora

    decoder.train_output()
    add_decoder_lora(decoder.transformer, params.rank)


def contrastive_encoder(backbone: Backbone, params: MethodParams) -> EncoderTail | None:
    """Add contrastive adaptors to the encoder (MCA-SAM); None, a frozen encoder, for ``adaptors: none``."""
    from amsam_ray.models.parts.contrastive_adaptors import ContrastiveTail

    return None if params.adaptors == "none" else ContrastiveTail(backbone, params)
