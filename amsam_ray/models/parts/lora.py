"""Low-rank adaptation of attention projections (Hu et al. 2021, arXiv 2106.09685).

``torch.nn.utils.parametrize`` replaces W by W + BA (AM-SAM eq. 2-4, arXiv 2410.09714). The layers and the names of
SAM's own parameters stay, and ``layer.weight`` is the folded matrix for export.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from amsam_ray.errors import InputError, Problem
from amsam_ray.models.sam_package import Attention, EncoderAttention


class LoRA(nn.Module):
    """The parametrisation W -> W + BA of some rows of a weight matrix.

    A (``down``, r x in) starts with Kaiming-uniform values and B (``up``, out x r) with zeros, so that the layer starts
    as the frozen one. There is no additional scale factor, as in SAMed and BLO-SAM.

    Args:
        weight: the frozen matrix, out x in.
        rank: r, between 1 and the smaller side of a block.
        blocks: the number of equal blocks of rows in the matrix (3 for a fused qkv).
        adapted: the indices of the blocks that get an update each, in ascending order.

    Attributes:
        RANK_AXES: parameter -> its axis of length r. Zeros appended there change neither the update nor its gradient,
            and their own gradient is zero.
    """

    RANK_AXES: ClassVar[Mapping[str, int]] = {"down": 1, "up": 2}

    def __init__(self, weight: Tensor, rank: int, blocks: int = 1, adapted: Sequence[int] = (0,)):
        super().__init__()
        rows, columns = weight.shape[0] // blocks, weight.shape[1]
        self.blocks, self.adapted = blocks, tuple(adapted)
        self.down = nn.Parameter(torch.empty(len(self.adapted), rank, columns))
        self.up = nn.Parameter(torch.zeros(len(self.adapted), rows, rank))
        for matrix in self.down:
            nn.init.kaiming_uniform_(matrix.data, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted matrix, out x in."""
        if self.blocks == 1:
            return torch.addmm(weight, self.up.squeeze(0), self.down.squeeze(0))
        update = self.up @ self.down
        rows = weight.shape[0] // self.blocks
        delta = dict(zip(self.adapted, update, strict=True))
        zero = update.new_zeros(rows, weight.shape[1])
        return weight + torch.cat([delta.get(block, zero) for block in range(self.blocks)])


def _attach(layers: Sequence[nn.Linear], rank: int, blocks: int = 1, adapted: Sequence[int] = (0,)) -> None:
    limit = min(min(layer.out_features // blocks, layer.in_features) for layer in layers)
    if not 1 <= rank <= limit:
        raise InputError(Problem("rank", f"must be an integer in [1, {limit}] for this backbone, not {rank}"))
    for layer in layers:
        # unsafe skips checks of shape and dtype, which run the parametrisation two more times per layer.
        update = LoRA(layer.weight, rank, blocks, adapted)
        parametrize.register_parametrization(layer, "weight", update, unsafe=True)


def add_decoder_lora(transformer: nn.Module, rank: int) -> None:
    """Add LoRA to the q and v projections of every attention of SAM's two-way transformer.

    The attentions are the self-attention, token-to-image and image-to-token of each layer, and the final token-to-image
    attention (BLO-SAM, arXiv 2402.16338).

    Args:
        transformer: a shared copy of ``MaskDecoder.transformer``; changed in place.
        rank: r, at least 1.

    Raises:
        InputError: ``rank`` exceeds the width of the narrowest projection.
    """
    attentions = [module for module in transformer.modules() if isinstance(module, Attention)]
    _attach([layer for attention in attentions for layer in (attention.q_proj, attention.v_proj)], rank)


def add_encoder_lora(blocks: nn.ModuleList, rank: int) -> None:
    """Add LoRA to the q and v rows of every encoder block's fused qkv projection (SAMed, arXiv 2304.13785).

    Args:
        blocks: shared copies of ``ImageEncoderViT.blocks``; changed in place.
        rank: r, at least 1.

    Raises:
        InputError: ``rank`` exceeds the width of the encoder.
    """
    fused = [module.qkv for module in blocks.modules() if isinstance(module, EncoderAttention)]
    _attach(fused, rank, blocks=3, adapted=(0, 2))
