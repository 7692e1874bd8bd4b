"""What a sweep would do and how long it would take, from one short trial."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amsam_ray.errors import AmsamError, InputError, Problem, counted
from amsam_ray.models.methods import METHODS
from amsam_ray.results.storage import open_storage
from amsam_ray.results.tables import duration
from amsam_ray.search.assignment import derived_seed
from amsam_ray.search.cells import make_cells
from amsam_ray.search.cluster import connected
from amsam_ray.search.folder import choose_folder
from amsam_ray.search.history import read_history
from amsam_ray.search.places import cache_dir
from amsam_ray.search.progress import CellProgress, ladder_epochs
from amsam_ray.search.space_model import SpaceFile
from amsam_ray.search.sweep import RunOptions, check_sweep
from amsam_ray.search.worker import load_trial_function
from amsam_ray.training.config import TrialConfig

if TYPE_CHECKING:
    from amsam_ray.search.capacity import LaneSize

_PROBE_EPOCHS = 5
_PROBE_S = 60.0


@dataclass(frozen=True)
class Probe:
    """What a short trial took.

    Attributes:
        first_s: until its first epoch was over; loading and preparing happen once per lane and once per sweep.
        epoch_s: each epoch after the first.
    """

    first_s: float
    epoch_s: float


def probe(config: TrialConfig, trial_function: str) -> Probe:
    """Run the first epochs of a trial in this process: up to five, or a minute."""
    times = [time.monotonic()]

    def report(epoch: int, score: float) -> bool:
        times.append(time.monotonic())
        return len(times) > _PROBE_EPOCHS or times[-1] - times[0] > _PROBE_S

    with tempfile.TemporaryDirectory(prefix="amsam-probe-") as work_dir:
        load_trial_function(trial_function)(
            config,
            cache_dir=cache_dir(),
            work_dir=Path(work_dir),
            rungs=tuple(range(1, config.train.epochs + 1)),
            report=report,
        )
    times.append(time.monotonic())
    epochs = max(1, len(times) - 3)
    return Probe(times[1] - times[0], (times[-2] - times[1]) / epochs if len(times) > 3 else times[1] - times[0])


def expected_epochs(rungs: tuple[int, ...], reduction: float, epochs: int) -> float:
    """Epochs of the average trial of a cell whose ladder lets one in ``reduction`` pass each rung."""
    total, share, previous = 0.0, 1.0, 0
    for epoch in (*rungs, epochs):
        total += share * (epoch - previous)
        share, previous = share / reduction, epoch
    return total


def plan_sweep(space: SpaceFile, storage_uri: str, options: RunOptions) -> Iterator[str]:
    """Lines that say what would run, on what, and for about how long. Writes nothing to the storage.

    Raises:
        InputError: as ``run_sweep``, or a trial would refuse its data.
        AmsamError: the probe failed.
    """
    if problems := check_sweep(space, storage_uri, options):
        raise InputError(problems)
    storage = open_storage(storage_uri)
    folder = choose_folder(storage, space, extend=options.extend, fresh=options.fresh)
    cells, rungs = make_cells(space), ladder_epochs(space)
    history, skipped = read_history(storage, folder.sweep, cells) if folder.exists else ({}, [])
    progress = [CellProgress(cell, rungs, history.get(cell.id, ())) for cell in cells]
    yield f"Sweep {folder.sweep} in {storage_uri}: {'continues' if folder.exists else 'begins'}"
    for problem in skipped:
        yield f"warning: {problem}"
    for each in progress:
        searched = ", ".join(each.cell.space) or "nothing to search"
        finals = each.planned - each.size
        amount = f"{counted(each.size, 'trial')}, {counted(finals, 'final')}"
        yield f"  {each.cell.id}: {amount}, {each.done} recorded ({searched})"
    left = sum(each.planned - each.done for each in progress)
    planned = counted(sum(each.planned for each in progress), "trial")
    yield f"{counted(len(cells), 'cell')}, {planned}, {left} to run"
    if not left:
        return
    with connected(options.address):
        from amsam_ray.search.capacity import Capacity

        capacity = Capacity(space.resources, remote=options.address is not None)
        size, lanes = capacity.size, capacity.wanted
        each_lane = f"{counted(size.workers, 'worker')} of {size.cpus:g} CPU and {size.gpus:g} GPU"
        yield f"{counted(lanes, 'lane')}, each {each_lane}; {min(lanes, capacity.lanes())} fit now"
        busiest = max((p for p in progress if _trains(p)), key=lambda p: p.cell.shots, default=progress[-1])
        measured = _probe_remotely(busiest, size, options.trial_function)
        yield f"Probe of {busiest.cell.id}: first epoch {measured.first_s:.1f} s, then {measured.epoch_s:.2f} s each"
        seconds = _seconds(progress, measured, busiest, lanes)
        gpu_hours = seconds * lanes * size.total_gpus / 3600
        cost = f" and {gpu_hours:.2g} GPU hours" if gpu_hours else ""
        yield f"About {duration(seconds)}{cost}, without the time that test scores take"


def _trains(progress: CellProgress) -> bool:
    return METHODS[progress.cell.entry.name].trainable


def _probe_remotely(progress: CellProgress, size: LaneSize, trial_function: str) -> Probe:
    """The probe in a process with a lane's resources, which this one may not have."""
    import ray

    params = progress.study.ask(0)
    seed = derived_seed(progress.cell.source.search.seed, progress.cell.id, 0, "trial")
    config = progress.cell.config(params, seed=seed)
    task = ray.remote(num_cpus=size.cpus, num_gpus=size.gpus, max_retries=0)(probe)
    try:
        result: Probe = ray.get(task.remote(config, trial_function))
    except ray.exceptions.RayTaskError as error:
        raise _fault_of(error.cause, progress) from error
    except ray.exceptions.RayError as error:  # the process is gone, for lack of memory perhaps
        first = str(error).strip().splitlines()[0]
        raise AmsamError(f"The probe of {progress.cell.id} came to nothing ({first}).") from error
    return result


def _fault_of(cause: Exception, progress: CellProgress) -> AmsamError:
    """What a probe raised in its own process, as every trial of the cell would raise it."""
    if isinstance(cause, AmsamError):
        return InputError(Problem(progress.cell.id, str(cause)))
    return AmsamError(f"The probe of {progress.cell.id} failed: {type(cause).__name__}: {cause}")


def _seconds(progress: list[CellProgress], measured: Probe, busiest: CellProgress, lanes: int) -> float:
    """Wall seconds of what is left, epochs taken to grow with the shots."""
    seconds = 0.0
    for each in progress:
        if not _trains(each):
            continue
        scheduler, epochs = each.cell.source.search.scheduler, each.cell.source.train.epochs
        epoch_s = measured.epoch_s * each.cell.shots / busiest.cell.shots
        trials, finals = each.size - len(each.searched), each.planned - each.size - len(each.finals)
        searching = trials * expected_epochs(each.rungs, scheduler.reduction, epochs)
        seconds += epoch_s * (searching + finals * epochs)
    return measured.first_s + seconds / lanes
