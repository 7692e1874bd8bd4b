"""SAM's image encoder without gradients: the numbers of segment-anything's modules, in less time and memory.

- Attention never holds the scores of a whole image at once on a CPU, and adds the relative positions (Li et al. 2022,
  MViTv2, arXiv 2112.01526, eq. 4) inside ``scaled_dot_product_attention`` elsewhere.
- segment-anything pads the tokens to whole windows before the projections. The padding's queries, keys and values are
  the bias, and its outputs are dropped, so here only the tokens are projected.
- On a CPU oneDNN multiplies: on AMD's processors about twice as fast as MKL, which torch takes for float32.

Legend: B images, G x G tokens of width d, N = G x G, P the side padded to whole windows of w x w tokens, h heads of
width c = d / h.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amsam_ray.device import has_onednn_linear
from amsam_ray.models.sam_package import ImageEncoderViT, get_rel_pos

_QUERIES = 512
"""Queries of one head whose scores a CPU computes at once: with 4,096 keys they take 8 MiB, which stay in its cache."""


@torch.no_grad()
def encode(encoder: ImageEncoderViT, images: Tensor) -> Tensor:
    """Return the embedding (B, C, G, G) that an ``ImageEncoderViT`` computes of ``images``, (B, 3, S, S).

    Equal to the encoder's own forward pass within rounding, also under autocast.
    """
    tokens = deque(all_tokens(encoder, images), maxlen=1).pop()
    embedding: Tensor = encoder.neck(tokens.permute(0, 3, 1, 2))
    return embedding


@torch.no_grad()
def all_tokens(encoder: ImageEncoderViT, images: Tensor) -> Iterator[Tensor]:
    """Yield the inputs of blocks 0, 1, ... of an ``ImageEncoderViT`` and last the output of the last, (B, G, G, d)."""
    # An image whose channels lie together gives tokens that do, too: the blocks are slow on any other layout.
    tokens = encoder.patch_embed(images.contiguous(memory_format=torch.channels_last))
    if encoder.pos_embed is not None:
        tokens = tokens + encoder.pos_embed
    yield tokens
    for block in encoder.blocks:
        tokens = _run(block, tokens)
        yield tokens


def _run(block: Any, tokens_BGGd: Tensor) -> Tensor:
    """Return the output of an encoder block, (B, G, G, d). Activations inside have autocast's dtype, sums float32."""
    kind = tokens_BGGd.device.type
    mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    tokens_BGGd = tokens_BGGd.to(block.norm1.weight.dtype)
    dtype = torch.get_autocast_dtype(kind) if mixed else tokens_BGGd.dtype
    with torch.autocast(kind, enabled=False) if mixed else nullcontext():
        attended_BGGd = _attend(block, _linear(block.attn.qkv, block.norm1(tokens_BGGd), dtype))
        tokens_BGGd = tokens_BGGd + _linear(block.attn.proj, attended_BGGd, dtype)
        hidden = _linear(block.mlp.lin1, block.norm2(tokens_BGGd), dtype, block.mlp.act)
        return tokens_BGGd + _linear(block.mlp.lin2, hidden, dtype)


def _linear(layer: nn.Linear, x: Tensor, dtype: torch.dtype, then: nn.Module | None = None) -> Tensor:
    """Return ``then(layer(x))`` computed in ``dtype``."""
    weight, bias, x = layer.weight.to(dtype), layer.bias.to(dtype), x.to(dtype)
    if has_onednn_linear(x.device):
        if isinstance(then, nn.GELU):
            return _onednn(x, weight, bias, "gelu", then.approximate)
        product = _onednn(x, weight, bias)
    else:
        product = F.linear(x, weight, bias)
    return product if then is None else then(product)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, then: str = "none", how: str = "") -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], how)
    return product


