"""The YAML reader: plain data within limits; everything else is one problem with its line."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from amsam_ray.config import yaml_loader
from amsam_ray.config.yaml_loader import load_yaml, parse_yaml
from amsam_ray.errors import InputError

SHIPPED = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))


def refusal(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "own.yaml")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_files_are_read_as_by_pyyaml(path: Path) -> None:
    assert load_yaml(path).data == yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", None),
        ("--- \n...\n", None),
        ("\ufeffa: 1", {"a": 1}),
        (
            "{a: 1, b: -2, c: 1_000, d: .5, e: 1.0e-4, f: 1e-4}",
            {"a": 1, "b": -2, "c": 1000, "d": 0.5, "e": 1e-4, "f": "1e-4"},
        ),
        ("[on, no, true, ~, null, 'on', \"\\u00e9\"]", [True, False, True, None, None, "on", "é"]),
        ("a: |\n  one\n  two\n", {"a": "one\ntwo\n"}),
        ("a: &x {p: 1}\nb: {<<: *x, q: 2}\nc: {p: 3, <<: [*x]}", {"a": {"p": 1}, "b": {"p": 1, "q": 2}, "c": {"p": 3}}),
    ],
)
def test_plain_data_is_read(text: str, data: Any) -> None:
    assert parse_yaml(text, "own.yaml").data == data


def test_aliases_are_copies() -> None:
    data = parse_yaml("a: &x [1]\nb: *x\n", "own.yaml").data
    data["a"].append(2)
    assert data["b"] == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1,\nc: 2\n", "own.yaml:4: is not valid YAML: expected "),
        ("a: 1\nb: [1,\nc: 2\n", "while parsing a flow sequence that begins in line 2"),
        ("a: 1\n\tb: 2\n", "own.yaml:2: is not valid YAML: found character"),
        ("a: 'x\n", "that begins in line 1; close brackets and quotes"),
        ("a: b: c\n", "own.yaml:1: is not valid YAML: mapping values are not allowed here; "),
        ("a: \0", "own.yaml: is not valid YAML: unacceptable character"),
        ('a: "\\U00110000"', "own.yaml: is not valid YAML"),
        ("%YAML " + "1" * 5000 + ".1\n--- a\n", "own.yaml: is not valid YAML"),
        ("a: 1\n---\nb: 2\n", "own.yaml:2: a second YAML document begins here; keep one"),
        ("a:\n- 2024-01-01\n", "own.yaml:2 (a[0]): 2024-01-01 is read as a date; put it in quotes"),
        ("a: =", "own.yaml:1 (a): = is read as YAML's value; put it in quotes"),
        ("a: !!python/object/apply:os.system [x]", "own.yaml:1 (a): has the tag !!python/object/apply:os.system"),
        ("a: !own x", "own.yaml:1 (a): has the tag !own; remove the tag"),
        ("- !!binary aGk=", "own.yaml:1 ([0]): has the tag !!binary"),
        ("a: .inf", "own.yaml:1 (a): .inf is not a finite number"),
        ("a: .nan", "own.yaml:1 (a): .nan is not a finite number"),
        ("a: 1.0e+999", "own.yaml:1 (a): 1.0e+999 is not a finite number"),
        ("a: 1:30", "own.yaml:1 (a): 1:30 is not a decimal number; write decimal digits, or put text in quotes"),
        ("a: 1:30.5", "own.yaml:1 (a): 1:30.5 is not a decimal number"),
        ("a: 010", "own.yaml:1 (a): 010 is not a decimal number"),
        ("a: 0x10", "own.yaml:1 (a): 0x10 is not a decimal number"),
        ("a: " + "9" * 5000, "own.yaml:1 (a): has more than 18 digits; use a smaller number"),
        ('a: "x\\0y"', "own.yaml:1 (a): contains the character U+0000; remove it"),
        ('a: "\\e[31m"', "own.yaml:1 (a): contains the character U+001B; remove it"),
        ('a: "\\ud800"', "own.yaml:1 (a): contains the character U+D800; remove it"),
        ("a: " + "x" * 10_001, "own.yaml:1 (a): is longer than 10,000 characters; shorten it"),
        ("x" * 201 + ": 1", "own.yaml:1: a key is longer than 200 characters; shorten it"),
        ("? [a]\n: 1\n", "own.yaml:1: a key must be plain text"),
        ("a: {1: x}", "own.yaml:1 (a.1): is not a text key; put it in quotes"),
        ("on: 1", "own.yaml:1 (on): is not a text key; put it in quotes"),
        ("a: 1\nb: *c\n", "own.yaml:2: the alias *c has no anchor before it"),
        ("a: &a [*a]", "own.yaml:1: the alias *a has no anchor before it"),
        ("a: {<<: 5}", "own.yaml:1 (a.<<): must be a mapping or a list of mappings"),
        ("[" * 40, "own.yaml:1: is nested deeper than 32 levels; flatten it"),
        ("[" * 100_000, "own.yaml:1: is nested deeper than 32 levels; flatten it"),
        ("a: &a x\nb: [" + "*a," * 1001 + "]", "own.yaml:2: more than 1000 aliases; write the values out"),
        ("[" + "1," * 50_001 + "]", "own.yaml:1: holds more than 50,000 values; split or shorten the file"),
    ],
)  # fmt: skip
def test_other_input_is_refused_with_line_and_remedy(text: str, message: str) -> None:
    (problem,) = refusal(text)
    assert message in problem and "\n" not in problem and ("; " in problem)


def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    start = time.perf_counter()
    assert "holds more than 50,000 values" in refusal("\n".join(lines))[0]
    assert time.perf_counter() - start < 5


def test_all_bad_values_are_reported_together() -> None:
    assert len(refusal("a: .inf\nb: 2024-01-01\nc: !x 1\nd: 1\nd: 2\n")) == 4


def test_a_repeated_key_names_both_lines() -> None:
    document = parse_yaml("a: 1\nb:\n  c: 1\n  c: 2\n", "own.yaml")
    (problem,) = document.repeated
    assert str(problem) == "own.yaml:4 (b.c): is given twice, in lines 3 and 4; keep one"
    assert problem.line == 4


def test_files_that_are_missing_large_or_not_text_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such file; give the path of a space file"):
        load_yaml(tmp_path / "absent.yaml", kind="space file")
    with pytest.raises(InputError, match="cannot be read as a YAML file"):
        load_yaml(tmp_path)
    with pytest.raises(InputError, match="cannot be read as a YAML file"):
        load_yaml("a\0b.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(InputError, match="give a text file of YAML"):
        load_yaml(tmp_path / "binary.yaml")
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(yaml_loader.MAX_BYTES + 1)
    with pytest.raises(InputError, match="is larger than 1 MiB"):
        load_yaml(tmp_path / "large.yaml")


def test_random_damage_is_read_or_refused_with_a_problem() -> None:
    rng = random.Random(0)
    original = SHIPPED[0].read_text()
    pieces = [
        "\0",
        "\t",
        "*a",
        "&a ",
        "!!int ",
        "{",
        "]",
        "'",
        '"',
        ": ",
        "- ",
        "\\",
        "<<: ",
        "\ud800",
        "%",
        "---\n",
        "#",
        "|",
        "? ",
    ]
    for _ in range(200):
        text = original
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice(pieces) + text[at + rng.randint(0, 3) :]
        try:
            parse_yaml(text, "own.yaml")
        except InputError as error:
            assert all(str(problem).startswith("own.yaml") for problem in error.problems)
