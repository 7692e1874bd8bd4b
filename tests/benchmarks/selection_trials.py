"""The configurations and trainings of the selection benchmark, with one JSON record per training."""

from __future__ import annotations

import json
import math
import os
import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from amsam_ray.config.datasets import DatasetConfig, SelectionConfig
from amsam_ray.config.methods import get_method, resolve_params
from amsam_ray.config.networks import DetectorConfig
from amsam_ray.config.trial import TrainConfig, TrialConfig

PUBLISHED, RECIPE = 0, 1
"""Numbers of the two configurations that are not drawn at random."""
RANDOM, CONFIGURATION_SEED = 8, 7
SEEDS = (0, 1, 2)
EPOCHS, BATCH = 20, 4
LONG_EPOCHS, LONG_BATCH = 100, 1
TUNED_EPOCHS = 30
FRESH = ("polyp", "shadow", "photos")
"""Datasets on which no default of the package was chosen."""
DEVELOPMENT = ("lesion", "camouflage", "person")

_NO_BOX = {"steps": 100, "views": 8, "lr": 5e-3}
_BOX = {"steps": 100, "views": 4, "lr": 1e-3, "prompt": "fused", "box_training": "mix"}
_RECIPES: Mapping[str, dict[str, Any]] = {
    "blo_sam": {**_NO_BOX, "levels": 1, "head": "warm"},
    "am_sam": {**_BOX, "levels": 1},
    "samed": {**_NO_BOX, "head": "warm"},
    "med_sa": _BOX,
}
METHODS = tuple(_RECIPES)


@dataclass(frozen=True)
class Photos:
    """A folder with ``images`` and ``masks``, of which the last ``test`` are the test split."""

    root: str
    test: int


@dataclass(frozen=True)
class Cell:
    """One dataset, number of shots K, draw of the shots, and method.

    Attributes:
        dataset: a procedural family or ``photos``; with ``+tuned`` the detector is tuned on the shots.
    """

    dataset: str
    shots: int
    draw: int
    method: str

    @property
    def key(self) -> str:
        """The name of its folder."""
        return f"{self.dataset}-{self.shots}-{self.draw}-{self.method}"

    @property
    def tuned(self) -> bool:
        """Whether the detector is tuned on the shots."""
        return self.dataset.endswith("+tuned")

    @property
    def boxes(self) -> bool:
        """Whether the method has a detector's box as its prompt."""
        return resolve_params(self.method, {}).detector == "on"


@cache
def configurations(method: str) -> list[dict[str, Any]]:
    """Return the fixed list of configurations of a method: published, recipe, and random ones."""
    keys, draws = get_method(method).keys, random.Random(CONFIGURATION_SEED)
    found: list[dict[str, Any]] = [{}, dict(_RECIPES[method])]
    for _ in range(RANDOM):
        drawn = {
            "levels": draws.choice((1, 2)),
            "hypergradient": "first_order",
            "steps": draws.choice((50, 100, 200)),
            "views": draws.choice((0, 4, 8)),
            "head": draws.choice(("warm", "cold")),
            "lr": _log_uniform(draws, 5e-4, 1e-2),
            "lr_prompt": _log_uniform(draws, 1e-4, 1e-2),
            "rank": draws.choice((2, 4, 8)),
            "prompt": draws.choice(("box", "fused")),
            "box_training": draws.choice(("detector", "mix")),
        }
        if drawn["levels"] == 1:
            del drawn["hypergradient"], drawn["lr_prompt"]
        if "detector" in keys:  # SAM's own head is what a box prompts
            drawn["head"] = "warm"
        found.append({key: value for key, value in drawn.items() if key in keys})
    return found


def _log_uniform(draws: random.Random, low: float, high: float) -> float:
    return float(f"{math.exp(draws.uniform(math.log(low), math.log(high))):.4g}")


