"""A YOLOv8 of a few thousand weights, which the package loads by the name ``tiny`` where this module is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from amsam_ray.models.detector import build_network, save_network
from amsam_ray.models.detector_networks import register_network

TINY = {
    "nc": 1,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "C2f", [16, True]]],
    "head": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [24, 3, 2]], [[2, 3, 4], 1, "Detect", ["nc"]]],
}
register_network("tiny", TINY)


def tiny_detector(folder: Path, names: Sequence[str] = ("object",)) -> Path:
    """Write a tiny detector of these classes with random weights, always the same ones, and return its file."""
    path = folder / "tiny.safetensors"
    torch.manual_seed(0)
    save_network(build_network(TINY, list(names)), path, 64)
    return path
