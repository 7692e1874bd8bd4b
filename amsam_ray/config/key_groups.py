"""Groups of hyperparameters and switches that several methods share, each key with the condition under which it acts.

A method's keys are the union of groups and of its own: ``{"rank": ALWAYS, **OPTIMISER, **MASK_LOSS}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ActsWhen:
    """The condition under which a key changes what a method computes: one of the values of a switch that itself acts.

    Attributes:
        switch: public name of the switch, as in YAML.
        values: the values of the switch for which the key acts.
    """

    switch: str
    values: frozenset[Any]


ALWAYS: ActsWhen | None = None
"""The condition of a key that always acts."""

Keys = Mapping[str, ActsWhen | None]
"""Public names of hyperparameters and switches, each with the condition under which it acts."""


def _when(switch: str, *values: Any) -> ActsWhen:
    return ActsWhen(switch, frozenset(values))


OPTIMISER: Keys = {"lr": ALWAYS, "weight_decay": ALWAYS, "warmup": ALWAYS, "steps": ALWAYS, "views": ALWAYS}

BOX_PROMPT: Keys = {
    "detector": ALWAYS,
    "prompt": _when("detector", "on"),
    "box_training": _when("detector", "on"),
}

MASK_LOSS: Keys = {"loss": ALWAYS, "lambda": _when("loss", "ce_dice"), "head": ALWAYS}

BILEVEL: Keys = {
    "levels": ALWAYS,
    "lr_prompt": _when("levels", 2),
    "hypergradient": _when("levels", 2),
    "ahead": _when("hypergradient", "unrolled", "exact"),
    "reach": _when("hypergradient", "unrolled"),
}

NETWORK: Keys = {"lr": ALWAYS, "weight_decay": ALWAYS, "steps": ALWAYS, "views": ALWAYS, "features": ALWAYS}
"""Keys of every method that is not SAM; what else acts depends on its schedule and its loss."""

PIXEL_LOSS: Keys = {"loss": ALWAYS, "lambda": _when("loss", "ce_dice")}

OWN_INPUT: Keys = {"image_size": _when("features", "imagenet", "random")}
"""The size of the input, unless the frozen SAM and its size are used."""

CALIBRATION: Keys = {"calibration": ALWAYS, "alpha": _when("calibration", "batch", "sample", "learned")}

CONTRASTIVE_ADAPTORS: Keys = {
    "adaptors": ALWAYS,
    "adaptor_blocks": _when("adaptors", "tc", "sc", "mc"),
    "adaptor_ratio": _when("adaptors", "tc", "sc", "mc"),
    "tau_token": _when("adaptors", "tc", "mc"),
    "w_token": _when("adaptors", "tc", "mc"),
    "contrast_tokens": _when("adaptors", "tc", "mc"),
    "tau_sample": _when("adaptors", "sc", "mc"),
    "w_sample": _when("adaptors", "sc", "mc"),
}