class CellRun:
    """The trainings of one cell; each is done once and read from its record afterwards.

    Args:
        cell: which.
        photos: the folder behind the dataset ``photos``.
        folder: where the records are; one folder per cell.
    """

    def __init__(self, cell: Cell, photos: Photos | None, folder: Path):
        self._cell, self._photos = cell, photos
        self._folder, self._cache = folder / "records" / cell.key, folder / "cache"
        self._folder.mkdir(parents=True, exist_ok=True)

    def d2(self, number: int, seed: int = 0) -> dict[str, Any]:
        """Train under the papers' protocol: D2 gives the score and chooses the epoch; scored on the test split too."""
        return self._train(number, "d2", seed, role="final")

    def crossfit(self, number: int, folds: int) -> dict[str, Any]:
        """Train and judge each fold."""
        selection = SelectionConfig(mode="crossfit", folds=folds)
        return self._train(number, f"crossfit{folds}", 0, selection=selection)

    def refit(self, number: int, seed: int = 0, folds: int = 4) -> dict[str, Any]:
        """Train on all shots up to the best epoch of the folds, and score the test split."""
        epoch = self.crossfit(number, folds)["best_epoch"]
        selection = SelectionConfig(mode="crossfit", folds=folds)
        kind = "refit" if folds == 4 else f"refit{folds}"
        return self._train(number, kind, seed, selection=selection, role="final", stop_epoch=epoch)

    def longer(self) -> dict[str, Any]:
        """Train the published configuration for as long as the paper does."""
        train = TrainConfig(epochs=LONG_EPOCHS, batch_size=LONG_BATCH)
        return self._train(PUBLISHED, "longer", 0, role="final", train=train)

    def _train(self, number: int, kind: str, seed: int, **settings: Any) -> dict[str, Any]:
        config = self._config(number, seed, settings)
        path = self._folder / f"{number}-{kind}-{seed}.json"
        if path.exists():
            record: dict[str, Any] = json.loads(path.read_text())
            if record["fingerprint"] == config.fingerprint():
                return record
        record = {"configuration": number, "kind": kind, "seed": seed} | _run(config, self._cache)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(record))
        part.replace(path)
        return record

    def _config(self, number: int, seed: int, settings: dict[str, Any]) -> TrialConfig:
        cell = self._cell
        detector = DetectorConfig(finetune_epochs=TUNED_EPOCHS) if cell.tuned else DetectorConfig()
        return TrialConfig(
            dataset=self._dataset(),
            shots=cell.shots,
            shot_seed=cell.draw,
            method=cell.method,
            label=cell.method,
            params=resolve_params(cell.method, configurations(cell.method)[number]),
            detector=detector,
            seed=seed,
            **{"train": TrainConfig(epochs=EPOCHS, batch_size=BATCH), **settings},
        )

    def _dataset(self) -> DatasetConfig:
        name = self._cell.dataset.partition("+")[0]
        if name != "photos":
            return DatasetConfig(name="procedural", options={"family": name, "train": 64, "test": 40})
        assert self._photos is not None
        return DatasetConfig(name="folder", root=self._photos.root, label="photos", options={"test": self._photos.test})


def _run(config: TrialConfig, cache_dir: Path) -> dict[str, Any]:
    from amsam_ray.training.trial import train_trial

    with tempfile.TemporaryDirectory(prefix="selection-") as work:
        result = train_trial(config, cache_dir=cache_dir, work_dir=Path(work))
        # Looks at the test masks: it bounds what better boxes could give, and chooses nothing.
        ceiling = None
        if config.role == "final" and config.seed == 1 and config.params.detector == "on" and result.adapter:
            ceiling = _true_box_dice(config, result.adapter, cache_dir)
    folds: dict[int, list[float]] = {}
    for entry in result.curve:
        if "fold" in entry:
            folds.setdefault(int(entry["fold"]), []).append(entry["val_dice"])
    return {
        "fingerprint": config.fingerprint(),
        "status": result.status,
        "params": config.params.as_dict(),
        "score": result.val.get("dice"),
        "shots": {row["name"]: row["dice"] for row in result.val_images},
        "folds": list(folds.values()),
        "best_epoch": result.best_epoch,
        "test": [row["dice"] for row in result.test_images] or None,
        "true_box": ceiling,
        # Preparation is shared by all configurations of a cell.
        "seconds": sum(result.timings.get(phase, 0.0) for phase in ("train", "select")),
    }


def _true_box_dice(config: TrialConfig, adapter: Path, cache_dir: Path) -> list[float]:
    """Dice of each test image with the box of its true mask as the prompt."""
    from dataclasses import replace

    from amsam_ray.inference.adapter_file import load_adapter
    from amsam_ray.inference.inputs import Needs
    from amsam_ray.models.adapted import AdaptedSam
    from amsam_ray.training.evaluate import score_pictures
    from amsam_ray.training.pictures import originals
    from amsam_ray.training.pretrained import Detectors
    from amsam_ray.training.setup import TrialSetup

    setup = TrialSetup(config, cache_dir, None)
    assert isinstance(setup.model, AdaptedSam)
    model = load_adapter(adapter, setup.model.backbone)
    needs = Needs.of(model, training=False, precision=config.train.precision, fallback=config.detector.fallback)
    preparer = setup.preparer(Detectors(None, (), None))
    pictures = preparer.prepare(
        originals(setup.dataset, setup.dataset.test, 0), replace(needs, candidates=False, true_boxes=True)
    )
    assert pictures.true_boxes is not None and pictures.has_object is not None
    pictures = replace(pictures, boxes=pictures.true_boxes, has_box=pictures.has_object).for_model(model)
    scores = score_pictures(model, pictures, range(len(pictures)), ["dice"], precision=config.train.precision)
    return [score["dice"] for score in scores]
