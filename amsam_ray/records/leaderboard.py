"""Leaderboards: a pure function of the records, with the papers' numbers beside them."""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from amsam_ray.config.methods import METHODS, live_params
from amsam_ray.config.metrics import METRICS
from amsam_ray.config.params import PARAMS, SWITCHES
from amsam_ray.errors import InputError, Problem
from amsam_ray.records.index import Index
from amsam_ray.records.published import published_rows
from amsam_ray.records.significance import (
    Remember,
    compute_now,
    confidence_intervals,
    mean_per_image,
    probability_of_no_gain,
)
from amsam_ray.records.summary import Brief, CellSummary
from amsam_ray.records.tables import Row, to_csv
from amsam_ray.storage.base import ConflictError, NotFoundError, Storage, UnavailableError

_BASELINE = "sam_adapter"
_ATTEMPTS = 100


def leaderboard_key(dataset: str) -> str:
    """The key of a dataset's leaderboard; ``all`` for that of all datasets."""
    return f"leaderboards/{dataset}.csv"


def build_leaderboard(
    cells: Iterable[CellSummary],
    *,
    datasets: Collection[str] | None = None,
    shots: Collection[int] | None = None,
    published: bool = True,
    remember: Remember = compute_now,
) -> list[Row]:
    """One row per (dataset, shots, method): datasets by name, the rows of each by its primary metric, best first.

    A cell that several sweeps searched is represented by the sweep that did best on the selection images, and of
    several configurations with finals the one whose finals did best there: test scores choose nothing. Cells without
    finals come after those with, by their score on the selection images.

    Args:
        cells: what was recorded.
        datasets, shots: keep only these.
        published: with the papers' rows of these datasets.
        remember: keeps the results of costly statistics between calls.

    Returns:
        Rows whose columns ``docs/results.md`` explains; scores are fractions or pixels, never per cent.
    """
    kept: dict[tuple[str, int, str], _Cell] = {}
    for summary in cells:
        place = (summary.dataset, summary.shots, summary.label)
        if (datasets is None or place[0] in datasets) and (shots is None or place[1] in shots):
            cell = _Cell(summary)
            if place not in kept or cell.preference > kept[place].preference:
                kept[place] = cell
    rows: list[Row] = []
    for dataset in sorted({place[0] for place in kept}):
        ours = [cell for place, cell in kept.items() if place[0] == dataset]
        first = ours[0].chosen
        papers = published_rows(first.definition, dataset) if published else []
        wanted = [row for row in papers if shots is None or row["shots"] in {None, *shots}]
        rows += _dataset_rows(ours, wanted, remember)
    return rows


def update_leaderboards(
    storage: Storage, datasets: Collection[str] | None = None, *, index_dir: Path | None = None
) -> list[Problem]:
    """Recompute and store the leaderboards of ``datasets`` (None: of every dataset that has records), and of all.

    A leaderboard is replaced only if nobody has changed it since before the records were listed; otherwise it is made
    again from what is recorded by then. Where the storage cannot decide such a race, it is read back and made again
    until it holds what the records say. Either way, of writers finishing together the last one has seen every record.

    Returns:
        One problem for each file under ``records/`` that was skipped.
    """
    with contextlib.closing(Index(storage, index_dir)) as index:
        for attempt in range(_ATTEMPTS):
            stored = _stored(storage)
            problems = index.update()
            cells = index.cells()
            rows = build_leaderboard(cells, remember=index.remember)
            wanted = {leaderboard_key("all"): to_csv(rows)}
            for name in {row["dataset"] for row in rows}:
                if datasets is None or name in datasets:
                    wanted[leaderboard_key(name)] = to_csv([row for row in rows if row["dataset"] == name])
            settled = True
            for key, data in sorted(wanted.items()):
                current, version = stored.get(key, (None, None))
                if current == data:
                    continue
                try:
                    storage.replace(key, data, version)
                    settled = settled and storage.atomic
                except ConflictError:
                    settled = False
            if settled:
                return problems
            time.sleep(random.uniform(0, min(2.0, 0.02 * 2**attempt)))
    raise UnavailableError(f"{storage.uri}: the leaderboards change faster than they can be written; try again later.")


def _stored(storage: Storage) -> dict[str, tuple[bytes | None, str | None]]:
    """Key -> content and version of every leaderboard."""
    found: dict[str, tuple[bytes | None, str | None]] = {}
    for entry in storage.list("leaderboards/"):
        with contextlib.suppress(NotFoundError, InputError):  # deleted meanwhile, or a file that is not ours
            found[entry.key] = storage.get_versioned(entry.key)
    return found


