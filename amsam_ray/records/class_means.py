"""The mean row of a dataset with classes: one method's scores, averaged over the classes."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from amsam_ray.config.classes import base_label, class_label
from amsam_ray.config.metrics import METRICS
from amsam_ray.records.summary import RecordSummary
from amsam_ray.records.tables import Row

MEAN = "mean"
"""``source`` of a mean row."""

Finals = Mapping[tuple[str, int, str], Sequence[RecordSummary]]
"""(dataset, shots, method) -> the finals of a cell's leaderboard row."""

_SUMMED = ("trained_params", "gpu_seconds", "trials", "pruned", "failed", "seconds")


def mean_rows(rows: Sequence[Row], finals: Finals) -> list[Row]:
    """Return the mean rows of all datasets with several classes, best first for each dataset.

    A method has one where every class of the dataset that has finals with so many shots has finals of the method: means
    over different classes cannot be compared.

    Args:
        rows: leaderboard rows of cells.
        finals: of these rows.
    """
    groups: dict[tuple[str, int], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        measured = class_label(row["dataset"]) and row["source"] == "run" and row["seeds"]
        if measured:
            groups[base_label(row["dataset"]), row["shots"]][row["method"]].append(row)
    made: list[tuple[str, float, Row]] = []
    for (dataset, shots), methods in groups.items():
        classes = {row["dataset"] for of_method in methods.values() for row in of_method}
        for method, of_method in methods.items():
            if len(classes) > 1 and len(of_method) == len(classes):
                cells = [finals[row["dataset"], shots, method] for row in of_method]
                row = _mean_row(dataset, of_method, cells)
                made.append((dataset, _badness(row, cells[0][0]), row))
    made.sort(key=lambda item: (*item[:2], item[2]["method"], item[2]["shots"]))
    return [row for *_, row in made]


def _badness(row: Row, final: RecordSummary) -> float:
    """Return the primary metric, signed so that the best row comes first."""
    score = row.get(f"{final.primary}_mean")
    maximise = METRICS[final.primary].maximise if final.primary in METRICS else final.maximise
    return float("inf") if score is None else -score if maximise else score


def _mean_row(dataset: str, rows: Sequence[Row], cells: Sequence[Sequence[RecordSummary]]) -> Row:
    first = rows[0]
    names = sorted(class_label(row["dataset"]) or "" for row in rows)
    row: Row = {"dataset": dataset, "shots": first["shots"], "method": first["method"], "source": MEAN}
    row |= {"classes": " ".join(names), "seeds": min(row["seeds"] for row in rows)}
    for metric in METRICS:
        means = [row[f"{metric}_mean"] for row in rows if row.get(f"{metric}_mean") is not None]
        if len(means) == len(rows):
            row[f"{metric}_mean"] = statistics.fmean(means)
            row[f"{metric}_std"] = _deviation(metric, cells)
    averaged = [*(f"val_{metric}" for metric in METRICS), "gain_over_published", "prompt_coverage"]
    for name in averaged:
        values = [row[name] for row in rows if row.get(name) is not None]
        if len(values) == len(rows):
            row[name] = statistics.fmean(values)
    backbones = {row["backbone"] for row in rows}
    row["backbone"] = backbones.pop() if len(backbones) == 1 else None
    return row | {name: sum(row[name] for row in rows) for name in _SUMMED}


def _deviation(metric: str, cells: Sequence[Sequence[RecordSummary]]) -> float | None:
    """Return the sample deviation, over the seeds that all classes share, of the mean over the classes."""
    by_seed: dict[str, list[float]] = defaultdict(list)
    for finals in cells:
        for final in finals:
            if (score := (final.test or {}).get(metric)) is not None:
                by_seed[final.trial.rpartition(".")[2]].append(score)
    means = [statistics.fmean(scores) for scores in by_seed.values() if len(scores) == len(cells)]
    return statistics.stdev(means) if len(means) > 1 else None
