"""Mask calibration (AM-SAM eq. 9-12, arXiv 2410.09714), in closed form.

The paper splits the upscaled embedding U (b x c x h x w) and the hypernetworks' output H (b x n x c) into their c
channels, forms R_i = repeat(U_i) * H_i, takes the mean over the concatenated b*c axis as the new masks, and mixes:
M = alpha M_orig + (1 - alpha) M_new. Since M_orig = sum_i R_i, the mean over the channels is M_orig / c, so that no
tensor of size c x n x h x w is needed.

Suffixes: B batch, C channels c, N mask outputs n, P positions h * w in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn


class MaskCalibration(nn.Module):
    """Compute calibrated mask logits from U and H.

    Modes:
        ``off``: M_orig = H U, SAM's dot product.
        ``batch``: as printed, M_new = mean over the batch of M_orig / c. A prediction depends on the other images of
            the batch, so evaluate one image at a time.
        ``sample``: the mean over the channels of each image, M_new = M_orig / c; equal to the paper's for b = 1. The
            logits are scaled by alpha + (1 - alpha) / c, which changes training but not the argmax.
        ``learned``: M_new = sum_i w_i R_i with one trainable weight per channel, initially 1 / c; starts as
            ``sample``, but M_new is not restricted to multiples of M_orig. An addition of this project.

    Args:
        mode: one of the modes above.
        alpha: weight of the original masks, in [0, 1].
        channels: c, the number of channels of U.

    Attributes:
        over_workers: applied to the mean over the batch. A data-parallel run sets it to the mean over its workers,
            so that ``batch`` uses the joint batch.

    Raises:
        ValueError: ``alpha`` is not in [0, 1].
    """

    def __init__(self, mode: Literal["off", "batch", "sample", "learned"], alpha: float, channels: int):
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], not {alpha}")
        self.mode, self.alpha, self.channels = mode, alpha, channels
        self.over_workers: Callable[[Tensor], Tensor] = _one_worker
        if mode == "learned":
            self.weight = nn.Parameter(torch.full((channels,), 1 / channels))

    def channel_factor(self, alpha: Tensor | None = None) -> Tensor | float:
        """Return the factor of each channel's contribution for a single image: a scalar or a tensor (C,)."""
        if self.mode == "off":
            return 1.0
        weight = self.alpha if alpha is None else alpha
        new = self.weight if self.mode == "learned" else 1 / self.channels
        return weight + (1 - weight) * new

    def forward(self, upscaled_BPC: Tensor, hyper_BNC: Tensor, alpha: Tensor | None = None) -> Tensor:
        """Return the mask logits, B x P x N; ``alpha``, a scalar, replaces the module's own."""
        if self.mode == "learned":
            hyper_BNC = hyper_BNC * self.channel_factor(alpha)
        # In this order, and not H U, the gradient of U has the memory layout of U.
        masks = upscaled_BPC @ hyper_BNC.transpose(1, 2)
        if self.mode == "sample":
            return masks * self.channel_factor(alpha)
        if self.mode == "batch":
            weight = self.alpha if alpha is None else alpha
            new = self.over_workers(masks.mean(dim=0, keepdim=True)) / self.channels
            return weight * masks + (1 - weight) * new
        return masks


def _one_worker(mean: Tensor) -> Tensor:
    return mean
