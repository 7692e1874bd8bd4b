"""Choose the figures of a sweep's report and collect their data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from amsam_ray.config.metrics import METRICS
from amsam_ray.records.leaderboard import acting_params
from amsam_ray.records.schema import Record
from amsam_ray.records.tables import Row
from amsam_ray.reports import figures
from amsam_ray.reports.importance import MINIMUM_TRIALS, parameter_importances

_PHASES = ("load", "prepare", "train", "select", "test")


@dataclass(frozen=True)
class Plot:
    """A figure with its title and caption; ``svg`` is an inline SVG element."""

    title: str
    svg: str
    caption: str


class Plots:
    """The figures of one dataset.

    Args:
        records: all records of the sweep on this dataset, at least one.
        rows: leaderboard of the dataset.
        palette: colours of the methods.
    """

    def __init__(self, records: Sequence[Record], rows: Sequence[Row], palette: figures.Palette):
        self.records, self.rows, self.palette = records, rows, palette
        self.objective, self.primary = records[0].metric, records[0].primary
        self.shots = sorted({record.shots for record in records})

    def sections(self) -> Iterator[tuple[str, list[Plot]]]:
        """Yield (heading, figures) for each section with at least one figure."""
        sections = {
            "Convergence": self._convergence,
            "Shots": self._shots,
            "Alpha": self._alpha,
            "Hyperparameters": self._parallel,
            "Importance": self._importance,
            "Time": self._time,
        }
        for heading, make in sections.items():
            if found := list(make()):
                yield heading, found

    def _convergence(self) -> Iterator[Plot]:
        scale = shown_factor(self.objective)
        for shots in self.shots:
            series = {}
            for row in self.rows:
                if row["shots"] == shots and row["source"] == "run":
                    trials = self._chosen_trials(row)
                    key = f"val_{trials[0].metric}"
                    seeds = [
                        {int(e["epoch"] or 0): scale * s for e in r.curve if (s := e.get(key)) is not None}
                        for r in trials
                    ]
                    if any(len(seed) > 1 for seed in seeds):
                        series[str(row["method"])] = seeds
            if series:
                label = f"{score_label(self.objective)} on selection images"
                caption = "The best configuration of each method, retrained: mean and range over its seeds."
                yield Plot(f"{shots} shots", figures.curves(series, self.palette, label), caption)

    def _shots(self) -> Iterator[Plot]:
        metric, scale = self.primary, shown_factor(self.primary)
        measured: dict[str, list[tuple[int, float, float | None, float | None]]] = {}
        papers: dict[str, list[tuple[int, float]]] = {}
        for row in sorted(self.rows, key=lambda row: row["shots"] or 0):
            mean, name = row.get(f"{metric}_mean"), str(row["method"])
            if mean is None or row["shots"] is None:
                continue
            if row["source"] == "paper":
                papers.setdefault(name, []).append((row["shots"], scale * mean))
            else:
                low, high = (
                    None if v is None else scale * v for v in (row.get(f"{metric}_ci_{e}") for e in ("low", "high"))
                )
                measured.setdefault(name, []).append((row["shots"], scale * mean, low, high))
        if measured and (papers or len(self.shots) > 1):
            caption = "Test score of each method's best configuration, with its 95 % interval over seeds and images."
            svg = figures.against_shots(measured, papers, self.palette, f"{score_label(metric)} on test images")
            yield Plot("Score against shots", svg, caption)

    def _alpha(self) -> Iterator[Plot]:
        for shots in self.shots:
            series: dict[str, list[tuple[float, float]]] = {}
            for record in self._trials(shots):
                alpha = acting_params(record.method, record.params).get("alpha")
                if "alpha" in record.searched and isinstance(alpha, int | float):
                    series.setdefault(record.label, []).append((alpha, self._shown(record)))
            if series:
                label = f"{score_label(self.objective)} on selection images"
                svg = figures.scatter(series, self.palette, "alpha", label)
                yield Plot(f"{shots} shots", svg, "Each point is a completed search trial.")

    def _parallel(self) -> Iterator[Plot]:
        for shots, label, trials in self._searched_cells():
            shown = [acting_params(r.method, r.params) for r in trials]
            names = [n for n in trials[0].searched if all(n in values for values in shown)]
            varied = [(n, [values[n] for values in shown]) for n in names if len({str(v[n]) for v in shown}) > 1]
            if len(trials) > 2 and varied:
                scores = [self._shown(r) for r in trials]
                metric = score_label(self.objective)
                svg = figures.parallel(varied, scores, maximise=trials[0].maximise, label=metric)
                yield Plot(f"{label}, {shots} shots", svg, "A line per completed search trial; the best stand out.")

    def _importance(self) -> Iterator[Plot]:
        found = {}
        for shots, label, trials in self._searched_cells():
            points = [({n: r.params[n] for n in r.searched}, self._shown(r)) for r in trials]
            values = parameter_importances(points, maximise=trials[0].maximise)
            if values:
                found[f"{label}, {shots} shots"] = values
        if found:
            names = sorted({name for values in found.values() for name in values})
            svg = figures.bars(found, figures.Palette(names), "importance")
            caption = f"PED-ANOVA over completed trials, in cells with at least {MINIMUM_TRIALS}."
            yield Plot("What the score depended on", svg, caption)

    def _time(self) -> Iterator[Plot]:
        groups: dict[str, dict[str, float]] = {}
        for record in self.records:
            line = groups.setdefault(f"{record.label}, {record.shots} shots", dict.fromkeys(_PHASES, 0.0))
            for phase, seconds in record.timings.items():
                line[phase] = line.get(phase, 0.0) + seconds
        phases = list(dict.fromkeys(phase for line in groups.values() for phase in line))
        svg = figures.bars(dict(sorted(groups.items())), figures.Palette(phases), "seconds, all trials", stacked=True)
        yield Plot("Where the time went", svg, "Summed over search trials and finals.")

    def _trials(self, shots: int) -> list[Record]:
        """Return the completed search trials with a score."""
        return [
            r
            for r in self.records
            if (r.shots, r.role, r.status) == (shots, "search", "completed") and r.score is not None
        ]

    def _searched_cells(self) -> Iterator[tuple[int, str, list[Record]]]:
        for shots in self.shots:
            trials = self._trials(shots)
            for label in sorted({r.label for r in trials if r.searched}):
                yield shots, label, [r for r in trials if r.label == label]

    def _chosen_trials(self, row: Row) -> list[Record]:
        """Return the finals of the row's configuration, or its search trial if there are none yet."""
        chosen = next(r for r in self.records if (r.sweep, r.trial) == (row["sweep"], row["trial"]))
        same = [r for r in self.records if (r.cell, r.number, r.role) == (chosen.cell, chosen.number, chosen.role)]
        return [r for r in same if r.status == chosen.status]

    def _shown(self, record: Record) -> float:
        """Return the score on the selection images, in per cent if tables show it so."""
        assert record.score is not None
        return shown_factor(self.objective) * record.score


def shown_factor(metric: str) -> float:
    """Return 100 for a metric that is usually given in per cent, else 1."""
    return 100.0 if metric in METRICS and METRICS[metric].percent else 1.0


def score_label(metric: str) -> str:
    """Return the display name of a metric with its unit."""
    info = METRICS.get(metric)
    return metric if info is None else f"{info.label} (%)" if info.percent else info.label
