"""Trainings of several settings of a method on several datasets, with one JSON record per training.

A record holds the mean test Dice of one (dataset, method, setting, seed) and the CPU seconds of its training. A later
call with the same output folder reads it back, as long as its configuration is the same. Runs come in the order of
seeds, then methods, datasets and settings, so that a table of an unfinished measurement compares equal numbers of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.config.methods import resolve_params
from amsam_ray.config.trial import TrainConfig, TrialConfig
from amsam_ray.paths import cache_dir

PHOTOS = "photos"
"""The dataset of the folder given with ``--photos``."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """What is measured.

    Attributes:
        name: of the benchmark and its default output folder.
        datasets: procedural families and ``photos``, the most telling first.
        methods: the methods, the most telling first.
        settings: name -> the parameters that differ from the method's defaults; the first is the reference.
        train: length and batch size.
        shots: K.
        seeds: of the initial values and the batches; the shots are the same.
        test: number of test images.
    """

    name: str
    datasets: Sequence[str]
    methods: Sequence[str]
    settings: Mapping[str, Mapping[str, Any]]
    train: TrainConfig
    shots: int = 8
    seeds: Sequence[int] = (0, 1, 2)
    test: int = 40

    def config(self, dataset: str, method: str, setting: str, seed: int, photos: str | None) -> TrialConfig:
        """Return the configuration of one training."""
        images = DatasetConfig(name="procedural", options={"family": dataset, "train": 64, "test": self.test})
        if dataset == PHOTOS:
            images = DatasetConfig(name="folder", root=photos, label=PHOTOS, options={"test": 30})
        return TrialConfig(
            dataset=images,
            shots=self.shots,
            method=method,
            label=method,
            params=resolve_params(method, self.settings[setting]),
            train=self.train,
            seed=seed,
            role="final",
        )


class Records:
    """The records of a grid in a folder.

    Args:
        grid: what is measured.
        folder: where the records are.
        photos: the folder of photographs, with ``images`` and ``masks`` of equal stems; None leaves them out.
    """

    def __init__(self, grid: Grid, folder: Path, photos: str | None):
        self.grid, self.folder, self._photos = grid, folder, photos
        self.datasets = [name for name in grid.datasets if photos or name != PHOTOS]
        (folder / "records").mkdir(parents=True, exist_ok=True)

    def measure(self, budget_s: float) -> int:
        """Do the trainings without a record until ``budget_s`` seconds have passed; return how many are missing."""
        start, missing = time.monotonic(), 0
        for seed in self.grid.seeds:
            for method in self.grid.methods:
                for dataset in self.datasets:
                    for setting in self.grid.settings:
                        config = self.grid.config(dataset, method, setting, seed, self._photos)
                        if self._read(config) is not None:
                            continue
                        if time.monotonic() - start > budget_s:
                            missing += 1
                            continue
                        self._train(config, setting)
        return missing

    def _path(self, config: TrialConfig) -> Path:
        return self.folder / "records" / f"{config.fingerprint()[:16]}.json"

    def _read(self, config: TrialConfig) -> Record | None:
        path = self._path(config)
        return json.loads(path.read_text()) if path.exists() else None

    def _train(self, config: TrialConfig, setting: str) -> None:
        from amsam_ray.training.trial import train_trial

        ends: list[float] = []
        with tempfile.TemporaryDirectory(prefix="grid-") as work:
            result = train_trial(
                config,
                cache_dir=self.folder / "cache",
                work_dir=Path(work),
                on_epoch=lambda epoch, epochs: ends.append(time.process_time()),
            )
        record = {
            "dataset": config.dataset.label,
            "method": config.method,
            "setting": setting,
            "seed": config.seed,
            "status": result.status,
            "dice": (result.test or {}).get("dice", 0.0),  # a training that diverged has learned nothing
            "val": result.val.get("dice"),
            # Processor time of one core: other processes of the machine do not change it. The first epoch warms up.
            "seconds": (ends[-1] - ends[0]) * config.train.epochs / (len(ends) - 1),
        }
        path = self._path(config)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(record))
        part.replace(path)
        print(" ".join(str(value) for value in record.values()), file=sys.stderr, flush=True)

    def rows(self) -> list[Record]:
        """Return one row per (method, dataset, setting) with a record: mean, spread, difference and seconds."""
        found = []
        for method in self.grid.methods:
            for dataset in self.datasets:
                reference: dict[int, float] = {}
                for setting in self.grid.settings:
                    configs = {s: self.grid.config(dataset, method, setting, s, self._photos) for s in self.grid.seeds}
                    records = {seed: r for seed, c in configs.items() if (r := self._read(c)) is not None}
                    dice = {seed: record["dice"] for seed, record in records.items()}
                    if setting == next(iter(self.grid.settings)):
                        reference = dice
                    if not records:
                        continue
                    shared = sorted(set(dice) & set(reference))
                    gaps = [dice[seed] - reference[seed] for seed in shared]
                    found.append(
                        {
                            "method": method,
                            "dataset": dataset,
                            "setting": setting,
                            "seeds": len(records),
                            "dice": statistics.fmean(dice.values()),
                            "sd": statistics.stdev(dice.values()) if len(dice) > 1 else math.nan,
                            "gain": statistics.fmean(gaps) if gaps else math.nan,
                            "seconds": statistics.median(record["seconds"] for record in records.values()),
                        }
                    )
        return found


def markdown(rows: Sequence[Record]) -> str:
    """Return one line per method and setting: test Dice of each dataset, their mean, and CPU seconds."""
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    lines = [f"| method | setting | {' | '.join(datasets)} | mean | seconds |", "| --- " * (len(datasets) + 4) + "|"]
    for method, setting in dict.fromkeys((row["method"], row["setting"]) for row in rows):
        mine = {row["dataset"]: row for row in rows if (row["method"], row["setting"]) == (method, setting)}
        cells = [_cell(mine[name]) if name in mine else "" for name in datasets]
        mean, sd, seconds = (statistics.fmean(row[key] for row in mine.values()) for key in ("dice", "sd", "seconds"))
        lines.append(
            f"| {method} | {setting} | {' | '.join(cells)} | {100 * mean:.1f} ± {100 * sd:.1f} | {seconds:.1f} |"
        )
    counts = " or ".join(map(str, sorted({row["seeds"] for row in rows})))
    lines += ["", f"Test Dice in per cent, mean and standard deviation over {counts} seeds."]
    return "\n".join(lines) + "\n"


def _cell(row: Record) -> str:
    return f"{100 * row['dice']:.1f} ± {100 * row['sd']:.1f}"


def main(grid: Grid, doc: str | None) -> int:
    """Measure a grid from the command line and print its table, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--out", type=Path, help="folder of records and table; default: in the cache folder")
    parser.add_argument("--photos", help="folder with images/ and masks/ of equal stems, the dataset `photos`")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no training after this time")
    given = parser.parse_args()
    photos = str(Path(given.photos).resolve()) if given.photos else None
    records = Records(grid, given.out or cache_dir() / "benchmarks" / grid.name, photos)
    missing = records.measure(60 * given.minutes)
    rows = records.rows()
    table = markdown(rows)
    (records.folder / "table.md").write_text(table)
    print(json.dumps({"rows": rows, "missing": missing}) if given.json else table)
    return 0
