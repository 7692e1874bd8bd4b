"""Results of sweeps as pandas DataFrames, for notebooks. Part of the public API (``docs/api.md``)."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from amsam_ray.errors import Problem

if TYPE_CHECKING:
    import pandas as pd

    from amsam_ray.records.schema import Record

_FIELDS = (
    *("sweep", "trial", "dataset", "shots", "method", "label", "role", "status", "reason", "seed", "shot_seed"),
    *("backbone", "metric", "maximise", "best_epoch", "epochs_run", "trained_params", "prompt_coverage"),
    *("started", "seconds", "gpu_seconds", "peak_memory_bytes", "adapter"),
)


def read_records(storage: str | os.PathLike[str], sweep: str | None = None) -> pd.DataFrame:
    """Return the records of a storage, one row per trial.

    Args:
        storage: a folder or ``s3://bucket/prefix``.
        sweep: id of one sweep; None: all sweeps.

    Returns:
        One row per record, sorted by sweep and trial. The columns are fields of
        ``amsam_ray.records.schema.Record``, then ``val_<metric>`` and ``test_<metric>`` (fractions or pixels, as in
        ``amsam_ray.config.metrics``; missing without a test), then the hyperparameters that act in the trial, under
        their names in space files. Files that are not records are skipped with a warning.

    Raises:
        InputError: the storage's URI is invalid.
        StorageError: the storage cannot be reached.

    Example:
        >>> records = read_records("results")  # doctest: +SKIP
        >>> records.groupby("method")["val_dice"].max()  # doctest: +SKIP
    """
    import pandas as pd

    from amsam_ray.records import io
    from amsam_ray.storage.open import open_storage

    records, problems = io.read_records(open_storage(storage), sweep)
    _warn(problems)
    rows = [_row(record) for record in records]
    return pd.DataFrame(rows, columns=None if rows else list(_FIELDS))


def leaderboard(
    storage: str | os.PathLike[str],
    *,
    datasets: Collection[str] | None = None,
    shots: Collection[int] | None = None,
    published: bool = True,
) -> pd.DataFrame:
    """Return the leaderboard of a storage, computed from its records.

    Args:
        storage: a folder or ``s3://bucket/prefix``.
        datasets: labels of datasets; None: all.
        shots: numbers of shots; None: all.
        published: whether to include the papers' rows.

    Returns:
        One row per (dataset, shots, method), best first within each dataset. ``docs/results.md`` describes the
        columns; scores are fractions or pixels. Files that are not records are skipped with a warning.

    Raises:
        InputError: the storage's URI is invalid.
        StorageError: the storage cannot be reached.

    Example:
        >>> board = leaderboard("results", datasets=["lesion"])  # doctest: +SKIP
        >>> board[["shots", "method", "dice_mean"]]  # doctest: +SKIP
    """
    import pandas as pd

    from amsam_ray.records.index import Index
    from amsam_ray.records.leaderboard import build_leaderboard
    from amsam_ray.records.tables import columns
    from amsam_ray.storage.open import open_storage

    with contextlib.closing(Index(open_storage(storage))) as index:
        _warn(index.update())
        rows = build_leaderboard(
            index.cells(), datasets=datasets, shots=shots, published=published, remember=index.remember
        )
    return pd.DataFrame(rows, columns=columns(rows))


def _row(record: Record) -> dict[str, Any]:
    from amsam_ray.records.leaderboard import acting_params

    row = {name: getattr(record, name) for name in _FIELDS}
    row |= {f"val_{metric}": score for metric, score in record.val.items()}
    row |= {f"test_{metric}": score for metric, score in (record.test or {}).items()}
    return row | acting_params(record.method, record.params)


def _warn(problems: Iterable[Problem]) -> None:
    for problem in problems:
        warnings.warn(f"skipped {problem}", stacklevel=3)
