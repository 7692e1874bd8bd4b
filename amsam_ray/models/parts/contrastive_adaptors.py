"""MCA-SAM's multi-scale contrastive adaptors (Zhou et al. 2024, arXiv 2408.05936).

Before encoder block l the tokens X_l are replaced by X_l + adaptor_l(X_l). The token-level (TC) adaptor is trained
with a loss between its input and output tokens, the sample-level (SC) adaptor with a loss between images and
augmented views of them; MC has both in parallel. Inference needs only the residual sums.

The paper does not define an adaptor's output in these losses. Here it is the sum X_l + adaptor_l(X_l) that the block
receives, because the output of an adaptor that starts at zero has no direction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amsam_ray.config.params import LAST_K, MethodParams
from amsam_ray.errors import InputError, Problem
from amsam_ray.models.backbone import Backbone
from amsam_ray.models.parts.encoder_tail import Contrast, EncoderTail


class Bottleneck(nn.Sequential):
    """Two linear layers with a GELU between them, d -> d / s -> d. The second starts at zero, and so does the output.

    Args:
        width: d, the width of the tokens.
        ratio: s, the reduction; at least one hidden unit remains.
        random: start the second layer with torch's random values instead.
    """

    def __init__(self, width: int, ratio: int, *, random: bool = False):
        hidden = max(width // ratio, 1)
        up = nn.Linear(hidden, width)
        if not random:
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
        super().__init__(nn.Linear(width, hidden), nn.GELU(), up)


def first_adapted_block(blocks: str, depth: int) -> int:
    """Return the index of the first encoder block with an adaptor.

    Args:
        blocks: the value of ``adaptor_blocks``, ``all`` or ``last_<k>``.
        depth: the number of encoder blocks.

    Raises:
        InputError: there are fewer than k blocks.
    """
    match = LAST_K.match(blocks)
    if match is None:
        return 0
    last = int(match[1])
    if last > depth:
        raise InputError(
            Problem("adaptor_blocks", f"must be all or last_1 .. last_{depth} for this backbone, not {blocks}")
        )
    return depth - last


class ContrastiveTail(EncoderTail):
    """The end of the encoder, with contrastive adaptors before each block.

    Args:
        backbone: the frozen SAM.
        params: read are ``adaptors`` (tc, sc or mc), ``adaptor_blocks`` and ``adaptor_ratio``.
    """

    def __init__(self, backbone: Backbone, params: MethodParams):
        super().__init__(backbone, first_adapted_block(params.adaptor_blocks, backbone.depth))
        self.token_adaptors, self.sample_adaptors = (
            nn.ModuleList(Bottleneck(backbone.width, params.adaptor_ratio) for _ in self.blocks)
            if params.adaptors in (kind, "mc")
            else None
            for kind in ("tc", "sc")
        )
        self.needs_views = self.sample_adaptors is not None

    def forward(
        self, tokens: Tensor, highpass: Tensor | None = None, view_tokens: Tensor | None = None
    ) -> tuple[Tensor, Contrast]:
        """See ``EncoderTail.forward``; without ``view_tokens``, ``pooled`` stays empty."""
        contrast, batch = Contrast(), len(tokens)
        views = self.training and self.needs_views and view_tokens is not None
        if views:
            assert view_tokens is not None
            tokens = torch.cat([tokens, view_tokens])
        for index, block in enumerate(self.blocks):
            adapted = tokens
            if self.token_adaptors is not None:
                update = self.token_adaptors[index](tokens)
                adapted = adapted + update
                if self.training:
                    x, y = tokens[:batch], tokens[:batch] + update[:batch]
                    contrast.tokens.append((x.flatten(1, 2), y.flatten(1, 2)))
            if self.sample_adaptors is not None:
                update = self.sample_adaptors[index](tokens)
                adapted = adapted + update
                if views:
                    z = (tokens + update).mean(dim=(1, 2))
                    contrast.pooled.append((z[:batch], z[batch:]))
            last = index == len(self.blocks) - 1
            tokens = self.run(block, adapted[:batch] if last else adapted)
        return self.neck(tokens.permute(0, 3, 1, 2)), contrast
