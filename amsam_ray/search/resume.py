"""What earlier runs of a sweep have left in storage, as the search needs it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from amsam_ray.errors import InputError, Problem
from amsam_ray.records.io import read_records
from amsam_ray.records.schema import Record
from amsam_ray.search.cells import Cell
from amsam_ray.search.progress import Remembered
from amsam_ray.search.recording import outcome_of
from amsam_ray.storage.base import Storage


def read_history(
    storage: Storage, sweep: str, cells: Sequence[Cell]
) -> tuple[dict[str, list[Remembered]], list[Problem]]:
    """The recorded trials of each cell, by cell id, and the files among the records that could not be read."""
    records, problems = read_records(storage, sweep)
    by_id = {cell.id: cell for cell in cells}
    found: dict[str, list[Remembered]] = defaultdict(list)
    for record in records:
        if (cell := by_id.get(record.cell)) is not None:
            counts = record.config_sha256 == _wanted(cell, record)
            found[cell.id].append(Remembered(record.number, record.final_seed, outcome_of(record), counts))
    return found, problems


def _wanted(cell: Cell, record: Record) -> str | None:
    """Fingerprint of what the cell would train with the record's searched values; None: it cannot have them."""
    params = {key: record.params[key] for key in cell.space if key in record.params}
    try:
        return cell.config(params, seed=record.seed, role=record.role).fingerprint()
    except InputError:
        return None
