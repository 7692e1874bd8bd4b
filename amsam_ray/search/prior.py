"""First points from an earlier sweep: the best configurations that it found for the same methods."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from amsam_ray.config.methods import check_params, fixed_by_protocol, resolve_params
from amsam_ray.config.space import SpaceFile
from amsam_ray.config.space_checks import backbone_limits
from amsam_ray.errors import InputError, Problem
from amsam_ray.records.io import list_sweeps, read_records
from amsam_ray.records.leaderboard import acting_params
from amsam_ray.records.schema import Record
from amsam_ray.search.cells import Cell, Prior, make_cells
from amsam_ray.storage.base import Storage

POINTS = 3
"""Configurations per method. In the replay of the selection benchmark, three gain as much as one or two, and longer."""

_WHERE = "search.prior"


def read_prior(storage: Storage, space: SpaceFile) -> Prior:
    """Return the first points that ``search.prior`` gives to the methods of a space.

    A trial's rank is that of its selection score within its cell; test scores are not read. The best trials of all
    cells of the method come first, then the second best ones. The published setting is left out: every cell tries it.

    Args:
        storage: holds the earlier sweep.
        space: names it.

    Raises:
        InputError: the sweep does not exist, has no completed trial of a searched method, or its best configurations
            cannot be tried in this space.
    """
    sweep = space.search.prior
    if sweep is None:
        return {}
    known = list_sweeps(storage)
    if sweep not in known:
        choices = f"choose from {', '.join(known)}" if known else "it holds no sweep"
        raise InputError(Problem(_WHERE, f"{sweep} is not a sweep in {storage.uri}; {choices}, or remove the key"))
    cells = [cell for cell in make_cells(space) if cell.space]
    methods = dict.fromkeys(cell.entry.name for cell in cells)
    records = read_records(storage, sweep).records
    best = {method: found for method in methods if (found := _best(records, method))}
    if not best:
        what = f"{sweep} has no completed search trial of {' or '.join(methods) or 'a method that is searched here'}"
        raise InputError(Problem(_WHERE, f"{what}; name a sweep of the same method, or remove the key"))
    problems = {problem: None for cell in cells for problem in _unfit(cell, best.get(cell.entry.name, []))}
    if problems:
        raise InputError(list(problems))
    keys = space.search.space
    return {
        method: tuple({key: record.params[key] for key in keys if key in record.params} for record in found)
        for method, found in best.items()
    }


def _best(records: list[Record], method: str) -> list[Record]:
    """Return the search trials that become first points, best first."""
    cells: dict[str, list[tuple[float, int, Record]]] = {}
    for record in records:
        found = record.role == "search" and record.status == "completed" and record.method == method
        if found and not record.published and record.score is not None and math.isfinite(record.score):
            rank = -record.score if record.maximise else record.score
            cells.setdefault(record.cell, []).append((rank, record.number, record))
    ranked = [[record for *_, record in sorted(trials, key=lambda t: t[:2])] for _, trials in sorted(cells.items())]
    different: dict[tuple[Any, ...], Record] = {}
    for record in (one for places in zip_longest(*ranked) for one in places if one is not None):
        different.setdefault(tuple(sorted((key, str(record.params[key])) for key in record.searched)), record)
    return list(different.values())[:POINTS]


def _unfit(cell: Cell, found: list[Record]) -> Iterator[Problem]:
    """Find what the earlier sweep searched and this cell neither searches nor sets alike, and values it cannot have."""
    entry, space = cell.entry, cell.source
    here = resolve_params(entry.name, dict(cell.fixed)).as_dict()
    set_here = {*cell.space, *entry.params, *fixed_by_protocol(entry.name, entry.params.get("protocol"))}
    missing = {
        key: None
        for record in found
        for key in record.searched
        if key not in set_here
        and key in acting_params(entry.name, record.params)
        and record.params[key] != here.get(key)
    }
    if missing:
        keys = ", ".join(missing)
        what = f"{space.search.prior} searched {keys} for {entry.name}, and this space does not"
        yield Problem(_WHERE, f"{what}; add {keys} to search.space, set the best value in the entry, or remove the key")
    for record in found:
        for key, value in ((key, record.params[key]) for key in cell.space if key in record.params):
            faults = [f"{key} {problem.what}" for problem in check_params(entry.name, {key: value})]
            faults += [finding.message for finding in backbone_limits(space, entry.name, key, (value,), ())]
            if faults:
                what = f"{record.trial} of {space.search.prior} does not fit: {faults[0].partition(';')[0]}"
                yield Problem(_WHERE, f"{what}; name another sweep, or remove the key")


def describe_prior(prior: Mapping[str, Any], space: SpaceFile) -> str:
    """Return one line on the first points that each method receives."""
    searched = dict.fromkeys(cell.entry.name for cell in make_cells(space) if cell.space)
    counts = ", ".join(f"{len(prior.get(method, ())) or 'none'} for {method}" for method in searched)
    return f"First points from {space.search.prior}: {counts}"
