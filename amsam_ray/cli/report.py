"""``amsam-ray report``: the report of a sweep as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from amsam_ray.cli.lookup import STORAGE, open_index
from amsam_ray.errors import InputError, Problem


@click.command()
@click.argument("sweep", required=False)
@STORAGE
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the report to this file.")
def report(sweep: str | None, storage: str, out: Path | None) -> None:
    """Write the report of SWEEP; SWEEP may be omitted if the storage has only one.

    The report is stored as reports/SWEEP.html, a single file without external links.
    """
    from amsam_ray.records.io import list_sweeps
    from amsam_ray.reports.html import write_report
    from amsam_ray.storage.open import open_storage

    opened = open_storage(storage)
    if sweep is None:
        sweeps = list_sweeps(opened)
        if len(sweeps) != 1:
            what = (
                f"has several sweeps; give one of {', '.join(sweeps)}"
                if sweeps
                else "holds no sweep; give another --storage"
            )
            raise InputError(Problem(storage, what))
        sweep = sweeps[0]
    with open_index(storage, sweep=sweep):  # lists the files that are not records
        key = write_report(opened, sweep)
    if out is not None:
        opened.download(key, out)
    click.echo(out or f"{opened.uri}/{key}")
