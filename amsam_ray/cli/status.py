"""``amsam-ray status``: progress of sweeps, read from their storage."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from amsam_ray.errors import InputError, Problem, printable

if TYPE_CHECKING:
    from amsam_ray.storage.base import Storage


@click.command()
@click.option(
    "--storage",
    default="./results",
    show_default=True,
    metavar="URI",
    help="Folder or s3://bucket/prefix with the results.",
)
@click.option("--sweep", metavar="ID", help="Id of the sweep [default: all].")
@click.option("--address", metavar="URL", help="Show the sweeps submitted to this cluster's dashboard instead.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def status(storage: str, sweep: str | None, address: str | None, form: str) -> None:
    """Show the progress of sweeps from their storage, on any machine and whether or not they are running.

    With --address, list the jobs of a cluster instead, with the last line that each running one has printed.
    """
    if address is not None:
        from amsam_ray.cli.remote import show_jobs
        from amsam_ray.search.submission import is_dashboard

        if not is_dashboard(address):
            what = f"{address} is not the URL of a dashboard; give http://HOST:8265, or omit it and give --storage"
            raise InputError(Problem("--address", what))
        show_jobs(address, form)
        return
    from amsam_ray.cli.lookup import open_results

    opened = open_results(storage)
    names = [sweep] if sweep else opened.folders("sweeps/")
    states = [state for name in names if (state := _state(opened, name)) is not None]
    if not states:
        what = f"holds no sweep{f' {sweep}' if sweep else ''}; give the --storage of a sweep"
        raise InputError(Problem(storage, what))
    if form == "json":
        click.echo(json.dumps(states, indent=2))
        return
    for state in states:
        _print(state)


def _state(storage: Storage, name: str) -> dict[str, Any] | None:
    from amsam_ray.search.budget import Budget, StopConditions
    from amsam_ray.search.cells import make_cells
    from amsam_ray.search.lease import read_lease, stale
    from amsam_ray.search.manifest import read_manifest, stored_space
    from amsam_ray.search.resume import SweepRecords, restore_cells
    from amsam_ray.search.status import StatusObserver

    folder = read_manifest(storage, name)
    if folder is None:
        return None
    space = stored_space(folder)
    records = SweepRecords(storage, name)
    records.refresh()
    states = restore_cells(make_cells(space, folder.prior), records.records)
    status = StatusObserver(states, StopConditions(Budget()))
    lease = read_lease(storage, name)
    driven = lease is not None and not stale(lease)
    return {
        "sweep": name,
        "finished": all(state.finished for state in states),
        "running": driven,
        "driver": {k: lease.get(k) for k in ("user", "host", "pid", "started", "renewed")} if lease else None,
        "last": lease.get("status") if lease else None,
        "cells": status.snapshot().as_dict()["rows"],
        "problems": [str(problem) for problem in records.problems],
    }


def _print(state: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from amsam_ray.cli.progress import cell_line, speed
    from amsam_ray.search.status import CellRow, Snapshot

    console = Console(markup=False, highlight=False)  # names in a storage may hold brackets
    rows = [CellRow(**row) for row in state["cells"]]
    word = "finished" if state["finished"] else "running" if state["running"] else "not running"
    done, planned = sum(row.done for row in rows), sum(row.planned for row in rows)
    console.print(f"{state['sweep']}: {word}, {done}/{planned} trials")
    if state["running"]:
        driver, last = state["driver"], state["last"]
        age = time.time() - driver["renewed"]
        console.print(
            printable(f"  driver {driver['user']}@{driver['host']}, process {driver['pid']}")
            + f", last heartbeat {age:.0f} s ago"
        )
        try:
            busy = {row["cell"]: int(row["running"]) for row in last["rows"]}
            rows = [CellRow(**{**vars(row), "running": busy.get(row.cell, 0)}) for row in rows]
            console.print(f"  {printable(speed(Snapshot(**{**last, 'rows': rows})))}")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):  # a damaged lease
            console.print("  its lease states no progress")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("cell", "done", "running", "pruned", "failed", "finals", "best"):
        table.add_column(name, justify="left" if name == "cell" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*cell_line(row))
    console.print(table)
    for problem in state["problems"]:
        console.print(f"warning: {problem}", style="yellow", soft_wrap=True)
