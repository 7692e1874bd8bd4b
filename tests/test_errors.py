"""Texts of errors."""

from __future__ import annotations

from amsam_ray.errors import AmsamError, InputError, Problem, counted


def test_a_count_of_one_is_singular() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]


def test_an_input_error_holds_all_problems_and_prints_one_per_line() -> None:
    error = InputError([Problem("a.yaml:1 (x)", "is odd"), Problem("", "there is no GPU")])
    assert str(error) == "a.yaml:1 (x): is odd\nthere is no GPU"
    assert isinstance(error, AmsamError) and error.exit_status == 2
    assert InputError("no GPU").problems == [Problem("", "no GPU")]


def test_the_line_of_a_problem_is_for_sorting_only() -> None:
    assert Problem("a.yaml:1", "is odd", line=1) == Problem("a.yaml:1", "is odd")
