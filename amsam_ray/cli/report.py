"""``amsam-ray report``: the report of a sweep as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from amsam_ray.cli.lookup import STORAGE, open_index, open_results
from amsam_ray.config.datasets import path_fault
from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.storage.base import StorageError


@click.command()
@click.argument("sweep", required=False)
@STORAGE
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the report to this file only.")
def report(sweep: str | None, storage: str, out: Path | None) -> None:
    """Write the report of SWEEP; SWEEP may be omitted if the storage has only one.

    The report is a single file without external links. Without --out it is stored as reports/SWEEP.html.
    """
    from amsam_ray.records.io import list_sweeps
    from amsam_ray.reports.html import render_report, write_report

    if out is not None and (fault := path_fault(str(out))):
        raise InputError(Problem("--out", fault))
    opened = open_results(storage)
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
        pass
    if out is None:
        try:
            key = write_report(opened, sweep)
        except StorageError as error:  # a storage that may only be read, perhaps
            raise AmsamError(f"{str(error).rstrip('.')}; or write the report elsewhere with --out FILE.") from error
        click.echo(f"{opened.uri}/{key}")
        return
    text = render_report(opened, sweep)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(Problem("--out", f"{out} cannot be written ({error.strerror}); choose another file")) from None
    click.echo(out)