class _Cell:
    """One cell of one sweep on its way to a row."""

    def __init__(self, summary: CellSummary):
        self.summary = summary
        groups: dict[int, list[Brief]] = {}
        for final in summary.finals:
            groups.setdefault(final.number, []).append(final)
        ranked = sorted(groups.items(), key=lambda item: (-_rank(item[1]), item[0]))
        self.finals = ranked[0][1] if ranked else []
        self.chosen = max(self.finals, key=lambda final: _rank([final])) if self.finals else summary.best

    @property
    def preference(self) -> tuple[bool, float, str]:
        """Larger is the sweep that represents the cell; the name settles ties alike everywhere."""
        scored = self.finals or ([self.chosen] if self.chosen.status == "completed" else [])
        return bool(self.finals), _rank(scored), self.summary.sweep

    def row(self, remember: Remember) -> Row:
        """The row, without what depends on other rows."""
        chosen, summary, finals = self.chosen, self.summary, self.finals
        row: Row = {"dataset": summary.dataset, "shots": summary.shots, "method": summary.label, "source": "run"}
        intervals = confidence_intervals(finals, remember)
        for metric in METRICS:
            scores = [s for final in finals if (s := (final.test or {}).get(metric)) is not None]
            if scores:
                low, high = intervals.get(metric, (None, None))
                row[f"{metric}_mean"] = statistics.fmean(scores)
                row[f"{metric}_std"] = statistics.stdev(scores) if len(scores) > 1 else None
                row[f"{metric}_ci_low"], row[f"{metric}_ci_high"] = low, high
        row["seeds"] = len(finals)
        if finals or chosen.status == "completed":
            row[f"val_{chosen.metric}"] = _mean([brief.score for brief in finals or [chosen]])
        row |= acting_params(chosen.method, chosen.params)
        return row | {
            "backbone": chosen.backbone,
            "trained_params": chosen.trained_params,
            "gpu_seconds": summary.gpu_seconds,
            "prompt_coverage": _mean([brief.prompt_coverage for brief in finals or [chosen]]),
            "trials": summary.trials,
            "pruned": summary.pruned,
            "failed": summary.failed,
            "seconds": summary.seconds,
            "sweep": summary.sweep,
            "trial": chosen.trial,
            "adapter": chosen.adapter,
        }


def _dataset_rows(cells: list[_Cell], papers: list[Row], remember: Remember) -> list[Row]:
    first = cells[0].chosen
    primary, mean = first.primary, f"{first.primary}_mean"
    maximise = METRICS[primary].maximise if primary in METRICS else first.maximise
    pairs: list[tuple[Row, _Cell | None]] = [(cell.row(remember), cell) for cell in cells]
    _add_gains([row for row, _ in pairs], mean)
    pairs += [(row, None) for row in papers]
    sign = -1.0 if maximise else 1.0

    def order(pair: tuple[Row, _Cell | None]) -> tuple[bool, float, bool, float, str, int]:
        row, cell = pair
        score, waiting = row.get(mean), -_rank([cell.chosen]) if cell else float("inf")
        return score is None, sign * (score or 0.0), cell is None, waiting, row["method"], row["shots"] or 0

    pairs.sort(key=order)
    measured = [(row, cell) for row, cell in pairs if cell is not None and cell.finals]
    for (row, cell), (_, following) in pairwise(measured):
        better, other = mean_per_image(cell.finals, primary), mean_per_image(following.finals, primary)
        row["p_vs_next"] = probability_of_no_gain(better, other, maximise=maximise, remember=remember)
    return [row for row, _ in pairs]


def _add_gains(rows: list[Row], mean: str) -> None:
    """The relative change of the primary metric against SAM-Adapter with as many shots on the same backbone."""
    base = {(row["shots"], row["backbone"]): row.get(mean) for row in rows if row["method"] == _BASELINE}
    for row in rows:
        score, reference = row.get(mean), base.get((row["shots"], row["backbone"]))
        if row["method"] != _BASELINE and score is not None and reference:
            row["vs_sam_adapter"] = score / reference - 1


def acting_params(method: str, params: Mapping[str, Any]) -> Row:
    """Of a trial's hyperparameters and switches those that its method used, in the parameters' own order."""
    if method not in METHODS:  # recorded by a version with other methods
        return dict(params)
    live = live_params(method, {key: {value} for key, value in params.items() if key in SWITCHES})
    return {name: params[name] for name in PARAMS if name in live and name in params}


def _rank(briefs: Iterable[Brief]) -> float:
    """Mean score on the selection images, larger is better; minus infinity without one."""
    scores = [(brief.score if brief.maximise else -brief.score) for brief in briefs if brief.score is not None]
    return statistics.fmean(scores) if scores else float("-inf")


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
