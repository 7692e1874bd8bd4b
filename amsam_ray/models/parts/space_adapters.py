"""Bottlenecks of Medical SAM Adapter for 2-D images (Wu et al. 2023, arXiv 2304.12620).

An encoder block gets one after the attention, with a skip connection, and one parallel to the MLP, scaled by 0.5.
A decoder block gets one after the token-to-image attention, one parallel to the MLP, and one after the residual sum of
the image-to-token attention. The depth adapters for volumes are left out, and the decoder's prompt-conditioned adapter
is a plain bottleneck.
"""

from __future__ import annotations

from collections.abc import Iterable

from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.image_encoder import Block as EncoderBlock
from torch import Tensor, nn

from amsam_ray.models.parts.contrastive_adaptors import Bottleneck

MLP_SCALE = 0.5  # the published weight of the bottleneck parallel to an MLP


class After(nn.Module):
    """Compute inner(...) + adapter(inner(...))."""

    def __init__(self, inner: nn.Module, adapter: nn.Module):
        super().__init__()
        self.inner, self.adapter = inner, adapter

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        out: Tensor = self.inner(*args, **kwargs)
        return out + self.adapter(out)


class Before(nn.Module):
    """Compute inner(x + adapter(x))."""

    def __init__(self, inner: nn.Module, adapter: nn.Module):
        super().__init__()
        self.inner, self.adapter = inner, adapter

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x + self.adapter(x))
        return out


class Beside(nn.Module):
    """Compute inner(x) + MLP_SCALE * adapter(x)."""

    def __init__(self, inner: nn.Module, adapter: nn.Module):
        super().__init__()
        self.inner, self.adapter = inner, adapter

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) + MLP_SCALE * self.adapter(x)
        return out


def add_encoder_bottlenecks(blocks: Iterable[EncoderBlock], width: int, ratio: int) -> None:
    """Add two bottlenecks to every encoder block.

    Args:
        blocks: shared copies of ``ImageEncoderViT.blocks``; changed in place.
        width: d, the width of the encoder's tokens.
        ratio: s, the reduction d -> d / s (published: 4).
    """
    for block in blocks:
        # A windowed attention changes nothing here: the bottleneck works on each token alone.
        block.attn = After(block.attn, Bottleneck(width, ratio))
        block.mlp = Beside(block.mlp, Bottleneck(width, ratio))


def add_decoder_bottlenecks(transformer: TwoWayTransformer, ratio: int) -> None:
    """Add three bottlenecks to every block of the two-way transformer.

    Args:
        transformer: a shared copy of ``MaskDecoder.transformer``; changed in place.
        ratio: s, the reduction of the transformer's width C -> C / s.
    """
    width = transformer.embedding_dim
    for block in transformer.layers:
        block.cross_attn_token_to_image = After(block.cross_attn_token_to_image, Bottleneck(width, ratio))
        block.mlp = Beside(block.mlp, Bottleneck(width, ratio))
        block.norm4 = Before(block.norm4, Bottleneck(width, ratio))
