"""Selection of configurations: consistent keys, and shots that can be divided into folds."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from amsam_ray.config.datasets import SelectionConfig
from amsam_ray.config.space import SpaceFile
from amsam_ray.config.space_checks import check_space

BASE = {"name": "x", "datasets": ["procedural"], "methods": ["am_sam"]}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mode": "d2", "folds": 4}, "folds requires mode crossfit"),
        ({"mode": "holdout", "images": 3, "folds": 4}, "folds requires mode crossfit"),
        ({"mode": "crossfit", "folds": 1}, "folds must be at least 2"),
        ({"mode": "crossfit", "images": 3}, "images requires mode holdout"),
    ],
)
def test_inconsistent_keys_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SelectionConfig.model_validate(given)


def test_the_number_of_folds_has_a_default() -> None:
    assert SelectionConfig(mode="crossfit").fold_count == 4
    assert SelectionConfig(mode="crossfit", folds=3).fold_count == 3
    assert SelectionConfig().fold_count == 1


@pytest.mark.parametrize(
    ("shots", "folds", "wrong"),
    [
        ([4], 0, {}),
        ([4, 8], 4, {}),
        ([8], 8, {}),
        ([2], 2, {0: "2 shots are too few for selection mode crossfit; use at least 4 shots"}),
        ([8, 4, 6], 6, {1: "4 shots cannot be divided into 6 folds; set selection.folds to at most 4"}),
    ],
)
def test_space_files_name_the_shots_that_cannot_be_divided(shots: list[int], folds: int, wrong: dict[int, str]) -> None:
    selection = {"mode": "crossfit", "folds": folds}
    space = SpaceFile.model_validate({**BASE, "shots": shots, "selection": selection})
    found = check_space(space)
    assert [(finding.code, finding.path) for finding in found] == [
        ("crossfit-shots", ("shots", index)) for index in wrong
    ]
    for finding, words in zip(found, wrong.values(), strict=True):
        assert finding.message.startswith(words)


def test_other_modes_take_two_shots() -> None:
    assert check_space(SpaceFile.model_validate({**BASE, "shots": [2]})) == []
