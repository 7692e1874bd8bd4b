"""The frozen networks of a trial, loaded once per process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from amsam_ray.config.networks import BackboneConfig, DetectorConfig
from amsam_ray.data.dataset import Dataset
from amsam_ray.data.few_shot import FewShotSplit
from amsam_ray.models.backbone import Backbone, load_backbone
from amsam_ray.paths import detectors_dir, ultralytics_dir
from amsam_ray.training.lru_cache import Warm

if TYPE_CHECKING:
    from amsam_ray.models.detector import Detector

_BACKBONES = Warm(room=1)  # vit_h is 2.5 GB: two of them side by side would be one too many for many a GPU
_DETECTORS = Warm(room=8)


def warm_backbone(config: BackboneConfig, device: torch.device) -> Backbone:
    """``load_backbone``, once per process for the configuration used last."""
    return _BACKBONES.get((config, str(device)), lambda: load_backbone(config, device))


def warm_detector(
    config: DetectorConfig, device: torch.device, cache_dir: Path, dataset: Dataset, manifest: FewShotSplit
) -> tuple[Detector | None, Path | None]:
    """The detector of a trial, once per process; tuned on the shots first if the configuration says so.

    Args:
        config: which detector.
        device: where it runs.
        cache_dir: this node's cache: ultralytics' settings and tuned detectors.
        dataset, manifest: the shots (D1 and D2; held-out images teach nothing).

    Returns:
        The detector, None where the configuration says ``none``; and the tuned file, None if it was not tuned.
    """
    from amsam_ray.models.detector import load_detector  # brings ultralytics, seconds

    state_dir = ultralytics_dir(cache_dir)
    tuned_on = manifest.sha256 if config.finetune_epochs and config.weights != "none" else None

    def load() -> tuple[Detector | None, Path | None]:
        chosen = config
        if tuned_on is not None:
            from amsam_ray.models.detector_tuning import TuningShot, tune_detector

            shots = [
                TuningShot(
                    dataset.image(name), dataset.mask(name), f"{dataset.content_key(name)}/{dataset.mask_key(name)}"
                )
                for name in (*manifest.d1, *manifest.d2)
            ]
            chosen = tune_detector(
                config,
                shots,
                seed=manifest.seed,
                cache_dir=detectors_dir(cache_dir),
                device=device,
                state_dir=state_dir,
            )
        return load_detector(chosen, device, state_dir=state_dir), (Path(chosen.weights) if tuned_on else None)

    return _DETECTORS.get((config, tuned_on, str(device)), load)
