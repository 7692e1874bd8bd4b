"""Low-rank adaptation of attention projections (Hu et al. 2021, arXiv 2106.09685).

``torch.nn.utils.parametrize`` puts W + BA in place of W (AM-SAM eq. 2-4, arXiv 2410.09714): no layer is replaced,
the names of SAM's own parameters stay, and reading ``layer.weight`` gives the folded matrix for export.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from segment_anything.modeling.image_encoder import Attention as EncoderAttention
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn
from torch.nn.utils import parametrize

from amsam_ray.errors import InputError, Problem


class LoRA(nn.Module):
    """W -> W + BA on some rows of a weight matrix.

    A (``down``, r x in) starts with Kaiming-uniform values, B (``up``, out x r) with zeros, so that the first
    forward pass is the frozen layer's. There is no further scale factor, as in SAMed and BLO-SAM.

    Args:
        weight: the frozen matrix, out x in.
        rank: r, at least 1 and at most the smaller side of a block.
        blocks: how many equal blocks of rows the matrix stacks (3 for a fused qkv).
        adapted: the indices of the blocks that get an update of their own, in ascending order.
    """

    def __init__(self, weight: Tensor, rank: int, blocks: int = 1, adapted: Sequence[int] = (0,)):
        super().__init__()
        rows, columns = weight.shape[0] // blocks, weight.shape[1]
        self.blocks, self.adapted = blocks, tuple(adapted)
        self.down = nn.Parameter(torch.empty(len(self.adapted), rank, columns))
        self.up = nn.Parameter(torch.zeros(len(self.adapted), rows, rank))
        for matrix in self.down:
            nn.init.kaiming_uniform_(matrix.data, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted matrix, out x in."""
        update = self.up @ self.down
        if self.blocks == 1:
            return weight + update[0]
        rows = weight.shape[0] // self.blocks
        delta = dict(zip(self.adapted, update, strict=True))
        zero = update.new_zeros(rows, weight.shape[1])
        return weight + torch.cat([delta.get(block, zero) for block in range(self.blocks)])


def _attach(layers: Sequence[nn.Linear], rank: int, blocks: int = 1, adapted: Sequence[int] = (0,)) -> None:
    limit = min(min(layer.out_features // blocks, layer.in_features) for layer in layers)
    if not 1 <= rank <= limit:
        raise InputError(Problem("rank", f"must be an integer in [1, {limit}] for this backbone, not {rank}"))
    for layer in layers:
        # unsafe: the checks of shape and dtype would run the parametrisation twice more per layer.
        update = LoRA(layer.weight, rank, blocks, adapted)
        parametrize.register_parametrization(layer, "weight", update, unsafe=True)


def add_decoder_lora(transformer: nn.Module, rank: int) -> None:
    """LoRA on the q and v projections of every attention of SAM's two-way transformer.

    Self-attention, token-to-image and image-to-token of each layer, and the final token-to-image attention
    (BLO-SAM, arXiv 2402.16338).

    Args:
        transformer: a shared copy of ``MaskDecoder.transformer``; changed in place.
        rank: r.

    Raises:
        InputError: if ``rank`` exceeds the narrowest projection's width.
    """
    attentions = [module for module in transformer.modules() if isinstance(module, Attention)]
    _attach([layer for attention in attentions for layer in (attention.q_proj, attention.v_proj)], rank)


def add_encoder_lora(blocks: nn.ModuleList, rank: int) -> None:
    """LoRA on the q and v rows of every encoder block's fused qkv projection (SAMed, arXiv 2304.13785).

    Args:
        blocks: shared copies of ``ImageEncoderViT.blocks``; changed in place.
        rank: r.

    Raises:
        InputError: if ``rank`` exceeds the encoder's width.
    """
    fused = [module.qkv for module in blocks.modules() if isinstance(module, EncoderAttention)]
    _attach(fused, rank, blocks=3, adapted=(0, 2))
