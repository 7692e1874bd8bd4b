"""Search trials with cross-fitted selection: scores, reports and endings."""

import math
from typing import Any

import numpy as np
import pytest

from amsam_ray.config.datasets import SelectionConfig
from amsam_ray.errors import InputError
from amsam_ray.training import crossfit_trial, loop
from amsam_ray.training.crossfit import make_folds
from amsam_ray.training.evaluate import score_pictures
from amsam_ray.training.setup import TrialSetup
from amsam_ray.training.trial import train_trial
from tests.training.toys import random_nano, small_trial

EPOCHS = 3


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return random_nano(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(backbone, cache, tmp_path):
    def train(method="samed", folds=2, **changes):
        hooks = {name: changes.pop(name) for name in ("rungs", "report", "on_epoch") if name in changes}
        config = _config(backbone, method, folds, **changes)
        return train_trial(config, cache_dir=cache, work_dir=tmp_path, **hooks)

    return train


def _config(backbone, method="samed", folds=2, **changes):
    train = {"epochs": EPOCHS, **changes.pop("train", {})}
    selection = SelectionConfig(mode="crossfit", folds=folds)
    return small_trial(backbone, method, selection=selection, train=train, **changes)


_KNOWN: dict[str, Any] = {}


def _independent(config, cache):
    """Return the trial's parts and the scores of each judged shot by epoch, from ``_train_folds``."""
    key = config.fingerprint()
    if key not in _KNOWN:
        _KNOWN[key] = _train_folds(config, cache)
    return _KNOWN[key]


def _train_folds(config, cache):
    """Train every fold with the loop alone; return the scores of each judged shot by epoch, and all folds."""
    setup = TrialSetup(config, cache, None)
    pictures = setup.prepare(setup.preparer(setup.detectors(())))
    scores = {}
    folds = make_folds(setup.split, config.selection.fold_count)
    for fold in folds:
        roles = loop.Roles(fold.d1 if setup.model.upper else fold.trained, fold.d2)
        trainer = loop.Trainer(setup.model, pictures, roles, config.train, config.seed)
        for epoch in range(1, config.train.epochs + 1):
            trainer.epoch()
            found = score_pictures(
                setup.model, pictures, fold.judged, setup.metrics, precision="fp32", values=trainer.named()
            )
            scores.update({(epoch, shot): score for shot, score in zip(fold.judged, found, strict=True)})
    return setup, scores


@pytest.mark.parametrize(
    ("method", "folds", "metric", "maximise"),
    [("samed", 3, "dice", True), ("blo_sam", 4, "mae", False)],
)
def test_the_score_is_the_mean_over_shots_at_the_best_epoch_of_their_average(
    run, backbone, cache, method, folds, metric, maximise
):
    given = {"folds": folds, "metric": metric, "maximise": maximise}
    result = run(method, **given)
    setup, scores = _independent(_config(backbone, method, **given), cache)
    curve = [np.mean([scores[epoch, shot][metric] for shot in range(4)]) for epoch in range(1, EPOCHS + 1)]
    best = 1 + int(np.argmax(curve) if maximise else np.argmin(curve))
    assert result.status == "completed" and result.best_epoch == best
    for name in setup.metrics:
        assert result.val[name] == pytest.approx(np.mean([scores[best, shot][name] for shot in range(4)]))
    assert [image["name"] for image in result.val_images] == list(setup.split.names)
    assert [image[metric] for image in result.val_images] == pytest.approx(
        [scores[best, shot][metric] for shot in range(4)]
    )
    assert result.epochs_run == len(result.curve) == folds * EPOCHS
    assert [entry["epoch"] for entry in result.curve] == list(range(1, folds * EPOCHS + 1))
    assert [entry["fold"] for entry in result.curve] == [fold for fold in range(folds) for _ in range(EPOCHS)]
    assert result.adapter is None and result.test is None


def test_heartbeats_count_the_epochs_of_all_folds(run):
    heard = []
    run(on_epoch=lambda epoch, epochs: heard.append((epoch, epochs)))
    assert heard == [(epoch, 2 * EPOCHS) for epoch in range(1, 2 * EPOCHS + 1)]


def _reports(stop_at=None):
    heard = []

    def report(epoch, score):
        heard.append((epoch, score))
        return epoch == stop_at

    return heard, report


def test_rungs_count_the_epochs_of_all_folds(run):
    heard, report = _reports()
    result = run(rungs=(2, 3, 4), report=report)
    assert [epoch for epoch, _ in heard] == [2, 3, 4] and result.status == "completed"
    first = [entry["val_dice"] for entry in result.curve[:EPOCHS]]
    # Inside the first fold: its best so far. From its end on: its score, until the second fold is finished.
    assert [score for _, score in heard] == pytest.approx([max(first[:2]), max(first), max(first)])


@pytest.mark.parametrize(("stop_at", "epochs", "judged"), [(2, 2, 1), (3, 3, 1), (5, 5, 1), (6, 6, 2)])
def test_pruned_trials_keep_the_scores_of_what_is_finished(run, backbone, cache, stop_at, epochs, judged):
    heard, report = _reports(stop_at)
    result = run(folds=4, rungs=(2, 3, 5, 6), report=report)
    assert result.status == "pruned" and result.epochs_run == epochs == len(result.curve)
    assert heard[-1][0] == stop_at
    setup, scores = _independent(_config(backbone, folds=4), cache)
    shots = [shot for fold in make_folds(setup.split, 4)[:judged] for shot in fold.judged]
    assert [image["name"] for image in result.val_images] == [setup.split.names[shot] for shot in sorted(shots)]
    assert result.val["dice"] == pytest.approx(np.mean([scores[result.best_epoch, shot]["dice"] for shot in shots]))
    assert result.val["dice"] == pytest.approx(heard[-1][1])


def test_a_rung_between_evaluations_does_not_change_the_average_curve(run):
    """Only the first fold is scored at its rung, so that epoch has no average over all shots."""
    plain = run(train={"eval_every": 2})
    heard, report = _reports()
    asked = run(train={"eval_every": 2}, rungs=(1,), report=report)
    assert [epoch for epoch, _ in heard] == [1]
    assert asked.status == "completed" and asked.best_epoch in (2, 3)
    assert asked.val == plain.val and asked.best_epoch == plain.best_epoch


def test_divergence_in_a_fold_fails_the_trial(run):
    result = run(params={"lr": 1e30})
    assert result.status == "failed" and result.val == {} and result.val_images == []
    assert result.reason == f"diverged at epoch {result.epochs_run + 1}"


def test_divergence_in_a_later_fold_fails_the_trial(run, monkeypatch):
    epochs = []
    epoch = loop.Trainer.epoch

    def diverge(self):
        epochs.append(0)
        if len(epochs) == EPOCHS + 2:
            raise loop.Diverged("a loss is NaN or Inf")
        return epoch(self)

    monkeypatch.setattr(loop.Trainer, "epoch", diverge)
    result = run()
    assert result.status == "failed" and result.val == {} and result.best_epoch == 0
    assert result.epochs_run == EPOCHS + 1 and result.reason == f"diverged at epoch {EPOCHS + 2}"


def test_a_divergence_of_the_predictions_names_its_epoch(run, monkeypatch):
    """The epoch is trained, so its loss is in the curve; its score is not."""
    scored = []
    score = crossfit_trial.foreground_logits

    def diverge(*args, **kwargs):
        scored.append(0)
        if len(scored) == EPOCHS + 2:
            raise loop.Diverged("a logit is NaN or Inf")
        return score(*args, **kwargs)

    monkeypatch.setattr(crossfit_trial, "foreground_logits", diverge)
    result = run()
    assert result.status == "failed" and result.reason == f"diverged at epoch {EPOCHS + 2}"
    assert result.epochs_run == EPOCHS + 1 and len(result.curve) == EPOCHS + 2


def test_a_method_without_training_is_scored_on_all_shots(run, backbone, cache):
    result = run("sam", folds=4)
    setup = TrialSetup(_config(backbone, "sam", 4), cache, None)
    pictures = setup.prepare(setup.preparer(setup.detectors(())))
    scores = score_pictures(setup.model, pictures, range(4), ["dice"], precision="fp32")
    assert result.status == "completed" and result.best_epoch == 0 and result.epochs_run == 0 and result.curve == []
    assert [image["dice"] for image in result.val_images] == pytest.approx([score["dice"] for score in scores])
    assert math.isfinite(result.val["dice"]) and result.trained_params == 0


def test_a_final_retrains_on_all_shots_and_stops_at_the_chosen_epoch(run):
    result = run(role="final", stop_epoch=2)
    longer = run(role="final")
    assert result.status == "completed" and result.epochs_run == result.best_epoch == 2 and longer.best_epoch == EPOCHS
    # the schedule is that of all epochs
    assert [entry["lr"] for entry in result.curve] == [entry["lr"] for entry in longer.curve[:2]]
    assert result.val == {} and result.val_images == [] and result.test is not None and result.adapter is not None
    assert all("val_dice" not in entry for entry in result.curve)


def test_shots_that_cannot_be_divided_are_refused_before_anything_starts(run):
    with pytest.raises(InputError, match=r"shots: 2 shots are too few for selection mode crossfit; use at least 4"):
        run(shots=2)
    with pytest.raises(InputError, match=r"shots: 4 shots cannot be divided into 5 folds; set selection.folds"):
        run(folds=5)
