"""SAMed: LoRA in the image encoder and a trained mask decoder (Zhang and Liu 2023, arXiv 2304.13785)."""

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


def _adapt_encoder(backbone: Backbone, params: MethodParams) -> EncoderTail:
    """Add LoRA to q and v of every encoder block."""
    from amsam_ray.models.parts.encoder_tail import EncoderTail
    from amsam_ray.models.parts.lora import add_encoder_lora

    tail = EncoderTail(backbone)
    add_encoder_lora(tail.blocks, params.rank)
    tail.foldable = True
    return tail


METHOD = MethodSpec(
    name="samed",
    title="SAMed",
    paper="Zhang and Liu 2023, arXiv 2304.13785",
    trains="LoRA on q, v of the encoder's fused qkv (all blocks), mask decoder",
    prompt="learned default",
    keys={"rank": ALWAYS, **OPTIMISER, **MASK_LOSS, "protocol": ALWAYS},
    # The warm-up is 250 of 18 600 iterations: 200 epochs of 2211 slices at batch size 24.
    defaults={"levels": 1, "head": "cold", "warmup": 0.0134},
    recipe=Recipe(train_decoder, _adapt_encoder),
    rank_limit=lambda backbone: backbone.encoder_width,
    published=Protocol(
        fixes={"head": "cold", "loss": "ce_dice", "warmup": 0.0},
        dice_over="batch",
        warmup_steps=250,
        notes=("one Dice over all pixels of the batch", "a warm-up of 250 steps, however short the training"),
    ),
)
