"""One trial against the literal procedure: ``python -m tests.benchmarks.trial [--orders ORDER ...] [--json]``.

The trial is BLO-SAM's published setting as a final: 8 shots, 100 epochs of batch size 1 with a score on D2 after each,
100 test images, the shipped nano SAM at 256 px, from its configuration to its adapter file, with empty caches. The
literal procedure is that of ``tests.benchmarks.step``: the encoder in every pass, and copies of the model for the
unrolled order. It would run for many minutes, so its steps and its passes over an image are measured, and multiplied by
their number in the trial; loading, decoding and the computation of scores are not counted against it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.config.methods import resolve_params
from amsam_ray.config.networks import BackboneConfig, DetectorConfig
from amsam_ray.config.trial import TrainConfig, TrialConfig
from amsam_ray.models.backbone import load_backbone
from amsam_ray.training.trial import train_trial
from tests.benchmarks.step import build

SHOTS, EPOCHS, TEST, SIZE = 8, 100, 100, 256
ORDERS = ("first_order", "unrolled")


def ours(order: str, epochs: int, test: int) -> dict[str, float]:
    """Train and score the trial; return its seconds, and those of its phases."""
    config = TrialConfig(
        dataset=DatasetConfig(name="procedural", options={"family": "lesion", "train": 64, "test": test}),
        shots=SHOTS,
        method="blo_sam",
        label="blo_sam",
        params=resolve_params("blo_sam", {"hypergradient": order}),
        detector=DetectorConfig(weights="none"),
        train=TrainConfig(epochs=epochs),
        role="final",
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        result = train_trial(config, cache_dir=Path(folder) / "cache", work_dir=Path(folder) / "work")
        seconds = time.perf_counter() - started
    if result.status != "completed" or len(result.test_images) != test:
        raise RuntimeError(f"the trial ended as {result.status} ({result.reason})")
    return {"trial_s": seconds, **result.timings}


def literal(order: str, repeats: int) -> dict[str, float]:
    """Measure a step and a pass over one image; return their seconds, medians of ``repeats``."""
    arm, _ = build(load_backbone(BackboneConfig(arch="nano", image_size=SIZE)).sam, SIZE, order)
    arm.step()

    def seconds(work: Callable[[], object]) -> float:
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        return median(times)

    with torch.no_grad():
        forward = seconds(arm.predict)
    return {"step_s": seconds(arm.step), "pass_s": forward}


def measure(order: str, repeats: int = 5, epochs: int = EPOCHS, test: int = TEST) -> dict[str, Any]:
    """Return one row: the trial, the literal procedure extrapolated to all of its steps and passes, and the ratio."""
    slow, fast = literal(order, repeats), ours(order, epochs, test)
    steps = epochs * SHOTS // 2  # an epoch is a pass over D1
    passes = epochs * SHOTS // 2 + test  # D2 after every epoch, then the test images
    literal_s = steps * slow["step_s"] + passes * slow["pass_s"]
    return {
        "order": order,
        "literal_step_s": round(slow["step_s"], 4),
        "literal_pass_s": round(slow["pass_s"], 4),
        "literal_trial_s": round(literal_s, 1),
        "ours_s": {name: round(seconds, 2) for name, seconds in fast.items()},
        "ratio": round(literal_s / fast["trial_s"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS))
    parser.add_argument("--repeats", type=int, default=5, help="literal steps and passes; the median counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    rows = []
    for order in options.orders:
        rows.append(measure(order, options.repeats))
        if not options.json:
            print(rows[-1], flush=True)
    about = {"shots": SHOTS, "epochs": EPOCHS, "test_images": TEST, "arch": "nano", "size": SIZE}
    print(json.dumps({"threads": torch.get_num_threads(), **about, "rows": rows}))


if __name__ == "__main__":
    main()
