"""Synthetic records of sweeps from a seed, built with the real configuration, result and record classes."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from amsam_ray.config.datasets import DatasetConfig, SelectionConfig
from amsam_ray.config.methods import METHODS, resolve_params
from amsam_ray.config.trial import TrainConfig, TrialConfig
from amsam_ray.records.environment import Environment
from amsam_ray.records.io import Sink, write_trial
from amsam_ray.records.schema import Record
from amsam_ray.training.result import Overlay, TrialResult

START = 1_790_000_000.0
ENVIRONMENT = Environment(
    version="0.1.0",
    commit="0123456789abcdef0123456789abcdef01234567",
    dirty=False,
    python="3.11.7",
    platform="Linux x86_64",
    packages={"amsam-ray": "0.1.0", "torch": "2.15.0", "numpy": "2.3.4", "ray": "2.60.0"},
    hardware={"cpu": "a processor", "cores": "2", "memory": "24 GiB"},
)
STRENGTH = {"sam": 0.55, "samed": 0.68, "blo_sam": 0.72, "am_sam": 0.8}


class Folder:
    """Writes results as files below ``root`` without syncing each to disk, which would be slow."""

    def __init__(self, root: Path):
        self._root = root

    def put(self, key: str, data: bytes) -> None:
        """Write a file."""
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    create = put

    def upload(self, key: str, path: Path) -> None:
        """Copy a file."""
        self.put(key, path.read_bytes())


def config(
    dataset: str = "lesion",
    shots: int = 4,
    method: str = "am_sam",
    *,
    label: str | None = None,
    role: str = "search",
    seed: int = 0,
    epochs: int = 10,
    metric: str = "dice",
    selection: SelectionConfig | None = None,
    **params: Any,
) -> TrialConfig:
    """A trial's configuration on a procedural family, or on a dataset of the papers."""
    known = dataset in ("lesion", "polyp", "camouflage", "shadow", "person")
    options = {"options": {"family": dataset}} if known else {"root": "/data"}
    return TrialConfig(
        dataset=DatasetConfig(name="procedural" if known else dataset, **options),
        shots=shots,
        selection=selection or SelectionConfig(),
        method=method,
        label=label or method,
        params=resolve_params(method, params),
        train=TrainConfig(epochs=epochs),
        role=role,
        seed=seed,
        metric=metric,
        maximise=metric not in ("mae", "ber"),
    )


def record(
    trial_config: TrialConfig,
    number: int = 0,
    final: int | None = None,
    *,
    sweep: str = "demo-00000000",
    score: float | None = 0.7,
    status: str = "completed",
    images: Sequence[float] | None = None,
    result: TrialResult | None = None,
    seconds: float = 3.0,
    published: bool = False,
    choice: int | None = None,
) -> Record:
    """The record of one trial whose selection score is ``score`` and whose test images scored ``images``."""
    cell = f"{trial_config.dataset.label}.k{trial_config.shots}.{trial_config.label}"
    name = f"{cell}.t{number:04d}" + ("" if final is None else f".f{final}")
    metric = trial_config.metric
    if result is None:
        scores = [] if images is None else [{"name": f"{i:04d}", metric: float(s)} for i, s in enumerate(images)]
        result = TrialResult(
            status=status,  # type: ignore[arg-type]
            val={} if score is None else {metric: score},
            test={metric: float(np.mean(images))} if images is not None else None,
            test_images=scores,
            trained_params=100,
        )
    started = START + 10.0 * number
    return Record.build(
        trial=name,
        sweep=sweep,
        config=trial_config,
        result=result,
        environment=ENVIRONMENT,
        started=started,
        finished=started + seconds,
        gpus=0.5,
        searched=("alpha", "lr", "rank"),
        published=published,
        choice=choice,
    )


def write_sweep(
    sink: Sink,
    work_dir: Path,
    *,
    sweep: str = "demo-00000000",
    datasets: Sequence[str] = ("lesion", "polyp"),
    shots: Sequence[int] = (4, 8),
    methods: Sequence[str] = ("sam", "blo_sam", "am_sam"),
    trials: int = 12,
    seeds: int = 3,
    epochs: int = 10,
    images: int = 20,
) -> list[Record]:
    """Store a whole sweep with curves, pictures and adapters; returns its records."""
    written = []
    for made, result in sweep_records(work_dir, sweep, datasets, shots, methods, trials, seeds, epochs, images):
        write_trial(sink, made, result)
        written.append(made)
    return written


def write_record(storage: Sink, made: Record) -> None:
    """Store a record under its key, without files."""
    storage.create(made.key, made.to_bytes())


