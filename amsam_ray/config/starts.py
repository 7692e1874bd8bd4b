"""What the methods that are not SAM start from: the weights of their first layers. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Features = Literal["imagenet", "sam", "random"]


@dataclass(frozen=True)
class Start:
    """The weights that a network starts from; ``features`` chooses among them.

    Attributes:
        network: the published network, in words.
        weights: the name of its ImageNet weights in ``amsam-ray weights list``.
        choices: the values of ``features`` that the method has; ``imagenet`` is the published one.
        size_step: ``image_size`` must be a multiple of it.
    """

    network: str
    weights: str
    choices: tuple[Features, ...] = ("imagenet", "random")
    size_step: int = 1

    def describe(self, features: str, arch: str) -> str:
        """Return what the weights are, for a leaderboard; whatever is not as published says so.

        Args:
            features: the chosen value.
            arch: the SAM of the sweep.
        """
        published = f"ImageNet {self.network}"
        if features == "imagenet":
            return published
        return f"{f'SAM {arch}' if features == 'sam' else 'none'} (published: {published})"
