"""``amsam-ray tune``: run or continue the sweep of a space file."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from typing import IO, TYPE_CHECKING

import click

from amsam_ray.errors import AmsamError, InputError

if TYPE_CHECKING:
    from rich.console import Console

    from amsam_ray.config.space import SpaceFile
    from amsam_ray.search.options import RunOptions
    from amsam_ray.search.sweep import SweepResult

_WIDE = 200  # columns where nobody looks through a window
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType):
    """``90s``, ``30m``, ``2h``, ``1.5d`` or a plain number of seconds, as seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds, above 0."""
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?\s*", str(value))
        seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else 0.0
        if seconds <= 0:
            self.fail(f"{value!r} is not a duration; write for example 90s, 30m, 2h or 1d", param, ctx)
        return seconds


@click.command()
@click.option("--space", "space_path", required=True, metavar="FILE", help="The space file.")
@click.option("--storage", metavar="URI", help="Folder or s3://bucket/prefix for results [default: as the file says].")
@click.option(
    "--address", metavar="ADDRESS", help="A running Ray cluster (host:port, or auto) [default: this machine]."
)
@click.option("--extend", is_flag=True, help="Go on with the newest sweep of this name although the file has changed.")
@click.option("--fresh", is_flag=True, help="Start over in a new folder; deletes nothing.")
@click.option("--time-budget", type=Duration(), help="Begin no trial later than this after the start, e.g. 2h.")
@click.option("--max-trials", type=click.IntRange(min=1), help="Run at most so many trials now, finals included.")
@click.option("--max-gpu-hours", type=click.FloatRange(min=0, min_open=True), help="Begin no trial after so many.")
@click.option("--dry-run", is_flag=True, help="Say what would run and for how long, after a short probe; then stop.")
@click.option("--trial-function", metavar="MODULE:NAME", help="Runs one trial, in place of this package's training.")
def tune(
    space_path: str,
    storage: str | None,
    address: str | None,
    extend: bool,
    fresh: bool,
    time_budget: float | None,
    max_trials: int | None,
    max_gpu_hours: float | None,
    dry_run: bool,
    trial_function: str | None,
) -> None:
    """Run or continue the sweep of a space file.

    What is recorded in the storage is not run again. Ctrl-C once finishes the running trials, twice stops at once; the
    same command continues.
    """
    from amsam_ray.config.space_file import load_space, problems_at
    from amsam_ray.search.budget import Budget
    from amsam_ray.search.checks import all_problems
    from amsam_ray.search.options import TRIAL_FUNCTION, RunOptions

    if extend and fresh:
        raise click.UsageError("--extend goes on with a sweep and --fresh starts over; give one of them.")
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
    )
    try:
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
        console = Console(file=out, width=None if out.isatty() else _WIDE)
        try:
            with console.status("Checking the data, the models and the storage"):  # which imports them
                problems = check_sweep(space, storage, options)
            if problems:
                raise InputError(problems)
            console.print(f"Sweep {space.name}: results in {storage}, log in {log}", highlight=False, soft_wrap=True)
            outcome = run_sweep(space, storage, options, SweepView(console, space.name, log), checked=True)
            _tell(console, err, space, storage, outcome)
        except AmsamError:
            raise
        except KeyboardInterrupt:
            print("Interrupted before a trial began; what is recorded stays, and the same command continues.", file=err)
            sys.exit(130)
        except Exception as error:
            import traceback

            traceback.print_exc()  # into the log
            raise AmsamError(f"{type(error).__name__}: {error} (details in {log})") from error
    if not outcome.finished and outcome.stop_reason == "interrupted":
        sys.exit(130)
    if outcome.deferred or outcome.failed_cells:
        sys.exit(1)


def _tell(console: Console, err: IO[str], space: SpaceFile, storage: str, outcome: SweepResult) -> None:
    """Print what the sweep came to."""
    from amsam_ray.records.index import Index
    from amsam_ray.records.leaderboard import build_leaderboard, leaderboard_key
    from amsam_ray.records.tables import to_terminal
    from amsam_ray.storage.open import open_storage

    for problem in outcome.problems:
        print(f"warning: {problem}", file=err)
    if outcome.waiting:
        where = "on the disks of the nodes that made them; the next run there brings them"
        print(f"warning: {len(outcome.waiting)} results wait for the storage, {where}", file=err)
    labels = [str(dataset.label) for dataset in space.datasets]
    with contextlib.closing(Index(open_storage(storage))) as index:
        index.update()
        rows = build_leaderboard(index.cells(), datasets=labels, remember=index.remember)
    console.print(to_terminal(rows))
    boards = ", ".join(leaderboard_key(label) for label in labels if any(row["dataset"] == label for row in rows))
    if boards:
        console.print(f"Leaderboards: {boards} in {storage}", highlight=False, soft_wrap=True)
    others = sorted({str(row["sweep"]) for row in rows if row["source"] == "run"} - {outcome.sweep})
    if others:
        console.print(f"Rows of other sweeps are among them: {', '.join(others)}", highlight=False, soft_wrap=True)
    failed = sum(row.failed for row in outcome.snapshot.rows)
    done = f"Sweep {outcome.sweep}: {outcome.snapshot.done} of {outcome.snapshot.planned} trials are recorded"
    done += f", {failed} of them as failed" if failed else ""
    if outcome.failed_cells:
        cells = ", ".join(outcome.failed_cells)
        what = f"Every trial has failed in {cells}; `amsam-ray show TRIAL` tells why, and --fresh starts over"
        console.print(what, style="yellow", highlight=False, soft_wrap=True)
    if not outcome.finished:
        console.print(
            f"{done}; not finished ({outcome.stop_reason}): the same command continues.", style="yellow", soft_wrap=True
        )
    elif outcome.ran:
        place = "" if storage == "./results" else f" --storage {storage}"
        hint = f"`amsam-ray report {outcome.sweep}{place}` shows them in pictures"
        console.print(f"{done}; {hint}.", highlight=False, soft_wrap=True)
    else:
        console.print(f"{done}: there was nothing left to run.", highlight=False, soft_wrap=True)


def _plan(space: SpaceFile, storage: str, options: RunOptions) -> None:
    from amsam_ray.cli.progress import quiet
    from amsam_ray.paths import log_dir
    from amsam_ray.search.dry_run import plan_sweep

    log = log_dir() / f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}-dry-run.log"
    with quiet(log) as (out, _):
        for line in plan_sweep(space, storage, options):
            print(line, file=out, flush=True)
