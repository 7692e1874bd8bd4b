"""BLO-SAM: bi-level tuning of the decoder and of the dense prompt (Zhang et al. 2024, arXiv 2402.16338)."""

from __future__ import annotations

from amsam_ray.config.key_groups import ALWAYS, BILEVEL, MASK_LOSS, OPTIMISER
from amsam_ray.config.methods import MethodSpec
from amsam_ray.config.protocol import Protocol
from amsam_ray.models.recipe import Recipe, adapt_decoder

METHOD = MethodSpec(
    name="blo_sam",
    title="BLO-SAM",
    paper="Zhang et al. 2024, arXiv 2402.16338",
    trains="LoRA on q, v of the decoder's attentions, upscaling, hypernetworks, output tokens",
    prompt="learned dense prompt, upper level",
    keys={"rank": ALWAYS, **OPTIMISER, **MASK_LOSS, **BILEVEL, "protocol": ALWAYS},
    defaults={"head": "cold"},
    recipe=Recipe(adapt_decoder),
    rank_limit=lambda backbone: backbone.decoder_attention_width,
    published=Protocol(
        fixes={
            "levels": 2,
            "hypergradient": "unrolled",
            "ahead": "mixed",
            "reach": 0.01,
            "head": "cold",
            "loss": "ce_dice",
        },
        dice_over="batch",
        notes=(
            "the second term of the hypergradient is that of a plain step, at the weights of AdamW's step",
            "one Dice over all pixels of the batch",
        ),
    ),
)
