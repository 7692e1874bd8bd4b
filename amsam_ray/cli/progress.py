"""Progress of a running sweep: a live table in a terminal, plain lines elsewhere; other output goes to a log file."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from amsam_ray.records.tables import duration, score_title, show_score
from amsam_ray.search.status import CellRow, Snapshot

_LIVE_EVERY_S = 0.5
_LINE_EVERY_S = 30.0
_LINES_AROUND = 9  # lines of the live view besides the cells


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[tuple[IO[str], IO[str]]]:
    """Redirect the output of this process and its children to ``log``; yield the terminal's stdout and stderr.

    Ray, its C++ core and ultralytics print from other threads and processes, bypassing ``sys.stdout``. Therefore the
    file descriptors themselves are replaced.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    handler = logging.FileHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("amsam_ray").setLevel(logging.INFO)
    try:
        with (
            log.open("a") as file,
            os.fdopen(saved[0], "w", closefd=False) as out,
            os.fdopen(saved[1], "w", closefd=False) as err,
        ):
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield out, err
    finally:
        fault = _drop_output(handler)
        for number, copy in enumerate(saved, start=1):
            os.dup2(copy, number)
            os.close(copy)
        if fault is not None:
            print(f"warning: {log} is not complete ({fault.strerror}); free some space", file=sys.stderr)


def _drop_output(handler: logging.FileHandler) -> OSError | None:
    """Close the log. If it cannot take what is still buffered, as on a full disk, drop that and return the error."""
    fault: OSError | None = None
    logging.getLogger().removeHandler(handler)
    for finish in (sys.stdout.flush, sys.stderr.flush, handler.close):
        try:
            finish()
        except OSError as error:
            fault = error
    if fault is not None:
        # Otherwise the terminal would get it.
        with open(os.devnull, "w") as nowhere:
            for number in (1, 2):
                os.dup2(nowhere.fileno(), number)
        sys.stdout.flush()
        sys.stderr.flush()
    return fault


class SweepView:
    """Displays a sweep's state from a separate thread.

    Args:
        console: the output; a live table if it is a terminal, else a line every 30 s and on changes.
        sweep: name of the sweep.
        log: path of the log file, which is displayed.
    """

    def __init__(self, console: Console, sweep: str, log: Path):
        self._console, self._sweep, self._log = console, sweep, log

    @contextlib.contextmanager
    def __call__(self, snapshot: Callable[[], Snapshot]) -> Iterator[None]:
        over = threading.Event()
        show = self._live if self._console.is_terminal else self._lines
        thread = threading.Thread(target=show, args=(snapshot, over), name="amsam-view", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _live(self, snapshot: Callable[[], Snapshot], over: threading.Event) -> None:
        with Live(console=self._console, auto_refresh=False, vertical_overflow="visible") as live:
            while True:
                last = over.wait(_LIVE_EVERY_S)
                room = None if last else self._console.height - _LINES_AROUND
                live.update(self._picture(snapshot(), room), refresh=True)
                if last:
                    return

    def _picture(self, state: Snapshot, room: int | None) -> Group:
        """Render the state. ``room`` limits the number of cells; running and unfinished ones come first."""
        title = Text.assemble(("amsam-ray ", "bold"), (self._sweep, "bold cyan"), f"   {totals(state)}")
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("cell", "done", "running", "pruned", "failed", "finals", "best"):
            table.add_column(name, justify="left" if name == "cell" else "right", no_wrap=True)
        shown = state.rows
        if room is not None and len(shown) > room:
            urgent = sorted(shown, key=lambda row: (row.done >= row.planned, row.running == 0))
            keep = {row.cell for row in urgent[: max(1, room - 1)]}
            shown = [row for row in shown if row.cell in keep]
        for row in shown:
            table.add_row(*cell_line(row), style="dim" if row.done >= row.planned else "")
        lines: list[Text | Table] = [title, Text(speed(state)), table]
        if len(shown) < len(state.rows):
            lines.append(Text(f"... and {len(state.rows) - len(shown)} more cells", style="dim"))
        if state.closing:
            hint = "" if state.stopping else " (press Ctrl-C again to stop)"
            lines.append(Text(f"{closing(state)}{hint}", style="yellow"))
        if state.message:
            lines.append(Text(state.message, style="yellow", overflow="ellipsis", no_wrap=True))
        lines.append(Text(f"log: {self._log}", style="dim"))
        return Group(*lines)

    def _lines(self, snapshot: Callable[[], Snapshot], over: threading.Event) -> None:
        said, message, ending = 0.0, "", ""
        while True:
            last = over.wait(1.0)
            state = snapshot()
            changed = False
            if state.message != message:
                message, changed = state.message, True
                self._say(message)
            if closing(state) != ending:
                ending, changed = closing(state), True
                self._say(ending)
            if last or changed or time.monotonic() - said >= _LINE_EVERY_S:
                said = time.monotonic()
                best = next(
                    (r for r in reversed(state.rows) if r.best is not None), None
                )  # cells are searched in order
                shown = f"; {best.cell} {score_title(best.metric)} {show_score(best.metric, best.best)}" if best else ""
                self._say(f"{totals(state)}; {speed(state)}{shown}")
            if last:
                return

    def _say(self, text: str) -> None:
        self._console.print(Text(f"[{time.strftime('%H:%M:%S')}] {text}"), soft_wrap=True)


def totals(state: Snapshot) -> str:
    """Return the numbers of trials: done, planned, running, pruned, failed and retried."""
    running, pruned, failed = (
        sum(getattr(row, name) for row in state.rows) for name in ("running", "pruned", "failed")
    )
    parts = [f"{state.done}/{state.planned} trials", f"{running} running", f"{pruned} pruned", f"{failed} failed"]
    if state.retried:
        parts.append(f"{state.retried} retried")
    return ", ".join(parts)


def closing(state: Snapshot) -> str:
    """Return why the sweep is ending before it is finished, and how; empty if it is not."""
    return f"{state.closing}: {'stopping' if state.stopping else 'finishing'} running trials" if state.closing else ""


def speed(state: Snapshot) -> str:
    """Return the state of the lanes, trials per hour, GPU hours and the remaining time."""
    if not state.wanted_lanes:
        return f"starting Ray, elapsed {duration(state.elapsed_s)}"
    if state.trials_per_hour is not None:
        begun = f"{state.trials_per_hour:,.0f} trials/h"
    elif state.busy:
        begun = "running the first trials"
    else:
        begun = "starting lanes" if state.lanes else "waiting for nodes"
    parts = [f"lanes {min(state.busy, state.lanes)}/{state.wanted_lanes} busy", begun]
    if state.gpu_hours:
        parts.append(f"{state.gpu_hours:.2f} GPU h")
    parts.append(f"elapsed {duration(state.elapsed_s)}")
    if state.eta_s is not None and state.done < state.planned:
        parts.append(f"about {duration(state.eta_s)} left")
    return ", ".join(parts)


def cell_line(row: CellRow) -> list[str]:
    """Return one cell as columns of the table."""
    best = f"{score_title(row.metric)} {show_score(row.metric, row.best)}" if row.best is not None else ""
    if row.flat_after is not None:
        best += ", flat"
    counts = [str(n) if n else "" for n in (row.running, row.pruned, row.failed, row.finals)]
    return [row.cell, f"{row.done}/{row.planned}", *counts, best]
