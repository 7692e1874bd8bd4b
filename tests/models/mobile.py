"""MobileSAM with random weights, in the published format."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from amsam_ray.models.backbone import build_sam


def random_mobile_sam(folder: Path) -> Path:
    """Write a checkpoint of about 41 MB and return its path.

    Its batch statistics are those of random images, as after a training; with initial ones, random weights give nearly
    the same embedding for every image.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = build_sam("mobile_sam", 256)
        norms = [module for module in sam.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the mean of all batches
            nn.init.uniform_(norm.weight, 0.5, 1.5)  # ultralytics starts some at zero
        with torch.no_grad():
            sam.image_encoder.train()(torch.randn(2, 3, 256, 256))
    path = folder / "random_mobile_sam.pt"
    torch.save(sam.state_dict(), path)
    return path
