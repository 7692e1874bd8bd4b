"""One trial from its configuration to its result, in one plain call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from amsam_ray import parallel
from amsam_ray.config.metrics import METRICS
from amsam_ray.config.trial import TrialConfig
from amsam_ray.data.dataset import Dataset, open_dataset
from amsam_ray.data.few_shot import Manifest, draw_shots
from amsam_ray.device import peak_memory, pick_device, reset_peak_memory
from amsam_ray.inference.adapter_file import save_adapter
from amsam_ray.inference.feature_cache import PreparedCache
from amsam_ray.inference.inputs import Needs, Picture, PreparedSet, Preparer
from amsam_ray.models.adapted import build_method
from amsam_ray.training import loop
from amsam_ray.training.evaluate import LOW_RES, score_pictures
from amsam_ray.training.lru_cache import Warm
from amsam_ray.training.metrics import mean_scores
from amsam_ray.training.pictures import fixed_views, originals
from amsam_ray.training.pretrained import warm_backbone, warm_detector
from amsam_ray.training.result import TrialResult
from amsam_ray.training.test_scoring import score_test_split

Report = Callable[[int, float], bool]

# A dataset is taken to stay as it is while a process lives; its shots are drawn and hashed once.
_DATASETS = Warm(room=16)
_MANIFESTS = Warm(room=256)
_PREPARED = Warm(room=2**30, weigh=lambda prepared: prepared.nbytes)


def train_trial(
    config: TrialConfig,
    *,
    cache_dir: Path,
    work_dir: Path,
    rungs: Sequence[int] = (),
    report: Report | None = None,
    on_epoch: loop.OnEpoch | None = None,
    device: str | None = None,
) -> TrialResult:
    """Train one configuration and score it.

    Knows nothing of Ray. Within an initialised ``torch.distributed`` process group every worker calls this with equal
    arguments; together they compute what one worker would, and rank 0's result and files are the ones to keep.

    Args:
        config: all that the trial depends on.
        cache_dir: this node's prepared inputs, shared by all its processes; made if absent.
        work_dir: where the adapter and the overlays of a final go; made if absent.
        rungs: epochs (from 1) at which ``report`` is called.
        report: given the epoch and the best objective so far, returns True to stop the trial as ``pruned``. Every
            worker calls it and must get the same answer.
        on_epoch: called after every epoch with its number and the number of epochs, a heartbeat for instance.
        device: a torch device; None as ``amsam_ray.device.pick_device``.

    Returns:
        The result. A loss that becomes NaN or Inf is a result too: ``failed``, with the curve so far.

    Raises:
        InputError: something in the configuration cannot be: dataset, checkpoint, rank, batch size.
        Exception: what else goes wrong (out of memory, damaged image) is left to the caller.

    Example:
        >>> from amsam_ray.config.methods import resolve_params
        >>> config = TrialConfig(
        ...     dataset=DatasetConfig(name="procedural", options={"family": "lesion"}), shots=4, method="blo_sam",
        ...     label="blo_sam", params=resolve_params("blo_sam", {"lr": 1e-3}), train=TrainConfig(epochs=20))
        >>> train_trial(config, cache_dir=Path("cache"), work_dir=Path("work")).val["dice"]  # doctest: +SKIP
        0.81
    """
    return _Trial(config, Path(cache_dir), Path(work_dir), device).run(rungs, report, on_epoch)


class _Trial:
    """The phases of a trial and what they hand to each other."""

    def __init__(self, config: TrialConfig, cache_dir: Path, work_dir: Path, device: str | None):
        self.config, self.work_dir = config, work_dir
        self.device = pick_device(device)
        self.seconds: dict[str, float] = {}
        reset_peak_memory(self.device)
        with self._phase("load"):
            self.dataset = warm_dataset(config, cache_dir)
            self.manifest = warm_manifest(config, self.dataset)
            backbone = warm_backbone(config.backbone, self.device)
            self.model = build_method(config.method, config.params, backbone, seed=config.seed)
            detector, self.tuned_detector = None, None
            if self.model.uses_boxes:
                detector, self.tuned_detector = warm_detector(
                    config.detector, self.device, cache_dir, self.dataset, self.manifest
                )
            self.preparer = Preparer(backbone, detector, PreparedCache(cache_dir / "prepared"))

    def run(
        self, rungs: Sequence[int] = (), report: Report | None = None, on_epoch: loop.OnEpoch | None = None
    ) -> TrialResult:
        with self._phase("prepare"):
            pictures, roles, judges = self._prepare()
        result = TrialResult(
            status="completed",
            shots_sha256=self.manifest.sha256,
            backbone_fingerprint=self.preparer.backbone.fingerprint,
            detector_fingerprint=None if self.preparer.detector is None else self.preparer.detector.fingerprint,
            prompt_coverage=self._coverage(float(pictures.detected[judges].float().mean())),
        )
        if self.model.lower:
            with self._phase("train"):
                result = self._train(result, pictures, roles, judges, rungs, report, on_epoch)
        if result.status != "failed" and (result.best_epoch or not self.model.lower):
            with self._phase("select"):
                scores = score_pictures(
                    self.model, pictures, judges, self._metrics(), precision=self.config.train.precision
                )
                result = replace(result, val=mean_scores(scores))
            if self.config.role == "final" and result.status == "completed":
                with self._phase("test"):
                    result = self._finish(result)
        return replace(result, timings=dict(self.seconds), peak_memory_bytes=peak_memory(self.device))

    def _prepare(self) -> tuple[PreparedSet, loop.Roles, list[int]]:
        """The labelled pictures, which of them train which level, and which judge."""
        config, manifest = self.config, self.manifest
        trains = bool(self.model.lower)
        augment = config.train.augment if trains else config.train.augment.model_copy(update={"views": 0})
        names = [*manifest.names]
        needs = self._needs(training=trains)

        def make() -> PreparedSet:
            pictures: list[Picture] = originals(self.dataset, names, config.shot_seed)
            for name in (*manifest.d1, *manifest.d2):
                pictures += fixed_views(self.dataset, name, config.shot_seed, augment)
            return self.preparer.prepare(pictures, needs)

        detector = self.preparer.detector
        key = (
            manifest.sha256,
            augment.model_dump_json(),
            config.shot_seed,
            needs,
            self.preparer.backbone.fingerprint,
            self.preparer.backbone.image_size,
            detector and detector.fingerprint,
            str(self.device),
        )
        prepared = _PREPARED.get(key, make).for_model(self.model)
        d1, d2, judges = _places(manifest, augment.views)
        lower = d1 if self.model.upper else d1 + d2
        return prepared, loop.Roles(lower, d2), judges

    def _train(
        self,
        result: TrialResult,
        pictures: PreparedSet,
        roles: loop.Roles,
        judges: list[int],
        rungs: Sequence[int],
        report: Report | None,
        on_epoch: loop.OnEpoch | None,
    ) -> TrialResult:
        config = self.config
        trainer = loop.Trainer(self.model, pictures, roles, config.train, config.seed)

        def score(values: loop.Named) -> float:
            scores = score_pictures(
                self.model, pictures, judges, [config.metric], precision=config.train.precision, values=values
            )
            return mean_scores(scores)[config.metric]

        outcome = loop.run(
            trainer,
            config.train,
            score=score,
            metric=config.metric,
            maximise=config.maximise,
            rungs=rungs,
            report=report,
            on_epoch=on_epoch,
        )
        if outcome.best_epoch:
            self.model.load_trainable_state(outcome.best)
        diverged = outcome.status == "failed"
        return replace(
            result,
            status=outcome.status,
            reason=f"diverged at epoch {outcome.epochs_run + 1}" if diverged else None,
            best_epoch=outcome.best_epoch,
            epochs_run=outcome.epochs_run,
            curve=outcome.curve,
            trained_params=trainer.trained,
        )

    def _finish(self, result: TrialResult) -> TrialResult:
        """The test split, and the adapter of what was trained."""
        config = self.config
        self.work_dir.mkdir(parents=True, exist_ok=True)
        scores = score_test_split(
            self.model,
            self.dataset,
            self.preparer,
            self._needs(training=False),
            identity=config.dataset.model_dump_json(),
            metrics=self._metrics(),
            objective=config.metric,
            maximise=config.maximise,
            folder=self.work_dir / "overlays",
        )
        adapter = None
        if self.model.lower and parallel.rank() == 0:
            adapter = self.work_dir / "adapter.safetensors"
            save_adapter(
                adapter,
                self.model.trainable_state(),
                config,
                self.preparer.backbone,
                detector=result.detector_fingerprint,
                tuned_detector=self.tuned_detector,
            )
        return replace(
            result,
            test=scores.means,
            test_images=scores.images,
            overlays=scores.overlays,
            prompt_coverage=self._coverage(scores.detected),
            adapter=adapter,
        )

    def _needs(self, *, training: bool) -> Needs:
        return Needs.of(
            self.model,
            training=training,
            precision=self.config.train.precision,
            fallback=self.config.detector.fallback,
        )

    def _metrics(self) -> list[str]:
        """What the dataset reports, the objective, and the low-resolution Dice, in the tables' order."""
        wanted = {*self.dataset.definition.metrics, self.config.metric, LOW_RES}
        return [name for name in METRICS if name in wanted]

    def _coverage(self, share: float) -> float | None:
        return share if self.model.uses_boxes and self.preparer.detector is not None else None

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - start


def warm_dataset(config: TrialConfig, cache_dir: Path) -> Dataset:
    """The trial's dataset, opened once per process; the test split only for finals."""
    key = (config.dataset.model_dump_json(), config.role)
    return _DATASETS.get(
        key, lambda: open_dataset(config.dataset, split=config.role, mirror_dir=cache_dir / "datasets")
    )


def warm_manifest(config: TrialConfig, dataset: Dataset) -> Manifest:
    """The trial's shots, drawn once per process."""
    key = (config.dataset.model_dump_json(), config.shots, config.shot_seed, config.selection)
    return _MANIFESTS.get(key, lambda: draw_shots(dataset, config.shots, config.shot_seed, config.selection))


def _places(manifest: Manifest, views: int) -> tuple[list[int], list[int], list[int]]:
    """Where D1, D2 (both with their views) and the judges stand: originals first, then each shot's views in turn."""
    first, second, held = len(manifest.d1), len(manifest.d2), len(manifest.holdout)
    start = first + second + held
    d1 = [*range(first), *range(start, start + first * views)]
    d2 = [*range(first, first + second), *range(start + first * views, start + (first + second) * views)]
    judges = list(range(first + second, start)) if held else list(range(first, first + second))
    return d1, d2, judges
