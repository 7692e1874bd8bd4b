"""Cells of the selection benchmark's tables."""

from __future__ import annotations

from typing import Any


def identity(cell: dict[str, Any]) -> list[str]:
    """Return the columns that name a cell."""
    return [cell["dataset"], str(cell["shots"]), str(cell["draw"]), cell["method"]]


def percent(value: float | None) -> str:
    """Return a fraction in per cent."""
    return "" if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """Return a difference of fractions in points."""
    return "" if value is None else f"{100 * value:+.1f}"


def number(value: float | None) -> str:
    """Return a signed number."""
    return "" if value is None else f"{value:+.2f}"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
