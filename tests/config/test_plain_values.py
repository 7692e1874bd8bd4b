"""Values of another kind than a key's are refused, each under its key and in the project's words."""

from __future__ import annotations

from typing import Any

import pytest

from amsam_ray.config.params import MethodParams
from amsam_ray.config.space_file import parse_space
from amsam_ray.config.trial import TrainConfig
from amsam_ray.errors import InputError

BASE: dict[str, Any] = {
    "name": "x",
    "datasets": [{"name": "procedural", "options": {"family": "polyp"}}],
    "shots": [4],
    "methods": ["am_sam"],
}

REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "true epochs": ({"train": {"epochs": True}}, ["(train.epochs): must be a number, not true"]),
    "a quoted number": ({"search": {"seed": "3"}}, ["(search.seed): must be a number, not '3'"]),
    "a number for a switch": ({"detector": {"trust": 1}}, ["(detector.trust): must be true or false, not 1"]),
    "text for a switch": ({"train": {"augment": {"flip": "no"}}}, ["(train.augment.flip): must be true or false"]),
    "a switch among classes": (
        {"detector": {"classes": [True]}},
        ["(detector.classes[0]): must be a name or a number"],
    ),
    "no class": ({"detector": {"classes": []}}, ["(detector.classes): keeps no class"]),
    "odd classes": (
        {"detector": {"classes": [-1, " ", 10**9]}},
        ["classes[0]): -1 is not", "classes[1]): is not the name", "classes[2]): 1000000000 is not"],
    ),
    "a class twice": ({"detector": {"classes": [1, 1]}}, ["names a class more than once"]),
    "several odd shots": (
        {"shots": [3, 0, True, "4"]},
        [
            "(shots[0]): 3 is odd",
            "(shots[1]): must be at least 2, not 0",
            "(shots[2]): must be a number, not true",
            "(shots[3]): must be a number, not '4'",
        ],
    ),
    "a label of another kind": ({"methods": [{"name": "am_sam", "label": False}]}, ["label): must be text, not false"]),
    "a dataset's label": ({"datasets": [{"name": "isic2018", "label": 0}]}, ["label): must be text, not 0"]),
    "a union": ({"resources": {"gpus_per_lane": -1}}, ["must be at least 0 or 'auto', not -1"]),
    "a population of none": ({"resources": {"population": 0}}, ["population): must be at least 1 or 'auto', not 0"]),
    "half a trial": ({"resources": {"population": 1.5}}, ["population): must be a whole number or 'auto', not 1.5"]),
    "a tiny share of a GPU": ({"resources": {"gpus_per_lane": 1e-300}}, ["must be 0 or at least 0.01, not 1e-300"]),
    "a tiny share of a core": ({"resources": {"cpus_per_lane": 1e-300}}, ["must be at least 0.01, not 1e-300"]),
    "no time": ({"search": {"timeout_s": 1e-9}}, ["must be at least 1, not 1e-09"]),
    "an item of another kind": ({"datasets": [3]}, ["(datasets[0]): must be a mapping, not 3"]),
    "a switch as parameter": (
        {"methods": [{"name": "am_sam", "params": {"rank": True, "alpha": "0.5"}}]},
        ["params.rank): must be an integer in [1, inf), not True", "params.alpha): must be a number in [0, 1]"],
    ),
    "a huge image": ({"backbone": {"image_size": 1 << 40}}, ["(backbone.image_size): must be at most 4,096"]),
    "an empty path": ({"backbone": {"checkpoint": " "}}, ["(backbone.checkpoint): is empty; give a path"]),
    "a line break in a path": ({"storage": "a\nb"}, ["(storage): contains the character U+000A; remove it"]),
    "a reversed path": ({"storage": "a\u202eb"}, ["(storage): contains the character U+202E; remove it"]),
    "too many cells": (
        {
            "methods": [{"name": "am_sam", "label": f"m{i}"} for i in range(1000)],
            "shots": [2 * i for i in range(1, 12)],
        },
        ["(datasets): makes 11,000 cells"],
    ),
}
REFUSED_SPACES: dict[str, tuple[dict[str, Any], str]] = {
    "a continuous range for whole numbers": ({"rank": {"uniform": [2, 8]}}, "takes whole numbers; write {int: "),
    "the same on a log scale": ({"steps": {"loguniform": [10, 90]}}, "takes whole numbers; write {logint: "),
    "a value twice": ({"alpha": {"choice": [0.5, 1, 0.5]}}, "holds 0.5 more than once"),
    "a value in two spellings": ({"calibration": {"choice": [False, "off"]}}, "holds 'off' more than once"),
    "text among numbers": ({"lr": {"choice": ["1e-4", 1e-3]}}, "write 1.0e-4"),
    "a condition that never holds": (
        {"levels": {"choice": [1, 2]}, "lr_prompt": {"uniform": [0.1, 0.2], "when": {"levels": []}}},
        "names no value of levels",
    ),
}


def problems_of(data: dict[str, Any]) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_space(data)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("name", REFUSED)
def test_values_of_another_kind_are_refused(name: str) -> None:
    changes, expected = REFUSED[name]
    found = problems_of({**BASE, **changes})
    assert len(found) == len(expected)
    for problem, part in zip(found, expected, strict=True):
        assert part in problem


@pytest.mark.parametrize("name", REFUSED_SPACES)
def test_distributions_of_another_kind_are_refused(name: str) -> None:
    distributions, expected = REFUSED_SPACES[name]
    (found,) = problems_of({**BASE, "search": {"space": distributions}})
    assert expected in found


def test_an_empty_first_point_is_refused() -> None:
    search = {"space": {"alpha": {"uniform": [0.5, 1]}}, "first": [{"alpha": 0.6}, {}]}
    assert "(search.first[1]): is an empty point" in problems_of({**BASE, "search": search})[0]


@pytest.mark.parametrize("misspelt", [{"methods": ["am_samm"]}, {"methods": ["am_samm", "sam"]}])
def test_a_misspelt_method_has_no_follow_up_errors(misspelt: dict[str, Any]) -> None:
    search = {"space": {"alpha": {"uniform": [0.5, 1]}, "rank": {"int": [2, 4]}}}
    (found,) = problems_of({**BASE, **misspelt, "search": search})
    assert "am_samm is not a method" in found


def test_a_misspelt_switch_has_no_follow_up_errors() -> None:
    space = {"adaptorz": {"choice": ["tc"]}, "tau_token": {"uniform": [0.1, 0.2], "when": {"adaptors": ["tc"]}}}
    (found,) = problems_of({**BASE, "methods": ["am_mca_sam"], "search": {"space": space}})
    assert "adaptorz): is not a parameter" in found


def test_what_can_only_mean_one_number_is_read() -> None:
    entry = {"name": "am_sam", "params": {"rank": 4.0, "lr": "1e-4"}}
    space = parse_space({**BASE, "methods": [entry], "train": {"epochs": 5.0}, "search": {"margin": "1e-1"}})
    assert (space.train.epochs, space.search.margin) == (5, 0.1)
    assert space.methods[0].params == {"rank": 4.0, "lr": "1e-4"}  # as written, so that its hash is stable
    assert MethodParams.model_validate(space.methods[0].params).lr == 1e-4


def test_stored_configurations_keep_their_kinds() -> None:
    train = TrainConfig(epochs=3)
    assert TrainConfig.model_validate_json(train.model_dump_json()) == train
