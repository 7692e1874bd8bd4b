"""The recorded trials of a sweep, as the search needs them to continue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from amsam_ray.errors import InputError, Problem
from amsam_ray.records.io import list_records, load
from amsam_ray.records.schema import Record
from amsam_ray.search.cell_state import CellState, RecordedTrial
from amsam_ray.search.cells import Cell
from amsam_ray.search.recorder import outcome_of
from amsam_ray.search.sharing import share_trials
from amsam_ray.storage.base import Entry, Storage


class SweepRecords:
    """The records of one sweep. Each file is read once per run, and again only if it changes.

    Args:
        storage: where the results are.
        sweep: the sweep's id.
    """

    def __init__(self, storage: Storage, sweep: str):
        self._storage, self._sweep = storage, sweep
        self._read: dict[Entry, Record | Problem] = {}

    def refresh(self) -> None:
        """List the records and read those that are new or have changed.

        Raises:
            UnavailableError: the storage is unavailable. What was read is kept for the next call.
        """
        listed = list(list_records(self._storage, [self._sweep]))
        for entry, item in load(self._storage, [entry for entry in listed if entry not in self._read]):
            self._read[entry] = item
        self._read = {entry: self._read[entry] for entry in listed if entry in self._read}

    @property
    def records(self) -> list[Record]:
        """The records, sorted by key."""
        return [item for item in self._read.values() if isinstance(item, Record)]

    @property
    def problems(self) -> list[Problem]:
        """One problem for each file among the records that is not a record."""
        return [item for item in self._read.values() if isinstance(item, Problem)]

    @property
    def keys(self) -> set[str]:
        """Keys of all files among the records."""
        return {entry.key for entry in self._read}


def restore_cells(cells: Sequence[Cell], records: Iterable[Record]) -> list[CellState]:
    """Return the state of each cell with its recorded trials."""
    by_id = {cell.id: cell for cell in cells}
    recorded: dict[str, list[RecordedTrial]] = defaultdict(list)
    for record in records:
        if (cell := by_id.get(record.cell)) is not None:
            counts = record.config_sha256 == _expected_fingerprint(cell, record)
            recorded[cell.id].append(RecordedTrial(record.number, record.final_seed, outcome_of(record), counts))
    states = [CellState(cell, recorded[cell.id]) for cell in cells]
    share_trials(states)
    return states


def _expected_fingerprint(cell: Cell, record: Record) -> str | None:
    """Return the fingerprint of what the cell would train with the record's values; None if it refuses them."""
    params = {key: record.params[key] for key in cell.space if key in record.params}
    try:
        final = record.role == "final"
        stop_epoch = record.config.get("stop_epoch", 0)
        config = cell.config(
            params, seed=record.seed, role=record.role, published=final and record.published, stop_epoch=stop_epoch
        )
        return config.fingerprint()
    except InputError:
        return None
