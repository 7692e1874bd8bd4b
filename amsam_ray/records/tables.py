"""Leaderboard rows as CSV, Markdown, JSON and a terminal table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from amsam_ray.config.metrics import METRICS
from amsam_ray.config.params import PARAMS
from amsam_ray.errors import printable

if TYPE_CHECKING:
    from rich.console import Group

Row = dict[str, Any]

_WORDS = ("method", "source", "pretrained")
_HEAD = ("dataset", "shots", "method", "source")
_STATISTICS = ("mean", "std", "ci_low", "ci_high")
# Metrics that papers usually report together with the key.
_COMPANIONS = {
    "dice": ("iou", "mae"),
    "mdice": ("miou", "mae"),
    "mae": ("s_measure", "e_measure_mean", "weighted_f"),
    "ber": ("mae", "dice"),
}
_GAIN = ("kept", "gain_over_published", "gain_ci_low", "gain_ci_high", "gain_p", "flat_after")
_OPTIONAL = ("pretrained",)  # only where a method that is not SAM is compared
_TAIL = (
    "backbone",
    *_OPTIONAL,
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
    """Return the columns of the CSV: the fixed ones, and metrics and hyperparameters that some row has."""
    present = {name for row in rows for name, value in row.items() if value is not None}
    metrics = [name for name in METRICS if f"{name}_mean" in present] or ["dice"]
    scores = [f"{metric}_{statistic}" for metric in metrics for statistic in _STATISTICS]
    validation = [name for metric in METRICS if (name := f"val_{metric}") in present] or [f"val_{metrics[0]}"]
    gain = [name for name in _GAIN if name in present]
    known = {*_HEAD, *_TAIL, *_GAIN, *scores, *validation, "seeds"}
    parameters = [name for name in PARAMS if name in present]
    others = sorted(
        name for name in present - known - set(parameters) if not name.endswith(tuple(f"_{s}" for s in _STATISTICS))
    )
    tail = [name for name in _TAIL if name in present or name not in _OPTIONAL]
    return [*_HEAD, *scores, "seeds", *validation, *gain, *parameters, *others, *tail]


def to_csv(rows: Sequence[Row]) -> bytes:
    """Return CSV with a header; missing values are empty and numbers have six significant digits.

    Text that a spreadsheet would take for a formula gets an apostrophe in front, as OWASP advises ("CSV Injection").
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = columns(rows)
    writer.writerow([_no_formula(plain(name)) for name in names])
    writer.writerows([_csv_cell(row.get(name)) for name in names] for row in rows)
    return text.getvalue().encode()


