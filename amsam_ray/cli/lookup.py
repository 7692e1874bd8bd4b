"""Shared by the commands that read results: the storage option, and the lookup of records and adapter files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import click

from amsam_ray.config.classes import base_label, class_label
from amsam_ray.config.datasets import path_fault
from amsam_ray.config.metrics import METRICS
from amsam_ray.errors import InputError, Problem, printable
from amsam_ray.hashing import sha256_hex
from amsam_ray.records.index import Index
from amsam_ray.records.io import parse_record
from amsam_ray.records.leaderboard import build_leaderboard
from amsam_ray.records.schema import Record
from amsam_ray.records.summary import CellSummary
from amsam_ray.records.tables import Row
from amsam_ray.storage.base import NotFoundError, Storage
from amsam_ray.storage.local import LocalStorage
from amsam_ray.storage.open import open_storage

STORAGE = click.option(
    "--storage",
    default="./results",
    show_default=True,
    metavar="URI",
    help="Folder or s3://bucket/prefix with the results.",
)


def open_results(uri: str) -> Storage:
    """Open a storage to read from.

    Raises:
        InputError: the URI is not that of a storage, or names a file or a folder that does not exist.
    """
    if fault := path_fault(uri):
        raise InputError(Problem("--storage", fault))
    storage = open_storage(uri)
    if isinstance(storage, LocalStorage) and not storage.root.is_dir():
        what = "is a file, not a storage" if storage.root.exists() else "does not exist"
        raise InputError(Problem(uri, f"{what}; give the folder with the results, or s3://bucket/prefix"))
    return storage


@contextlib.contextmanager
def open_index(uri: str, *, sweep: str | None = None) -> Iterator[tuple[Storage, Index]]:
    """Open a storage and update its index; files below ``records/`` that are not records are listed on stderr."""
    storage = open_results(uri)
    with contextlib.closing(Index(storage)) as index:
        for problem in index.update(sweep):
            click.echo(f"warning: {problem}", err=True)
        yield storage, index


def find_record(storage: Storage, index: Index, name: str) -> Record:
    """Return the record of the trial ``name``, given as ``TRIAL`` or ``SWEEP/TRIAL``.

    A cell's name, ``<dataset>.k<shots>.<method>``, selects the trial of its leaderboard row.

    Raises:
        InputError: there is no such trial, or several sweeps have one.
    """
    keys = index.find(name) or _of_cell(index, name)
    if not keys:
        what = f"is not a trial or cell in {storage.uri}; run `amsam-ray leaderboard` for a list"
        if classes := [f"{cell.dataset}.k{cell.shots}.{cell.label}" for cell in _cells_of_classes(index, name)]:
            what = f"is not one cell but those of several classes; choose from {', '.join(sorted(set(classes)))}"
        raise InputError(Problem(name, what))
    if len(keys) > 1:
        names = ", ".join(f"{key.split('/')[1]}/{name.rpartition('/')[2]}" for key in keys)
        raise InputError(Problem(name, f"is in several sweeps; use one of {names}"))
    found = parse_record(keys[0], storage.get(keys[0]))
    if isinstance(found, Problem):
        raise InputError(found)
    return found


def _of_cell(index: Index, name: str) -> list[str]:
    if printable(name) != name:
        return []
    sweep, _, cell = name.rpartition("/")
    cells = [c for c in index.cells(sweep or None) if f"{c.dataset}.k{c.shots}.{c.label}" == cell]
    rows = build_leaderboard(cells, published=False, remember=index.remember)
    return [key for row in rows for key in index.find(f"{row['sweep']}/{row['trial']}")]


_CLASSES = re.compile(
    r"(?:(?P<sweep>[^/]+)/)?(?P<dataset>[a-z0-9_-]+)\.k(?P<shots>[0-9]{1,9})(?:\.(?P<method>[a-z0-9_-]+))?"
)


def find_class_trials(name: str, storage: str) -> dict[str, str]:
    """Return the trial, as ``SWEEP/TRIAL``, of the best model of each class; empty if ``name`` is not that of classes.

    Args:
        name: ``<dataset>.k<shots>.<method>``, or without the method for the method that scores best on the selection
            images of each class; ``SWEEP/`` before it selects one sweep.
        storage: URI of the results.

    Raises:
        InputError: no class of the dataset has a trained model of that kind.
    """
    found = _CLASSES.fullmatch(name)
    if found is None or Path(name).exists():
        return {}
    with open_index(storage) as (_, index):
        cells = _cells_of_classes(index, name)
        if not cells or _of_cell(index, name):
            return {}
        rows = [r for r in build_leaderboard(cells, published=False, remember=index.remember) if r["source"] == "run"]
    trained = [row for row in rows if row["adapter"] and found["method"] in (None, row["method"])]
    if not trained:
        methods = ", ".join(sorted({row["method"] for row in rows if row["adapter"]})) or "none yet"
        what = f"has no adapter file of a class; choose a trained method with finals ({methods})"
        raise InputError(Problem(name, what))
    best: dict[str, Row] = {}
    for row in trained:
        one = class_label(row["dataset"]) or ""
        if one not in best or _selection(row) > _selection(best[one]):
            best[one] = row
    return {one: f"{row['sweep']}/{row['trial']}" for one, row in sorted(best.items())}


def _cells_of_classes(index: Index, name: str) -> list[CellSummary]:
    """Return the cells of all classes of a dataset, given as ``<dataset>.k<shots>``, whatever follows."""
    found = _CLASSES.fullmatch(name)
    if found is None:
        return []
    cells = (cell for cell in index.cells(found["sweep"]) if cell.shots == int(found["shots"]))
    return [cell for cell in cells if class_label(cell.dataset) and base_label(cell.dataset) == found["dataset"]]


def _selection(row: Row) -> float:
    """Return a row's score on the selection images, signed so that larger is better: test scores select nothing."""
    scores = ((info, row.get(f"val_{name}")) for name, info in METRICS.items())
    return next((score if info.maximise else -score for info, score in scores if score is not None), float("-inf"))


