"""``amsam-ray tune``: run or continue the sweep of a space file."""

from __future__ import annotations

import math
import re
import sys
import time
from typing import IO, TYPE_CHECKING, Any

import click

from amsam_ray.errors import REMEDIES, AmsamError, InputError, with_remedy

if TYPE_CHECKING:
    from rich.console import Console

    from amsam_ray.config.space import SpaceFile
    from amsam_ray.search.options import RunOptions
    from amsam_ray.search.sweep import SweepResult

_WIDE = 200  # columns without a terminal
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType):
    """A duration in seconds, given as ``90s``, ``30m``, ``2h``, ``1.5d`` or a number of seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds, above 0."""
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?\s*", str(value))
        seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else 0.0
        if seconds <= 0:
            self.fail(f"{value!r} is not a duration; write, for example, 90s, 30m, 2h or 1d", param, ctx)
        return seconds


class GpuHours(click.FloatRange):
    """A finite number above 0; click alone accepts ``nan``, which no comparison ever reaches."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return hours."""
        hours: float = super().convert(value, param, ctx)
        if not math.isfinite(hours):
            self.fail(f"{value!r} is not a number of hours; write, for example, 12 or 0.5", param, ctx)
        return hours


@click.command()
@click.option("--space", "space_path", required=True, metavar="FILE", help="The space file.")
@click.option("--storage", metavar="URI", help="Folder or s3://bucket/prefix for results [default: from the file].")
@click.option(
    "--address",
    metavar="ADDRESS",
    help="A running Ray cluster: host:port or auto (the driver is this process), or the http:// URL of its dashboard "
    "(the driver runs on its head) [default: this machine].",
)
@click.option(
    "--paths-on-nodes",
    is_flag=True,
    help="With a dashboard URL: absolute paths of the space file are those of the nodes.",
)
@click.option("--extend", is_flag=True, help="Continue the newest sweep of this name although the file has changed.")
@click.option("--fresh", is_flag=True, help="Start a new sweep in a new folder; deletes nothing.")
@click.option("--time-budget", type=Duration(), help="Start no trial after this time, for example 2h.")
@click.option("--max-trials", type=click.IntRange(min=1), help="Run at most this many trials, finals included.")
@click.option("--max-gpu-hours", type=GpuHours(), help="Start no trial after this many GPU hours.")
@click.option(
    "--dry-run", is_flag=True, help="Print the plan and an estimate of its duration from a short probe; run no trial."
)
@click.option(
    "--trial-function", metavar="MODULE:NAME", help="Function that runs one trial instead of this package's training."
)
def tune(
    space_path: str,
    storage: str | None,
    address: str | None,
    paths_on_nodes: bool,
    extend: bool,
    fresh: bool,
    time_budget: float | None,
    max_trials: int | None,
    max_gpu_hours: float | None,
    dry_run: bool,
    trial_function: str | None,
) -> None:
    """Run or continue the sweep of a space file.

    Trials recorded in the storage are not run again. Ctrl-C once finishes the running trials, twice stops immediately;
    the same command continues. With the URL of a cluster's dashboard, Ctrl-C detaches from the sweep, which runs on.
    """
    started = time.time()
    from amsam_ray.config.space_file import load_space, problems_at
    from amsam_ray.search.budget import Budget
    from amsam_ray.search.checks import all_problems
    from amsam_ray.search.options import TRIAL_FUNCTION, RunOptions
    from amsam_ray.search.submission import is_dashboard

    if extend and fresh:
        raise click.UsageError("--extend continues a sweep and --fresh starts a new one; give only one of them.")
    if storage == "":
        raise click.UsageError("--storage is empty; give a folder or s3://bucket/prefix, or omit it.")
    try:
        space = load_space(space_path)
    except InputError as error:
        raise InputError(all_problems(space_path, error)) from None
    options = RunOptions(
        address=address,
        extend=extend,
        fresh=fresh,
        budget=Budget(time_budget, max_trials, max_gpu_hours),
        trial_function=trial_function or TRIAL_FUNCTION,
        started=started,
    )
    if paths_on_nodes and not is_dashboard(address):
        raise click.UsageError("--paths-on-nodes requires the URL of a dashboard as --address.")
    try:
        if address is not None and is_dashboard(address):
            from amsam_ray.cli.remote import tune_remotely

            where = storage or space.storage
            status = tune_remotely(address, space_path, space, where, options, on_nodes=paths_on_nodes, plan=dry_run)
            sys.exit(status)
        if dry_run:
            _plan(space, storage or space.storage, options)
        else:
            _run(space, storage or space.storage, options)
    except InputError as error:
        raise InputError(problems_at(space_path, error.problems)) from error


