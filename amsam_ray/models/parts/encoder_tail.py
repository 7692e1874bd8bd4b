"""The end of SAM's image encoder, from the first block that a method changes.

All blocks before it are frozen, so their output is computed once per image and cached.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from amsam_ray.models.backbone import Backbone
from amsam_ray.models.parts.recomputed import recomputed
from amsam_ray.models.parts.tensor_sharing import share


@dataclass
class Contrast:
    """The inputs of MCA-SAM's contrastive losses, one entry per adapted block; empty outside training.

    Attributes:
        tokens: (X, Y) of each token-level adaptor, both (B, N, d): the input and the output tokens.
        pooled: (z, z_view) of each sample-level adaptor, both (B, d): the output averaged over the tokens, for the
            images and for their augmented views.
    """

    tokens: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    pooled: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class EncoderTail(nn.Module):
    """The encoder blocks from ``first`` on and the neck. Shares the backbone's memory.

    A method changes ``blocks`` in place, or subclasses this class and overrides ``forward``.

    Args:
        backbone: the frozen SAM.
        first: index of the first block.

    Attributes:
        needs_highpass: True if ``forward`` needs the high-pass component of the images.
        needs_views: True if training needs the features of an augmented view of each image.
        foldable: True if the trained weights can be folded into SAM's own.
        checkpointing: True if the backward pass computes the activations of the blocks again instead of keeping them.
    """

    needs_highpass = False
    needs_views = False
    foldable = False
    checkpointing = False

    def __init__(self, backbone: Backbone, first: int = 0):
        super().__init__()
        self.first = first
        self.blocks = share(backbone.sam.image_encoder.blocks[first:])
        self.neck = share(backbone.sam.image_encoder.neck)

    def forward(
        self, tokens: Tensor, highpass: Tensor | None = None, view_tokens: Tensor | None = None
    ) -> tuple[Tensor, Contrast]:
        """Compute the image embedding.

        Args:
            tokens: (B, G, G, d), the input of block ``first``, with G x G tokens of width d.
            highpass: (B, 3, S, S), required if ``needs_highpass``.
            view_tokens: like ``tokens``, for an augmented view of each image; used in training if ``needs_views``.

        Returns:
            The embedding, (B, C, G, G), and the inputs of the contrastive losses.
        """
        for block in self.blocks:
            tokens = self.run(block, tokens)
        return self.neck(tokens.permute(0, 3, 1, 2)), Contrast()

    def run(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """Return the output of one of ``blocks`` on ``tokens``, both (B, G, G, d)."""
        out: Tensor = recomputed(block, tokens) if self.checkpointing and torch.is_grad_enabled() else block(tokens)
        return out
