"""Pydantic's errors in the words of this project."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_SHOWN = 60


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


_BOUNDS: dict[str, tuple[str, str]] = {
    "greater_than_equal": ("must be at least {}", "ge"),
    "greater_than": ("must be above {}", "gt"),
    "less_than_equal": ("must be at most {}", "le"),
    "less_than": ("must be below {}", "lt"),
    "too_short": ("must have {} or more items", "min_length"),
    "too_long": ("must have at most {} items", "max_length"),
    "string_too_short": ("must have {} or more characters", "min_length"),
    "string_too_long": ("must have at most {} characters", "max_length"),
    "string_pattern_mismatch": ("must match {}", "pattern"),
    "literal_error": ("must be {}", "expected"),
}
_KINDS: tuple[tuple[Callable[[str], Any], str], ...] = (
    (re.compile("int_").match, "must be a whole number"),
    (re.compile("(float|decimal)_|finite_number").match, "must be a finite number"),
    (re.compile("string_").match, "must be text"),
    (re.compile("bool_").match, "must be true or false"),
    (re.compile("(list|tuple|set)_type").match, "must be a list"),
    (re.compile("(dict|model|model_attributes|mapping)_type").match, "must be a mapping"),
    (re.compile("none_required").match, "must be empty"),
    (re.compile("datetime|timezone").match, "must be a date with time and zone"),
    (re.compile("json_invalid").match, "is not complete JSON"),
)


def describe(error: Mapping[str, Any]) -> str:
    """Return what is wrong according to one of pydantic's errors, with the value that was given.

    Args:
        error: an entry of ``ValidationError.errors()``.
    """
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "extra_forbidden":
        return "is not a known key; remove it or correct its spelling"
    if kind == "missing":
        return "is missing; add it"
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", error["msg"]))
    if kind in _BOUNDS:
        text, name = _BOUNDS[kind]
        what = text.format(_number(context.get(name, "")))
    else:
        what = next((what for matches, what in _KINDS if matches(kind)), _lowered(error["msg"]))
    given = error.get("input")
    short = isinstance(given, str | int | float | bool) or given is None
    return f"{what}, not {_given(given)}" if short and kind != "json_invalid" else what


def _lowered(message: str) -> str:
    return (message[:1].lower() + message[1:]).replace("input should", "must")


def _given(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return repr(value)[:_SHOWN]
    except ValueError:  # a whole number of more digits than Python prints
        return "a number of thousands of digits"
