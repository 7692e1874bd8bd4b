"""Figures of the report: SVG by matplotlib with the colours of the page, whether light, dark or printed."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from amsam_ray.hashing import sha256_hex

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Placeholder colours, replaced by the page's CSS variables in the finished SVG.
_INK, _MUTED, _RULE = "#010101", "#020202", "#030303"
_SERIES = tuple(f"#0a000{index}" for index in range(1, 9))
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _RULE: "--rule"} | {c: f"--s{i}" for i, c in enumerate(_SERIES, 1)}
_SIZE = (5.0, 3.3)  # inches at 72 dpi: 360 units, one column of the page and a whole phone
_DASHES = ("-", "--", ":", "-.")
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "grid.color": _RULE,
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "svg.fonttype": "none",
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


class Palette:
    """One colour and dash pattern per name, the same in every figure of a report."""

    def __init__(self, names: Sequence[str]):
        self._style = {
            name: (_SERIES[i % len(_SERIES)], _DASHES[i // len(_SERIES) % len(_DASHES)]) for i, name in enumerate(names)
        }

    def __getitem__(self, name: str) -> tuple[str, str]:
        return self._style[name]


def curves(series: Mapping[str, Sequence[Mapping[int, float]]], palette: Palette, label: str) -> str:
    """Draw score against epoch: for each method the mean over its seeds and the band between their extremes.

    Args:
        series: method -> one mapping from epoch to score per seed.
        palette: colours of the methods.
        label: name of the score.

    Returns:
        An inline SVG element; so for all figures of this module.
    """
    with _drawing("epoch", label) as (axes, done):
        for method, seeds in series.items():
            epochs = sorted(set.intersection(*(set(seed) for seed in seeds)))
            if not epochs:
                continue
            columns = [[seed[epoch] for seed in seeds] for epoch in epochs]
            colour, dash = palette[method]
            axes.plot(epochs, [sum(c) / len(c) for c in columns], dash, color=colour, label=method, linewidth=1.6)
            if len(seeds) > 1:
                low, high = [min(c) for c in columns], [max(c) for c in columns]
                axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]  # a MaxNLocator
        _legend(axes)
    return done()


def against_shots(
    series: Mapping[str, Sequence[tuple[int, float, float | None, float | None]]],
    papers: Mapping[str, Sequence[tuple[int, float]]],
    palette: Palette,
    label: str,
) -> str:
    """Draw score against the number of shots with confidence intervals, and published scores as hollow squares.

    Args:
        series: method -> (shots, mean, low, high), ascending.
        papers: method -> (shots, score).
        palette: colours of the methods.
        label: name of the score.
    """
    with _drawing("shots", label) as (axes, done):
        ticks = sorted(
            {p[0] for points in series.values() for p in points} | {p[0] for q in papers.values() for p in q}
        )
        for place, (method, points) in enumerate(series.items()):
            colour, dash = palette[method]
            shift = 2 ** (0.03 * (place - (len(series) - 1) / 2))  # keeps intervals from overlapping
            shots, means = [p[0] * shift for p in points], [p[1] for p in points]
            axes.plot(shots, means, dash, marker="o", markersize=4, color=colour, label=method, linewidth=1.6)
            for x, (_, _, low, high) in zip(shots, points, strict=True):
                if low is not None and high is not None:
                    axes.plot([x, x], [low, high], color=colour, linewidth=1)
        for method, paper in papers.items():
            style: dict[str, Any] = {"marker": "s", "markersize": 5, "markerfacecolor": "none", "linestyle": "none"}
            axes.plot(*zip(*paper, strict=True), color=palette[method][0], label=f"{method} (paper)", **style)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        _legend(axes)
    return done()


def scatter(series: Mapping[str, Sequence[tuple[float, float]]], palette: Palette, xlabel: str, label: str) -> str:
    """Draw score against one hyperparameter, one point per trial. ``series``: name -> (value, score)."""
    with _drawing(xlabel, label) as (axes, done):
        for name, points in series.items():
            style: dict[str, Any] = {"s": 24, "alpha": 0.8, "linewidths": 0}
            axes.scatter(*zip(*points, strict=True), color=palette[name][0], label=name, **style)
        _legend(axes)
    return done()


def bars(groups: Mapping[str, Mapping[str, float]], palette: Palette, xlabel: str, *, stacked: bool = False) -> str:
    """Draw horizontal bars, side by side or stacked. ``groups``: line -> {name: length}."""
    names = list(dict.fromkeys(name for lengths in groups.values() for name in lengths))
    per_line = 1 if stacked else max(1, len(names))
    height = max(1.6, 0.9 + 0.22 * len(groups) * (per_line + 0.6))
    with _drawing(xlabel, "", size=(_SIZE[0], height)) as (axes, done):
        ends = dict.fromkeys(groups, 0.0)
        for place, name in enumerate(names):
            offset = 0.0 if stacked else (place - (per_line - 1) / 2) * 0.8 / per_line
            lines = [(index, line) for index, line in enumerate(groups) if name in groups[line]]
            widths = [groups[line][name] for _, line in lines]
            left = [ends[line] if stacked else 0.0 for _, line in lines]
            ys = [index + offset for index, _ in lines]
            axes.barh(ys, widths, 0.8 / per_line, left=left, color=palette[name][0], label=name)
            for line in groups:
                ends[line] += groups[line].get(name, 0.0)
        axes.set_yticks(range(len(groups)), list(groups))
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        if len(names) > 1:
            _legend(axes)
    return done()


def parallel(
    columns: Sequence[tuple[str, Sequence[Any]]], scores: Sequence[float], *, maximise: bool, label: str
) -> str:
    """Draw parallel coordinates: one line per trial through its hyperparameters and score; highlight the best tenth.

    Args:
        columns: (hyperparameter, its value in each trial); numbers, or texts for choices.
        scores: score of each trial.
        maximise: True if larger scores are better.
        label: name of the score.
    """
    axes_values = [_scaled(values) for _, values in columns] + [_scaled(scores)]
    names = [name for name, _ in columns] + [label]
    order = sorted(range(len(scores)), key=lambda i: scores[i], reverse=maximise)
    best = set(order[: max(3, len(order) // 10)])
    with _drawing("", "", size=(max(_SIZE[0], 0.85 * len(names)), _SIZE[1])) as (axes, done):
        for trial in reversed(order):
            colour, width, alpha = (_SERIES[0], 1.6, 0.95) if trial in best else (_MUTED, 0.7, 0.4)
            heights = [values[trial] for values, _ in axes_values]
            axes.plot(range(len(names)), heights, color=colour, linewidth=width, alpha=alpha)
        for place, (_, ticks) in enumerate(axes_values):
            axes.axvline(place, color=_MUTED, linewidth=1)
            for height, text in ticks:
                axes.annotate(text, (place, height), (3, 0), textcoords="offset points", fontsize=8, va="center")
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_yticks([])
        axes.set_xlim(-0.1, len(names) - 0.6)
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
    return done()


def _scaled(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Return heights in [0, 1] and axis labels; logarithmic if positive values span a factor of more than 30."""
    import math

    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        words = sorted({str(v) for v in values})
        heights = {word: i / max(1, len(words) - 1) for i, word in enumerate(words)}
        return [heights[str(v)] for v in values], [(height, word) for word, height in heights.items()]
    numbers = [float(v) for v in values]
    low, high = min(numbers), max(numbers)
    logarithmic = low > 0 and high / low > 30
    place = math.log if logarithmic else float
    span = place(high) - place(low) or 1.0
    return [(place(v) - place(low)) / span for v in numbers], [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]


def _legend(axes: Axes) -> None:
    from matplotlib.figure import Figure

    if axes.get_legend_handles_labels()[1]:
        below = -0.2 * _SIZE[1] / cast(Figure, axes.figure).get_size_inches()[1]
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, below), ncols=3, columnspacing=1.2, handlelength=1.6)


@contextmanager
def _drawing(xlabel: str, ylabel: str, size: tuple[float, float] = _SIZE) -> Iterator[tuple[Axes, Any]]:
    """Yield axes to draw on and a function that returns the finished SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size)
        axes = figure.subplots()
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.set_axisbelow(True)
        yield axes, lambda: _svg(figure)


def _svg(figure: Figure) -> str:
    """Return the figure as an inline SVG element with the size of its container and the colours of the page."""
    import matplotlib

    def draw(salt: str) -> str:
        with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.05, metadata={"Date": None})
            return buffer.getvalue()

    # Ids must differ between the figures of one page and be reproducible.
    text = draw(sha256_hex(draw("figure")))
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img" aria-hidden="true"', text, count=1)
    text = text.replace("'DejaVu Sans'", "system-ui")
    return re.sub("|".join(_VARIABLES), lambda match: f"var({_VARIABLES[match[0]]})", text)
