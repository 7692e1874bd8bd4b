"""Texts of errors."""

from __future__ import annotations

import errno
import os
import pickle

import pytest

from amsam_ray.data.images import ImageError, MaskValuesError
from amsam_ray.errors import REMEDIES, AmsamError, InputError, Problem, counted, with_remedy


def test_a_count_of_one_is_singular() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]


def test_an_input_error_holds_all_problems_and_prints_one_per_line() -> None:
    error = InputError([Problem("a.yaml:1 (x)", "is odd"), Problem("", "there is no GPU")])
    assert str(error) == "a.yaml:1 (x): is odd\nthere is no GPU"
    assert isinstance(error, AmsamError) and error.exit_status == 2
    assert InputError("no GPU").problems == [Problem("", "no GPU")]


def test_the_line_of_a_problem_is_for_sorting_only() -> None:
    assert Problem("a.yaml:1", "is odd", line=1) == Problem("a.yaml:1", "is odd")


@pytest.mark.parametrize("number", sorted(REMEDIES))
def test_faults_of_the_machine_are_told_with_their_file_and_remedy(number: int) -> None:
    told = with_remedy(OSError(number, os.strerror(number), "/data/x"))
    assert told == f"/data/x: {os.strerror(number)}; {REMEDIES[number]}"


def test_a_fault_without_a_known_remedy_is_told_without_one() -> None:
    assert with_remedy(OSError(errno.EXDEV, "Invalid cross-device link")) == "Invalid cross-device link"


@pytest.mark.parametrize(
    "error",
    [
        InputError([Problem("a.yaml:1 (x)", "is odd"), Problem("", "there is no GPU")]),
        ImageError("a.png", "is damaged; replace it"),
        MaskValuesError("a.png", "is a label map; write classes: all", (0, 1, 2)),
    ],
)
def test_errors_come_back_from_another_process_as_they_were(error: AmsamError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error) and str(back) == str(error) and vars(back) == vars(error)
