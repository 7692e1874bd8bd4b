"""A tiny SAM from segment_anything's own classes, with windows, global blocks and relative positions."""

from __future__ import annotations

from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from amsam_ray.config.methods import METHODS
from amsam_ray.models.adapted import AdaptedSam
from amsam_ray.models.backbone import Backbone, encode_to
from amsam_ray.models.trained_model import ModelInputs

SIZE, WIDTH, PROMPT, DEPTH = 64, 24, 32, 3
SAM_METHODS = [name for name, spec in METHODS.items() if spec.start is None]
OFFLINE: dict[str, dict[str, Any]] = {
    "deeplabv3": {"features": "random", "image_size": SIZE},
    "swin_unet": {"features": "random", "image_size": SIZE},
    "hsnet": {"features": "sam"},
    "ssp": {"features": "sam"},
}
"""The methods that are not SAM, with parameters that need no published weights."""


def toy_sam(size: int = SIZE, seed: int = 0) -> Sam:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = Sam(
            ImageEncoderViT(
                img_size=size,
                embed_dim=WIDTH,
                depth=DEPTH,
                num_heads=2,
                out_chans=PROMPT,
                use_rel_pos=True,
                window_size=3,
                global_attn_indexes=(1,),
            ),
            PromptEncoder(PROMPT, (size // 16,) * 2, (size,) * 2, mask_in_chans=8),
            MaskDecoder(
                transformer_dim=PROMPT,
                transformer=TwoWayTransformer(depth=2, embedding_dim=PROMPT, num_heads=2, mlp_dim=48),
            ),
        )
        # Positions and biases start at zero in SAM's classes; trained ones are not zero.
        for parameter in sam.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return sam.eval().requires_grad_(False)


def toy_backbone(seed: int = 0) -> Backbone:
    return Backbone(toy_sam(seed=seed), "nano", SIZE, f"{seed:064x}")


def toy_images(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def toy_inputs(model: AdaptedSam, batch: int = 2, seed: int = 0) -> ModelInputs:
    """Return inputs with all fields that any method needs, and a box for every image."""
    images = toy_images(batch, seed)
    boxes = torch.tensor([[8.0, 10.0, 50.0, 44.0], [20.0, 4.0, 60.0, 62.0], [1.0, 2.0, 30.0, 40.0]])[:batch]
    return ModelInputs(
        features=encode_to(model.backbone, images, model.cache_point),
        boxes=boxes,
        has_box=(True,) * batch,
        highpass=images - images.mean(dim=(2, 3), keepdim=True),
        view_features=encode_to(model.backbone, images.flip(1), model.cache_point),
    )
