"""Swin-Unet (Cao et al. 2021, https://arxiv.org/abs/2105.05537), on torchvision's Swin Transformer.

The encoder halves the grid of tokens three times by patch merging, the decoder mirrors it with patch expanding.
Tokens are channels-last throughout, as torchvision's blocks take them.

Suffixes: B batch, C channels, H and W the image's size in pixels, h and w the size of the grid of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlock

from amsam_ray.models.baselines.state import fitted_state

PATCH = 4
WIDTH = 96
WINDOW = 7
HEADS = (3, 6, 12, 24)
DEPTH = 2
"""Blocks of each stage."""

MULTIPLE = PATCH * 2 ** (len(HEADS) - 1)
"""The image's sides are multiples of this."""


class PatchExpanding(nn.Module):
    """Enlarge the grid of tokens: a linear layer without bias, a pixel shuffle, a layer normalisation.

    Args:
        channels: C of the input.
        factor: of both sides of the grid.
        outputs: channels of the output.
    """

    def __init__(self, channels: int, factor: int, outputs: int):
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(channels, factor**2 * outputs, bias=False)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, tokens_BhwC: Tensor) -> Tensor:
        """Map B x h x w x C to B x factor h x factor w x outputs.

        The linear layer's outputs are ordered (row, column, channel) within each token's factor x factor cell.
        """
        cells = self.expand(tokens_BhwC).unflatten(3, (self.factor, self.factor, -1))
        return self.norm(cells.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2))


class SwinUnet(nn.Module):
    """Swin-Unet of the published size, 27,168,228 parameters for two classes.

    A skip is the output of an encoder stage's blocks, before patch merging, as the paper's figure 1 draws it (the
    authors' program takes the stage's input). New linear layers start from a normal distribution of deviation 0.02,
    as in torchvision's encoder.

    Args:
        classes: number of output channels, background first.
        drop_path: the last encoder block's rate of stochastic depth in [0, 1); it grows linearly from 0 at the first
            block, and the decoder's blocks have the rates of the encoder's.
    """

    def __init__(self, classes: int = 2, drop_path: float = 0.2):
        super().__init__()
        self.encoder = SwinTransformer(
            patch_size=[PATCH, PATCH],
            embed_dim=WIDTH,
            depths=[DEPTH] * len(HEADS),
            num_heads=list(HEADS),
            window_size=[WINDOW, WINDOW],
            stochastic_depth_prob=drop_path,
        )
        del self.encoder.head
        _, *layers = self.encoder.features
        stages = layers[::2]  # every other layer is a patch merging
        widths = [WIDTH * 2**stage for stage in reversed(range(len(HEADS)))]
        self.expands = nn.ModuleList(PatchExpanding(wide, 2, narrow) for wide, narrow in pairwise(widths))
        self.fuse = nn.ModuleList(nn.Linear(2 * width, width) for width in widths[1:])
        self.decode = nn.ModuleList(
            nn.Sequential(*(_like(block, WIDTH * 2**stage, HEADS[stage]) for block in stages[stage]))
            for stage in reversed(range(len(HEADS) - 1))
        )
        self.decoded = nn.LayerNorm(WIDTH)
        self.enlarge = PatchExpanding(WIDTH, PATCH, WIDTH)
        self.classify = nn.Conv2d(WIDTH, classes, 1, bias=False)
        for part in (self.expands, self.fuse, self.decode, self.enlarge):
            part.apply(_initialise)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return the logits, B x classes x H x W, of images normalised with ImageNet's mean and deviation.

        H and W are multiples of 32; 224 is the published size.
        """
        embed, *layers = self.encoder.features
        tokens = embed(images_B3HW)
        skips = []
        for stage, merge in zip(layers[:-1:2], layers[1::2], strict=True):
            skips.append(stage(tokens))
            tokens = merge(skips[-1])
        tokens = self.encoder.norm(layers[-1](tokens))
        for expand, fuse, blocks, skip in zip(self.expands, self.fuse, self.decode, reversed(skips), strict=True):
            tokens = blocks(fuse(torch.cat([expand(tokens), skip], dim=3)))
        pixels = self.enlarge(self.decoded(tokens))
        return self.classify(pixels.permute(0, 3, 1, 2))


def load_swin_unet(state: Mapping[str, Any], *, classes: int = 2, drop_path: float = 0.2, where: str = "") -> SwinUnet:
    """Build the network with an encoder from torchvision's official ``swin_t`` state dict.

    The encoder takes the first two of the six blocks of the file's third stage, the decoder's blocks start from the
    encoder's of the same width, the rest is random.

    Args:
        state: weights by official name; the classifier's (``head``) are not needed. They are copied.
        classes: see ``SwinUnet``.
        drop_path: see ``SwinUnet``.
        where: the file that ``state`` comes from, for the error.

    Raises:
        InputError: a key is missing or a value has another shape; names the first of each.
    """
    model = SwinUnet(classes, drop_path)
    # The table of relative positions is a constant that the module computes itself.
    needed = {name: value for name, value in model.encoder.state_dict().items() if not name.endswith("position_index")}
    model.encoder.load_state_dict(fitted_state(state, needed, "swin_t", where), strict=False)
    _, *layers = model.encoder.features
    for blocks, stage in zip(model.decode, reversed(layers[:-1:2]), strict=True):
        blocks.load_state_dict(stage.state_dict())
    return model


def _like(block: SwinTransformerBlock, width: int, heads: int) -> SwinTransformerBlock:
    """Build a block with random values that shifts its windows and drops its paths as ``block`` does."""
    shift, rate = block.attn.shift_size, block.stochastic_depth.p
    return SwinTransformerBlock(width, heads, block.attn.window_size, shift, stochastic_depth_prob=rate)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
