"""Images with the box of their salient object, written as a YOLO dataset."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from amsam_ray.data.procedural import FAMILIES, render
from tools.nano.scenes import render_scene, texture_bank

IMAGE_SIZE = 256
"""Longest side of the images in pixels."""

FAMILY_SHARE = 0.4
"""Share of the images that come from the five families; the rest are scenes."""

_SHARD = 250
_HELD_OUT = 1_000_003
"""Seeds of the families below this one are reserved for the `procedural` dataset and the tests."""


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Return the tight box of a mask, XYXY in pixels with right and bottom edges exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def write_dataset(root: Path, train: int, val: int, seed: int, workers: int) -> Path:
    """Write `train` and `val` images with one box each below `root`; return the path of the dataset's YAML.

    A dataset that is there already is used as it is.
    """
    description = root / "data.yaml"
    if description.exists():
        return description
    jobs = []
    for split, count in (("train", train), ("val", val)):
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        jobs += [(root, split, start, min(_SHARD, count - start), seed) for start in range(0, count, _SHARD)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(_write_shard, jobs))
    description.write_text(f"path: {root.resolve()}\ntrain: images/train\nval: images/val\nnames: {{0: object}}\n")
    return description


def _write_shard(job: tuple[Path, str, int, int, int]) -> None:
    root, split, start, count, seed = job
    cv2.setNumThreads(1)
    rng = np.random.default_rng((seed, split == "val", start))
    bank = texture_bank(rng, 60)
    for index in range(start, start + count):
        if rng.random() < FAMILY_SHARE:
            family = FAMILIES[rng.integers(len(FAMILIES))]
            image, mask = render(family, _HELD_OUT + seed + (split == "val"), index, IMAGE_SIZE)
            height, width = mask.shape
        else:
            scene = render_scene(rng, bank, IMAGE_SIZE)
            image, mask = scene.image, scene.mask(0)
            width = round(IMAGE_SIZE * min(1.0, scene.aspect))
            height = round(IMAGE_SIZE * min(1.0, 1 / scene.aspect))
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        left, top, right, bottom = np.array(box_of(mask)) / np.array([*mask.shape[::-1]] * 2)
        label = f"0 {(left + right) / 2:.6f} {(top + bottom) / 2:.6f} {right - left:.6f} {bottom - top:.6f}\n"
        cv2.imwrite(str(root / "images" / split / f"{index:06d}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        (root / "labels" / split / f"{index:06d}.txt").write_text(label)
