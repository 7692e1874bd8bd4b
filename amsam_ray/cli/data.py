"""``amsam-ray data``: list, detect, check, show and fetch datasets."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from amsam_ray.config.datasets import DatasetConfig, path_fault
from amsam_ray.config.wording import describe
from amsam_ray.config.yaml_loader import parse_yaml
from amsam_ray.data.definition import (
    DATA_ROOT_VARIABLE,
    check_options,
    definitions,
    get_definition,
    open_tree,
    resolve_root,
)
from amsam_ray.data.layout import scan
from amsam_ray.data.schema import DatasetDefinition
from amsam_ray.errors import AmsamError, InputError, Problem, counted, printable
from amsam_ray.paths import mirrors_dir

if TYPE_CHECKING:
    from amsam_ray.data.check import DatasetReport

_LISTED = 25
_PLACEHOLDER = re.compile(r"[^{}'\"]*\{(stem|path)\}")
_COLOURS = {"fault": "red", "converted": "yellow", "note": "dim"}

FORMAT = click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
ROOT = click.option("--root", help=f"The dataset's folder or s3://bucket/prefix; default ${DATA_ROOT_VARIABLE}/NAME.")
OPTION = click.option(
    "--option", "pairs", multiple=True, metavar="KEY=VALUE", help="Option of the dataset; may be repeated."
)
MIRROR = click.option(
    "--mirror", type=click.Path(path_type=Path), help="Folder for local copies of datasets in buckets."
)


@click.group()
def data() -> None:
    """List, detect, check, show and fetch datasets."""


def dataset_config(name: str, root: str | None, pairs: tuple[str, ...]) -> DatasetConfig:
    """Build a dataset's configuration from command-line arguments; values of options are YAML.

    Raises:
        InputError: a pair is not KEY=VALUE, a path is not usable, or no label can be derived from the name.
    """
    problems, options = [], {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign:
            problems.append(Problem(f"--option {pair}", "is not of the form KEY=VALUE; write for example test=30"))
            continue
        if _PLACEHOLDER.match(text):  # YAML would take {stem} for a mapping
            options[key] = text
            continue
        try:
            options[key] = parse_yaml(text, f"--option {key}").data
        except InputError as error:
            problems += error.problems
    for option, path in (("--root", root), ("NAME", name)):
        if path is not None and (fault := path_fault(path)):
            problems.append(Problem(option, fault))
    if problems:
        raise InputError(problems)
    try:
        return DatasetConfig.model_validate({"name": name, "root": root, "options": options})
    except ValidationError as error:
        found = [Problem(".".join(map(str, fault["loc"])) or "NAME", describe(fault)) for fault in error.errors()]
        raise InputError(found) from None


@data.command("list")
@FORMAT
@click.option("--data-root", help=f"Folder with one folder per dataset; default ${DATA_ROOT_VARIABLE}.")
def list_data(form: str, data_root: str | None) -> None:
    """Print every known dataset, how to get it, and the images found below the data root."""
    base = data_root or os.environ.get(DATA_ROOT_VARIABLE)
    entries = [_entry(definition, base) for definition in definitions().values()]
    if form == "json":
        click.echo(json.dumps(entries, indent=2))
        return
    table = Table(title=f"datasets; data root: {base or f'none (set {DATA_ROOT_VARIABLE})'}", show_lines=True)
    for column in ("name", "what", "train/test", "primary metric", "found", "how to get it"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        counts = "yours" if entry["expected"] is None else "{train}/{test}".format(**entry["expected"])
        what = f"{entry['title']}: {entry['task']}"
        table.add_row(entry["name"], what, counts, entry["primary_metric"], entry["found"], entry["obtain"])
    Console(width=_width()).print(table)


def _width() -> int | None:
    """Return None for the terminal's width, or enough columns for whole lines in a file or a pipe."""
    return None if Console().is_terminal else 160


def _entry(definition: DatasetDefinition, base: str | None) -> dict[str, Any]:
    entry = definition.model_dump(
        include={"name", "title", "task", "primary_metric", "metrics", "citation", "obtain", "homepage", "licence"}
    )
    entry["expected"] = definition.expected.model_dump() if definition.expected else None
    entry["fetch"] = [archive.url for archive in definition.fetch]
    entry["options"] = {name: rule.about for name, rule in definition.options.items()}
    entry["found"] = _found(definition, base)
    return entry


