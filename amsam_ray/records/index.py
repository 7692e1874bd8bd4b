"""A local index of the records in a storage: this machine reads each record once.

The index is a cache that is computed from the records; it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from amsam_ray.errors import AmsamError, Problem, printable
from amsam_ray.hashing import sha256_hex
from amsam_ray.paths import index_dir
from amsam_ray.records.io import list_records, list_sweeps, load, records_folder
from amsam_ray.records.schema import Record
from amsam_ray.records.summary import CellSummary, RecordSummary
from amsam_ray.storage.base import Entry, Storage

T = TypeVar("T")

_BATCH = 500
_LOCK_TIMEOUT_S = 60.0  # how long to wait for other processes that write to the index
_COMPLETED, _PRUNED, _FAILED = 2, 1, 0
_CellKey = tuple[str, str, int, str]  # sweep, dataset, shots, label
_LAYOUT = 7  # raise it whenever the tables or RecordSummary change; older files are then rebuilt
_TABLES = """
CREATE TABLE files (
    key TEXT PRIMARY KEY, stamp TEXT NOT NULL, sweep TEXT NOT NULL, problem TEXT,
    dataset TEXT, shots INTEGER, label TEXT, number INTEGER, trial TEXT, role TEXT, standing INTEGER,
    rank REAL, seconds REAL, gpu_seconds REAL
) WITHOUT ROWID;
CREATE INDEX cells ON files (
    sweep, dataset, shots, label, role, standing DESC, rank DESC, number, trial, seconds, gpu_seconds
);
CREATE TABLE briefs (key TEXT PRIMARY KEY, brief TEXT NOT NULL, scores BLOB NOT NULL);
CREATE TABLE folders (sweep TEXT PRIMARY KEY, stamp TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE memos (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_INSERT = f"INSERT OR REPLACE INTO files VALUES ({', '.join('?' * 14)})"  # noqa: S608 - question marks only
_SWEEPS = "SELECT DISTINCT sweep FROM files"
_INSERT_SUMMARY = "INSERT OR REPLACE INTO briefs VALUES (?, ?, ?)"


class Index:
    """The records of one storage, summarised in an SQLite file.

    Args:
        storage: the storage of the records.
        folder: folder of the index file, by default ``index_dir()``. Processes may share it.

    Raises:
        AmsamError: the folder cannot hold an index.
    """

    def __init__(self, storage: Storage, folder: Path | None = None):
        self._storage = storage
        folder = index_dir() if folder is None else folder
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        name = sha256_hex(f"{endpoint if storage.uri.startswith('s3:') else ''} {storage.uri}")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path = folder / f"{name[:32]}.sqlite"
            self._db = _open(self._path)
        except (OSError, sqlite3.Error) as error:
            raise AmsamError(
                f"{folder} cannot hold an index ({error}); free some space or set AMSAM_CACHE_DIR."
            ) from error

    def update(self, sweep: str | None = None) -> list[Problem]:
        """Read new and changed records of one sweep or of all, and forget deleted ones.

        A folder that has not changed since it was read is not listed again.

        Returns:
            One problem for each file that is not a record, including those found earlier.
        """
        return self._repaired(lambda: self._update(sweep))

    def _update(self, sweep: str | None) -> list[Problem]:
        sweeps = [sweep] if sweep is not None else list_sweeps(self._storage)
        # Taken before anything is listed: a write during the listing makes the folder look changed the next time.
        stamps = {name: self._storage.folder_stamp(records_folder(name)) for name in sweeps}
        settled = dict(self._db.execute("SELECT sweep, stamp FROM folders"))
        changed = [name for name in sweeps if stamps[name] is None or settled.get(name) != stamps[name]]
        removed = [] if sweep is not None else [n for (n,) in self._db.execute(_SWEEPS) if n not in stamps]
        self._read_changes(changed, removed)
        with self._transaction():
            read = ((name, stamp) for name in changed if (stamp := stamps[name]) is not None)
            self._db.executemany("INSERT OR REPLACE INTO folders VALUES (?, ?)", read)
        where, values = ("AND sweep = ?", (sweep,)) if sweep is not None else ("", ())
        faults = self._db.execute(f"SELECT key, problem FROM files WHERE problem NOT NULL {where}", values)  # noqa: S608
        return [Problem(key, problem) for key, problem in faults]

    def _read_changes(self, changed: Sequence[str], removed: Sequence[str]) -> None:
        """Bring the tables up to date with the records of the sweeps ``changed``, and empty them of ``removed``."""
        known: dict[str, str] = {}
        for name in (*changed, *removed):
            known.update(self._db.execute("SELECT key, stamp FROM files WHERE sweep = ?", (name,)))
        entries = list_records(self._storage, changed)
        fresh = [entry for entry in entries if known.pop(entry.key, None) != entry.stamp]
        if known:
            with self._transaction():
                self._db.executemany("DELETE FROM files WHERE key = ?", ((key,) for key in known))
                self._db.executemany("DELETE FROM briefs WHERE key = ?", ((key,) for key in known))
        found = load(self._storage, fresh)
        while batch := list(islice(found, _BATCH)):  # other processes wait for one batch at most
            with self._transaction():
                self._db.executemany(_INSERT, (_row(entry, item) for entry, item in batch))
                summaries = (RecordSummary.of(item) for _, item in batch if isinstance(item, Record))
                self._db.executemany(_INSERT_SUMMARY, ((summary.key, *summary.dump()) for summary in summaries))

    def cells(self, sweep: str | None = None) -> list[CellSummary]:
        """Return the cells of one sweep or of all, sorted by sweep, dataset, shots and label."""

        def read() -> list[CellSummary]:
            with self._transaction("DEFERRED"):  # both queries see the same records
                return self._cells(sweep)

        return self._repaired(read, sweep)

    def _repaired(self, read: Callable[[], T], sweep: str | None = None) -> T:
        """Return ``read()``; if the index file turns out to be damaged, after building it anew."""
        try:
            return read()
        except (ValueError, TypeError, KeyError, sqlite3.DatabaseError) as error:
            if isinstance(error, sqlite3.DatabaseError) and _is_locked(error):
                raise
            self._db.close()
            _remove(self._path)
            self._db = _open(self._path)
            self._update(sweep)
            return read()

    def _cells(self, sweep: str | None) -> list[CellSummary]:
        where, values = ("AND sweep = ?", (sweep,)) if sweep is not None else ("", ())
        finals: dict[_CellKey, list[RecordSummary]] = {}
        best: dict[_CellKey, RecordSummary] = {}
        chosen = f"""
            SELECT role, brief, scores FROM (
                SELECT key, role, standing, number, trial, ROW_NUMBER() OVER (
                    PARTITION BY sweep, dataset, shots, label, role ORDER BY standing DESC, rank DESC, number, trial
                ) AS place FROM files WHERE role NOT NULL {where}
            ) JOIN briefs USING (key)
            WHERE place = 1 OR (role = 'final' AND standing = {_COMPLETED}) ORDER BY number, trial"""  # noqa: S608
        for role, text, scores in self._db.execute(chosen, values):
            summary = RecordSummary.load(text, scores)
            if role == "final" and summary.status == "completed":
                finals.setdefault(_cell_key(summary), []).append(summary)
            if role == "search" or _cell_key(summary) not in best:
                best[_cell_key(summary)] = summary
        searched = f"""
            SELECT brief, scores FROM briefs JOIN files AS search USING (key)
            WHERE role = 'search' {where} AND EXISTS (
                SELECT 1 FROM files AS final WHERE final.role = 'final' AND final.standing = {_COMPLETED}
                AND final.number = search.number AND final.sweep = search.sweep AND final.dataset = search.dataset
                AND final.shots = search.shots AND final.label = search.label
            ) ORDER BY number"""  # noqa: S608
        chosen_scores: dict[_CellKey, dict[int, float | None]] = {}
        for text, scores in self._db.execute(searched, values):
            summary = RecordSummary.load(text, scores)
            chosen_scores.setdefault(_cell_key(summary), {})[summary.number] = summary.score
        counts = f"""
            SELECT sweep, dataset, shots, label, SUM(role = 'search'),
                SUM(role = 'search' AND standing = {_PRUNED}), SUM(role = 'search' AND standing = {_FAILED}),
                SUM(seconds), SUM(gpu_seconds)
            FROM files WHERE role NOT NULL {where} GROUP BY sweep, dataset, shots, label"""  # noqa: S608
        rows = self._db.execute(counts, values)
        names = ("sweep", "dataset", "shots", "label", "trials", "pruned", "failed", "seconds", "gpu_seconds")
        return [
            CellSummary(
                **dict(zip(names, row, strict=True)),
                best=best[row[:4]],
                finals=tuple(finals.get(row[:4], ())),
                scores=chosen_scores.get(row[:4], {}),
            )
            for row in rows
        ]

    def find(self, name: str) -> list[str]:
        """Return the sorted keys of the records of trial ``name``, or of ``sweep/trial``."""
        if printable(name) != name:  # SQLite refuses halves of surrogate pairs, and no id has such characters
            return []
        sweep, _, trial = name.rpartition("/")
        rows = self._db.execute(
            "SELECT key FROM files WHERE trial = ? AND (? = '' OR sweep = ?) ORDER BY key", (trial, sweep, sweep)
        )
        return [key for (key,) in rows]

    def remember(self, key: str, compute: Callable[[], list[float | None]]) -> list[float | None]:
        """Return ``compute()``, called once per ``key``; ``key`` must state everything that the value depends on."""
        row = self._db.execute("SELECT value FROM memos WHERE key = ?", (key,)).fetchone()
        if row is None:
            value = compute()
            self._db.execute("INSERT OR REPLACE INTO memos VALUES (?, ?)", (key, json.dumps(value)))
            return value
        found: list[float | None] = json.loads(row[0])
        return found

    def close(self) -> None:
        """Close the index file."""
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        self._db.execute(f"BEGIN {kind}")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _open(path: Path) -> sqlite3.Connection:
    """Open the database at ``path``; rebuild it if it is damaged or has another layout."""
    deadline, attempts = time.monotonic() + _LOCK_TIMEOUT_S, 2
    while attempts:
        db = sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, isolation_level=None)
        try:
            layout = _prepare(db)
        except sqlite3.DatabaseError as error:
            if _is_locked(error):
                db.close()
                # SQLite does not wait if processes switch a new file to its write-ahead log at the same time.
                if time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.01, 0.1))
                continue
        else:
            if layout in (0, _LAYOUT):
                return db
        db.close()
        _remove(path)
        attempts -= 1
    raise sqlite3.DatabaseError(f"{path} cannot be created")


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _is_locked(error: sqlite3.DatabaseError) -> bool:
    primary_code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return primary_code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _prepare(db: sqlite3.Connection) -> int:
    """Create the tables if there are none; return the layout that was found, 0 for none."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("BEGIN IMMEDIATE")
    (layout,) = db.execute("PRAGMA user_version").fetchone()
    if layout == 0:
        for statement in _TABLES.split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {_LAYOUT}")
    db.execute("COMMIT")
    return int(layout)


def _cell_key(summary: RecordSummary) -> _CellKey:
    return summary.sweep, summary.dataset, summary.shots, summary.label


def _row(entry: Entry, item: Record | Problem) -> tuple[object, ...]:
    if isinstance(item, Problem):
        return (entry.key, entry.stamp, entry.key.split("/")[1], item.what, *[None] * 10)
    rank = None if item.score is None else item.score if item.maximise else -item.score
    standing = {"completed": _COMPLETED, "pruned": _PRUNED, "failed": _FAILED}[item.status]
    cell = (item.dataset, item.shots, item.label, item.number, item.trial, item.role, standing)
    return entry.key, entry.stamp, item.sweep, None, *cell, rank, item.seconds, item.gpu_seconds
