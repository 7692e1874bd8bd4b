"""Leaderboards: a pure function of the records, shown together with the numbers of the papers."""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from amsam_ray.config.classes import base_label
from amsam_ray.config.methods import METHODS, live_params
from amsam_ray.config.metrics import METRICS
from amsam_ray.config.params import PARAMS, SWITCHES
from amsam_ray.errors import InputError, Problem
from amsam_ray.records.class_means import mean_rows
from amsam_ray.records.index import Index
from amsam_ray.records.published import published_rows
from amsam_ray.records.significance import (
    Remember,
    compute_now,
    confidence_intervals,
    mean_per_image,
    paired_gain,
    probability_of_no_gain,
)
from amsam_ray.records.summary import CellSummary, RecordSummary
from amsam_ray.records.tables import Row, to_csv
from amsam_ray.storage.base import ConflictError, NotFoundError, Storage, UnavailableError

_BASELINE = "sam_adapter"
_ATTEMPTS = 100


class LeaderboardUpdate(NamedTuple):
    """The rows of the leaderboards of all datasets, and the files among the records that were skipped."""

    rows: list[Row]
    problems: list[Problem]


def leaderboard_key(dataset: str) -> str:
    """Return the key of a dataset's leaderboard, its classes included; ``all`` stands for that of all datasets."""
    return f"leaderboards/{dataset}.csv"


def build_leaderboard(
    cells: Iterable[CellSummary],
    *,
    datasets: Collection[str] | None = None,
    shots: Collection[int] | None = None,
    published: bool = True,
    remember: Remember = compute_now,
) -> list[Row]:
    """Return one row per (dataset, shots, method): datasets by name, and their rows by primary metric, best first.

    The rows of a dataset with classes are those of every class and their means (`amsam_ray.records.class_means`).

    If several sweeps searched a cell, the row is that of a sweep with held-out selection images if there is one, and
    among such sweeps that of the best score on the selection images; of several configurations with finals, it is the
    one that the search chose, or else the one that scores best there. Test scores are never used for
    selection. Cells without finals come last, ordered by their score on the selection images.

    Args:
        cells: summaries of the recorded cells.
        datasets, shots: keep only these; the name of a dataset with classes keeps all its classes.
        published: add the rows of the papers for these datasets.
        remember: keeps the results of slow statistics between calls.

    Returns:
        Rows whose columns ``docs/results.md`` explains; scores are fractions or pixels, never per cent.
    """
    kept: dict[tuple[str, int, str], _RankedCell] = {}
    for summary in cells:
        place = (summary.dataset, summary.shots, summary.label)
        wanted = datasets is None or place[0] in datasets or base_label(place[0]) in datasets
        if wanted and (shots is None or place[1] in shots):
            cell = _RankedCell(summary)
            if place not in kept or cell.preference > kept[place].preference:
                kept[place] = cell
    rows: list[Row] = []
    for dataset in sorted({place[0] for place in kept}):
        ours = [cell for place, cell in kept.items() if place[0] == dataset]
        first = ours[0].chosen
        papers = published_rows(first.definition, dataset) if published else []
        shown = [row for row in papers if shots is None or row["shots"] in {None, *shots}]
        rows += _dataset_rows(ours, shown, remember)
    means = mean_rows(rows, {place: cell.finals for place, cell in kept.items()})
    # Sorting is stable: the mean rows of a dataset come before its classes, and the order of the others is kept.
    return sorted([*means, *rows], key=lambda row: row["dataset"]) if means else rows


