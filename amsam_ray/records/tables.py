"""Leaderboard rows as CSV, Markdown, JSON and a table for the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from amsam_ray.config.metrics import METRICS
from amsam_ray.config.params import PARAMS

if TYPE_CHECKING:
    from rich.console import Group

Row = dict[str, Any]

_HEAD = ("dataset", "shots", "method", "source")
_STATISTICS = ("mean", "std", "ci_low", "ci_high")
# What papers print beside a metric.
_COMPANIONS = {
    "dice": ("iou", "mae"),
    "mdice": ("miou", "mae"),
    "mae": ("s_measure", "e_measure_mean", "weighted_f"),
    "ber": ("mae", "dice"),
}
_TAIL = (
    "backbone",
    "trained_params",
    "gpu_seconds",
    "prompt_coverage",
    "trials",
    "pruned",
    "failed",
    "seconds",
    "sweep",
    "p_vs_next",
    "vs_sam_adapter",
    "reference",
    "trial",
    "adapter",
)


def columns(rows: Sequence[Row]) -> list[str]:
    """The CSV's columns: fixed ones always, those of metrics and hyperparameters that some row has."""
    present = {name for row in rows for name, value in row.items() if value is not None}
    metrics = [name for name in METRICS if f"{name}_mean" in present] or ["dice"]
    scores = [f"{metric}_{statistic}" for metric in metrics for statistic in _STATISTICS]
    validation = [name for metric in METRICS if (name := f"val_{metric}") in present] or [f"val_{metrics[0]}"]
    known = {*_HEAD, *_TAIL, *scores, *validation, "seeds"}
    parameters = [name for name in PARAMS if name in present]
    others = sorted(
        name for name in present - known - set(parameters) if not name.endswith(tuple(f"_{s}" for s in _STATISTICS))
    )
    return [*_HEAD, *scores, "seeds", *validation, *parameters, *others, *_TAIL]


def to_csv(rows: Sequence[Row]) -> bytes:
    """Comma-separated values with a header; empty cells where a row has nothing; six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = columns(rows)
    writer.writerow(names)
    writer.writerows([plain(row.get(name)) for name in names] for row in rows)
    return text.getvalue().encode()


def to_json(rows: Sequence[Row]) -> str:
    """A list of objects with the CSV's columns and the numbers in full."""
    names = columns(rows)
    return json.dumps([{name: row.get(name) for name in names} for row in rows], indent=2)


def to_markdown(rows: Sequence[Row]) -> str:
    """The table for people, in Markdown."""
    header, body = people_table(rows)
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def to_terminal(rows: Sequence[Row]) -> Group:
    """One table for people per dataset, for rich to print."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    made = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        header, body = people_table([row for row in rows if row["dataset"] == dataset])
        table = Table(title=Text(dataset, style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
        for name in header[1:]:
            table.add_column(Text(name), justify="left" if name in ("method", "source") else "right", no_wrap=True)
        for line in body:
            table.add_row(*(Text(cell) for cell in line[1:]))
        made.append(table)
    return Group(*made)


def people_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """(header, lines) with what people compare: the metric that the search optimised and its usual companions.

    All other columns are in the CSV; a table with a dozen scores would fit no terminal. Scores are as usual in
    print, per cent where the metric is one.
    """
    validation = [name for name in METRICS if any(row.get(f"val_{name}") is not None for row in rows)]
    metrics = _compared(
        [name for name in METRICS if any(row.get(f"{name}_mean") is not None for row in rows)], validation
    )
    gains = any(row.get("vs_sam_adapter") is not None for row in rows)
    header = ["dataset", "shots", "method", "source"]
    header += [score_title(name) for name in metrics] + [f"val {score_title(name)}" for name in validation]
    header += [*(["vs SAM-Adapter"] if gains else []), "seeds", "p(next)", "trials", "seconds"]
    lines = []
    for row in rows:
        line = [str(row["dataset"]), plain(row["shots"]) or "all", str(row["method"]), str(row["source"])]
        line += [_score(row, name) for name in metrics]
        line += [show_score(name, row.get(f"val_{name}")) for name in validation]
        if gains:
            line.append("" if (gain := row.get("vs_sam_adapter")) is None else f"{100 * gain:+.1f} %")
        p, seconds = row.get("p_vs_next"), row.get("seconds")
        line += [plain(row.get("seeds")), "" if p is None else f"{p:.2g}", plain(row.get("trials"))]
        line.append("" if seconds is None else f"{seconds:.0f}")
        lines.append(line)
    return header, lines


def _compared(measured: Sequence[str], optimised: Sequence[str]) -> list[str]:
    """The optimised metrics and those usually printed beside them, of the ones measured."""
    lead = [name for name in optimised if name in measured] or list(measured[:1])
    wanted = [*lead, *(name for metric in lead for name in _COMPANIONS.get(metric, _COMPANIONS["dice"]))]
    return [name for name in dict.fromkeys(wanted) if name in measured]


def score_title(metric: str) -> str:
    """What ``show_score`` shows: the metric's name for people and its unit."""
    info = METRICS.get(metric)
    if info is None:
        return metric
    return f"{info.label} %" if info.percent else info.label


def show_score(metric: str, value: float | None) -> str:
    """A score as usual in print: per cent with one digit where the metric is one, else four digits."""
    if value is None:
        return ""
    if metric in METRICS and METRICS[metric].percent:
        return f"{100 * value:.1f}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"


def plain(value: Any) -> str:
    """A value as the CSV has it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return format(value, ".6g")
    return str(value)


def _score(row: Row, metric: str) -> str:
    mean, std = row.get(f"{metric}_mean"), row.get(f"{metric}_std")
    text = show_score(metric, mean)
    return f"{text} ± {show_score(metric, std)}" if std is not None else text


def duration(seconds: float) -> str:
    """Like ``2 h 05 min``, ``3 min 20 s`` or ``12 s``."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {s:02d} s" if minutes else f"{s} s"
