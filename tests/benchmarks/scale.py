"""What many lanes cost the driver. ``python -m tests.benchmarks.scale [--json] [--lanes 8 64 1000] [--trials N]``.

A simulated sweep for each number of lanes: real dispatcher, cells, TPE studies, ASHA and observers in this process, and
lanes that are entries of a queue. A trial reaches two rungs and ends after ``TRIAL_S`` of virtual time, give or take
a tenth. Every figure is processor time of this process, so other programs on the machine disturb it little:

- ``heartbeat_us``, ``rung_us``: of one such event. A lane sends a heartbeat a second while it waits for an event.
- ``end_ms``: of the end of a trial and the start of the next, its suggestion included; mean, and of the last tenth.
- ``suggest_ms``: of the suggestion alone, in a cell with that many finished trials.
- ``status_ms``: of one status for the terminal and the lease.
- ``dashboard_ms``: to read a record and write its curves and journal entry.
- ``mib_per_1000``: resident memory per 1,000 recorded trials.
- ``tune_result_ms`` (``--tune``, which starts Ray): the driver's time for one lane result in Ray Tune's loop.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TRIAL_S = 120.0
RUNGS = 2
CELLS = 12


@dataclass
class _Lane:
    """A simulated lane: it receives what the dispatcher sends to a mailbox."""

    trial: Any = None
    ticket: int = 0
    stop: bool = False

    def post(self, ticket: int, trial: Any) -> None:
        self.trial, self.stop = trial, False
        self.ticket = ticket

    def decide(self, ticket: int, epoch: int, stop: bool) -> None:
        self.stop = stop


class _NoGroups:
    def remove(self, group: str) -> None:
        """There is none."""

    def remove_others(self, known: Collection[str]) -> None:
        """There is none."""


@dataclass
class _Meter:
    """Processor time by kind of event, in seconds."""

    times: dict[str, list[float]] = field(default_factory=dict)

    def run(self, kind: str, call: Callable[..., Any], *arguments: Any) -> Any:
        begun = time.process_time()
        result = call(*arguments)
        self.times.setdefault(kind, []).append(time.process_time() - begun)
        return result

    def mean(self, kind: str) -> float:
        return statistics.fmean(self.times[kind])

    def last_tenth(self, kind: str) -> float:
        times = self.times[kind]
        return statistics.fmean(times[-max(1, len(times) // 10) :])


def simulate(lanes: int, trials: int) -> dict[str, float]:
    """Run a simulated sweep of ``trials`` in ``lanes`` and return its figures."""
    from amsam_ray.search.budget import Budget, StopConditions
    from amsam_ray.search.cell_state import CellState
    from amsam_ray.search.cells import make_cells
    from amsam_ray.search.dispatcher import Dispatcher
    from amsam_ray.search.observers import EventLog, StartupLog
    from amsam_ray.search.state import SweepState
    from amsam_ray.search.status import StatusObserver
    from amsam_ray.search.trials import LaneEvent, TrialOutcome
    from tests.search.fakes import quality
    from tests.search.spaces import LAMBDA, LR, space

    source = space(
        datasets=4,
        shots=(4, 8, 16),
        trials=max(2, trials // CELLS),
        sampler="tpe",
        epochs=27,
        scheduler={"name": "asha", "grace_epochs": 3, "reduction": 3},
        space={"lr": LR, "lambda": LAMBDA, "alpha": {"uniform": [0.5, 1.0]}, "rank": {"choice": [2, 4, 8]}},
        finals={"top_k": 1, "seeds": 1},
        resources={"lanes": lanes},
    )
    memory = _resident()
    conditions = StopConditions(Budget())
    states = [CellState(cell) for cell in make_cells(source)]
    status = StatusObserver(states, conditions)
    status.lanes_now, status.wanted_lanes = (lambda: lanes), lanes
    state = SweepState(states, 2, lambda trial, outcome: outcome, conditions.abort)
    mailboxes: dict[str, _Lane] = {}
    dispatcher = Dispatcher(
        state,
        capacity=lambda: lanes,
        may_start=conditions.may_start,
        observers=[conditions, status, EventLog(), StartupLog(time.time())],
        connect=lambda name: mailboxes.setdefault(name, _Lane()),
        placement_groups=_NoGroups(),
    )
    meter, chance = _Meter(), random.Random(0)
    queue: list[tuple[float, str, int]] = []  # when, lane, how many rungs its trial has passed

    def begin(now: float, name: str) -> None:
        heapq.heappush(queue, (now + TRIAL_S / (RUNGS + 1) * chance.uniform(0.9, 1.1), name, 0))

    for number in range(lanes):
        name = f"lane{number}"
        if meter.run("open", dispatcher.open_lane, name):
            meter.run("start", dispatcher.handle, name, name, LaneEvent("ready"))
            begin(chance.uniform(0, TRIAL_S), name)
    done = 0
    while queue:
        now, name, rungs = heapq.heappop(queue)
        lane = mailboxes[name]
        if lane.trial is None:
            continue
        trial, score = lane.trial, quality(lane.trial.config)
        meter.run("heartbeat", dispatcher.handle, name, name, None)
        if rungs < min(RUNGS, len(trial.rungs)) and not lane.stop:
            event = LaneEvent("rung", lane.ticket, epoch=trial.rungs[rungs], score=score)
            meter.run("rung", dispatcher.handle, name, name, event)
            heapq.heappush(queue, (now + TRIAL_S / (RUNGS + 1) * chance.uniform(0.9, 1.1), name, rungs + 1))
            continue
        outcome = TrialOutcome(
            trial.trial_id,
            "pruned" if lane.stop else "completed",
            score=score,
            params={key: trial.config.params.as_dict()[key] for key in trial.searched},
            seconds=TRIAL_S,
        )
        lane.trial = None
        end = LaneEvent("end", lane.ticket, outcome=outcome)
        keep = meter.run("end", dispatcher.handle, name, name, end)
        done += 1
        if done % 100 == 0:
            meter.run("status", lambda: json.dumps(status.snapshot().as_dict()))
        if keep:
            begin(now, name)
        else:
            dispatcher.lane_closed(name)
    return {
        "recorded": done,
        "heartbeat_us": round(1e6 * meter.mean("heartbeat"), 1),
        "rung_us": round(1e6 * meter.mean("rung"), 1),
        "end_ms": round(1e3 * meter.mean("end"), 2),
        "end_late_ms": round(1e3 * meter.last_tenth("end"), 2),
        "status_ms": round(1e3 * meter.mean("status"), 2) if "status" in meter.times else 0.0,
        "mib_per_1000": round((_resident() - memory) / 2**20 / done * 1000, 1),
    }


def suggestions(finished: int, running: int) -> float:
    """Return the milliseconds of a TPE suggestion in a cell with so many finished and running trials."""
    from amsam_ray.search.study import CellStudy
    from amsam_ray.search.trials import TrialOutcome
    from tests.search.spaces import LAMBDA, LR, one_cell

    keys = {"lr": LR, "lambda": LAMBDA, "alpha": {"uniform": [0.5, 1.0]}, "rank": {"choice": [2, 4, 8]}}
    study = CellStudy(one_cell(sampler="tpe", trials=10**6, space=keys))
    filler = CellStudy(one_cell(sampler="random", trials=10**6, space=keys))
    for number in range(finished):
        params = filler.ask(number)
        study.restore(number, TrialOutcome(str(number), "completed", score=float(params["lambda"]), params=params))
    for number in range(finished, finished + running):
        study.ask(number, filler.ask(number))  # not suggested: that would take long
    times = []
    for number in range(finished + running, finished + running + 7):
        begun = time.process_time()
        params = study.ask(number)
        times.append(time.process_time() - begun)
        study.tell(number, TrialOutcome(str(number), "completed", score=float(params["lambda"]), params=params))
    return round(1e3 * statistics.median(times), 1)


def dashboards(trials: int = 300) -> float:
    """Return the milliseconds of the thread that writes the dashboards, per recorded trial, on a local disk."""
    from amsam_ray.search.cell_state import CellState
    from amsam_ray.search.dashboards import DashboardWriter
    from amsam_ray.search.recorder import Recorder
    from amsam_ray.storage.open import open_storage
    from tests.search import fakes
    from tests.search.spaces import one_cell

    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        os.environ["AMSAM_CACHE_DIR"] = f"{folder}/cache"
        state = CellState(one_cell(trials=trials, epochs=50))
        recorder = Recorder(f"{folder}/results", "scale-00000000")
        recorded = []
        for _ in range(trials):
            trial = state.next_trial()
            assert trial is not None
            result = fakes.train(trial.config, cache_dir=Path(folder), work_dir=Path(folder))
            recorded.append((trial, recorder.write(trial, result, {}, time.time(), {})))
        recorder.close(0)
        writer = DashboardWriter(open_storage(f"{folder}/results"), "scale-00000000", [state])
        begun = time.process_time()
        for trial, outcome in recorded:
            writer.trial_ended(trial, outcome, outcome)
        writer.close()
        return round(1e3 * (time.process_time() - begun) / trials, 2)


def tune_results(lanes: int = 4, seconds: float = 8.0) -> dict[str, float]:
    """Return the driver's processor time per lane result in Ray Tune's loop, with lanes that always have one."""
    from amsam_ray.search.ray.cluster import connected

    with connected(None) as scratch:
        from ray import tune

        class Busy(tune.Trainable):
            def step(self) -> dict[str, Any]:
                return {"event": None, "mailbox": "", "done": time.time() > self.config["until"]}

        begun, until = time.process_time(), time.time() + 15 + seconds  # workers need some seconds to start
        results = tune.Tuner(
            tune.with_resources(Busy, tune.PlacementGroupFactory([{"CPU": 0.001}])),
            param_space={"until": until},
            tune_config=tune.TuneConfig(num_samples=lanes),
            run_config=tune.RunConfig(
                storage_path=str(scratch / "tune"),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
        used = time.process_time() - begun
        count = sum(int((results[index].metrics or {})["training_iteration"]) for index in range(len(results)))
    return {"tune_results": count, "tune_result_ms": round(1e3 * used / count, 3)}


def _resident() -> int:
    """Return this process's resident memory, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Print one line per figure, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--lanes", type=int, nargs="+", default=[8, 64, 1000])
    parser.add_argument("--trials", type=int, default=3000, help="of each simulated sweep")
    parser.add_argument("--tune", action="store_true", help="measure Ray Tune's loop too; starts Ray")
    given = parser.parse_args()
    result: dict[str, Any] = {f"lanes_{lanes}": simulate(lanes, given.trials) for lanes in given.lanes}
    result["suggest_ms"] = {
        f"{finished}_finished_{running}_running": suggestions(finished, running)
        for finished, running in ((100, 1), (100, 83), (1000, 1), (1000, 83), (3000, 83))
    }
    result["dashboard_ms"] = dashboards()
    if given.tune:
        result |= tune_results()
    print(json.dumps(result) if given.json else "\n".join(f"{name:<16}{value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
