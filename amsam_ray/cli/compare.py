"""``amsam-ray compare``: differences between two trials in configuration and scores, with a significance test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from amsam_ray.cli.lookup import STORAGE, find_record, open_index
from amsam_ray.errors import printable

if TYPE_CHECKING:
    from amsam_ray.records.schema import Record

_SELECTION = "selection "  # prefix of the metrics on selection images


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@STORAGE
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def compare(first: str, second: str, storage: str, form: str) -> None:
    """Compare two trials over the same test images.

    A and B are trials or cells as for `amsam-ray show`. Differences are A minus B, in percentage points for scores in
    per cent. p is from the two-sided Wilcoxon signed-rank test over the test images scored in both trials. In JSON,
    scores are fractions.
    """
    with open_index(storage) as (opened, index):
        a, b = (find_record(opened, index, name) for name in (first, second))
    found = comparison(a, b)
    if form == "json":
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"A  {found['a']}\nB  {found['b']}\n")
    click.secho("configuration (differences)", bold=True)
    configuration = found["configuration"].items()
    _columns([("", "A", "B"), *((name, *("-" if v is None else str(v) for v in pair)) for name, pair in configuration)])
    click.secho("scores", bold=True)
    lines: list[tuple[str, ...]] = [("", "A", "B", "A - B", "images", "A better", "p (two-sided)")]
    lines += [_score_line(name, score) for name, score in found["scores"].items()]
    _columns(lines)


def comparison(a: Record, b: Record) -> dict[str, Any]:
    """Return the differences in configuration of ``a`` and ``b``, and the scores of both.

    Scores are fractions or pixels, as in records.
    """
    left, right = _flat(_acting(a)), _flat(_acting(b))
    names = sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))
    scores = {f"{_SELECTION}{m}": _means(a.val.get(m), b.val.get(m)) for m in a.val if m in b.val}
    for metric in a.test or {}:
        if metric in (b.test or {}):
            scores[metric] = _paired(a, b, metric)
    return {
        "a": f"{a.sweep}/{a.trial}",
        "b": f"{b.sweep}/{b.trial}",
        "configuration": {name: [left.get(name), right.get(name)] for name in names},
        "scores": scores,
    }


def _paired(a: Record, b: Record, metric: str) -> dict[str, Any]:
    from amsam_ray.config.metrics import METRICS
    from amsam_ray.records.significance import paired_test

    maximise = METRICS[metric].maximise if metric in METRICS else a.maximise
    left, right = (
        {str(image["name"]): s for image in r.test_images if isinstance(s := image.get(metric), float | int)}
        for r in (a, b)
    )
    shared = left.keys() & right.keys()
    better = sum((left[n] > right[n]) == maximise and left[n] != right[n] for n in shared)
    means = _means((a.test or {}).get(metric), (b.test or {}).get(metric))
    return means | {"images": len(shared), "a_better": better, "p": paired_test(left, right)}


def _means(left: float | None, right: float | None) -> dict[str, Any]:
    both = left is not None and right is not None
    difference = left - right if both and left is not None and right is not None else None
    return {"a": left, "b": right, "difference": difference, "images": None, "a_better": None, "p": None}


def _acting(record: Record) -> dict[str, Any]:
    """Return the configuration without the hyperparameters that have no effect in it."""
    from amsam_ray.records.leaderboard import acting_params

    return {**record.config, "params": acting_params(record.method, record.params)}


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _score_line(name: str, score: dict[str, Any]) -> tuple[str, ...]:
    """Format one score of ``comparison`` as in leaderboards: in per cent where the metric is a share."""
    from amsam_ray.records.tables import plain, score_title, show_score

    metric = name.removeprefix(_SELECTION)
    where = name.removesuffix(metric)
    difference, p = score["difference"], score["p"]
    return (
        where + score_title(metric),
        show_score(metric, score["a"]),
        show_score(metric, score["b"]),
        ("+" if difference is not None and difference > 0 else "") + show_score(metric, difference),
        plain(score["images"]),
        plain(score["a_better"]),
        "" if p is None else f"{p:.2g}",
    )


def _columns(lines: Sequence[tuple[str, ...]]) -> None:
    lines = [tuple(printable(cell) for cell in line) for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        click.echo("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
    click.echo()