def _run(space: SpaceFile, storage: str, options: RunOptions) -> None:
    from rich.console import Console

    from amsam_ray.cli.progress import SweepView, quiet
    from amsam_ray.paths import log_dir
    from amsam_ray.search.checks import check_sweep
    from amsam_ray.search.sweep import run_sweep

    log = log_dir() / f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    with quiet(log) as (out, err):
        # Names and paths may hold brackets, which are no markup.
        console = Console(file=out, markup=False, width=None if out.isatty() else _WIDE)
        try:
            with console.status("Checking the data, the models and the storage"):  # imports torch and Ray
                problems = check_sweep(space, storage, options)
            if problems:
                raise InputError(problems)
            console.print(f"Sweep {space.name}: results in {storage}, log in {log}", highlight=False, soft_wrap=True)
            outcome = run_sweep(space, storage, options, SweepView(console, space.name, log), checked=True)
            _print_outcome(console, err, space, storage, outcome)
        except AmsamError:
            raise
        except KeyboardInterrupt:
            print("Interrupted before a trial started. Records are kept; the same command continues.", file=err)
            sys.exit(130)
        except Exception as error:
            import traceback

            traceback.print_exc()  # to the log
            raise AmsamError(f"{_in_one_line(error)} (details in {log})") from error
    if outcome.stop_code == "interrupted":
        sys.exit(130)
    if outcome.deferred or outcome.failed_cells:
        sys.exit(1)


def _in_one_line(error: Exception) -> str:
    """Return what happened: the remedy of a full disk, or the last line of what may hold the traceback of a worker."""
    if isinstance(error, OSError) and error.errno in REMEDIES:
        return with_remedy(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip() if lines else 'no reason is given'}"


def _print_outcome(console: Console, err: IO[str], space: SpaceFile, storage: str, outcome: SweepResult) -> None:
    """Print warnings, the leaderboard and the sweep's state."""
    from amsam_ray.config.classes import base_label
    from amsam_ray.records.leaderboard import leaderboard_key
    from amsam_ray.records.tables import to_terminal

    for problem in outcome.problems:
        print(f"warning: {problem}", file=err)
    if outcome.waiting:
        where = "on the disks of the nodes that produced them; run the same command there to upload them"
        print(f"warning: {len(outcome.waiting)} results are not in the storage yet but {where}", file=err)
    labels = dict.fromkeys(base_label(dataset.label) for dataset in space.datasets)
    rows = outcome.leaderboard
    console.print(to_terminal(rows))
    known = {base_label(row["dataset"]) for row in rows}
    boards = ", ".join(leaderboard_key(label) for label in labels if label in known)
    if boards:
        console.print(f"Leaderboards: {boards} in {storage}", highlight=False, soft_wrap=True)
    others = sorted({str(row["sweep"]) for row in rows if row["source"] == "run"} - {outcome.sweep})
    if others:
        console.print(f"They include rows of other sweeps: {', '.join(others)}", highlight=False, soft_wrap=True)
    failed = sum(row.failed for row in outcome.snapshot.rows)
    done = f"Sweep {outcome.sweep}: {outcome.snapshot.done} of {outcome.snapshot.planned} trials are recorded"
    done += f", {failed} of them as failed" if failed else ""
    if outcome.failed_cells:
        cells = ", ".join(outcome.failed_cells)
        what = f"Every trial failed in {cells}; see `amsam-ray show TRIAL` for the reason, or start over with --fresh"
        console.print(what, style="yellow", highlight=False, soft_wrap=True)
    if not outcome.finished:
        console.print(
            f"{done}; not finished ({outcome.stop_reason}): the same command continues.", style="yellow", soft_wrap=True
        )
    elif outcome.ran:
        place = "" if storage == "./results" else f" --storage {storage}"
        hint = f"`amsam-ray report {outcome.sweep}{place}` writes a report"
        console.print(f"{done}; {hint}.", highlight=False, soft_wrap=True)
    else:
        console.print(f"{done}; nothing was left to run.", highlight=False, soft_wrap=True)


def _plan(space: SpaceFile, storage: str, options: RunOptions) -> None:
    from amsam_ray.cli.progress import quiet
    from amsam_ray.paths import log_dir
    from amsam_ray.search.dry_run import plan_sweep

    log = log_dir() / f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}-dry-run.log"
    with quiet(log) as (out, _):
        for line in plan_sweep(space, storage, options):
            print(line, file=out, flush=True)