def _csv_cell(value: Any) -> str:
    text = plain(value)
    return _no_formula(text) if isinstance(value, str) else text


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def to_json(rows: Sequence[Row]) -> str:
    """Return a JSON list of objects with the columns of the CSV and unrounded numbers."""
    names = columns(rows)
    return json.dumps([{name: row.get(name) for name in names} for row in rows], indent=2)


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the readable table in Markdown."""
    header, body = readable_table(rows)
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def to_terminal(rows: Sequence[Row]) -> Group:
    """Return one readable table per dataset, as a rich renderable."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    made = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        header, body = readable_table([row for row in rows if row["dataset"] == dataset])
        table = Table(title=Text(dataset, style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
        for name in header[1:]:
            table.add_column(Text(name), justify="left" if name in _WORDS else "right", no_wrap=True)
        for line in body:
            table.add_row(*(Text(cell) for cell in line[1:]))
        made.append(table)
    return Group(*made)


def readable_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return (header, lines) of the readable table: the optimised metric and the metrics usually reported with it.

    All other columns are in the CSV; they would not fit on a terminal. Scores are shown as in papers, in per cent
    for metrics that are usually given so.
    """
    validation = [name for name in METRICS if any(row.get(f"val_{name}") is not None for row in rows)]
    metrics = _compared(
        [name for name in METRICS if any(row.get(f"{name}_mean") is not None for row in rows)], validation
    )
    gains = any(row.get("vs_sam_adapter") is not None for row in rows)
    header = ["dataset", "shots", "method", "source"]
    header += [score_title(name) for name in metrics] + [f"val {score_title(name)}" for name in validation]
    won = any(row.get("gain_over_published") is not None for row in rows)
    header += ["gain over published"] if won else []
    header += [*(["vs SAM-Adapter"] if gains else []), "seeds", "p(next)", "trials", "seconds"]
    compared = any(row.get("pretrained") is not None for row in rows)
    header += ["trained", "pretrained"] if compared else []
    lines = []
    for row in rows:
        line = [str(row["dataset"]), plain(row["shots"]) or "all", str(row["method"]), str(row["source"])]
        line += [_score(row, name) for name in metrics]
        line += [show_score(name, row.get(f"val_{name}")) for name in validation]
        if won:
            line.append(gain_text(row, metrics[0] if metrics else ""))
        if gains:
            line.append("" if (gain := row.get("vs_sam_adapter")) is None else f"{100 * gain:+.1f} %")
        p, seconds = row.get("p_vs_next"), row.get("seconds")
        line += [plain(row.get("seeds")), "" if p is None else f"{p:.2g}", plain(row.get("trials"))]
        line.append("" if seconds is None else f"{seconds:.0f}")
        if compared:
            trained = row.get("trained_params")
            line += ["" if trained is None else f"{trained:,}", plain(row.get("pretrained"))]
        lines.append(line)
    return header, lines


def gain_text(row: Row, metric: str) -> str:
    """Format what the search won over the published setting, with its 95 % interval; empty if it is unknown.

    ``flat after N`` follows where the search ended after N trials because they differed by no more than noise.

    Args:
        row: a leaderboard row.
        metric: decides whether the gain is shown in per cent.
    """
    gain = _gain(row, metric)
    return gain if row.get("flat_after") is None else f"{gain}, flat after {row['flat_after']}".removeprefix(", ")


def _gain(row: Row, metric: str) -> str:
    if row.get("kept"):
        return f"kept {row['kept']}"
    values = [row.get(name) for name in ("gain_over_published", "gain_ci_low", "gain_ci_high")]
    if any(value is None for value in values):
        return ""
    percent = metric in METRICS and METRICS[metric].percent
    gain, low, high = (f"{100 * v:+.1f}" if percent else f"{v:+.4f}" for v in values if v is not None)
    return f"{gain} [{low}, {high}]"


def _compared(measured: Sequence[str], optimised: Sequence[str]) -> list[str]:
    """Return the measured metrics among the optimised ones and those usually reported with them."""
    lead = [name for name in optimised if name in measured] or list(measured[:1])
    wanted = [*lead, *(name for metric in lead for name in _COMPANIONS.get(metric, _COMPANIONS["dice"]))]
    return [name for name in dict.fromkeys(wanted) if name in measured]


def score_title(metric: str) -> str:
    """Return the heading of the values of ``show_score``: display name and unit of the metric."""
    info = METRICS.get(metric)
    if info is None:
        return metric
    return f"{info.label} %" if info.percent else info.label


def show_score(metric: str, value: float | None) -> str:
    """Format a score as in papers: per cent with one decimal if usual for the metric, else with four decimals."""
    if value is None:
        return ""
    if metric in METRICS and METRICS[metric].percent:
        return f"{100 * value:.1f}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"


def plain(value: Any) -> str:
    """Format a value as in the CSV."""
    if value is None:
        return ""
    if isinstance(value, float):
        return format(value, ".6g")
    return " ".join(printable(str(value)).splitlines())


def _score(row: Row, metric: str) -> str:
    mean, std = row.get(f"{metric}_mean"), row.get(f"{metric}_std")
    text = show_score(metric, mean)
    return f"{text} ± {show_score(metric, std)}" if std is not None else text


def duration(seconds: float) -> str:
    """Format a duration as ``2 h 05 min``, ``3 min 20 s`` or ``12 s``."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {s:02d} s" if minutes else f"{s} s"
