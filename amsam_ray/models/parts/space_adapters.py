"""Bottlenecks of Medical SAM Adapter for 2-D images (Wu et al. 2023, arXiv 2304.12620).

An encoder block gets one after the attention, with a skip connection, and one parallel to the MLP, scaled by 0.5.
A decoder block gets one after the token-to-image attention, one parallel to the MLP, and one after the residual sum of
the image-to-token attention. The depth adapters for volumes are left out, and the decoder's prompt-conditioned adapter
is a plain bottleneck. The attribute ``adapter`` is part of the parameter names in adapter files.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from amsam_ray.models.parts.contrastive_adaptors import Bottleneck
from amsam_ray.models.sam_package import EncoderBlock, TwoWayTransformer, window_partition, window_unpartition

MLP_SCALE = 0.5  # the published weight of the bottleneck parallel to an MLP


class BottleneckAfter(nn.Module):
    """Compute inner(...) + bottleneck(inner(...))."""

    def __init__(self, inner: nn.Module, bottleneck: nn.Module):
        super().__init__()
        self.inner, self.adapter = inner, bottleneck

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        out: Tensor = self.inner(*args, **kwargs)
        return out + self.adapter(out)


class BottleneckBefore(nn.Module):
    """Compute inner(x + bottleneck(x))."""

    def __init__(self, inner: nn.Module, bottleneck: nn.Module):
        super().__init__()
        self.inner, self.adapter = inner, bottleneck

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x + self.adapter(x))
        return out


class BottleneckBeside(nn.Module):
    """Compute inner(x) + MLP_SCALE * bottleneck(x)."""

    def __init__(self, inner: nn.Module, bottleneck: nn.Module):
        super().__init__()
        self.inner, self.adapter = inner, bottleneck

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) + MLP_SCALE * self.adapter(x)
        return out


class PadFirst(nn.Module):
    """A windowed encoder block that pads before its first normalisation, as Medical SAM Adapter's code does.

    SAM normalises first, so that the padding is zero in the attention; here it is the bias of the normalisation. Where
    the windows need no padding, the two are equal.

    Args:
        block: a shared block with ``window_size`` above 0; its modules are taken over.
    """

    def __init__(self, block: EncoderBlock):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.window_size = block.window_size

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        windows, padded = window_partition(x, self.window_size)
        attended = self.attn(self.norm1(windows))
        x = x + window_unpartition(attended, self.window_size, padded, (height, width))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def pad_first(blocks: nn.ModuleList) -> None:
    """Replace every windowed block of a shared encoder by ``PadFirst``, in place."""
    for place, block in enumerate(blocks):
        if isinstance(block, EncoderBlock) and block.window_size > 0:
            blocks[place] = PadFirst(block)


def add_encoder_bottlenecks(blocks: Iterable[EncoderBlock], width: int, ratio: int, *, random: bool = False) -> None:
    """Add two bottlenecks to every encoder block.

    Args:
        blocks: shared copies of ``ImageEncoderViT.blocks``; changed in place.
        width: d, the width of the encoder's tokens.
        ratio: s, the reduction d -> d / s (published: 4).
        random: start the bottlenecks with random values instead of zero.
    """
    for block in blocks:
        # A windowed attention changes nothing here: the bottleneck works on each token alone.
        block.attn = BottleneckAfter(block.attn, Bottleneck(width, ratio, random=random))
        block.mlp = BottleneckBeside(block.mlp, Bottleneck(width, ratio, random=random))


def add_decoder_bottlenecks(transformer: TwoWayTransformer, ratio: int) -> None:
    """Add three bottlenecks to every block of the two-way transformer.

    Args:
        transformer: a shared copy of ``MaskDecoder.transformer``; changed in place.
        ratio: s, the reduction of the transformer's width C -> C / s.
    """
    width = transformer.embedding_dim
    for block in transformer.layers:
        block.cross_attn_token_to_image = BottleneckAfter(block.cross_attn_token_to_image, Bottleneck(width, ratio))
        block.mlp = BottleneckBeside(block.mlp, Bottleneck(width, ratio))
        block.norm4 = BottleneckBefore(block.norm4, Bottleneck(width, ratio))
