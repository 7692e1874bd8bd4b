"""A trial with cross-fitted selection: one training per fold, each judged on the shots that it holds out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from amsam_ray.inference.inputs import PreparedSet
from amsam_ray.inference.masks import foreground_logits
from amsam_ray.training import loop
from amsam_ray.training.crossfit import CrossfitScores, Fold, make_folds, running_score
from amsam_ray.training.evaluate import score_logits
from amsam_ray.training.metrics import mean_scores
from amsam_ray.training.result import TrialResult
from amsam_ray.training.setup import TrialSetup

Report = Callable[[int, float], bool]


def run_crossfit(
    setup: TrialSetup, rungs: Sequence[int], report: Report | None, on_epoch: loop.OnEpoch | None
) -> TrialResult:
    """Train and judge every fold; the score is the mean over all shots at the best epoch of the average curve.

    Epochs are counted over all folds: epoch ``e`` of fold ``i`` (from 0) is ``i * train.epochs + e``, for rungs and
    reports alike, so that early stopping halves over folds and epochs together.

    Args:
        setup: of the trial.
        rungs, report, on_epoch: as ``train_trial``.
    """
    return _Crossfit(setup, rungs, report, on_epoch).run()


@dataclass
class _FoldRun:
    """What one fold leaves: per scored epoch, the judged shots' scores and logits."""

    judged: tuple[int, ...]
    epochs: list[int] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)
    logits: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # (epoch, shot) -> h x h


class _Crossfit:
    def __init__(self, setup: TrialSetup, rungs: Sequence[int], report: Report | None, on_epoch: loop.OnEpoch | None):
        self._setup, self._config = setup, setup.config
        self._rungs, self._report, self._on_epoch = frozenset(rungs), report, on_epoch
        self._folds = make_folds(setup.split, self._config.selection.fold_count)
        self._epochs = self._config.train.epochs if setup.model.lower else 1
        self._scores = CrossfitScores(self._config.maximise)
        self._runs: list[_FoldRun] = []
        self._curve: list[dict[str, float]] = []
        self._trained = self._epochs_run = 0
        self._detected: list[bool] = []

    def run(self) -> TrialResult:
        status = "completed"
        result: TrialResult | None = None
        for number, fold in enumerate(self._folds):
            names = [self._setup.split.names[shot] for shot in fold.trained]
            detectors = self._setup.detectors(names)
            pictures = self._setup.prepare(self._setup.preparer(detectors))
            pictures = self._setup.compared_with(pictures, fold.trained)
            self._detected += pictures.detected[list(fold.judged)].tolist()
            result = self._setup.result(detectors, sum(self._detected) / len(self._detected))
            with self._setup.phase("train"):
                status = self._run_fold(number, fold, pictures)
            if status != "completed":
                break
            done = (number + 1) * self._epochs
            asked = number < len(self._folds) - 1 and done in self._rungs and self._report is not None
            if asked and self._report(done, self._scores.best()[1]):  # type: ignore[misc]
                status = "pruned"
                break
        assert result is not None
        return self._result(result, status)

    def _run_fold(self, number: int, fold: Fold, pictures: PreparedSet) -> str:
        setup, config = self._setup, self._config
        run = _FoldRun(fold.judged)
        self._runs.append(run)
        offset = number * self._epochs
        if not setup.model.lower:
            self._judge(run, pictures, 1, None)
            self._scores.add(run.epochs, run.scores)
            return "completed"
        d1 = fold.d1 if setup.model.upper else fold.trained
        roles = setup.roles(d1, fold.d2)
        trainer = loop.Trainer(setup.model, pictures, roles, config.train, config.seed)
        self._trained = trainer.trained

        def score(values: loop.Named) -> float:
            return self._judge(run, pictures, trainer.epochs_done, values)

        def report(epoch: int, best: float) -> bool:
            assert self._report is not None
            return self._report(offset + epoch, running_score(self._scores, best))

        def on_epoch(epoch: int, epochs: int) -> None:
            if self._on_epoch is not None:
                self._on_epoch(offset + epoch, len(self._folds) * epochs)

        outcome = loop.run(
            trainer,
            config.train,
            score=score,
            metric=config.metric,
            maximise=config.maximise,
            rungs=[rung - offset for rung in self._rungs if offset < rung < offset + self._epochs],
            report=report if self._report is not None else None,
            on_epoch=on_epoch,
        )
        self._epochs_run += outcome.epochs_run
        for entry in outcome.curve:
            self._curve.append({**entry, "epoch": offset + entry["epoch"], "fold": float(number)})
        if outcome.status == "completed":
            # A rung can add an epoch to one fold; the average curve has the epochs of all folds.
            kept = [
                place
                for place, epoch in enumerate(run.epochs)
                if epoch % config.train.eval_every == 0 or epoch == self._epochs
            ]
            self._scores.add([run.epochs[place] for place in kept], [run.scores[place] for place in kept])
        elif outcome.status == "pruned" and not self._scores.folds:
            self._scores.add(run.epochs, run.scores)
        return outcome.status

    def _judge(self, run: _FoldRun, pictures: PreparedSet, epoch: int, values: loop.Named | None) -> float:
        """Score the held-out shots of a fold; keep their logits for the other metrics."""
        config, model = self._config, self._setup.model
        scores = []
        for shot, logits in foreground_logits(
            model, pictures, run.judged, precision=config.train.precision, values=values
        ):
            truth = pictures.truths[shot]
            scores.append(score_logits(logits, truth, model.image_size, [config.metric])[config.metric])
            run.logits[epoch, shot] = logits.cpu()
            self._truths = pictures.truths
        run.epochs.append(epoch)
        run.scores.append(scores)
        return sum(scores) / len(scores)

    def _result(self, result: TrialResult, status: str) -> TrialResult:
        config, setup = self._config, self._setup
        result = replace(result, curve=self._curve, epochs_run=self._epochs_run, trained_params=self._trained)
        if status == "failed":
            reason = f"diverged at epoch {self._epochs_run + 1}"
            return replace(result, status="failed", reason=reason)
        best, _ = self._scores.best()
        size = setup.model.image_size
        with setup.phase("select"):
            judged = {
                shot: score_logits(run.logits[best, shot], self._truths[shot], size, setup.metrics)
                for run in self._runs[: len(self._scores.folds)]
                for shot in run.judged
            }
        images = [
            {"name": setup.split.names[shot], config.metric: judged[shot][config.metric]} for shot in sorted(judged)
        ]
        return replace(
            result,
            status="completed" if status == "completed" else "pruned",
            val=mean_scores(list(judged.values())),
            val_images=images,
            best_epoch=best if setup.model.lower else 0,
        )
