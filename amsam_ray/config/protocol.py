"""What a trial's training takes from a method's public code, beyond its hyperparameters. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Protocol:
    """How one method trains. The defaults are this project's, for every method that adapts SAM.

    A method whose public code is known declares a second one, which ``protocol: published`` selects. What a recipe
    changes in the model is in the method's file; ``notes`` says it in words.

    Attributes:
        fixes: hyperparameters and switches that the protocol sets, by public name. An entry of ``methods`` cannot set
            them, and they are not searched for it.
        dice_over: ``image``: the mean over images of a Dice per image; ``batch``: one Dice over all pixels of the
            batch.
        loss_side: where the loss is computed: on the ``decoder``'s grid, at the size of the encoder's ``input``, or on
            a square of so many pixels a side. The logits are resized to it.
        loss_resize: interpolation of that resize.
        schedule: ``poly``: after the warm-up lr0 (1 - i / I)^0.9; ``cosine``: from lr0 to 1e-7, changed per epoch;
            ``step``: lr0, a tenth of it after each third of the steps; ``constant``: lr0.
        optimiser: ``adamw``; ``adam``, with L2 weight decay; ``sgd``, with momentum 0.9 and L2 weight decay.
        warmup_steps: steps of the warm-up, instead of the share ``warmup``.
        notes: every deviation from the default, in words.
    """

    fixes: Mapping[str, Any] = field(default_factory=dict)
    dice_over: Literal["image", "batch"] = "image"
    loss_side: Literal["decoder", "input"] | int = "decoder"
    loss_resize: Literal["bilinear", "nearest"] = "bilinear"
    schedule: Literal["poly", "cosine", "step", "constant"] = "poly"
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    warmup_steps: int | None = None
    notes: tuple[str, ...] = ()


DEFAULT = Protocol()
"""This project's protocol."""
