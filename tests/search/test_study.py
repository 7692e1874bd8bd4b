"""The study of a cell: its suggestions, and the outcomes that it takes in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from amsam_ray.search.samplers import check_sampler
from amsam_ray.search.study import CellStudy
from amsam_ray.search.trials import TrialOutcome, derived_seed, trial_id
from tests.search.spaces import LAMBDA, LR, one_cell

SAMPLERS = ("tpe", "random", "cmaes", "gp")


def done(number: int, score: float | None, **more: Any) -> TrialOutcome:
    return TrialOutcome(trial_id("c", number), more.pop("status", "completed"), score=score, **more)


def optimise(study: CellStudy, score: Callable[[dict[str, Any]], float], trials: int) -> float:
    best = -math.inf
    for number in range(trials):
        value = score(study.ask(number))
        study.tell(number, done(number, value))
        best = max(best, value)
    return best


def bowl(params: dict[str, Any]) -> float:
    return 1 - abs(math.log10(params["lr"] / 3e-3)) - abs(params["lambda"] - 0.8)


def test_published_setting_comes_first() -> None:
    study = CellStudy(one_cell())
    assert study.ask(0) == {"lr": 5e-3, "lambda": 0.8}


def test_published_setting_outside_the_range_is_tried() -> None:
    study = CellStudy(one_cell(space={"lr": {"loguniform": [1e-4, 1e-3]}, "lambda": LAMBDA}))
    assert study.ask(0)["lr"] == 5e-3
    study.tell(0, done(0, 0.5))
    assert 1e-4 <= study.ask(1)["lr"] <= 1e-3


def test_points_of_the_file_follow_the_published_setting() -> None:
    study = CellStudy(one_cell(first=[{"lr": 1e-2, "lambda": 0.6}]))
    assert [study.ask(n) for n in (0, 1)][1] == {"lr": 1e-2, "lambda": 0.6}


def test_random_suggestion_depends_only_on_its_number() -> None:
    cell = one_cell(trials=40)
    forward, backward = CellStudy(cell), CellStudy(cell)
    straight = {n: forward.ask(n) for n in range(40)}
    for number in reversed(range(40)):
        assert backward.ask(number) == straight[number]
        backward.tell(number, done(number, number / 40))
    assert len({p["lr"] for p in straight.values()}) == 40


def test_other_seed_suggests_other_points() -> None:
    assert CellStudy(one_cell(seed=1)).ask(3) != CellStudy(one_cell(seed=2)).ask(3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampler_stays_in_the_space_and_is_reproducible(sampler: str) -> None:
    mixed = {"lr": LR, "lambda": LAMBDA, "rank": {"logint": [2, 16]}, "head": {"choice": ["cold", "warm"]}}
    given: dict[str, Any] = {"sampler": sampler, "startup_trials": 3, "trials": 8, "space": mixed}
    studies = [CellStudy(one_cell(**given)) for _ in range(2)]
    for number in range(8):
        one, other = (study.ask(number) for study in studies)
        assert one == other
        assert 1e-4 <= one["lr"] <= 1e-1 and 0.5 <= one["lambda"] <= 1 and one["head"] in ("cold", "warm")
        assert isinstance(one["rank"], int) and 2 <= one["rank"] <= 16
        for study in studies:
            study.tell(number, done(number, one["lambda"]))


def test_tpe_finds_better_points_than_random() -> None:
    tpe = optimise(CellStudy(one_cell(sampler="tpe", trials=60)), bowl, 60)
    random = [optimise(CellStudy(one_cell(sampler="random", trials=60, seed=s)), bowl, 60) for s in range(5)]
    assert tpe > sum(random) / len(random)


def test_tpe_spreads_simultaneous_trials() -> None:
    study = CellStudy(one_cell(sampler="tpe", startup_trials=10, trials=60))
    optimise(study, bowl, 30)
    at_once = [study.ask(n)["lr"] for n in range(30, 38)]
    assert len(set(at_once)) == 8


def test_conditions_decide_what_is_searched() -> None:
    cell = one_cell(
        space={
            "lr": LR,
            "calibration": {"choice": ["off", "sample"]},
            "alpha": {"uniform": [0.5, 0.9], "when": {"calibration": "sample"}},
        },
        trials=30,
    )
    study = CellStudy(cell)
    seen = [study.ask(n) for n in range(30)]
    assert {p["calibration"] for p in seen} == {"off", "sample"}
    assert all(("alpha" in p) == (p["calibration"] == "sample") for p in seen)


def test_boolean_switch_of_yaml_is_searched_as_a_word() -> None:
    study = CellStudy(one_cell(space={"lr": LR, "detector": {"choice": [True, False]}}, trials=20))
    assert {study.ask(n)["detector"] for n in range(20)} == {"on", "off"}


def test_grid_tries_every_point_once_after_the_published_one() -> None:
    choices = {"rank": {"choice": [2, 4]}, "head": {"choice": ["cold", "warm"]}}
    cell = one_cell(sampler="grid", trials=100, space=choices)
    study = CellStudy(cell)
    points = [study.ask(n) for n in range(study.size)]
    assert points[0]["rank"] == 4
    assert sorted((p["rank"], p["head"]) for p in points) == [(2, "cold"), (2, "warm"), (4, "cold"), (4, "warm")]


def test_grid_refuses_continuous_ranges() -> None:
    (problem,) = check_sampler(one_cell(sampler="grid", space={"lr": LR, "rank": {"choice": [2, 4]}}))
    assert problem.where == "search.space.lr"
    large = {"contrast_tokens": {"int": [2, 60_000]}, "adaptor_ratio": {"choice": [2, 4, 8]}}
    assert "points" in check_sampler(one_cell(sampler="grid", space=large, methods=("mca_sam",)))[0].what


def test_restored_study_suggests_like_the_original() -> None:
    cell = one_cell(sampler="tpe", startup_trials=5, trials=60)
    straight, continued = CellStudy(cell), CellStudy(cell)
    for number in range(30):
        params = straight.ask(number)
        outcome = done(number, bowl(params), params=params, rung_scores={5: 0.1})
        straight.tell(number, outcome)
        continued.restore(number, outcome)
    assert straight.ask(30) == continued.ask(30)


def test_trials_outside_the_present_space_are_ignored() -> None:
    study = CellStudy(one_cell(trials=4))
    study.restore(0, done(0, 0.5, params={"lr": 1e-3, "rank": 4}))
    assert study.ask(1)["lr"] > 0


@pytest.mark.parametrize(
    "outcome",
    [
        done(0, None, status="failed", reason="diverged at epoch 2"),
        done(0, None, status="failed", reason="out of memory"),
        done(0, 0.3, status="pruned", rung_scores={5: 0.3, 10: math.nan}),
        done(0, math.nan),
    ],
)
def test_study_takes_in_every_kind_of_outcome(outcome: TrialOutcome) -> None:
    study = CellStudy(one_cell(sampler="tpe", startup_trials=1, trials=4))
    study.ask(0)
    study.tell(0, outcome)
    assert study.ask(1)


def test_derived_seeds_are_stable_and_distinct() -> None:
    assert derived_seed(0, "a.k4.b", 1) == derived_seed(0, "a.k4.b", 1) == 1364625820
    assert len({derived_seed(0, "c", n) for n in range(1000)}) == 1000
    assert derived_seed("ab", "c") != derived_seed("a", "bc")


def test_published_value_outside_the_choices_is_tried_exactly() -> None:
    cell = one_cell(space={"rank": {"choice": [2, 8]}, "lr": LR})
    study = CellStudy(cell)
    assert study.ask(0) == dict(cell.published or {}) == {"rank": 4, "lr": 5e-3}
    study.tell(0, done(0, 0.5))
    assert study.ask(1)["rank"] in (2, 8)
