"""SAM's upscaling of the image tokens, computed on tokens.

SAM upscales a picture by two transposed convolutions with kernels of 2 x 2 and stride 2, with a normalisation over the
channels in between. Each position becomes four independent ones, so that the same values follow from two linear layers
on tokens and one rearrangement of the finished masks, without an operation that mixes memory layouts.

Suffixes: B batch, P positions, C channels, N mask outputs; a position's four successors follow each other, row by row.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


def upscale(upscaling: nn.Sequential, image_BPC: Tensor) -> Tensor:
    """Return the upscaled embedding of each position's sixteen successors, B x 16 P x C / 8.

    Args:
        upscaling: SAM's ``output_upscaling``: convolution, normalisation, GELU, convolution, GELU.
        image_BPC: the image tokens after the two-way transformer.
    """
    parts: Any = upscaling
    first, norm, activation, second, last_activation = parts
    hidden = _divide(first, image_BPC)
    hidden = F.layer_norm(hidden, hidden.shape[-1:], norm.weight, norm.bias, norm.eps)
    upscaled: Tensor = last_activation(_divide(second, activation(hidden)))
    return upscaled


def arrange(masks_BPN: Tensor, height: int, width: int) -> Tensor:
    """Return the masks of upscaled positions as pictures.

    Args:
        masks_BPN: one value for each output of the successors of ``height * width`` positions.
        height, width: of the grid of positions before the upscaling.

    Returns:
        B x N x 4 ``height`` x 4 ``width``.
    """
    nested = masks_BPN.unflatten(1, (height, width, 2, 2, 2, 2))  # rows, columns, then twice (row, column) of four
    return nested.permute(0, 7, 1, 3, 5, 2, 4, 6).flatten(5, 7).flatten(2, 4)


def _divide(convolution: Any, tokens_BPC: Tensor) -> Tensor:
    """Apply a transposed convolution, kernel and stride 2, to each position: B x 4 P x its output channels."""
    channels = convolution.out_channels
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (row, column, output) x input
    divided = F.linear(tokens_BPC, weight, convolution.bias.repeat(4))
    return divided.unflatten(-1, (4, channels)).flatten(1, 2)
