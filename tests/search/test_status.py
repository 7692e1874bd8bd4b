"""The status of a sweep: a live table in a terminal, plain lines elsewhere, and nothing else."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from pathlib import Path

from rich.console import Console

from amsam_ray.cli.progress import SweepView
from amsam_ray.records.tables import duration
from amsam_ray.search.budget import Budget, StopConditions
from amsam_ray.search.status import StatusObserver
from tests.search.spaces import space
from tests.search.test_state import completed, error, make_state


def board(cells: int = 2) -> StatusObserver:
    """The status of a sweep with a completed, a failed and a running trial."""
    state = make_state(space(datasets=2, shots=tuple(range(4, 4 + cells, 2)), retries=0))
    conditions = StopConditions(Budget())
    conditions.gpus = 1.0
    found = StatusObserver(state.cells, conditions)
    found.lanes_now, found.wanted_lanes = lambda: 2, 2
    for end in (completed, error, None):
        trial = state.next_trial()
        assert trial
        found.trial_started(trial)
        if end is not None:
            attempt = end(trial)
            found.trial_ended(trial, attempt, state.settle(trial, attempt))
        else:
            found.lanes_busy(1)
            conditions.lanes_busy(1)
            conditions._since -= 900
    return found


def shown(state: StatusObserver, *, terminal: bool, height: int = 40) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=110, height=height, color_system=None)
    with SweepView(console, "tiny", Path("/logs/tiny.log"))(state.snapshot):
        time.sleep(0.1)
    return out.getvalue()


def test_live_view_shows_cells_lanes_speed_and_the_log() -> None:
    text = shown(board(), terminal=True)
    for part in (
        "lesions.k4.am_sam",
        "polyps.k4.am_sam",
        "2/",
        "1 running",
        "1 failed",
        "lanes 1/2 busy",
        "0.25 GPU h",
    ):
        assert part in text, part
    assert "t0000 failed" in text and "log: /logs/tiny.log" in text


def test_plain_lines_have_no_control_codes() -> None:
    text = shown(board(), terminal=False)
    assert "\x1b" not in text
    assert "2/20 trials, 1 running, 0 pruned, 1 failed" in text


def test_interrupted_sweep_states_whether_trials_finish_or_stop() -> None:
    state = board()
    state._conditions.interrupts = 1
    assert "interrupted: finishing running trials" in shown(state, terminal=False)
    assert "finishing running trials (press Ctrl-C again to stop)" in shown(state, terminal=True)
    state._conditions.interrupts = 2
    assert "interrupted: stopping running trials" in shown(state, terminal=False)
    assert "Ctrl-C" not in shown(state, terminal=True)


def test_start_of_ray_is_shown() -> None:
    state = board()
    state.wanted_lanes = 0
    assert "starting Ray, elapsed" in shown(state, terminal=False)


def test_cells_that_do_not_fit_are_cut_with_running_ones_first() -> None:
    state = board(cells=30)
    view = SweepView(Console(file=io.StringIO(), width=110), "tiny", Path("log"))
    console = Console(file=io.StringIO(), width=110, record=True)
    console.print(view._picture(state.snapshot(), room=6))
    text = console.export_text()
    assert "... and 25 more cells" in text
    assert all(row.cell in text for row in state.snapshot().rows if row.running)


def test_snapshots_from_several_threads() -> None:
    state = board()
    threads = [threading.Thread(target=lambda: [state.snapshot() for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state.snapshot().done == 2


def test_output_of_libraries_and_children_goes_to_the_log(tmp_path: Path) -> None:
    code = f"""
import ctypes, os, subprocess
from pathlib import Path
from amsam_ray.cli.progress import quiet
with quiet(Path({str(tmp_path / "a.log")!r})) as (out, err):
    print("python noise")
    os.write(2, b"C noise\\n")
    subprocess.run(["echo", "child noise"])
    print("shown", file=out, flush=True)
    print("warned", file=err, flush=True)
print("after")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("shown\nafter\n", "warned\n")
    log = (tmp_path / "a.log").read_text()
    assert all(noise in log for noise in ("python noise", "C noise", "child noise"))


def test_durations() -> None:
    assert [duration(s) for s in (12.4, 200, 7500)] == ["12 s", "3 min 20 s", "2 h 05 min"]
