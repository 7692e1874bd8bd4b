"""Preparation of images against segment-anything's predictor: ``python -m tests.benchmarks.prepare [--json]``.

Each row prepares the same JPEG files twice with the same network (random weights: speed does not depend on them), in
float32: once as a trial does (read, decode, resize, normalise, encoder in batches), once with OpenCV and
``SamPredictor.set_image``. The rounds alternate; the fastest of each counts. ``max_rel_diff`` is the largest
difference between the embeddings, relative to their largest value.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from segment_anything import SamPredictor
from torch import Tensor

from amsam_ray.data.images import decode_image
from amsam_ray.inference.feature_cache import NoCache
from amsam_ray.inference.inputs import Needs, Picture, Preparer, encoder_batch
from amsam_ray.models.backbone import Backbone, build_sam

_NEEDS = Needs("embedding", boxes=False, pixels=False, views=False, precision="fp32", fallback="none")


def write_photos(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Write JPEG files of smooth random colours, ``size`` (H, W) pixels each."""
    draw = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.jpg")
        cv2.imwrite(str(paths[-1]), cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC))
    return paths


def ours(preparer: Preparer, paths: Sequence[Path], shape: tuple[int, int]) -> Tensor:
    """Return the embeddings, N x C x G x G, as a trial prepares them."""
    nothing = np.zeros(shape, dtype=bool)

    def picture(path: Path) -> Picture:
        def image() -> np.ndarray:
            return decode_image(path.read_bytes(), str(path)).pixels

        return Picture(path.name, path.name, image, lambda: nothing, image, path.name)

    return preparer.prepare([picture(path) for path in paths], _NEEDS).features


def theirs(predictor: SamPredictor, paths: Sequence[Path]) -> Tensor:
    """Return the embeddings of segment-anything's predictor, N x C x G x G."""
    found = []
    for path in paths:
        image = cv2.imread(str(path))
        assert image is not None
        predictor.set_image(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        found.append(predictor.get_image_embedding()[0].clone())
    return torch.stack(found)


def measure(arch: str, size: int, count: int, rounds: int) -> dict[str, float | int | str]:
    """Return one row."""
    torch.manual_seed(0)
    backbone = Backbone(build_sam(arch, size).eval().requires_grad_(False), arch, size, "0" * 64)
    preparer, predictor, shape = Preparer(backbone, None, NoCache()), SamPredictor(backbone.sam), (480, 640)
    best = {"ours": float("inf"), "theirs": float("inf")}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(Path(folder), count, shape)
        for _ in range(rounds):
            started = time.perf_counter()
            embedded = ours(preparer, paths, shape)
            between = time.perf_counter()
            expected = theirs(predictor, paths)
            ended = time.perf_counter()
            best = {
                "ours": min(best["ours"], between - started),
                "theirs": min(best["theirs"], ended - between),
            }
    difference = float((embedded - expected).abs().max() / expected.abs().max())
    return {
        "arch": arch,
        "size": size,
        "images": count,
        "batch": encoder_batch(backbone),
        "ours_per_s": round(count / best["ours"], 3),
        "predictor_per_s": round(count / best["theirs"], 3),
        "ratio": round(best["theirs"] / best["ours"], 2),
        "max_rel_diff": float(f"{difference:.2g}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=["nano", "vit_b"], choices=["nano", "mobile_sam", "vit_b"])
    parser.add_argument("--images", type=int, default=16, help="of nano; an eighth of them for the others")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for arch in options.arch:
        size, count = (256, options.images) if arch == "nano" else (1024, max(1, options.images // 8))
        rows.append(measure(arch, size, count, options.rounds))
        if not options.json:
            print(rows[-1], flush=True)
    print(json.dumps({"threads": torch.get_num_threads(), "rows": rows}))


if __name__ == "__main__":
    main()
