"""The pretrained networks of a trial, loaded once per process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from amsam_ray.config.networks import BackboneConfig, DetectorConfig
from amsam_ray.data.dataset import Dataset
from amsam_ray.models.backbone import Backbone, load_backbone
from amsam_ray.paths import detectors_dir, ultralytics_dir
from amsam_ray.training.lru_cache import LruCache

if TYPE_CHECKING:
    from amsam_ray.models.detector import Detector

_BACKBONES = LruCache(capacity=1)  # vit_h takes 2.5 GB: two of them do not fit on many GPUs
_DETECTORS = LruCache(capacity=8)


@dataclass(frozen=True)
class Detectors:
    """The detectors of a trial.

    Attributes:
        primary: gives the single box of a picture; None if the configuration says ``none``.
        pool: the detectors whose candidate boxes are fused: the primary one, and the untuned one if that is tuned.
        tuned_file: the weights of the primary detector if it was tuned on shots.
    """

    primary: Detector | None
    pool: tuple[Detector, ...]
    tuned_file: Path | None


def cached_backbone(config: BackboneConfig, device: torch.device) -> Backbone:
    """``load_backbone``, once per process for the configuration used last."""
    return _BACKBONES.get((config, str(device)), lambda: load_backbone(config, device))


def cached_detectors(
    config: DetectorConfig, device: torch.device, cache_dir: Path, dataset: Dataset, names: Sequence[str], seed: int
) -> Detectors:
    """The detectors of a trial, loaded once per process; tuned on shots first if the configuration says so.

    Args:
        config: which detector.
        device: where it runs.
        cache_dir: this node's cache: ultralytics' settings and tuned detectors.
        dataset: the trial's dataset.
        names: the shots to tune on. A judged shot must not be among them: boxes of a detector that was tuned on an
            image are far better there than elsewhere.
        seed: of the tuning.
    """
    from amsam_ray.models.detector import load_detector  # imports ultralytics, which takes seconds

    state_dir = ultralytics_dir(cache_dir)

    def untuned() -> Detector | None:
        return load_detector(config, device, state_dir=state_dir)

    primary: Detector | None = _DETECTORS.get((config, None, str(device)), untuned)
    if primary is None or not config.finetune_epochs:
        return Detectors(primary, () if primary is None else (primary,), None)

    def tuned() -> tuple[Detector | None, Path]:
        from amsam_ray.models.detector_tuning import TuningShot, tune_detector

        shots = [
            TuningShot(dataset.image(name), dataset.mask(name), f"{dataset.content_key(name)}/{dataset.mask_key(name)}")
            for name in names
        ]
        chosen = tune_detector(
            config, shots, seed=seed, cache_dir=detectors_dir(cache_dir), device=device, state_dir=state_dir
        )
        return load_detector(chosen, device, state_dir=state_dir), Path(chosen.weights)

    shots_key = tuple(f"{dataset.content_key(name)}/{dataset.mask_key(name)}" for name in names)
    detector, file = _DETECTORS.get((config, shots_key, seed, str(device)), tuned)
    assert detector is not None
    return Detectors(detector, (primary, detector), file)
