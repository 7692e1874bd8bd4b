"""Summaries of records and cells for leaderboards, small enough to keep 100,000 of them in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from amsam_ray.records.schema import Record, Scores


@dataclass(frozen=True)
class RecordSummary:
    """The fields of a ``Record`` that leaderboards use, under the same names.

    Attributes:
        published, choice, flat_after: as in the record; ``held_out``: whether selection images train nothing.
        images: names of the scored test images, in the record's order; empty for search trials.
        image_metrics: metric of each column of ``image_scores``.
        image_scores: IxM float64, the score of each image in each metric, NaN if missing.
    """

    key: str
    sweep: str
    trial: str
    number: int
    dataset: str
    definition: str
    shots: int
    label: str
    backbone: str
    role: str
    status: str
    metric: str
    maximise: bool
    primary: str
    score: float | None
    test: Scores | None
    params: dict[str, Any]
    method: str
    seconds: float
    gpu_seconds: float
    trained_params: int
    prompt_coverage: float | None
    adapter: str | None
    pretrained: str | None = None
    published: bool = False
    choice: int | None = None
    flat_after: int | None = None
    held_out: bool = False
    images: tuple[str, ...] = ()
    image_metrics: tuple[str, ...] = ()
    image_scores: np.ndarray = field(default_factory=lambda: np.empty((0, 0)), compare=False)

    @classmethod
    def of(cls, record: Record) -> RecordSummary:
        """Return the summary of ``record``."""
        rows = record.test_images
        metrics = tuple(dict.fromkeys(name for row in rows for name in row if name != "name"))
        values = [[np.nan if (score := row.get(name)) is None else score for name in metrics] for row in rows]
        fields = (name for name in cls.__dataclass_fields__ if not name.startswith("image"))
        names = ("key", *(name for name in fields if name not in ("key", "held_out")))
        selection = record.config.get("selection")
        mode = selection.get("mode") if isinstance(selection, dict) else None
        return cls(
            **{name: getattr(record, name) for name in names},
            held_out=mode in ("holdout", "crossfit") or record.choice is not None,
            images=tuple(str(row["name"]) for row in rows),
            image_metrics=metrics,
            image_scores=np.array(values, dtype=float).reshape(len(rows), len(metrics)),
        )

    def dump(self) -> tuple[str, bytes]:
        """Return this summary as JSON text and the bytes of its scores, for ``load``."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "image_scores"}
        return json.dumps(plain), self.image_scores.tobytes()

    @classmethod
    def load(cls, text: str, scores: bytes) -> RecordSummary:
        """Return the summary that ``dump`` wrote."""
        plain = json.loads(text)
        shape = (len(plain["images"]), len(plain["image_metrics"]))
        plain["images"], plain["image_metrics"] = tuple(plain["images"]), tuple(plain["image_metrics"])
        return cls(**plain, image_scores=np.frombuffer(scores, dtype=float).reshape(shape))


@dataclass(frozen=True)
class CellSummary:
    """All recorded trials of one cell of one sweep.

    Attributes:
        trials: number of search trials, of which ``pruned`` and ``failed`` are parts.
        seconds, gpu_seconds: summed over search trials and finals.
        best: search trial with the best score on the selection images, among the completed trials if there are any,
            else among the pruned ones, else a failed one.
        finals: completed finals, ordered by trial and seed.
        scores: score on the selection images of the search trials that have finals, by number; None without one.
    """

    sweep: str
    dataset: str
    shots: int
    label: str
    trials: int
    pruned: int
    failed: int
    seconds: float
    gpu_seconds: float
    best: RecordSummary
    finals: tuple[RecordSummary, ...]
    scores: Mapping[int, float | None] = field(default_factory=dict)


_STANDING = {"completed": 2, "pruned": 1, "failed": 0}


def cell_summaries(records: Iterable[Record]) -> list[CellSummary]:
    """Summarise records by cell, sorted by sweep, dataset, shots and label, as an ``Index`` does."""
    cells: dict[tuple[str, str, int, str], list[RecordSummary]] = {}
    for record in records:
        summary = RecordSummary.of(record)
        cells.setdefault((summary.sweep, summary.dataset, summary.shots, summary.label), []).append(summary)
    return [_summarise(*cell, trials) for cell, trials in sorted(cells.items(), key=lambda item: item[0])]


def _summarise(sweep: str, dataset: str, shots: int, label: str, trials: list[RecordSummary]) -> CellSummary:
    trials = sorted(trials, key=lambda trial: (trial.number, trial.trial))
    search = [trial for trial in trials if trial.role == "search"]
    finals = tuple(trial for trial in trials if trial.role == "final" and trial.status == "completed")
    return CellSummary(
        sweep=sweep,
        dataset=dataset,
        shots=shots,
        label=label,
        trials=len(search),
        pruned=sum(trial.status == "pruned" for trial in search),
        failed=sum(trial.status == "failed" for trial in search),
        seconds=sum(trial.seconds for trial in trials),
        gpu_seconds=sum(trial.gpu_seconds for trial in trials),
        best=max(search, key=_goodness) if search else (*finals, *trials)[0],
        finals=finals,
        scores={trial.number: trial.score for trial in search if trial.number in {final.number for final in finals}},
    )


def _goodness(trial: RecordSummary) -> tuple[int, float]:
    if trial.score is None:
        return _STANDING[trial.status], float("-inf")
    return _STANDING[trial.status], trial.score if trial.maximise else -trial.score
