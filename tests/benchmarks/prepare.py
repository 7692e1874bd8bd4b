"""Preparation of images against segment-anything's predictor: ``python -m tests.benchmarks.prepare [--json]``.

Each row prepares the same JPEG files with the same network (random weights: speed does not depend on them): as a trial
does (read, decode, resize, normalise, encoder in batches), and with OpenCV and ``SamPredictor.set_image`` in float32.
The rounds alternate; the fastest of each counts, in wall seconds and in processor seconds, which other programs on the
machine change less. ``bf16`` is measured where the processor has instructions for it.

- ``ratio``, ``cpu_ratio``: images per second, and per processor second, over those of the predictor.
- ``max_rel_diff``: the largest difference between the embeddings, relative to their largest value.
- ``share_of_matrix_rate``: the encoder's operations in a processor second, over those of its largest matrix product in
  the fastest library for the precision.
- ``floor_cpu_s``: what no preparation can avoid, each part by itself in the same rounds: to decode the file, to resize
  the pixels as segment-anything does, the products of the encoder, each size by the fastest library, and its softmaxes,
  GELUs, norms and sums. Copies, calls and operands that have left the cache are not in it. ``floor_ratio`` is the
  predictor's time over it, the most that ``cpu_ratio`` could be.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from segment_anything import SamPredictor
from torch import Tensor

from amsam_ray.data.images import decode_image
from amsam_ray.device import autocast, hardware, has_fast_bf16
from amsam_ray.inference.feature_cache import NoCache
from amsam_ray.inference.inputs import Needs, Picture, Preparer, encoder_batch
from amsam_ray.models.backbone import Backbone, build_sam
from amsam_ray.models.sam_package import ResizeLongestSide
from tests.benchmarks.encoder_work import Operations, cpu_matrix_rates, encoder_flops, seconds_of

SHAPE = (480, 640)  # of the photographs, H and W


def random_backbone(arch: str, size: int) -> Backbone:
    """Return a SAM with random weights, also for the positions, which begin as zeros."""
    torch.manual_seed(0)
    sam = build_sam(arch, size).eval().requires_grad_(False)
    for weight in sam.image_encoder.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.02)
    return Backbone(sam, arch, size, "0" * 64)


def write_photos(folder: Path, count: int) -> list[Path]:
    """Write JPEG files of smooth random colours, ``SHAPE`` pixels each."""
    draw = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.jpg")
        cv2.imwrite(str(paths[-1]), cv2.resize(coarse, SHAPE[::-1], interpolation=cv2.INTER_CUBIC))
    return paths


def ours(preparer: Preparer, paths: Sequence[Path], precision: str) -> Tensor:
    """Return the embeddings, N x C x G x G, as a trial prepares them."""
    nothing = np.zeros(SHAPE, dtype=bool)

    def picture(path: Path) -> Picture:
        def image() -> np.ndarray:
            return decode_image(path.read_bytes(), str(path)).pixels

        return Picture(path.name, path.name, image, lambda: nothing, image, path.name)

    needs = Needs("embedding", boxes=False, pixels=False, views=False, precision=precision, fallback="none")
    return preparer.prepare([picture(path) for path in paths], needs).features


def theirs(predictor: SamPredictor, paths: Sequence[Path]) -> Tensor:
    """Return the embeddings of segment-anything's predictor, N x C x G x G."""
    found = []
    for path in paths:
        image = cv2.imread(str(path))
        assert image is not None
        predictor.set_image(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        found.append(predictor.get_image_embedding()[0].clone())
    return torch.stack(found)


class Arm:
    """One way to prepare the files: its embeddings, and its fastest round in wall and in processor seconds."""

    def __init__(self, work: Callable[[], Tensor]):
        self._work = work
        self.embeddings = torch.empty(0)
        self.wall = self.processor = float("inf")

    def round(self) -> None:
        def run() -> None:
            self.embeddings = self._work().float()

        wall, processor = seconds_of(run)
        self.wall, self.processor = min(self.wall, wall), min(self.processor, processor)


class Floor:
    """The processor seconds of an image that no preparation can avoid: the fastest round of each part.

    Args:
        backbone: the network.
        paths: of the photographs.
        precision: fp32 or bf16, of the encoder.
    """

    def __init__(self, backbone: Backbone, paths: Sequence[Path], precision: str):
        self._resize = ResizeLongestSide(backbone.image_size)
        self._paths, self._batch = paths, encoder_batch(backbone)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        with Operations() as self._operations, autocast(backbone.device, precision):
            backbone.encode(torch.zeros(self._batch, 3, backbone.image_size, backbone.image_size), "embedding")
        self.parts = dict.fromkeys(("decode", "resize", "products", "others"), float("inf"))

    def round(self) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the clock of the processor is coarse for other threads
        data = [path.read_bytes() for path in self._paths]
        pixels = [decode_image(one, "").pixels for one in data]
        found = {
            "decode": seconds_of(lambda: [decode_image(one, "") for one in data])[1] / len(data),
            "resize": seconds_of(lambda: [self._resize.apply_image(one) for one in pixels])[1] / len(data),
            "products": self._operations.product_seconds(self._dtype) / self._batch,
            "others": self._operations.other_seconds() / self._batch,
        }
        torch.set_num_threads(threads)
        self.parts = {part: min(self.parts[part], seconds) for part, seconds in found.items()}


def measure(arch: str, size: int, count: int, rounds: int, rates: dict[str, float]) -> list[dict[str, Any]]:
    """Return a row for each precision.

    Args:
        arch, size: of the network.
        count: number of images.
        rounds: of each way.
        rates: precision -> operations of a matrix product in a processor second.
    """
    backbone, gflop = random_backbone(arch, size), encoder_flops(arch, size) / 1e9
    preparer, predictor = Preparer(backbone, None, NoCache()), SamPredictor(backbone.sam)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(Path(folder), count)
        reference = Arm(lambda: theirs(predictor, paths))
        arms = {one: Arm(lambda one=one: ours(preparer, paths, one)) for one in rates}  # type: ignore[misc]
        floors = {one: Floor(backbone, paths, one) for one in rates}
        works: list[Arm | Floor] = [reference, *arms.values(), *floors.values()]
        for _ in range(rounds):
            for work in works:
                work.round()
    expected = reference.embeddings
    return [
        {
            "arch": arch,
            "size": size,
            "precision": precision,
            "images": count,
            "batch": encoder_batch(backbone),
            "ours_per_s": float(f"{count / arm.wall:.4g}"),
            "predictor_per_s": float(f"{count / reference.wall:.4g}"),
            "ratio": round(reference.wall / arm.wall, 2),
            "ours_cpu_s": float(f"{arm.processor / count:.4g}"),
            "predictor_cpu_s": float(f"{reference.processor / count:.4g}"),
            "cpu_ratio": round(reference.processor / arm.processor, 2),
            "floor_cpu_s": float(f"{sum(floors[precision].parts.values()):.4g}"),
            "floor_ratio": round(reference.processor / count / sum(floors[precision].parts.values()), 2),
            "floor_parts": {part: float(f"{seconds:.3g}") for part, seconds in floors[precision].parts.items()},
            "gflop_per_image": round(gflop, 1),
            "share_of_matrix_rate": round(gflop * count / arm.processor / rates[precision], 2),
            "max_rel_diff": float(f"{(arm.embeddings - expected).abs().max() / expected.abs().max():.2g}"),
        }
        for precision, arm in arms.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=["nano", "vit_b"], choices=["nano", "mobile_sam", "vit_b"])
    parser.add_argument("--images", type=int, default=16, help="of nano; an eighth of them for the others")
    parser.add_argument("--rounds", type=int, default=2, help="of the others; eight times as many of nano")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    libraries = cpu_matrix_rates()
    if not options.json:
        print(libraries, flush=True)
    fp32 = max(rate["gflop_per_cpu_s"] for name, rate in libraries.items() if name.endswith("fp32"))
    rates = {"fp32": fp32}
    if has_fast_bf16(torch.device("cpu")):
        rates["bf16"] = libraries["bf16"]["gflop_per_cpu_s"]
    rows = []
    for arch in options.arch:
        if arch == "nano":
            found = measure(arch, 256, options.images, 8 * options.rounds, rates)
        else:
            found = measure(arch, 1024, max(1, options.images // 8), options.rounds, rates)
        rows += found
        if not options.json:
            print(*found, sep="\n", flush=True)
    print(json.dumps({"cpu": hardware()["cpu"], "threads": options.threads, "matrix_rates": libraries, "rows": rows}))


if __name__ == "__main__":
    main()
