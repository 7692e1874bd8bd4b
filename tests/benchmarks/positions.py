"""Which resize of SAM's absolute positions suits another image size: ``python -m tests.benchmarks.positions``.

The nano SAM was trained at 256 px. At other sizes its 16 x 16 position embeddings are resized bilinearly, as in SAMed
and BLO-SAM, or bicubically, as in Medical SAM Adapter. The zero-shot Dice with the box of the true mask is compared on
procedural images and, with ``--photos DIR``, on all photographs of a folder.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from typing import Any

import torch.nn.functional as F

from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.config.methods import resolve_params
from amsam_ray.config.networks import BackboneConfig
from amsam_ray.data.dataset import open_dataset
from amsam_ray.inference.feature_cache import NoCache
from amsam_ray.inference.inputs import Needs, Picture, Preparer
from amsam_ray.models.adapted import build_method
from amsam_ray.models.backbone import Backbone, load_backbone
from amsam_ray.training.evaluate import score_pictures
from amsam_ray.training.pictures import originals

SIZES, MODES, IMAGES = (128, 192, 256, 384, 512), ("bilinear", "bicubic"), 40


def backbone_at(size: int, mode: str) -> Backbone:
    """Return the nano SAM with its positions resized from the size of its training."""
    backbone = load_backbone(BackboneConfig(image_size=size))
    trained = load_backbone(BackboneConfig()).sam.image_encoder.pos_embed.data.permute(0, 3, 1, 2)
    if backbone.grid != trained.shape[-1]:
        resized = F.interpolate(trained, (backbone.grid, backbone.grid), mode=mode)
        backbone.sam.image_encoder.pos_embed.data = resized.permute(0, 2, 3, 1)
    return backbone


def dice(backbone: Backbone, pictures: list[Picture]) -> list[float]:
    """Return the zero-shot Dice of each picture with the box of its true mask."""
    model = build_method("sam", resolve_params("sam", {}), backbone, seed=0)
    needs = Needs.of(model, training=False, precision="fp32", fallback="none")
    prepared = Preparer(backbone, None, NoCache()).prepare(pictures, replace(needs, true_boxes=True))
    assert prepared.true_boxes is not None and prepared.has_object is not None
    prepared = replace(prepared, boxes=prepared.true_boxes, has_box=prepared.has_object)
    return [
        score["dice"] for score in score_pictures(model, prepared, range(len(prepared)), ["dice"], precision="fp32")
    ]


def images_of(name: str, photos: str | None) -> list[Picture]:
    """Return the images of a procedural family, or those of the folder of photographs."""
    if name != "photos":
        config = DatasetConfig(name="procedural", options={"family": name, "train": 2, "test": IMAGES})
    else:
        config = DatasetConfig(name="folder", root=photos, options={"test": 0.9})
    dataset = open_dataset(config, split="final")
    return originals(dataset, dataset.test, 0)


def main() -> int:
    """Print one row per dataset and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", help="folder with images/ and masks/ of equal stems")
    given: Any = parser.parse_args()
    print("| dataset | pixels | bilinear | bicubic | bicubic - bilinear | standard error |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name in ("lesion", "camouflage", *(["photos"] if given.photos else [])):
        pictures = images_of(name, given.photos)
        for size in SIZES:
            first, second = (dice(backbone_at(size, mode), pictures) for mode in MODES)
            gaps = [b - a for a, b in zip(first, second, strict=True)]
            error = statistics.stdev(gaps) / len(gaps) ** 0.5
            means = [100 * statistics.fmean(row) for row in (first, second, gaps)]
            print(
                f"| {name} | {size} | {means[0]:.1f} | {means[1]:.1f} | {means[2]:+.2f} | {100 * error:.2f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
