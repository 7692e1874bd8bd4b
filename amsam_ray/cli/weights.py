"""``amsam-ray weights``: list and fetch official SAM weights."""

from __future__ import annotations

import json
from pathlib import Path

import click

from amsam_ray.models.weights import WEIGHTS, fetch, get_weights
from amsam_ray.paths import weights_dir


@click.group()
def weights() -> None:
    """List and fetch official weights."""


@weights.command("list")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def list_weights(form: str) -> None:
    """Print the known files with size, licence and SHA-256, and whether each is on this machine."""
    folder = weights_dir()
    entries = [
        {
            "name": item.name,
            "file": item.file,
            "bytes": item.size,
            "sha256": item.sha256,
            "licence": item.licence,
            "url": item.url,
            "here": (folder / item.file).is_file(),
        }
        for item in WEIGHTS.values()
    ]
    if form == "json":
        click.echo(json.dumps({"folder": str(folder), "weights": entries}, indent=2))
        return
    for item in WEIGHTS.values():
        state = "here" if (folder / item.file).is_file() else "not fetched"
        size = f"{item.size / 1e6:.0f} MB"
        click.echo(f"{item.name:<11} {size:>8}  {item.licence:<10}  {state:<11}  {item.sha256}")
    click.echo(f"folder: {folder}")


@weights.command("fetch")
@click.argument("name")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Target folder [default: the cache folder].",
)
def fetch_weights(name: str, directory: Path | None) -> None:
    """Download NAME from its publisher, resume a partial download, and check the SHA-256."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    item = get_weights(name)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress("{task.description}", *columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(item.file, total=item.size)
        path = fetch(item, directory, progress=lambda done: bar.update(task, completed=done))
    click.echo(path)
