"""The end of SAM's image encoder, from the first block that a method changes.

Everything before it is frozen for every image, so it is computed once and cached.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from amsam_ray.models.backbone import Backbone
from amsam_ray.models.parts.tensor_sharing import share


@dataclass
class Contrast:
    """What the contrastive losses of MCA-SAM compare, one entry per adapted block; empty outside training.

    Attributes:
        tokens: (X, Y) of each token-level adaptor, both (B, N, d): its input and its output tokens.
        pooled: (z, z_view) of each sample-level adaptor, both (B, d): its output averaged over the tokens, of the
            images and of their augmented views.
    """

    tokens: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    pooled: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class EncoderTail(nn.Module):
    """Encoder blocks ``first`` .. end and the neck; shares the backbone's memory.

    A method subclasses it, changes ``self.blocks`` in its constructor or adds something before each block.

    Attributes:
        needs_highpass: whether ``forward`` wants the high-pass component of the images.
        needs_views: whether training wants features of an augmented view of each image.
        foldable: whether the trained weights can be written into SAM's own.
    """

    needs_highpass = False
    needs_views = False
    foldable = False

    def __init__(self, backbone: Backbone, first: int = 0):
        super().__init__()
        self.first = first
        self.blocks = share(backbone.sam.image_encoder.blocks[first:])
        self.neck = share(backbone.sam.image_encoder.neck)

    def forward(
        self, tokens: Tensor, highpass: Tensor | None = None, view_tokens: Tensor | None = None
    ) -> tuple[Tensor, Contrast]:
        """Tokens to the image embedding.

        Args:
            tokens: (B, G, G, d), the input of block ``first``.
            highpass: (B, 3, S, S), if ``needs_highpass``.
            view_tokens: like ``tokens``, of an augmented view of each image, if ``needs_views``.

        Returns:
            (B, C, G, G), and what contrastive losses compare.
        """
        for block in self.blocks:
            tokens = block(tokens)
        return self.neck(tokens.permute(0, 3, 1, 2)), Contrast()
