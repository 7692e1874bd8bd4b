"""Trials that train together are the trials that they are by themselves."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amsam_ray.config.datasets import SelectionConfig
from amsam_ray.config.networks import BackboneConfig
from amsam_ray.config.params import PARAMS
from amsam_ray.config.populations import MAY_DIFFER, lone_reason
from amsam_ray.inference.inputs import PreparedSet
from amsam_ray.training.loop import Trainer
from amsam_ray.training.population import Population, current
from amsam_ray.training.population_size import GAIN, best_size, choose_size, step_seconds
from amsam_ray.training.stacked import JointSteps, Stack
from amsam_ray.training.together import train_together
from amsam_ray.training.trial import train_trial
from tests.training.toys import small_trial, toy_trainer, toy_training

TOLERANCE = 1e-5
# The derivative of AdamW's first steps divides by moments near zero, which enlarges rounding errors; see the test in
# float64.
THROUGH_ADAMW = 3e-3
# Of scores that count pixels: rounding moves a pixel whose probability is at the threshold.
PIXELS = 1e-2
# Values that differ between the members, all of MAY_DIFFER among them.
MEMBERS: list[dict[str, Any]] = [
    {"seed": 0},
    {"seed": 1, "alpha": 0.2, "lambda": 0.3, "rank": 1, "lr": 1e-3, "warmup": 0.3},
    {"seed": 2, "alpha": 0.9, "lambda": 1.0, "rank": 6, "lr_prompt": 5e-3, "weight_decay": 0.0},
    {"seed": 0, "steps": 12, "views": 1},
]


@pytest.fixture(scope="module")
def backbone():
    # Pretrained: with random weights, rounding flips pixels of masks that are near the threshold everywhere.
    return BackboneConfig(arch="nano", image_size=128)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def joint(monkeypatch):
    """The number of trials of every joint step."""
    sizes: Counter[int] = Counter()
    plain = Stack.step_all

    def counted(self, draws):
        sizes[len(draws)] += 1
        return plain(self, draws)

    monkeypatch.setattr(Stack, "step_all", counted)
    return sizes


class Rungs:
    """The report of a trial: what it received, and the epoch at which it stops or fails."""

    def __init__(self, stop=0, fail=0):
        self.received, self.stop, self.fail = [], stop, fail

    def __call__(self, epoch, score):
        self.received.append((epoch, score))
        if epoch == self.fail:
            raise OSError("no space")
        return epoch == self.stop


def trial(backbone, cache, folder, number, *, method="am_sam", stop=0, fail=0, changes=None, **given):
    """Return a trial of the ``number``-th member, ready to run, which returns its result and what it reported."""
    values = {**MEMBERS[number], **given}
    if method != "am_sam":
        values.pop("alpha", None)
    config = small_trial(
        backbone,
        method,
        seed=values.pop("seed"),
        params=values,
        # A mean over pixels and not a count: it shows every difference.
        metric="mae",
        maximise=False,
        **{"train": {"epochs": 3}, **(changes or {})},
    )

    def run(which):
        rungs = Rungs(stop, fail)
        work = folder / f"{which}-{number}"
        return train_trial(config, cache_dir=cache, work_dir=work, rungs=(1, 2), report=rungs), rungs.received

    return run


def assert_equal_trials(one, other, tolerance=TOLERANCE):
    (a, received_a), (b, received_b) = one, other
    assert (a.status, a.reason, a.best_epoch, a.epochs_run) == (b.status, b.reason, b.best_epoch, b.epochs_run)
    assert (a.trained_params, a.shots_sha256) == (b.trained_params, b.shots_sha256)
    assert received_a == [(epoch, pytest.approx(score, abs=tolerance)) for epoch, score in received_b]
    assert a.curve == [pytest.approx(entry, abs=tolerance) for entry in b.curve]
    for found, expected in ((dict(a.val), dict(b.val)), (dict(a.test or {}), dict(b.test or {}))):
        for scores in (found, expected):
            scores.pop("hd95", None)  # one pixel can change this percentile of distances by any amount
        assert found == pytest.approx(expected, abs=PIXELS, rel=PIXELS)
        assert found.get("mae") == pytest.approx(expected.get("mae"), abs=tolerance)
    assert (a.test is None) == (b.test is None)
    if a.test is not None:
        mine, theirs = load_file(a.adapter), load_file(b.adapter)
        assert set(mine) == set(theirs)
        # Of the whole: where a gradient is almost nothing, AdamW's first steps enlarge the rounding of single weights.
        weights, others = (torch.cat([found[name].flatten() for name in sorted(mine)]) for found in (mine, theirs))
        assert float((weights - others).norm() / others.norm()) < tolerance


VARIANTS: list[tuple[str, dict[str, Any], float]] = [
    ("am_sam", {"hypergradient": "first_order"}, TOLERANCE),
    ("am_sam", {"hypergradient": "unrolled"}, THROUGH_ADAMW),
    ("am_sam", {"hypergradient": "exact", "calibration": "learned"}, THROUGH_ADAMW),
    ("am_sam", {"levels": 1, "calibration": "batch", "box_training": "mix"}, TOLERANCE),
    ("blo_sam", {"protocol": "published"}, TOLERANCE),
]


@pytest.mark.parametrize(("method", "common", "tolerance"), VARIANTS, ids=str)
def test_a_member_equals_its_lone_trial(backbone, cache, tmp_path, joint, method, common, tolerance):
    """Over a whole trial: losses, rates, scores of every epoch, rungs, chosen epoch, test scores and weights."""
    final = {"role": "final"}
    runs = [
        trial(backbone, cache, tmp_path, number, method=method, changes=final, **common)
        for number in range(len(MEMBERS))
    ]
    lone = [run("lone") for run in runs]
    assert not joint
    together = train_together([partial(run, "together") for run in runs])
    assert joint[4] > 0
    for one, other in zip(together, lone, strict=True):
        assert_equal_trials(one, other, tolerance)


@pytest.mark.parametrize("mode", ["first_order", "unrolled", "exact"])
def test_weights_agree_to_the_precision_of_float64(monkeypatch, joint, mode):
    plain = PreparedSet.batch

    def in_float64(self, index):
        batch = plain(self, index)
        return replace(batch, inputs=replace(batch.inputs, features=batch.inputs.features.double()))

    monkeypatch.setattr(PreparedSet, "batch", in_float64)

    def run(number):
        given = toy_training("am_sam", epochs=3, hypergradient=mode, **MEMBERS[number])
        given[0].double()
        trainer = Trainer(*given)
        return [trainer.epoch()["loss"] for _ in range(3)], trainer.weights

    lone = [run(number) for number in range(len(MEMBERS))]
    together: Any = train_together([partial(run, number) for number in range(len(MEMBERS))])
    assert joint[4] > 0
    for (losses, weights), (expected, others) in zip(together, lone, strict=True):
        assert losses == pytest.approx(expected, abs=1e-12) and weights.dtype == torch.float64
        torch.testing.assert_close(weights, others, rtol=0, atol=1e-9)


def test_the_members_differ_in_every_key_in_which_they_may():
    differing = {key for member in MEMBERS for key in member} - {"seed"}
    assert differing == MAY_DIFFER <= set(PARAMS)


def test_a_member_that_ends_leaves_the_others_as_they_are(backbone, cache, tmp_path, joint):
    """One is pruned, one diverges, one raises; the last trains as by itself."""
    ends: list[dict[str, Any]] = [{"stop": 1}, {"lr": 1e30}, {"fail": 2}, {}]
    runs = [
        trial(backbone, cache, tmp_path, number, hypergradient="first_order", **given)
        for number, given in enumerate(ends)
    ]
    lone = [run("lone") for run in (runs[0], runs[1], runs[3])]
    pruned, diverged, raised, last = train_together([partial(run, "together") for run in runs])
    assert not isinstance(pruned, BaseException) and not isinstance(diverged, BaseException)
    assert {2, 4} <= set(joint)
    assert pruned[0].status == "pruned" and diverged[0].status == "failed"
    assert isinstance(raised, OSError)
    assert_equal_trials(pruned, lone[0])
    assert diverged[0].reason == lone[1][0].reason and len(diverged[0].curve) == len(lone[1][0].curve)
    assert_equal_trials(last, lone[2])


def test_trials_of_several_kinds_share_steps_with_their_own_kind(backbone, cache, tmp_path, joint):
    runs = [
        trial(backbone, cache, tmp_path, number, method="blo_sam", hypergradient="first_order") for number in (0, 2)
    ]
    runs += [trial(backbone, cache, tmp_path, number, hypergradient="exact") for number in (1, 3)]
    lone = [run("lone") for run in runs]
    for one, other in zip(train_together([partial(run, "together") for run in runs]), lone, strict=True):
        assert_equal_trials(one, other)
    assert set(joint) == {2}


def test_a_method_that_trains_inside_the_encoder_takes_its_steps_by_itself(joint):
    def run(seed):
        trainer = toy_trainer("samed", seed=seed)
        return [trainer.epoch()["loss"] for _ in range(2)]

    assert lone_reason("samed") is not None and lone_reason("am_sam") is None
    assert train_together([partial(run, seed) for seed in (0, 1)]) == [run(0), run(1)]
    assert not joint


def test_cross_fitted_trials_train_together_fold_by_fold(backbone, cache, tmp_path, joint):
    changes = {"selection": SelectionConfig(mode="crossfit", folds=2), "train": {"epochs": 2}, "shots": 8}
    order = {"hypergradient": "first_order"}
    runs = [trial(backbone, cache, tmp_path, number, changes=changes, **order) for number in (0, 2)]
    lone = [run("lone") for run in runs]
    for one, other in zip(train_together([partial(run, "together") for run in runs]), lone, strict=True):
        assert_equal_trials(one, other)
    assert joint[2] > 0


def test_trials_go_on_one_by_one_where_a_joint_step_fails(monkeypatch):
    def run(seed):
        trainer = toy_trainer("blo_sam", seed=seed)
        return [trainer.epoch()["loss"] for _ in range(2)]

    def fails(self, draws):
        raise torch.OutOfMemoryError("no memory for so many")

    lone = [run(seed) for seed in (0, 1)]
    monkeypatch.setattr(Stack, "step_all", fails)
    assert train_together([partial(run, seed) for seed in (0, 1)]) == lone


def test_members_run_one_at_a_time_and_are_answered_together():
    asked, running = [], threading.Semaphore()

    def answer(questions):
        asked.append(list(questions))
        return [-question for question in questions]

    population: Population[int, int] = Population(answer)

    def member(number, count):
        found = []
        for turn in range(count):
            assert running.acquire(blocking=False)
            assert current() is population
            question = 10 * number + turn
            running.release()
            found.append(population.ask(question))
        return found

    def first():
        ends["second"] = population.start(partial(member, 2, 2))  # joins while another runs
        return member(1, 3)

    ends: dict[str, Future[list[int]]] = {}
    assert population.start(first).result(10) == [-10, -11, -12] and ends["second"].result(10) == [-20, -21]
    assert [sorted(questions) for questions in asked] == [[10, 20], [11, 21], [12], []]
    assert current() is None


def test_an_answer_that_is_an_exception_is_raised_in_its_member_alone():
    def answer(questions: Sequence[str]) -> list[str | Exception]:
        return [ValueError(question) if question == "bad" else question for question in questions]

    population = Population(answer)
    gate = threading.Event()

    def ask(question):
        gate.wait(10)
        return population.ask(question)

    ends = [population.start(partial(ask, question)) for question in ("bad", "good")]
    gate.set()
    assert isinstance(ends[0].exception(10), ValueError) and ends[1].result(10) == "good"


def test_an_error_of_the_computation_is_raised_in_all_members():
    """Also one that is no Exception: a member without an answer would wait forever."""

    def answer(questions: Sequence[int]) -> list[int | Exception]:
        raise SystemExit(len(questions))

    population = Population(answer)
    gate = threading.Event()

    def ask(question):
        gate.wait(10)
        return population.ask(question)

    ends = [population.start(partial(ask, question)) for question in (1, 2)]
    gate.set()
    assert [repr(end.exception(10)) for end in ends] == ["SystemExit(2)"] * 2


def test_the_shares_of_all_members_add_up_to_the_time_that_they_run():
    population: Population[int, int] = Population(lambda questions: list(questions))
    gate = threading.Event()

    def member(count):
        gate.wait(10)
        started, share = time.monotonic(), population.measure_share()
        for number in range(count):
            time.sleep(0.05)
            population.ask(number)
        return started, time.monotonic(), share()

    ends = [population.start(partial(member, count)) for count in (1, 2, 4)]
    gate.set()
    found = [end.result(10) for end in ends]
    total = max(end for _, end, _ in found) - min(start for start, _, _ in found)
    assert all(share < 1 for *_, share in found)
    assert sum((end - start) * share for start, end, share in found) == pytest.approx(total, rel=0.2)


def test_nothing_is_kept_of_trials_that_have_ended(joint):
    steps = JointSteps()
    population: Population[Any, Any] = Population(steps)
    kept = []

    def run(seed):
        trainer = toy_trainer("blo_sam", seed=seed)
        kept.append(weakref.ref(trainer))
        trainer.epoch()

    for end in [population.start(partial(run, seed)) for seed in (0, 1)]:
        end.result(30)
    gc.collect()
    assert joint[2] > 0 and [trainer() for trainer in kept] == [None, None]


def test_a_measurement_leaves_the_trial_as_it_is():
    trainer, plain = toy_trainer("am_sam", rank=2), toy_trainer("am_sam", rank=2)
    steps = []
    seconds = step_seconds(trainer, plain.draw(), (1, 2), lambda: steps.append(1))
    assert len(steps) == 6 and set(seconds) == {1, 2} and all(value > 0 for value in seconds.values())
    untouched = toy_trainer("am_sam", rank=2)
    assert torch.equal(trainer.weights, untouched.weights) and trainer.epoch() == untouched.epoch()


def test_a_measurement_ends_at_a_size_whose_step_fails(monkeypatch):
    plain = Stack.step_all

    def fails(self, draws):
        if len(draws) > 2:
            raise torch.OutOfMemoryError("no memory for so many")
        return plain(self, draws)

    monkeypatch.setattr(Stack, "step_all", fails)
    trainer = toy_trainer("blo_sam")
    assert set(step_seconds(trainer, trainer.draw(), (1, 2, 4, 8))) == {1, 2}


def test_a_population_must_gain():
    assert best_size({1: 1.0, 2: 0.7, 4: 0.5, 8: 0.6}) == 4
    assert best_size({1: 1.0, 2: 1.5}) == 1
    assert best_size({1: 1.0, 2: 1.01 / GAIN}) == 1
    size, seconds = choose_size(toy_trainer("samed"), toy_trainer("samed").draw())
    assert (size, seconds) == (1, {})