def _attend(block: Any, qkv: Tensor) -> Tensor:
    """Return the outputs of the heads, (B, G, G, d), for queries, keys and values (B, G, G, 3d)."""
    if block.window_size:
        return _in_windows(block.attn, qkv, block.window_size)
    heads, side = block.attn.num_heads, qkv.shape[1]
    qkv_BN3hc = qkv.flatten(1, 2).unflatten(-1, (3, heads, -1))
    if has_onednn_linear(qkv.device):
        out_BNhc = torch.stack([_in_slices(block.attn, one, side) for one in qkv_BN3hc])
    else:
        q, k, v = qkv_BN3hc.permute(2, 0, 3, 1, 4).unbind(0)  # each B x h x N x c
        out_BNhc = _scaled_dot_product(block.attn, q, k, v, side).transpose(1, 2)
    return out_BNhc.reshape(*qkv.shape[:3], -1)


def _in_windows(attention: Any, qkv: Tensor, window: int) -> Tensor:
    """Return the outputs, (B, G, G, d), of attention within windows, on a CPU one row of windows at a time."""
    batch, side, _, width = qkv.shape
    heads, count = attention.num_heads, -(-side // window)
    full = count * window
    if full != side:
        padded = attention.qkv.bias.to(qkv.dtype).expand(batch, full, full, width).contiguous()
        padded[:, :side, :side] = qkv
        qkv = padded
    rows = []
    for part in qkv.split(window if qkv.device.type == "cpu" else full, dim=1):
        lines = part.shape[1] // window
        split = part.view(batch, lines, window, count, window, 3, heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = split.reshape(3, batch * lines * count, heads, window * window, -1).unbind(0)
        out = _scaled_dot_product(attention, q, k, v, window).view(batch, lines, count, heads, window, window, -1)
        rows.append(out.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, lines * window, full, -1))
    return torch.cat(rows, dim=1)[:, :side, :side]


def _scaled_dot_product(attention: Any, q: Tensor, k: Tensor, v: Tensor, side: int) -> Tensor:
    """Return softmax(q k^T / sqrt(c) + positions) v; all tensors are (..., h, side x side, c)."""
    bias = None
    if attention.use_rel_pos:
        rows, columns = _positions(attention, q, side)
        bias = (rows[..., :, None] + columns[..., None, :]).flatten(-2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=attention.scale)


def _in_slices(attention: Any, qkv_N3hc: Tensor, side: int) -> Tensor:
    """Return what ``_scaled_dot_product`` does for one image, (N, h, c), some queries of one head at a time."""
    q, k, v = qkv_N3hc.permute(1, 2, 0, 3).contiguous().unbind(0)
    positions = _positions(attention, q, side) if attention.use_rel_pos else None
    q, v_t, out = q * attention.scale, v.transpose(-1, -2).contiguous(), torch.empty_like(qkv_N3hc[:, 0])
    for head, (q_Nc, k_Nc, v_cN, out_Nc) in enumerate(zip(q, k, v_t, out.unbind(1), strict=True)):
        for start in range(0, len(q_Nc), _QUERIES):
            part = slice(start, start + _QUERIES)
            scores = _onednn(q_Nc[part], k_Nc, None)
            if positions is not None:
                rows, columns = positions
                grid = scores.view(-1, side, side)
                grid += rows[head, part, :, None]
                grid += columns[head, part, None, :]
            out_Nc[part] = _onednn(torch.softmax(scores, -1, out=scores), v_cN, None)
    return out


def _positions(attention: Any, q: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return what a key's row and its column add to the scores, both (..., h, side x side, side)."""
    in_rows, in_columns = (
        get_rel_pos(side, side, table).to(q.dtype) for table in (attention.rel_pos_h, attention.rel_pos_w)
    )
    grid = q.unflatten(-2, (side, side))
    rows = torch.einsum("...ijc,ikc->...ijk", grid, in_rows)
    columns = torch.einsum("...ijc,jkc->...ijk", grid, in_columns)
    return rows.flatten(-3, -2), columns.flatten(-3, -2)
