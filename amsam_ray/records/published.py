"""Scores published in papers, as leaderboard rows."""

from __future__ import annotations

import importlib.resources
from functools import cache
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, model_validator


class PublishedTable(BaseModel):
    """One table of a paper, or the relative changes against SAM-Adapter stated in an abstract, all in per cent.

    Attributes:
        reference: paper, arXiv number and place.
        dataset: name of the dataset's definition.
        metric: metric of the scores, a name of ``amsam_ray.config.metrics``.
        shots: numbers of shots, the columns of ``scores``.
        scores: method -> one score per entry of ``shots``.
        gains: method -> relative change of the metric, negative for a decrease.
        notes: method -> what its reference adds to that of the table.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str
    dataset: str
    metric: str
    shots: tuple[int, ...] = ()
    scores: dict[str, tuple[float, ...]] = {}
    gains: dict[str, float] = {}
    notes: dict[str, str] = {}

    @model_validator(mode="after")
    def _columns(self) -> PublishedTable:
        if any(len(row) != len(self.shots) for row in self.scores.values()):
            raise ValueError("every row needs one score per entry of shots")
        return self


@cache
def published_tables() -> tuple[PublishedTable, ...]:
    """Return all tables of ``assets/published.yaml``."""
    text = (importlib.resources.files("amsam_ray.records") / "assets" / "published.yaml").read_text(encoding="utf-8")
    return tuple(PublishedTable.model_validate(entry) for entry in yaml.safe_load(text))


def published_rows(definition: str, label: str) -> list[dict[str, Any]]:
    """Return the leaderboard rows of the dataset ``definition`` under the name ``label``; scores are fractions."""
    rows: list[dict[str, Any]] = []
    for table in published_tables():
        if table.dataset != definition:
            continue
        common = {"dataset": label, "source": "paper", "reference": table.reference}
        for method, scores in table.scores.items():
            for shots, score in zip(table.shots, scores, strict=True):
                mean = {f"{table.metric}_mean": round(score / 100, 6)}
                noted = f"{table.reference}; {note}" if (note := table.notes.get(method)) else table.reference
                rows.append({**common, "reference": noted, "shots": shots, "method": method, **mean})
        for method, gain in table.gains.items():
            rows.append({**common, "shots": None, "method": method, "vs_sam_adapter": round(gain / 100, 6)})
    return rows
