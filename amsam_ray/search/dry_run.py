"""The plan of a sweep, and an estimate of its duration from one short trial."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from amsam_ray.config.methods import METHODS
from amsam_ray.config.space import SpaceFile
from amsam_ray.errors import InputError, counted
from amsam_ray.records.tables import duration
from amsam_ray.search.cell_state import CellState
from amsam_ray.search.cells import make_cells
from amsam_ray.search.checks import check_sweep, with_named_classes
from amsam_ray.search.lane_memory import lane_memory
from amsam_ray.search.lane_size import GIB, LaneSize
from amsam_ray.search.manifest import choose_sweep
from amsam_ray.search.options import RunOptions
from amsam_ray.search.prior import describe_prior
from amsam_ray.search.ray.cluster import connected
from amsam_ray.search.resume import SweepRecords, restore_cells
from amsam_ray.storage.open import open_storage

if TYPE_CHECKING:
    from amsam_ray.search.ray.probe import Probe


def expected_epochs(rungs: tuple[int, ...], reduction: float, epochs: int) -> float:
    """Return the mean number of epochs of a trial if one in ``reduction`` trials passes each rung."""
    total, share, previous = 0.0, 1.0, 0
    for epoch in (*rungs, epochs):
        total += share * (epoch - previous)
        share, previous = share / reduction, epoch
    return total


def plan_sweep(space: SpaceFile, storage_uri: str, options: RunOptions) -> Iterator[str]:
    """Yield lines that describe what would run, where, and for about how long. Writes nothing to the storage.

    Raises:
        InputError: as ``run_sweep``, or a trial would refuse its data.
        AmsamError: the probe failed.
    """
    if problems := check_sweep(space, storage_uri, options):
        raise InputError(problems)
    space, storage = with_named_classes(space), open_storage(storage_uri)
    manifest = choose_sweep(storage, space, extend=options.extend, fresh=options.fresh)
    records = SweepRecords(storage, manifest.sweep)
    if manifest.exists:
        records.refresh()
    states = restore_cells(make_cells(space, manifest.prior), records.records)
    yield f"Sweep {manifest.sweep} in {storage_uri}: {'continues' if manifest.exists else 'begins'}"
    if manifest.note:
        yield f"note: {manifest.note}"
    if space.search.prior:
        yield describe_prior(manifest.prior, space)
    for problem in records.problems:
        yield f"warning: {problem}"
    for state in states:
        searched = ", ".join(state.cell.space) or "nothing to search"
        amount = f"{counted(state.size, 'trial')}, {counted(state.planned - state.size, 'final')}"
        yield f"  {state.cell.id}: {amount}, {state.done} recorded ({searched})"
    remaining = sum(state.planned - state.done for state in states)
    planned = counted(sum(state.planned for state in states), "trial")
    yield f"{counted(len(states), 'cell')}, {planned}, {remaining} to run"
    if not remaining:
        return
    with connected(options.address):
        from amsam_ray.search.ray.capacity import Capacity

        told: list[str] = []
        remote = options.address is not None
        capacity = Capacity(space.resources, remote=remote, memory=lane_memory(space), tell=told.append)
        size, lanes = capacity.size, capacity.wanted
        each_lane = f"{counted(size.workers, 'worker')} of {size.cpus:g} CPU and {size.gpus:g} GPU"
        yield f"{counted(lanes, 'lane')}, each {each_lane}; {min(lanes, capacity.lanes())} fit now"
        if size.memory:
            source = "an estimate" if space.resources.memory_gib == "auto" else "resources.memory_gib"
            yield f"A lane needs {size.total_memory_gib:.1f} GiB of memory by {source}"
        yield from (f"warning: {lack}" for lack in told)
        from amsam_ray.search.ray.probe import probe_remotely

        busiest = max(filter(_trains, states), key=lambda state: state.cell.shots, default=states[-1])
        measured = probe_remotely(busiest, size, options.trial_function)
        yield f"Probe of {busiest.cell.id}: first epoch {measured.first_s:.1f} s, then {measured.epoch_s:.2f} s each"
        yield from _memory(measured, size)
        seconds = _seconds(states, measured, busiest, lanes)
        gpu_hours = seconds * lanes * size.total_gpus / 3600
        cost = f" and {gpu_hours:.2g} GPU hours" if gpu_hours else ""
        yield f"About {duration(seconds)}{cost}, without the time for test scores"


def _memory(measured: Probe, size: LaneSize) -> Iterator[str]:
    """Yield what the probe took in memory, and where that is more than a lane's share."""
    of_gpu = f"{measured.gpu / GIB:.1f} GiB of its GPU's {measured.gpu_total / GIB:.1f} GiB"
    yield f"It took {measured.host / GIB:.1f} GiB of memory{f', and {of_gpu}' if measured.gpu else ''}"
    if 0 < size.memory < measured.host:
        remedy = f"set resources.memory_gib to at least {math.ceil(10 * size.workers * measured.host / GIB) / 10:.1f}"
        yield f"warning: that is more than the {size.memory / GIB:.2f} GiB of a lane's worker; {remedy}"
    share = min(size.gpus, 1.0) * measured.gpu_total
    if 0 < share < measured.gpu:
        lanes = measured.gpu_total // measured.gpu
        remedy = f"set resources.gpus_per_lane to at least {1 / lanes:.2g}" if lanes else "lower train.batch_size"
        yield f"warning: that is more of the GPU than a lane's share of {share / GIB:.1f} GiB; {remedy}"


def _trains(state: CellState) -> bool:
    return METHODS[state.cell.entry.name].trainable


def _seconds(states: list[CellState], measured: Probe, busiest: CellState, lanes: int) -> float:
    """Return the wall time of the remaining trials, assuming that epochs take time proportional to the shots."""
    seconds = 0.0
    for each in states:
        if not _trains(each):
            continue
        scheduler, epochs = each.cell.source.search.scheduler, each.cell.source.train.epochs
        epoch_s = measured.epoch_s * each.cell.shots / busiest.cell.shots
        trials, finals = each.size - len(each.searched), each.planned - each.size - len(each.finals)
        folds = each.cell.source.selection.fold_count
        searching = trials * expected_epochs(each.rungs, scheduler.reduction, epochs * folds)
        seconds += epoch_s * (searching + finals * epochs)
    return measured.first_s + seconds / lanes
