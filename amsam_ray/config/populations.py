"""Which trials can train together as a population: one batched step instead of one step each."""

from __future__ import annotations

from amsam_ray.config.methods import get_method

MAY_DIFFER = frozenset({"alpha", "lambda", "rank", "lr", "lr_prompt", "weight_decay", "warmup", "steps", "views"})
"""The keys in which the trials of a population may differ, besides the seed. All others must be equal."""


def lone_reason(method: str) -> str | None:
    """Return why trials of a method train one by one, as the rest of a sentence; None if they can train together."""
    spec = get_method(method)
    if spec.start is not None:
        return "is a network of its own"
    if not spec.trainable:
        return "trains nothing"
    if spec.changes_encoder:
        return "trains inside the encoder"
    return None