@contextlib.contextmanager
def naming(adapter: str) -> Iterator[None]:
    """Report problems of an adapter file's content under the name that the user gave."""
    from amsam_ray.inference.adapter_file import AdapterFileError  # imports torch

    try:
        yield
    except AdapterFileError as error:
        raise InputError(Problem(adapter, problem.what) for problem in error.problems) from error


def read_adapter(name: str, storage: str) -> bytes:
    """Return the content of an adapter file.

    Args:
        name: a local file, ``s3://bucket/key``, or a trial or cell in ``storage``.
        storage: URI, used for trials and cells only.

    Raises:
        InputError: there is no such adapter file, or its SHA-256 is not that in the trial's record.
    """
    wanted = None
    if name.startswith("s3://"):
        folder, _, file = name.rpartition("/")
        source, key = open_storage(folder), file
    elif fault := path_fault(name):
        raise InputError(Problem(name[:200], fault))
    elif Path(name).is_file():
        from amsam_ray.models.tensor_file import read_content  # imports torch

        return read_content(Path(name))
    elif name.endswith(".safetensors"):
        raise InputError(Problem(name, "does not exist; give an adapter file, a trial or a cell"))
    else:
        with open_index(storage) as (source, index):
            record = find_record(source, index, name)
        if record.adapter is None:
            what = f"has no adapter file ({record.role}, {record.status}); use a completed final of a trained method"
            raise InputError(Problem(record.trial, what))
        key, wanted = record.adapter, record.adapter_sha256
    try:
        content = source.get(key)
    except NotFoundError as error:
        raise InputError(Problem(name, f"{error} Restore it, or choose another trial.")) from None
    if wanted is not None and (found := sha256_hex(content)) != wanted:
        what = f"{key} has SHA-256 {found}, and its record states {wanted}; restore the file from a backup"
        raise InputError(Problem(name, what))
    return content
