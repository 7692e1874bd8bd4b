"""SAM without training, the zero-shot baseline (Kirillov et al. 2023, arXiv 2304.02643)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amsam_ray.config.key_groups import BOX_PROMPT
from amsam_ray.config.methods import MethodSpec
from amsam_ray.config.params import MethodParams
from amsam_ray.models.recipe import Recipe

if TYPE_CHECKING:
    from amsam_ray.models.parts.head import TwoChannelDecoder


def _freeze_decoder(decoder: TwoChannelDecoder, params: MethodParams) -> None:
    """Keep SAM's decoder as it is."""
    decoder.requires_grad_(False)


METHOD = MethodSpec(
    name="sam",
    title="SAM, zero-shot",
    paper="Kirillov et al. 2023, arXiv 2304.02643",
    trains="nothing",
    prompt="detector box, or default",
    keys={key: BOX_PROMPT[key] for key in ("detector", "prompt")},
    defaults={"detector": "on", "levels": 1, "head": "warm"},
    recipe=Recipe(_freeze_decoder, learned_prompt=False),
)
