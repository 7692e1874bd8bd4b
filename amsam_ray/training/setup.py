"""The parts of a trial before training: dataset, shots, frozen networks, model and prepared pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from amsam_ray.config.methods import uses_sam
from amsam_ray.config.metrics import METRICS
from amsam_ray.config.trial import TrialConfig
from amsam_ray.data.dataset import Dataset, open_dataset
from amsam_ray.data.few_shot import FewShotSplit, draw_shots
from amsam_ray.device import pick_device, reset_peak_memory
from amsam_ray.inference.inputs import Needs, Picture, PreparedSet, Preparer
from amsam_ray.inference.node_cache import open_cache
from amsam_ray.models.build import build_model
from amsam_ray.paths import mirrors_dir, prepared_dir
from amsam_ray.training.evaluate import LOW_RES
from amsam_ray.training.loop import Roles
from amsam_ray.training.lru_cache import LruCache
from amsam_ray.training.pictures import fixed_views, originals, with_views
from amsam_ray.training.pretrained import Detectors, cached_backbone, cached_detectors
from amsam_ray.training.result import TrialResult

# A dataset is assumed not to change while a process runs; its shots are drawn and hashed once.
_DATASETS = LruCache(capacity=16)
_SPLITS = LruCache(capacity=256)
_PREPARED = LruCache(capacity=2**30, size_of=lambda prepared: prepared.nbytes)


class TrialSetup:
    """The parts of a trial and the time that its phases take.

    Args:
        config: the trial.
        cache_dir: this node's caches.
        device: a torch device; None chooses one as ``amsam_ray.device.pick_device``.

    Attributes:
        dataset, split, model: as the configuration names them; the model is untrained.
        seconds: seconds per phase.
    """

    def __init__(self, config: TrialConfig, cache_dir: Path, device: str | None):
        self.config, self.cache_dir = config, cache_dir
        self.device = pick_device(device)
        self.seconds: dict[str, float] = {}
        reset_peak_memory(self.device)
        with self.phase("load"):
            self.dataset = cached_dataset(config, cache_dir)
            self.split = cached_split(config, self.dataset)
            needed = uses_sam(config.method, config.params)
            backbone = cached_backbone(config.backbone, self.device) if needed else None
            self.model = build_model(config.method, config.params, backbone, seed=config.seed, device=self.device)

    def detectors(self, names: Sequence[str]) -> Detectors:
        """Return the detectors, tuned on the shots ``names`` if so configured; none if the method uses no boxes."""
        config = self.config
        if not self.model.uses_boxes:
            return Detectors(None, (), None)
        with self.phase("load"):
            return cached_detectors(config.detector, self.device, self.cache_dir, self.dataset, names, self.split.seed)

    def preparer(self, detectors: Detectors) -> Preparer:
        """Return the preparer of pictures with the frozen networks."""
        return Preparer(self.model.frozen, detectors.primary, open_cache(prepared_dir(self.cache_dir)), detectors.pool)

    def prepare(self, preparer: Preparer) -> PreparedSet:
        """Return all labelled pictures: D1, D2 and held-out images in this order, then the views of each shot."""
        config, split = self.config, self.split
        augment = config.train.augment.model_copy(update={"views": self.views})
        needs = self.needs(training=bool(self.model.lower))

        def make() -> PreparedSet:
            pictures: list[Picture] = originals(self.dataset, split.names, config.shot_seed)
            for name in (*split.d1, *split.d2):
                pictures += fixed_views(self.dataset, name, config.shot_seed, augment)
            return preparer.prepare(pictures, needs)

        key = (split.sha256, augment.model_dump_json(), config.shot_seed, needs, preparer.key, str(self.device))
        with self.phase("prepare"):
            return _PREPARED.get(key, make).for_model(self.model)

    @property
    def views(self) -> int:
        """Number of fixed views of each shot; none where nothing is trained."""
        return (self.config.params.views or self.config.train.augment.views) if self.model.lower else 0

    def compared_with(self, pictures: PreparedSet, shots: Sequence[int]) -> PreparedSet:
        """Return the pictures with the given shots as the support of a few-shot model; unchanged for other models."""
        return pictures.with_support(shots) if self.model.needs_support else pictures

    def roles(self, lower: Sequence[int], upper: Sequence[int]) -> Roles:
        """Return the prepared pictures that train each level: the given shots and all their views."""
        originals, views = len(self.split.names), self.views
        of_views = {originals + view: view // views for view in range(views * originals)} if views else {}
        return Roles(with_views(lower, originals, views), with_views(upper, originals, views), of_views)

    def result(self, detectors: Detectors, detected: float) -> TrialResult:
        """Return the part of the result that is known before training."""
        return TrialResult(
            status="completed",
            shots_sha256=self.split.sha256,
            backbone_fingerprint=self.model.frozen.fingerprint,
            detector_fingerprint=None if detectors.primary is None else detectors.primary.fingerprint,
            prompt_coverage=None if detectors.primary is None else detected,
        )

    def needs(self, *, training: bool) -> Needs:
        """Return which inputs the model needs."""
        return Needs.of(
            self.model,
            training=training,
            precision=self.config.train.precision,
            fallback=self.config.detector.fallback,
        )

    @property
    def metrics(self) -> list[str]:
        """The dataset's metrics, the objective and the low-resolution Dice, in the order of the tables."""
        wanted = {*self.dataset.definition.metrics, self.config.metric, LOW_RES}
        return [name for name in METRICS if name in wanted]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time that a phase takes to its total."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def cached_dataset(config: TrialConfig, cache_dir: Path) -> Dataset:
    """Return the trial's dataset, opened once per process; only finals have the test split."""
    key = (config.dataset.model_dump_json(), config.role)
    return _DATASETS.get(
        key, lambda: open_dataset(config.dataset, split=config.role, mirror_dir=mirrors_dir(cache_dir))
    )


def cached_split(config: TrialConfig, dataset: Dataset) -> FewShotSplit:
    """Return the trial's shots, drawn once per process."""
    key = (config.dataset.model_dump_json(), config.shots, config.shot_seed, config.selection)
    return _SPLITS.get(key, lambda: draw_shots(dataset, config.shots, config.shot_seed, config.selection))
