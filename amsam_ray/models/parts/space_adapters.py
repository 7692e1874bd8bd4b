"""Medical SAM Adapter for 2-D images (Wu et al. 2023, arXiv 2304.12620): bottleneck adapters in every block.

Encoder block: one adapter after the attention, with a skip connection, and one beside the MLP, scaled by 0.5.
Decoder block: one after the token-to-image attention, one beside the MLP, one after the residual sum of the
image-to-token attention. Space adapters only: no depth adapter for volumes, and plain bottlenecks in place of the
decoder's prompt-conditioned one.
"""

from __future__ import annotations

from torch import Tensor, nn

from amsam_ray.config.params import MethodParams
from amsam_ray.models.backbone import Backbone
from amsam_ray.models.parts.contrastive_adaptors import Bottleneck
from amsam_ray.models.parts.encoder_tail import EncoderTail
from amsam_ray.models.parts.head import TwoChannelDecoder

MLP_SCALE = 0.5  # the published weight of the adapter beside an MLP


class After(nn.Module):
    """inner(...) + adapter(inner(...))."""

    def __init__(self, inner: nn.Module, adapter: nn.Module):
        super().__init__()
        self.inner, self.adapter = inner, adapter

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        out: Tensor = self.inner(*args, **kwargs)
        return out + self.adapter(out)


class Before(nn.Module):
    """inner(x + adapter(x))."""

    def __init__(self, inner: nn.Module, adapter: nn.Module):
        super().__init__()
        self.inner, self.adapter = inner, adapter

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x + self.adapter(x))
        return out


class Beside(nn.Module):
    """inner(x) + MLP_SCALE * adapter(x)."""

    def __init__(self, inner: nn.Module, adapter: nn.Module):
        super().__init__()
        self.inner, self.adapter = inner, adapter

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) + MLP_SCALE * self.adapter(x)
        return out


def med_sa_encoder(backbone: Backbone, params: MethodParams) -> EncoderTail:
    """All encoder blocks with two adapters each; ``adaptor_ratio`` is the bottleneck's reduction (published: 4)."""
    tail = EncoderTail(backbone)
    for block in tail.blocks:
        # The attention may see windows; an adapter works on each token alone, so it does not matter.
        block.attn = After(block.attn, Bottleneck(backbone.width, params.adaptor_ratio))
        block.mlp = Beside(block.mlp, Bottleneck(backbone.width, params.adaptor_ratio))
    return tail


def med_sa_decoder(decoder: TwoChannelDecoder, params: MethodParams) -> None:
    """Three adapters in each block of the two-way transformer. Of the head only what SAM does not have trains."""
    for block in decoder.transformer.layers:
        width, ratio = decoder.transformer.embedding_dim, params.adaptor_ratio
        block.cross_attn_token_to_image = After(block.cross_attn_token_to_image, Bottleneck(width, ratio))
        block.mlp = Beside(block.mlp, Bottleneck(width, ratio))
        block.norm4 = Before(block.norm4, Bottleneck(width, ratio))
