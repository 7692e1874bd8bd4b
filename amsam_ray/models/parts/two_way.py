"""SAM's two-way transformer for a batch of images with different prompts, for few tokens and many pixels.

Computes what ``segment_anything``'s ``TwoWayTransformer`` computes, with its modules. Two things differ:

- Tokens can be absent from single images, so that images with and without a box form one batch.
- Between tokens and image, the projections of the image are folded into the tokens: of the score
  (W_q t + b_q) (W_k p + b_k), first (W_q t + b_q) W_k is computed. So seven tokens are projected instead of thousands
  of positions, in both directions, and no tensor of the image is split into heads. With SAM's sizes this halves the
  operations. Scores have the image's positions as their last axis: a softmax over seven values in a row is slow.

Suffixes: B batch, P positions of the image grid, T tokens, C width, H heads, D width of a head; E = H D, N = B T,
S = H T.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from amsam_ray.models.sam_package import Attention, TwoWayTransformer


class TokenAttention(Attention):
    """An attention of the two-way transformer that can ignore keys.

    Args:
        attention: a shared attention, whose projections are taken over.
    """

    def __init__(self, attention: Attention):
        nn.Module.__init__(self)
        self.embedding_dim, self.internal_dim = attention.embedding_dim, attention.internal_dim
        self.num_heads = attention.num_heads
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.out_proj = attention.v_proj, attention.out_proj

    def forward(self, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Attend from q to k.

        Args:
            q: B x Q x C.
            k, v: B x K x C.
            hidden: B x K, True for keys that are ignored; at least one key of each image is not. None ignores none.

        Returns:
            B x Q x C.
        """
        if k.shape[1] < q.shape[1] or (k.shape[1] > q.shape[1] and hidden is not None):
            return self._image_to_tokens(q, k, v, hidden)
        if k.shape[1] > q.shape[1]:
            return self._tokens_to_image(q, k, v)
        q_BHTD, k_BHTD, v_BHTD = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x in (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        )
        scores = q_BHTD * self._scale @ k_BHTD.transpose(-2, -1)
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, None, None, :], -torch.inf)
        merged: Tensor = self.out_proj((scores.softmax(dim=-1) @ v_BHTD).transpose(1, 2).flatten(2))
        return merged

    def _tokens_to_image(self, tokens_BTC: Tensor, k_BPC: Tensor, v_BPC: Tensor) -> Tensor:
        scores_BSP = self._scores(self.q_proj(tokens_BTC), k_BPC, self.k_proj, None)
        mixed_BHTC = (scores_BSP.softmax(dim=-1) @ v_BPC).unflatten(1, (self.num_heads, -1))
        values_HND = mixed_BHTC.transpose(0, 1).flatten(1, 2) @ self._per_head(self.v_proj).transpose(1, 2)
        values_BTE = values_HND.unflatten(1, (len(tokens_BTC), -1)).permute(1, 2, 0, 3).flatten(2) + self.v_proj.bias
        out: Tensor = self.out_proj(values_BTE)
        return out

    def _image_to_tokens(self, image_BPC: Tensor, k_BTC: Tensor, v_BTC: Tensor, hidden_BT: Tensor | None) -> Tensor:
        scores_BSP = self._scores(self.k_proj(k_BTC), image_BPC, self.q_proj, hidden_BT)
        weights_BSP = scores_BSP.unflatten(1, (self.num_heads, -1)).softmax(dim=2).flatten(1, 2)
        output_HDC = self.out_proj.weight.unflatten(1, (self.num_heads, -1)).permute(1, 2, 0)
        values_BSC = _by_image(self._split(self.v_proj(v_BTC)) @ output_HDC, len(image_BPC))
        return weights_BSP.mT @ values_BSC + self.out_proj.bias

    def _scores(self, tokens_BTE: Tensor, image_BPC: Tensor, projection: nn.Linear, hidden_BT: Tensor | None) -> Tensor:
        """Return the scores B x S x P of projected tokens with the image before its ``projection``."""
        tokens_HND = self._split(tokens_BTE) * self._scale
        folded_BSC = _by_image(tokens_HND @ self._per_head(projection), len(image_BPC))
        bias_B1S = _by_image(tokens_HND @ projection.bias.unflatten(0, (self.num_heads, -1, 1)), len(image_BPC)).mT
        if hidden_BT is not None:
            bias_B1S = bias_B1S.masked_fill(hidden_BT.repeat(1, self.num_heads)[:, None], -torch.inf)
        # In this order the gradient of the image has the memory layout of the image.
        return torch.baddbmm(bias_B1S, image_BPC, folded_BSC.mT).mT

    @property
    def _scale(self) -> float:
        return float((self.internal_dim // self.num_heads) ** -0.5)

    def _split(self, tokens_BTE: Tensor) -> Tensor:
        """Return H x N x D of the tokens of all images, N = B T."""
        return tokens_BTE.flatten(0, 1).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)

    def _per_head(self, projection: nn.Linear) -> Tensor:
        """Return a projection's matrix as H x D x C."""
        return projection.weight.unflatten(0, (self.num_heads, -1))


def _by_image(values_HNC: Tensor, batch: int) -> Tensor:
    """Return B x S x C, S = H T, of H x N x C."""
    return values_HNC.unflatten(1, (batch, -1)).transpose(0, 1).flatten(1, 2)


def take_over_attentions(transformer: TwoWayTransformer) -> TwoWayTransformer:
    """Replace every attention of a shared transformer by a ``TokenAttention``, in place, and return it."""
    for module in list(transformer.modules()):
        for name, child in module.named_children():
            if isinstance(child, Attention):
                setattr(module, name, TokenAttention(child))
    return transformer


def attend_two_ways(
    transformer: Any, image_BPC: Tensor, pe_1PC: Tensor, tokens_BTC: Tensor, hidden_BT: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run the transformer.

    Args:
        transformer: a ``TwoWayTransformer`` whose attentions were taken over.
        image_BPC: the image embedding with the dense prompt.
        pe_1PC: positional encodings of the image grid.
        tokens_BTC: output tokens, then prompt tokens.
        hidden_BT: True for tokens that an image does not have. They change nothing; their own output has no meaning.

    Returns:
        The updated tokens, B x T x C, and image, B x P x C.
    """
    queries, keys = tokens_BTC, image_BPC
    for block in transformer.layers:
        queries, keys = attend_block(block, queries, keys, tokens_BTC, pe_1PC, hidden_BT)
    attended = transformer.final_attn_token_to_image(q=queries + tokens_BTC, k=keys + pe_1PC, v=keys)
    return transformer.norm_final_attn(queries + attended), keys


def attend_block(
    block: Any,
    queries_BTC: Tensor,
    keys_BPC: Tensor,
    query_pe_BTC: Tensor,
    key_pe_1PC: Tensor,
    hidden: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run one block: tokens attend to tokens, to the image, then an MLP; last, the image attends to the tokens.

    Args:
        block: a ``TwoWayAttentionBlock`` whose attentions were taken over.
        queries_BTC, keys_BPC: tokens and image.
        query_pe_BTC, key_pe_1PC: added to them where they are compared.
        hidden: as ``attend_two_ways``.

    Returns:
        The updated tokens and image.
    """
    queries = queries_BTC
    if block.skip_first_layer_pe:
        queries = block.self_attn(q=queries, k=queries, v=queries, hidden=hidden)
    else:
        placed = queries + query_pe_BTC
        queries = queries + block.self_attn(q=placed, k=placed, v=queries, hidden=hidden)
    queries = block.norm1(queries)
    placed_keys = keys_BPC + key_pe_1PC
    attended = block.cross_attn_token_to_image(q=queries + query_pe_BTC, k=placed_keys, v=keys_BPC)
    queries = block.norm2(queries + attended)
    queries = block.norm3(queries + block.mlp(queries))
    attended = block.cross_attn_image_to_token(q=placed_keys, k=queries + query_pe_BTC, v=queries, hidden=hidden)
    return queries, block.norm4(keys_BPC + attended)