def _found(definition: DatasetDefinition, base: str | None) -> str:
    if definition.source == "procedural":
        return "always"
    if base is None:
        return "-"
    root = f"{base.rstrip('/')}/{definition.name}"
    try:
        tree = open_tree(root)
    except InputError:
        return f"not at {root}"
    options, _ = check_options(definition, {})
    found = scan(tree, definition, options)
    return f"{len(found.train)}/{len(found.test)} at {root}"


@data.command("detect")
@click.argument("folder")
@FORMAT
def detect_data(folder: str, form: str) -> None:
    """Print how FOLDER would be read, as the section `datasets` of a space file.

    Exit status 0: it can be read; 2: it cannot, and the message states the lines to write or the conversion that it
    needs. A script that converts the masks is printed to the standard output.
    """
    from amsam_ray.data.understand import Unreadable, understand

    if fault := path_fault(folder):
        raise InputError(Problem("FOLDER", fault))
    try:
        found = understand(folder)
    except Unreadable as error:
        click.echo(printable(error.script), nl=False)
        raise
    if form == "json":
        facts = {"datasets": [found.entry], "train": found.train, "test": found.test, "notes": found.notes}
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(found.to_yaml(), nl=False)


@data.command("check")
@click.argument("name")
@ROOT
@OPTION
@MIRROR
@FORMAT
@click.option("--all", "everything", is_flag=True, help="List every finding, not only the first of each kind.")
@click.pass_context
def check_data(
    context: click.Context,
    name: str,
    root: str | None,
    pairs: tuple[str, ...],
    mirror: Path | None,
    form: str,
    everything: bool,
) -> None:
    """Read every image and mask of dataset NAME and list all problems.

    Exit status 0: no faults; 1: faults; 2: the dataset cannot be read.
    """
    from rich.progress import Progress

    from amsam_ray.data.check import check_dataset

    config = _rooted(dataset_config(name, root, pairs))
    terminal = Console(stderr=True)
    # Without a terminal, a progress bar would print an empty line.
    with Progress(console=terminal, transient=True, disable=form == "json" or not terminal.is_interactive) as bar:
        task = bar.add_task("reading images", total=None)
        report = check_dataset(
            config,
            mirror_dir=mirror or mirrors_dir(),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if form == "json":
        click.echo(json.dumps(_report_json(report), indent=2))
    else:
        _print_report(report, None if everything else _LISTED)
    context.exit(1 if report.faults else 0)


def _rooted(config: DatasetConfig) -> DatasetConfig:
    """Return the configuration with its root taken from the environment if not given.

    Raises:
        InputError: there is no root.
    """
    definition = get_definition(config.name)
    if definition.source == "procedural":
        return config
    root = resolve_root(config)
    if root is None:
        what = f"has no root; give --root or set {DATA_ROOT_VARIABLE}. To get the files: {definition.obtain}"
        raise InputError(Problem(config.name, what))
    return config.model_copy(update={"root": root})


def _report_json(report: DatasetReport) -> dict[str, Any]:
    return {
        "name": report.name,
        "root": report.root,
        "train": report.train,
        "test": report.test,
        "expected": report.expected.model_dump() if report.expected else None,
        "sizes": [list(size) for size in report.sizes],
        "object_share": list(report.object_share),
        "classes": {name: {"train": train, "test": test} for name, (train, test) in report.classes.items()},
        "mask_values": list(report.mask_values),
        "faults": len(report.faults),
        "findings": [
            {"kind": f.code, "severity": f.severity, "where": f.where, "what": f.what} for f in report.findings
        ],
    }


def _print_report(report: DatasetReport, limit: int | None) -> None:
    console = Console(width=_width())
    summary = Table(show_header=False)
    expected = f" (published {report.expected.train}, {report.expected.test})" if report.expected else ""
    summary.add_row("usable images", f"{report.train} train, {report.test} test{expected}")
    if report.sizes:
        small, middle, large = (f"{width}x{height}" for width, height in report.sizes)
        summary.add_row("photographs", f"{small} to {large}, median {middle}")
    if report.object_share:
        low, median, high = report.object_share
        summary.add_row("object share", f"{low:.1%} to {high:.1%}, median {median:.1%}")
    if report.classes:
        texts = (f"{name} in {train} train, {test} test" for name, (train, test) in report.classes.items())
        summary.add_row("classes", "; ".join(texts))
    if not set(report.mask_values) <= {0, 255}:
        from amsam_ray.data.mask_values import listed

        summary.add_row("mask values", listed(report.mask_values))
    summary.add_row("findings", _tally(report))
    console.print(Text(f"{report.name} {report.root}".strip(), style="bold"), soft_wrap=True)
    console.print(summary)
    if not report.findings:
        return
    table = Table(show_lines=False)
    for column in ("severity", "kind", "file", "what"):
        table.add_column(column, overflow="fold")
    for severity, kind, group in report.grouped():
        for finding in group[:limit]:
            table.add_row(
                Text(severity, _COLOURS[severity]), kind, Text(printable(finding.where)), Text(printable(finding.what))
            )
        if limit is not None and len(group) > limit:
            table.add_row(severity, kind, f"... and {len(group) - limit} more", "(--all lists them)")
    console.print(table)


def _tally(report: DatasetReport) -> str:
    """Return the number of findings per severity, without zeros."""
    count = Counter(finding.severity for finding in report.findings)
    texts = [
        (count["fault"], counted(count["fault"], "fault")),
        (count["converted"], f"{count['converted']} converted"),
        (count["note"], counted(count["note"], "note")),
    ]
    return ", ".join(text for number, text in texts if number) or "none"


@data.command("show")
@click.argument("name")
@ROOT
@OPTION
@MIRROR
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="PNG to write; default NAME.png.")
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
@click.option("--images", "count", type=click.IntRange(1, 400), default=24, show_default=True)
@click.option("--detector", default="nano", show_default=True, help="Detector whose boxes are drawn, or none.")
@click.option("--confidence", type=click.FloatRange(0, 1), default=0.25, show_default=True)
@click.option("--trust", is_flag=True, help="Load a .pt detector of unknown origin, which can run code.")
def show_data(
    name: str,
    root: str | None,
    pairs: tuple[str, ...],
    mirror: Path | None,
    out: Path | None,
    split: str,
    count: int,
    detector: str,
    confidence: float,
    trust: bool,
) -> None:
    """Write a contact sheet of dataset NAME: images, mask outlines (green), detector boxes (red)."""
    from amsam_ray.config.networks import DetectorConfig
    from amsam_ray.data.contact_sheet import SheetImage, contact_sheet, spread
    from amsam_ray.data.dataset import open_dataset
    from amsam_ray.data.images import ImageError
    from amsam_ray.data.splits import natural_key
    from amsam_ray.models.detector import load_detector

    config = _rooted(dataset_config(name, root, pairs))
    eyes = load_detector(DetectorConfig(weights=detector, confidence=confidence, trust=trust))
    dataset = open_dataset(config, split="all", mirror_dir=mirror or mirrors_dir())
    names = sorted(dataset.train if split == "train" else dataset.test, key=natural_key)
    chosen = spread(names, count)
    cells, found = [], 0
    for one in chosen:
        try:
            image, mask = dataset.image(one), dataset.mask(one)
        except ImageError as error:
            click.echo(f"skipped: {error}", err=True)
            continue
        hit = eyes.detect([image])[0] if eyes else None
        found += hit is not None
        cells.append(SheetImage(one, image, mask, hit.box if hit else None, hit.confidence if hit else None))
    if not cells:
        raise AmsamError(f"none of the {split} images can be read; run `amsam-ray data check {name}`")
    legend = f"{config.label}, {split}: {len(cells)} of {counted(len(names), 'image')}"
    if eyes:
        legend += f"; boxes by {Path(detector).name} on {found} of {len(cells)}"
    out = out or Path(f"{config.label}.png")
    contact_sheet(cells, legend=legend).save(out)
    click.echo(f"{out}: {legend}")


@data.command("fetch")
@click.argument("name")
@click.option("--root", help=f"Folder to fill; default ${DATA_ROOT_VARIABLE}/NAME.")
def fetch_data(name: str, root: str | None) -> None:
    """Download dataset NAME if its publisher offers a plain URL."""
    from amsam_ray.data.fetch import fetch_dataset

    definition = get_definition(name)
    target = root or resolve_root(DatasetConfig.model_validate({"name": name}))
    if target is None or target.startswith("s3://"):
        raise InputError(Problem(name, f"needs a local folder; give --root or set {DATA_ROOT_VARIABLE}"))
    found = fetch_dataset(definition, Path(target).expanduser(), say=click.echo)
    click.echo(f"{target}: {len(found.train)} train and {len(found.test)} test images")
    if definition.expected and (len(found.train), len(found.test)) != (
        definition.expected.train,
        definition.expected.test,
    ):
        raise AmsamError(
            f"the publisher states {definition.expected.train} and {definition.expected.test} images; "
            f"run `amsam-ray data check {name} --root {target}`"
        )