def sweep_records(
    work_dir: Path,
    sweep: str,
    datasets: Sequence[str],
    shots: Sequence[int],
    methods: Sequence[str],
    trials: int,
    seeds: int,
    epochs: int,
    images: int,
) -> Iterator[tuple[Record, TrialResult]]:
    """Records and results of a sweep in the order in which they would finish."""
    random = np.random.default_rng(sum(sweep.encode()))
    for dataset in datasets:
        for k in shots:
            for method in methods:
                yield from _cell(random, work_dir, sweep, dataset, k, method, trials, seeds, epochs, images)


def _cell(random, work_dir, sweep, dataset, k, method, trials, seeds, epochs, images):
    trainable = METHODS[method].trainable
    best: tuple[float, int, dict[str, Any]] = (-1.0, 0, {})
    for number in range(trials if trainable else 1):
        params: dict[str, Any] = {}
        if trainable:
            drawn = {
                "lr": float(10 ** random.uniform(-4, -2)),
                "rank": int(random.integers(2, 17)),
                "alpha": float(random.uniform(0.4, 1.0)),
            }
            params = {name: value for name, value in drawn.items() if name in METHODS[method].keys}
        level = _level(method, k, params) + random.normal(0, 0.01)
        status = "failed" if number == 7 else "pruned" if trainable and number % 3 == 2 else "completed"
        result = _result(random, status, level, epochs, trained=2000 * params.get("rank", 0))
        made = record(config(dataset, k, method, epochs=epochs, **params), number, sweep=sweep, result=result)
        yield made, result
        if status == "completed" and level > best[0]:
            best = (level, number, params)
    for seed in range(seeds if trainable else 1):
        level, number, params = best
        result = _result(random, "completed", level, epochs, 2000 * params.get("rank", 0), images, work_dir, dataset)
        final = config(dataset, k, method, role="final", seed=seed, epochs=epochs, **params)
        yield record(final, number, seed, sweep=sweep, result=result, seconds=4.0), result


def _level(method: str, k: int, params: dict) -> float:
    level = STRENGTH.get(method, 0.6) + 0.02 * math.log2(k / 4)
    level -= 0.03 * abs(math.log10(params.get("lr", 3e-3)) + 2.5)
    return level - 0.2 * (params.get("alpha", 0.7) - 0.7) ** 2


def _result(random, status, level, epochs, trained, images=0, work_dir=None, dataset="") -> TrialResult:
    run = epochs if status == "completed" else max(1, epochs // 3)
    curve = [
        {
            "epoch": epoch,
            "loss": float(math.exp(-epoch / 3) + 0.2 + random.normal(0, 0.01)),
            "lr": 5e-3 * (1 - epoch / (epochs + 1)) ** 0.9,
            "val_dice": float(level - 0.4 * math.exp(-epoch / 2) + random.normal(0, 0.005)),
        }
        for epoch in range(1, run + 1)
    ]
    scores = np.clip(level - 0.02 + random.normal(0, 0.1, images), 0, 1)
    rows = [{"name": f"{i:04d}", "dice": float(s), "iou": float(s / (2 - s))} for i, s in enumerate(scores)]
    order = np.argsort(scores)
    ranks = {"best": -1, "median": images // 2, "worst": 0} if images else {}
    overlays = [
        Overlay(rank, rows[order[at]]["name"], rows[order[at]]["dice"], _picture(random, work_dir, rank, dataset))  # type: ignore[arg-type]
        for rank, at in ranks.items()
    ]
    adapter = None
    if work_dir is not None and trained:
        adapter = work_dir / "adapter.safetensors"
        adapter.write_bytes(random.bytes(64))
    return TrialResult(
        status=status,
        reason="diverged at epoch 3" if status == "failed" else None,
        val={} if status == "failed" else {"dice": float(level)},
        best_epoch=run,
        epochs_run=run,
        curve=curve,
        test={name: float(np.mean([row[name] for row in rows])) for name in ("dice", "iou")} if images else None,
        test_images=rows,
        overlays=overlays,
        shots_sha256="5" * 64,
        backbone_fingerprint="b" * 64,
        detector_fingerprint="d" * 64,
        prompt_coverage=0.95,
        trained_params=trained,
        timings={"load": 0.2, "prepare": 0.5, "train": 2.0, "select": 0.3} | ({"test": 1.0} if images else {}),
        peak_memory_bytes=600 << 20,
        adapter=adapter,
    )


def _picture(random, work_dir: Path, rank: str, text: str) -> Path:
    picture = Image.fromarray(random.integers(90, 160, (96, 128, 3), dtype=np.uint8))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((30, 20, 100, 80), outline=(0, 220, 90), width=2)
    pen.ellipse((34, 24, 96, 84), outline=(255, 60, 60), width=2)
    pen.rectangle((28, 18, 102, 86), outline=(255, 220, 0))
    pen.text((2, 2), text, fill=(255, 255, 255))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    path = work_dir / f"{rank}.png"
    path.write_bytes(buffer.getvalue())
    return path
