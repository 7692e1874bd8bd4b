from __future__ import annotations

import pytest

from amsam_ray.data.patterns import PathPattern, as_text, key_name, pattern_fault


@pytest.mark.parametrize(
    ("text", "path", "key"),
    [
        ("images", "images/a.png", ("", "a")),
        ("images", "images/b/a.png", None),
        (".", "a.png", ("", "a")),
        ("{stem}_mask", "a_mask.png", ("", "a")),
        ("{stem}_mask", "_mask.png", None),
        ("{path}/{stem}", "a.png", ("", "a")),
        ("{path}/{stem}", "x/y/a.png", ("x/y", "a")),
        ("{path}/mask", "x/mask.png", ("x", "")),
        ("{path}/mask", "mask.png", None),
        ("m/{path}/{stem}.jpg", "m/x/a.JPG", ("x", "a")),
        ("m/{path}/{stem}.jpg", "m/x/a.png", None),
        ("a+(b)/{stem}", "a+(b)/c.png", ("", "c")),
    ],
)
def test_a_pattern_takes_a_path_apart(text: str, path: str, key: tuple[str, str] | None) -> None:
    pattern = PathPattern.of(text)
    assert pattern.key(path) == key
    if key is not None:
        assert pattern.fill(key) == path.rpartition(".")[0]


def test_names_are_folders_and_stem() -> None:
    assert [key_name(key) for key in (("", "a"), ("x/y", "a"), ("x/y", ""))] == ["a", "x_y_a", "x_y"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{stem}/{stem}", "more than once"),
        ("{path}/{path}/a", "more than once"),
        ("images/{path}", "as a whole folder"),
        ("x{path}/{stem}", "as a whole folder"),
        ("{stem}/{path}/a", "after {stem}"),
    ],
)
def test_bad_patterns_are_refused_with_the_remedy(text: str, words: str) -> None:
    fault = pattern_fault(text)
    assert fault is not None and words in fault and "write" in fault


@pytest.mark.parametrize("text", ["images", "a/{stem}", "{path}/{stem}_x", "{path}/mask", "a{b}c", "."])
def test_good_patterns_are_accepted(text: str) -> None:
    assert pattern_fault(text) is None


def test_options_are_written_as_yaml() -> None:
    import yaml

    options = {"images": "a/{stem}", "masks": 'b "c"', "object": "nonzero", "test": "2024"}
    assert yaml.safe_load(as_text(options)) == {"options": options}
