"""What a sweep would do and how long it would take, from one short trial."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from amsam_ray.config.methods import METHODS
from amsam_ray.config.space import SpaceFile
from amsam_ray.errors import InputError, counted
from amsam_ray.records.tables import duration
from amsam_ray.search.cells import make_cells
from amsam_ray.search.manifest import choose_folder
from amsam_ray.search.progress import CellProgress, ladder_epochs
from amsam_ray.search.ray.cluster import connected
from amsam_ray.search.resume import read_history
from amsam_ray.search.sweep import RunOptions, check_sweep
from amsam_ray.storage.open import open_storage

if TYPE_CHECKING:
    from amsam_ray.search.ray.probe import Probe


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
        from amsam_ray.search.ray.capacity import Capacity

        capacity = Capacity(space.resources, remote=options.address is not None)
        size, lanes = capacity.size, capacity.wanted
        each_lane = f"{counted(size.workers, 'worker')} of {size.cpus:g} CPU and {size.gpus:g} GPU"
        yield f"{counted(lanes, 'lane')}, each {each_lane}; {min(lanes, capacity.lanes())} fit now"
        busiest = max((p for p in progress if _trains(p)), key=lambda p: p.cell.shots, default=progress[-1])
        from amsam_ray.search.ray.probe import probe_remotely

        measured = probe_remotely(busiest, size, options.trial_function)
        yield f"Probe of {busiest.cell.id}: first epoch {measured.first_s:.1f} s, then {measured.epoch_s:.2f} s each"
        seconds = _seconds(progress, measured, busiest, lanes)
        gpu_hours = seconds * lanes * size.total_gpus / 3600
        cost = f" and {gpu_hours:.2g} GPU hours" if gpu_hours else ""
        yield f"About {duration(seconds)}{cost}, without the time that test scores take"


def _trains(progress: CellProgress) -> bool:
    return METHODS[progress.cell.entry.name].trainable


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