def update_leaderboards(
    storage: Storage, datasets: Collection[str] | None = None, *, index_dir: Path | None = None
) -> LeaderboardUpdate:
    """Recompute and store the leaderboards of ``datasets`` (None: of all datasets with records), and the joint one.

    A leaderboard is replaced only if it has not changed since before the records were listed; otherwise it is computed
    again from the records of that time. If the storage cannot decide such a race, the leaderboard is read back and
    computed again until it agrees with the records. In both cases, the last of several simultaneous writers has seen
    every record.

    Args:
        storage: the storage of records and leaderboards.
        datasets: labels of the datasets to update.
        index_dir: folder of the local index, by default ``amsam_ray.paths.index_dir()``.

    Returns:
        The rows of all datasets, and one problem for each file under ``records/`` that was skipped.

    Raises:
        UnavailableError: other writers keep changing the leaderboards.
    """
    with contextlib.closing(Index(storage, index_dir)) as index:
        for attempt in range(_ATTEMPTS):
            stored = _stored(storage)
            problems = index.update()
            rows = build_leaderboard(index.cells(), remember=index.remember)
            if _replace_changed(storage, stored, _csv_files(rows, datasets)):
                return LeaderboardUpdate(rows, problems)
            time.sleep(random.uniform(0, min(2.0, 0.02 * 2**attempt)))
    raise UnavailableError(f"{storage.uri}: the leaderboards change faster than they can be written; try again later.")


def _csv_files(rows: list[Row], datasets: Collection[str] | None) -> dict[str, bytes]:
    """Return key -> content of the joint leaderboard and of those of ``datasets``."""
    files = {leaderboard_key("all"): to_csv(rows)}
    for name in {base_label(row["dataset"]) for row in rows}:
        if datasets is None or name in datasets:
            files[leaderboard_key(name)] = to_csv([row for row in rows if base_label(row["dataset"]) == name])
    return files


def _replace_changed(storage: Storage, stored: Mapping[str, tuple[bytes, str]], files: Mapping[str, bytes]) -> bool:
    """Write the files that differ from the stored ones; return True if no other writer can have interfered."""
    settled = True
    for key, data in sorted(files.items()):
        current, version = stored.get(key, (None, None))
        if current == data:
            continue
        try:
            storage.replace(key, data, version)
            settled = settled and storage.atomic
        except ConflictError:
            settled = False
    return settled


def _stored(storage: Storage) -> dict[str, tuple[bytes, str]]:
    """Return key -> content and version of every stored leaderboard."""
    found: dict[str, tuple[bytes, str]] = {}
    for entry in storage.list("leaderboards/"):
        with contextlib.suppress(NotFoundError, InputError):  # deleted since the listing, or not a leaderboard
            found[entry.key] = storage.get_versioned(entry.key)
    return found


