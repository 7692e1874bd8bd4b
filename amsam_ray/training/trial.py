"""Training and scoring of one trial, from its configuration to its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from amsam_ray import parallel
from amsam_ray.config.trial import TrialConfig
from amsam_ray.device import peak_memory
from amsam_ray.inference.adapter_file import save_adapter
from amsam_ray.inference.inputs import PreparedSet, Preparer
from amsam_ray.inference.masks import keep_support
from amsam_ray.training import loop
from amsam_ray.training.crossfit_trial import run_crossfit
from amsam_ray.training.evaluate import score_pictures
from amsam_ray.training.metrics import mean_scores
from amsam_ray.training.pretrained import Detectors
from amsam_ray.training.result import TrialResult
from amsam_ray.training.setup import TrialSetup
from amsam_ray.training.test_scoring import score_test_split

Report = Callable[[int, float], bool]


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

    Needs no Ray. In an initialised ``torch.distributed`` process group every worker calls this with equal arguments.
    Together they compute what one worker would; use the result and the files of rank 0.

    Args:
        config: the trial.
        cache_dir: this node's prepared inputs, shared by all its processes; created if missing.
        work_dir: folder of a final's adapter file and overlays; created if missing.
        rungs: epochs (from 1) at which ``report`` is called.
        report: given the epoch and the best objective so far, returns True to stop the trial as ``pruned``. Every
            worker calls it and must get the same answer.
        on_epoch: called after every epoch with its number and the number of epochs, for example as a heartbeat.
        device: a torch device; None chooses one as ``amsam_ray.device.pick_device``.

    Returns:
        The result; ``failed``, with the curve so far, if a loss became NaN or Inf.

    Raises:
        InputError: the configuration is not possible: dataset, shots, checkpoint, rank or batch size.
        Exception: other failures (out of memory, damaged image) are left to the caller.

    Example:
        >>> from amsam_ray.config.methods import resolve_params
        >>> config = TrialConfig(
        ...     dataset=DatasetConfig(name="procedural", options={"family": "lesion"}), shots=4, method="blo_sam",
        ...     label="blo_sam", params=resolve_params("blo_sam", {"lr": 1e-3}), train=TrainConfig(epochs=20))
        >>> train_trial(config, cache_dir=Path("cache"), work_dir=Path("work")).val["dice"]  # doctest: +SKIP
        0.81
    """
    setup = TrialSetup(config, Path(cache_dir), device)
    if config.selection.mode == "crossfit" and config.role == "search":
        result = run_crossfit(setup, rungs, report, on_epoch)
    else:
        result = _run(setup, Path(work_dir), rungs, report, on_epoch)
    return replace(result, timings=dict(setup.seconds), peak_memory_bytes=peak_memory(setup.device))


def _run(
    setup: TrialSetup,
    work_dir: Path,
    rungs: Sequence[int],
    report: Report | None,
    on_epoch: loop.OnEpoch | None,
) -> TrialResult:
    """Train on D1 and D2, choose the epoch on the selection images, and score a final on the test split."""
    config, split, model = setup.config, setup.split, setup.model
    detectors = setup.detectors((*split.d1, *split.d2))
    preparer = setup.preparer(detectors)
    pictures = setup.prepare(preparer)
    first, second = len(split.d1), len(split.d2)
    d1, d2 = list(range(first)), list(range(first, first + second))
    judges = list(range(first + second, len(split.names))) if split.holdout else d2
    # No image is its own support: D2 is compared with D1, and what is not a shot with all of them.
    pictures = setup.compared_with(pictures, d1 + d2 if split.holdout else d1)
    result = setup.result(detectors, float(pictures.detected[judges].float().mean()))
    # A cross-fitted configuration is retrained on all shots for as long as its folds say: nothing is left to judge.
    refit = config.selection.mode == "crossfit"
    if model.lower:
        with setup.phase("train"):
            roles = setup.roles(d1 if model.upper else d1 + d2, d2)
            result = _train(setup, result, pictures, roles, None if refit else judges, rungs, report, on_epoch)
    if result.status != "failed" and not refit and (result.best_epoch or not model.lower):
        with setup.phase("select"):
            scores = score_pictures(model, pictures, judges, setup.metrics, precision=config.train.precision)
            result = replace(result, val=mean_scores(scores))
    if config.role == "final" and result.status == "completed":
        with setup.phase("test"):
            if model.needs_support:
                keep_support(model, setup.compared_with(pictures, d1 + d2), config.train.precision)
            result = _test(setup, work_dir, result, preparer, detectors)
    return result


def _train(
    setup: TrialSetup,
    result: TrialResult,
    pictures: PreparedSet,
    roles: loop.Roles,
    judges: list[int] | None,
    rungs: Sequence[int],
    report: Report | None,
    on_epoch: loop.OnEpoch | None,
) -> TrialResult:
    """Train the model. Without ``judges`` it keeps the weights of the last epoch."""
    config, model = setup.config, setup.model
    trainer = loop.Trainer(model, pictures, roles, config.train, config.seed)

    def score(values: loop.Named) -> float:
        scores = score_pictures(
            model, pictures, judges or (), [config.metric], precision=config.train.precision, values=values
        )
        return mean_scores(scores)[config.metric]

    outcome = loop.run(
        trainer,
        config.train,
        score=None if judges is None else score,
        metric=config.metric,
        maximise=config.maximise,
        rungs=rungs,
        report=report,
        on_epoch=on_epoch,
        stop_after=config.stop_epoch,
    )
    if outcome.best_epoch:
        model.load_trainable_state({**model.trainable_state(), **outcome.best})
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


def _test(
    setup: TrialSetup, work_dir: Path, result: TrialResult, preparer: Preparer, detectors: Detectors
) -> TrialResult:
    """Score the test split and write the adapter file."""
    config, model = setup.config, setup.model
    work_dir.mkdir(parents=True, exist_ok=True)
    scores = score_test_split(
        model,
        setup.dataset,
        preparer,
        setup.needs(training=False),
        identity=config.dataset.model_dump_json(),
        metrics=setup.metrics,
        objective=config.metric,
        maximise=config.maximise,
        folder=work_dir / "overlays",
    )
    adapter = None
    if model.lower and parallel.rank() == 0:
        adapter = work_dir / "adapter.safetensors"
        save_adapter(
            adapter,
            model.trainable_state(),
            config,
            model.frozen.fingerprint,
            detector=result.detector_fingerprint,
            tuned_detector=detectors.tuned_file,
        )
    return replace(
        result,
        test=scores.means,
        test_images=scores.images,
        overlays=scores.overlays,
        prompt_coverage=None if detectors.primary is None else scores.detected,
        adapter=adapter,
    )
