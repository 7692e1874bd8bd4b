"""MobileSAM: SAM's prompt encoder and decoder on a TinyViT encoder (Zhang et al. 2023, arXiv 2306.14289).

The TinyViT (Wu et al. 2022, arXiv 2207.10666) is ultralytics', whose state dict has the layout of the published
``mobile_sam.pt``. It has convolutions and windowed attention and no absolute positions, so that one set of weights fits
every image size that is a multiple of 16.
"""

from __future__ import annotations

import torch
from torch import nn

from amsam_ray.models.preprocess import PIXEL_MEAN, PIXEL_STD
from amsam_ray.models.sam_package import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from amsam_ray.models.ultralytics_quiet import import_ultralytics, process_unchanged

PROMPT_DIM = 256
_STRIDE = 16  # pixels per cell of the embedding


def build_mobile_sam(image_size: int) -> Sam:
    """Build MobileSAM with initial weights. The global random state is kept.

    Args:
        image_size: S, side of the square input in pixels, a multiple of 16; published: 1024.

    Returns:
        A ``Sam`` whose ``image_encoder`` maps B x 3 x S x S to B x 256 x S/16 x S/16. Its batch normalisations make the
        embedding of an image depend on the other images of a batch in training mode, and not in evaluation mode.
    """
    grid = image_size // _STRIDE
    return Sam(
        _tiny_vit(image_size),
        PromptEncoder(
            embed_dim=PROMPT_DIM,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=PROMPT_DIM, mlp_dim=2048, num_heads=8),
            transformer_dim=PROMPT_DIM,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )


def _tiny_vit(image_size: int) -> nn.Module:
    # On the CPU also where the caller builds on the meta device: the import and the constructor read values of tensors,
    # and the table of window offsets is not in the state dict, so that loading a checkpoint would leave it empty.
    with torch.device("cpu"), process_unchanged(), torch.random.fork_rng(devices=[]):
        import_ultralytics()
        from ultralytics.models.sam.modules.tiny_encoder import TinyViT

        encoder: nn.Module = TinyViT(
            img_size=image_size,
            embed_dims=(64, 128, 160, 320),
            depths=(2, 2, 6, 2),
            num_heads=(2, 4, 5, 10),
            window_sizes=(7, 7, 14, 7),
            drop_path_rate=0.0,
        )
    return encoder
