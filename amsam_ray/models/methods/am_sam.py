"""AM-SAM: BLO-SAM with a detector's box prompt and mask calibration (Li et al. 2024, arXiv 2410.09714)."""

from __future__ import annotations

from amsam_ray.config.key_groups import ALWAYS, BILEVEL, BOX_PROMPT, CALIBRATION, MASK_LOSS, OPTIMISER
from amsam_ray.config.methods import MethodSpec
from amsam_ray.models.recipe import Recipe, adapt_decoder

METHOD = MethodSpec(
    name="am_sam",
    title="AM-SAM",
    paper="Li et al. 2024, arXiv 2410.09714",
    trains="as BLO-SAM",
    prompt="detector box and learned prompt, upper level",
    keys={"rank": ALWAYS, **BOX_PROMPT, **OPTIMISER, **MASK_LOSS, **BILEVEL, **CALIBRATION},
    defaults={"detector": "on", "calibration": "sample", "head": "warm"},
    recipe=Recipe(adapt_decoder),
    rank_limit=lambda backbone: backbone.decoder_attention_width,
)
