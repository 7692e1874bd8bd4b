"""What is said to a user who can mend something."""

from __future__ import annotations

import pytest
import yaml

from amsam_ray.errors import counted, yaml_problem


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: [1,\nc: 2\n", "own.yaml:4: is not valid YAML: expected "),
        ("a: 1\nb: [1,\nc: 2\n", "while parsing a flow sequence that begins in line 2"),
        ("a: 1\n\tb: 2\n", "own.yaml:2: is not valid YAML: found character"),
        ("a: 'x\n", "that begins in line 1"),
        ("a: b: c\n", "own.yaml:1: is not valid YAML: mapping values are not allowed here; "),
        ("a: \0", "own.yaml: is not valid YAML: unacceptable character"),
    ],
)
def test_a_fault_of_yaml_is_told_with_its_place_and_what_to_do(text: str, told: str) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        yaml.safe_load(text)
    problem = str(yaml_problem("own.yaml", caught.value))
    assert told in problem and "\n" not in problem
    assert "; mend it: close brackets and quotes" in problem


def test_one_of_a_thing_is_one() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
