"""The nano SAM: segment-anything's own classes at a size that one CPU core runs in tens of milliseconds.

The layout is SAM's (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643); only the numbers are smaller. The weights,
pretrained on procedural images by ``tools/nano/pretrain_sam.py``, are in ``assets/nano_sam.safetensors``.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from amsam_ray.models.preprocess import PIXEL_MEAN, PIXEL_STD
from amsam_ray.models.sam_package import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

IMAGE_SIZE = 256
"""Longest side of an input image in pixels."""

PATCH_SIZE = 16
WIDTH = 192
DEPTH = 6
HEADS = 3
PROMPT_DIM = 128


def build_nano_sam() -> Sam:
    """Build the nano SAM with random weights.

    Every encoder block attends globally and has no relative positions: with 16 x 16 tokens, windows and relative
    positions bring nothing. The absolute position embedding starts as half a 2-D sine-cosine table (Dosovitskiy et
    al. 2021, appendix D.4), which trains faster than SAM's zeros.

    Returns:
        A ``Sam`` whose ``image_encoder`` maps B x 3 x 256 x 256 to B x 128 x 16 x 16 and whose decoder returns masks
        of 64 x 64. ``segment_anything.SamPredictor`` accepts it.
    """
    grid = IMAGE_SIZE // PATCH_SIZE
    encoder = ImageEncoderViT(
        img_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=4,
        out_chans=PROMPT_DIM,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=False,
        window_size=0,
        global_attn_indexes=tuple(range(DEPTH)),
    )
    assert encoder.pos_embed is not None
    encoder.pos_embed.data.copy_(0.5 * _sine_cosine(grid, WIDTH))
    prompts = PromptEncoder(
        embed_dim=PROMPT_DIM,
        image_embedding_size=(grid, grid),
        input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
        mask_in_chans=16,
    )
    decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=PROMPT_DIM, mlp_dim=512, num_heads=8),
        transformer_dim=PROMPT_DIM,
        iou_head_depth=3,
        iou_head_hidden_dim=128,
    )
    return Sam(encoder, prompts, decoder, pixel_mean=list(PIXEL_MEAN), pixel_std=list(PIXEL_STD))


def _sine_cosine(grid: int, width: int) -> Tensor:
    """Return a 2-D position table, 1 x grid x grid x width: a quarter each of sin and cos of y and of x."""
    frequency = 1.0 / 10000 ** (torch.arange(width // 4) / (width // 4))
    angle = torch.arange(grid)[:, None] * frequency
    line = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows = line[:, None].expand(grid, grid, width // 2)
    columns = line[None, :].expand(grid, grid, width // 2)
    return torch.cat([rows, columns], dim=2)[None]
