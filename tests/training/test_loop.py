"""The one training loop: both levels, what it keeps, how it ends."""

import math

import pytest
import torch

from amsam_ray.config.trial import TrainConfig
from amsam_ray.inference.masks import Diverged
from amsam_ray.training.loop import Roles, Trainer, run
from tests.training.toys import toy_model, toy_set, toy_trainer

METHODS = ["samed", "med_sa", "sam_adapter", "blo_sam", "am_sam", "mca_sam", "am_mca_sam"]


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls(method):
    trainer = toy_trainer(method, epochs=12, lr=3e-3)
    losses = [trainer.epoch()["loss"] for _ in range(12)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("method", ["blo_sam", "mca_sam", "am_mca_sam"])
def test_same_seed_same_weights_other_seed_other_weights(method):
    def weights(seed):
        trainer = toy_trainer(method, seed=seed)
        for _ in range(2):
            trainer.epoch()
        return torch.cat([trainer.weights, trainer.prompt])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_the_model_itself_is_never_written():
    model = toy_model("am_mca_sam")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Trainer(model, toy_set(model), Roles([0, 1], [2, 3]), TrainConfig(epochs=2), 0).epoch()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_two_levels_move_both_and_one_level_trains_the_prompt_with_the_rest():
    two = toy_trainer("am_sam")
    start = two.prompt.clone()
    entry = two.epoch()
    assert {"upper_loss", "lr_prompt"} <= set(entry)
    assert not torch.equal(two.prompt, start)

    one = toy_trainer("am_sam", levels=1, roles=Roles([0, 1, 2, 3], []))
    before = {name: value.clone() for name, value in one.named().items() if name.startswith("prompt.")}
    entry = one.epoch()
    assert not {"upper_loss", "lr_prompt"} & set(entry)
    assert before and all(not torch.equal(one.named()[name], value) for name, value in before.items())
    assert one.trained == two.trained


def test_the_upper_level_sees_fresh_batches_of_d2_and_the_lower_only_d1(monkeypatch):
    trainer = toy_trainer("am_sam", epochs=6, roles=Roles([0, 1], [2, 3]))
    seen: dict[int, list[int]] = {}
    for number, stream in enumerate((trainer._d1, trainer._d2)):
        assert stream is not None
        draw = stream.next

        def noting(draw=draw, number=number):
            batch = draw()
            seen.setdefault(number, []).extend(batch)
            return batch

        monkeypatch.setattr(stream, "next", noting)
    for _ in range(6):
        trainer.epoch()
    assert set(seen[0]) == {0, 1} and set(seen[1]) == {2, 3}
    assert len(seen[0]) == len(seen[1]) == 12


def test_a_loss_that_is_not_finite_ends_the_run_as_failed_with_its_curve():
    # one step an epoch, and the first is its ruin
    trainer = toy_trainer("blo_sam", epochs=5, batch_size=2, lr=1e30, hypergradient="first_order")
    outcome = run(trainer, TrainConfig(epochs=5), score=lambda values: 0.5, metric="dice", maximise=True)
    assert outcome.status == "failed" and outcome.epochs_run == 1
    assert [entry["epoch"] for entry in outcome.curve] == [1]
    assert math.isfinite(outcome.curve[0]["loss"])


def test_scores_that_cannot_be_computed_fail_the_run_too():
    def score(values):
        raise Diverged("a logit is NaN or Inf")

    trainer = toy_trainer("blo_sam", epochs=2)
    outcome = run(trainer, TrainConfig(epochs=2), score=score, metric="dice", maximise=True)
    assert outcome.status == "failed" and outcome.epochs_run == 0 and outcome.best_epoch == 0


@pytest.mark.parametrize(("maximise", "best"), [(True, 2), (False, 3)])
def test_the_best_epochs_weights_are_kept(maximise, best):
    trainer = toy_trainer("blo_sam", epochs=4)
    scores = iter([0.4, 0.9, 0.1, 0.5])
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def score(values):
        kept[len(kept) + 1] = {name: value.clone() for name, value in values.items()}
        return next(scores)

    outcome = run(trainer, TrainConfig(epochs=4), score=score, metric="mae", maximise=maximise)
    assert outcome.best_epoch == best and outcome.epochs_run == 4
    assert all(torch.equal(value, kept[best][name]) for name, value in outcome.best.items())
    assert [entry["val_mae"] for entry in outcome.curve] == [0.4, 0.9, 0.1, 0.5]


def test_reports_come_at_the_rungs_with_the_best_so_far_and_can_stop_the_run():
    trainer = toy_trainer("blo_sam", epochs=6)
    scores, heard = iter([0.4, 0.9, 0.1, 0.5]), []

    def report(epoch, best):
        heard.append((epoch, best))
        return epoch == 4

    outcome = run(
        trainer,
        TrainConfig(epochs=6),
        score=lambda values: next(scores),
        metric="dice",
        maximise=True,
        rungs=(1, 3, 4, 5),
        report=report,
    )
    assert heard == [(1, 0.4), (3, 0.9), (4, 0.9)]
    assert outcome.status == "pruned" and outcome.epochs_run == 4 and outcome.best_epoch == 2


def test_eval_every_spares_scores_but_not_the_first_rung_and_the_last_epoch():
    trainer = toy_trainer("blo_sam", epochs=5)
    outcome = run(
        trainer,
        TrainConfig(epochs=5, eval_every=3),
        score=lambda values: 0.5,
        metric="dice",
        maximise=True,
        rungs=(1, 2),
        report=lambda epoch, best: False,
    )
    assert [entry["epoch"] for entry in outcome.curve if "val_dice" in entry] == [1, 3, 5]