class _RankedCell:
    """One cell of one sweep with the configuration that represents it."""

    def __init__(self, summary: CellSummary):
        self.summary = summary
        groups: dict[int, list[RecordSummary]] = {}
        for final in summary.finals:
            groups.setdefault(final.number, []).append(final)
        self.published = next((group for group in groups.values() if group[0].published), [])
        rivals = {number: group for number, group in groups.items() if group[0].choice != 0} or groups
        ranked = sorted(rivals.items(), key=lambda item: (_order(item[1]), -self._selection(*item), item[0]))
        self.finals = ranked[0][1] if ranked else []
        self.chosen = max(self.finals, key=lambda final: _rank([final])) if self.finals else summary.best

    def _selection(self, number: int, finals: Sequence[RecordSummary]) -> float:
        """Return the score on the selection images, signed: of the finals, or of the search trial where they have none.

        Finals of a cross-fitted configuration are trained on all shots, so no shot is left to score them on.
        """
        return _rank(finals) if any(final.score is not None for final in finals) else self._searched(number)

    def _searched(self, number: int) -> float:
        score = self.summary.scores.get(number)
        return float("-inf") if score is None else (score if self._maximise else -score)

    @property
    def _maximise(self) -> bool:
        """Whether a larger objective is better."""
        return self.summary.best.maximise

    @property
    def preference(self) -> tuple[bool, bool, float, str]:
        """Sort key of the sweeps of one cell, largest first; the name decides ties.

        Scores on images that trained the prompt are too high to compare with scores on held-out images, so sweeps that
        held images out come first.
        """
        held_out = self.summary.best.held_out
        if self.finals:
            return True, held_out, self._selection(self.chosen.number, self.finals), self.summary.sweep
        score = _rank([self.chosen]) if self.chosen.status == "completed" else float("-inf")
        return False, held_out, score, self.summary.sweep

    def gain(self, remember: Remember) -> Row:
        """Return what the search won over the published setting: the columns ``gain_*`` and ``kept``."""
        if not self.finals or not self.published:
            return {}
        if self.finals[0].published:
            return {"kept": "published", "gain_over_published": 0.0}
        primary = self.chosen.primary
        maximise = METRICS[primary].maximise if primary in METRICS else self.chosen.maximise
        found = paired_gain(self.finals, self.published, primary, maximise=maximise, remember=remember)
        names = ("gain_over_published", "gain_ci_low", "gain_ci_high", "gain_p")
        return {} if found is None else dict(zip(names, found, strict=True))

    def row(self, remember: Remember) -> Row:
        """Return the row, without the columns that depend on other rows."""
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
            selection = [trial.score for trial in finals or [chosen]]
            if all(score is None for score in selection):
                selection = [summary.scores.get(chosen.number)]
            row[f"val_{chosen.metric}"] = _mean(selection)
        row |= self.gain(remember)
        if chosen.flat_after is not None:
            row["flat_after"] = chosen.flat_after
        row |= acting_params(chosen.method, chosen.params)
        return row | {
            "backbone": chosen.backbone,
            "pretrained": chosen.pretrained,
            "trained_params": chosen.trained_params,
            "gpu_seconds": summary.gpu_seconds,
            "prompt_coverage": _mean([trial.prompt_coverage for trial in finals or [chosen]]),
            "trials": summary.trials,
            "pruned": summary.pruned,
            "failed": summary.failed,
            "seconds": summary.seconds,
            "sweep": summary.sweep,
            "trial": chosen.trial,
            "adapter": chosen.adapter,
            "reference": METHODS[chosen.method].note or None if chosen.method in METHODS else None,
        }


def _dataset_rows(cells: list[_RankedCell], papers: list[Row], remember: Remember) -> list[Row]:
    first = cells[0].chosen
    primary, mean = first.primary, f"{first.primary}_mean"
    maximise = METRICS[primary].maximise if primary in METRICS else first.maximise
    pairs: list[tuple[Row, _RankedCell | None]] = [(cell.row(remember), cell) for cell in cells]
    if any(row["pretrained"] for row, _ in pairs):
        for row, _ in pairs:
            row["pretrained"] = row["pretrained"] or f"SAM {row['backbone']}"
    _add_gains([row for row, _ in pairs], mean)
    pairs += [(row, None) for row in papers]
    sign = -1.0 if maximise else 1.0

    def order(pair: tuple[Row, _RankedCell | None]) -> tuple[bool, float, bool, float, str, int]:
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
    """Add the relative change of the primary metric against SAM-Adapter with the same shots and backbone."""
    base = {(row["shots"], row["backbone"]): row.get(mean) for row in rows if row["method"] == _BASELINE}
    for row in rows:
        score, reference = row.get(mean), base.get((row["shots"], row["backbone"]))
        if row["method"] != _BASELINE and score is not None and reference:
            row["vs_sam_adapter"] = score / reference - 1


def acting_params(method: str, params: Mapping[str, Any]) -> Row:
    """Return the hyperparameters and switches that the method used, in the order of ``PARAMS``."""
    if method not in METHODS:  # recorded by a version with other methods
        return dict(params)
    live = live_params(method, {key: {value} for key, value in params.items() if key in SWITCHES})
    return {name: params[name] for name in PARAMS if name in live and name in params}


def _order(finals: Sequence[RecordSummary]) -> int:
    """Return the place that the search gave a configuration, 1 for the chosen one; older records do not state it."""
    return min((final.choice for final in finals if final.choice is not None), default=1)


def _rank(trials: Iterable[RecordSummary]) -> float:
    """Return the mean score on the selection images, signed so that larger is better; minus infinity without one."""
    scores = [(trial.score if trial.maximise else -trial.score) for trial in trials if trial.score is not None]
    return statistics.fmean(scores) if scores else float("-inf")


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
