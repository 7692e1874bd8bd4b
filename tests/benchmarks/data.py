"""Images per second of preparation and of scoring at 1024 px, and memory: ``python -m tests.benchmarks.data [--json]``.

Preparation is what happens to an image before the encoder: from its file to content keys, pixels, mask and SAM's square
input. The encoder itself is timed apart (the shipped nano at its 256 px). Two single-threaded processes stand for two
cores. Peak memory is measured in fresh processes that go through few and through many images.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 1024
IMAGES = 32
PROCESSES = 2
ROUNDS = 3
FEW, MANY = 8, 64
OVERLAP = ("dice", "iou", "mae", "ber")
METRIC_SETS = {
    "scoring_overlap": OVERLAP,
    "scoring_with_hd95": (*OVERLAP, "hd95"),
    "scoring_all": (
        *(*OVERLAP, "hd95", "mdice", "miou", "s_measure", "weighted_f"),
        *("e_measure_mean", "e_measure_max", "e_measure_adaptive"),
    ),
}


def write_images(root: Path, count: int) -> None:
    """A folder dataset of photograph-like JPEGs and PNG masks of 1024 px, from procedural images of 256."""
    from amsam_ray.data.procedural import render

    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        pixels, mask = render("person", 0, index, SIZE // 4)
        large = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        large.save(root / f"images/{index}.jpg", quality=90)
        Image.fromarray(mask).resize((SIZE, SIZE)).save(root / f"masks/{index}.png")


def prepare(root: str, index: int) -> None:
    """Read one image to SAM's input."""
    from amsam_ray.config.datasets import DatasetConfig
    from amsam_ray.data.dataset import open_dataset
    from amsam_ray.models.preprocess import to_input

    if root not in _OPEN:
        _OPEN[root] = open_dataset(DatasetConfig(name="folder", root=root, options={"test": 1}), split="all")
    dataset = _OPEN[root]
    name = str(index)
    assert dataset.content_key(name) != dataset.mask_key(name)
    assert dataset.mask(name).shape == (SIZE, SIZE)
    assert to_input(dataset.image(name), SIZE).shape == (3, SIZE, SIZE)


def score(metrics: tuple[str, ...], index: int) -> None:
    """Score one prediction at 1024 px."""
    from amsam_ray.training.metrics import score_image

    if "truth" not in _OPEN:
        rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
        edge = 0.35 + 0.05 * np.sin(9 * np.arctan2(rows - 0.5, columns - 0.5))
        distance = np.hypot(rows - 0.5, columns - 0.5)
        _OPEN["truth"] = distance < edge
        _OPEN["prob"] = (1 / (1 + np.exp((distance - edge - 0.01) * 200))).astype(np.float32)
    assert len(score_image(np.roll(_OPEN["prob"], index, 0), _OPEN["truth"], metrics)) == len(metrics)


_OPEN: dict[str, Any] = {}


def _single_threaded() -> None:
    import torch

    torch.set_num_threads(1)


def _timed(task: Callable[[Any, int], None], argument: Any, index: int) -> float:
    """Seconds of processor time that ``task`` took in this process."""
    started = time.process_time()
    task(argument, index)
    return time.process_time() - started


def _rate(pool: ProcessPoolExecutor, label: str, task: Callable[[Any, int], None], argument: Any) -> dict[str, float]:
    """The best images per second of some rounds on both processes, and the processor time of one image.

    The latter hardly changes when other programs compute at the same time.
    """
    words = [task] * IMAGES, [argument] * IMAGES, range(IMAGES)
    list(pool.map(_timed, *words))  # imports, caches
    wall, processor = [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        processor.append(sum(pool.map(_timed, *words)))
        wall.append(time.perf_counter() - started)
    return {
        f"{label}_images_per_s": IMAGES / min(wall),
        f"{label}_cpu_ms_per_image": 1000 * min(processor) / IMAGES,
    }


def _encoder_rate() -> float:
    """Images per second of the nano encoder on one core, in this process."""
    import torch

    from amsam_ray.config.networks import BackboneConfig
    from amsam_ray.models.backbone import encode_to, load_backbone

    torch.set_num_threads(1)
    backbone = load_backbone(BackboneConfig(), torch.device("cpu"))
    images = torch.zeros(4, 3, backbone.image_size, backbone.image_size)
    with torch.no_grad():
        encode_to(backbone, images, "embedding")
        started = time.perf_counter()
        encode_to(backbone, images, "embedding")
    return len(images) / (time.perf_counter() - started)


def _walk(root: str, count: int) -> None:
    """Go through ``count`` images: check them, prepare and score each. Prints the peak memory in MiB."""
    from amsam_ray.config.datasets import DatasetConfig
    from amsam_ray.data.check import check_dataset

    _single_threaded()
    assert not check_dataset(DatasetConfig(name="folder", root=root, options={"test": 1})).faults
    for index in range(count):
        prepare(root, index)
        score(METRIC_SETS["scoring_all"], index)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _peak(folder: Path, count: int) -> float:
    root = folder / f"walk{count}"
    write_images(root, count)
    command = [sys.executable, "-m", __spec__.name, "--walk", str(root), "--count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure() -> dict[str, float]:
    """All figures by name."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "rate", IMAGES)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(PROCESSES, mp_context=context, initializer=_single_threaded) as pool:
            figures = _rate(pool, "preparation", prepare, str(folder / "rate"))
            for label, metrics in METRIC_SETS.items():
                figures |= _rate(pool, label, score, metrics)
        figures["nano_encoder_256px_one_core_images_per_s"] = _encoder_rate()
        figures[f"peak_mib_{FEW}_images"] = _peak(folder, FEW)
        figures[f"peak_mib_{MANY}_images"] = _peak(folder, MANY)
    return figures


def main() -> None:
    """Print one line per figure, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--walk", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.walk:
        _walk(options.walk, options.count)
        return
    figures = {key: round(value, 2) for key, value in measure().items()}
    if options.json:
        print(json.dumps(figures))
        return
    for key, value in figures.items():
        print(f"{key:>45} {value:10.2f}")


if __name__ == "__main__":
    main()
