"""Read a space file and report every problem in it, each with its line."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from amsam_ray.config.space import SearchSection, SpaceFile
from amsam_ray.config.space_checks import NEEDS_WHOLE_FILE, SpaceFinding, check_space
from amsam_ray.config.wording import describe
from amsam_ray.config.yaml_loader import KeyLines, KeyPath, load_yaml
from amsam_ray.errors import InputError, Problem
from amsam_ray.hashing import sha256_hex

# Pydantic's names for the branches of a union, which are no keys of the file.
_BRANCH = re.compile(r"(literal|constrained|function|int|float|str)([\[-].*)?")


def load_space(path: str | Path) -> SpaceFile:
    """Read and check a space file. Reads no other file.

    Raises:
        InputError: with every problem found, each as ``file:line (key): what is wrong; the remedy``.
    """
    path = Path(path)
    document = load_yaml(path, kind="space file", name=path.name)
    if not isinstance(document.data, dict):
        what = "must be a mapping with the keys name, datasets, shots, methods, ...; docs/space-file.md lists them"
        raise InputError(Problem(path.name, what))
    return _validated(document.data, document.lines, document.repeated)


def parse_space(data: Mapping[str, Any], file: str = "space") -> SpaceFile:
    """Build a space from plain data, for example a sweep's stored copy.

    Args:
        data: the content of a space file, or ``SpaceFile.model_dump(mode="json", by_alias=True)``.
        file: name shown in messages.

    Raises:
        InputError: with every problem found.
    """
    return _validated(dict(data), KeyLines(file))


def _validated(data: dict[str, Any], lines: KeyLines, repeated: Iterable[Problem] = ()) -> SpaceFile:
    problems = list(repeated)
    try:
        space = SpaceFile.model_validate(data)
    except ValidationError as error:
        found = _schema_findings(error) + _further_findings(data, error)
        problems += [lines.problem(f.path, f.message) for f in found]
        raise InputError(by_line(problems)) from None
    problems += [lines.problem(f.path, f.message) for f in check_space(space)]
    if problems:
        raise InputError(by_line(problems))
    return space


def by_line(problems: Iterable[Problem]) -> list[Problem]:
    """Sort problems by their line in the file; those without a line come last."""
    return sorted(problems, key=lambda problem: float("inf") if problem.line is None else problem.line)


# Values for required keys that a broken file lacks, so that the rest of the file can still be checked.
_PLACEHOLDERS: dict[str, Any] = {
    "name": "x",
    "datasets": [{"name": "procedural", "options": {"family": "lesion"}}],
    "shots": [2],
    "methods": ["am_mca_sam"],
}


def _further_findings(data: dict[str, Any], error: ValidationError) -> list[SpaceFinding]:
    """Check the file without the parts that the schema refused, and return what else is wrong."""
    rest = copy.deepcopy(data)
    found: list[SpaceFinding] = []
    refused: set[KeyPath] = set()
    while True:
        for path in (_key_path(e) for e in error.errors()):
            refused.add(path)
            _drop(rest, path)
        placeholders = set(_PLACEHOLDERS) - set(rest)
        try:
            space = SpaceFile.model_validate({**_PLACEHOLDERS, **rest})
        except ValidationError as further:
            if {_key_path(e) for e in further.errors()} <= refused:  # nothing is left to drop
                return found
            # Pydantic runs a model's own checks only once all of its fields are valid.
            found += _schema_findings(further)
            error = further
        else:
            break
    incomplete = placeholders | {str(path[0]) for path in refused if path}
    partial = bool(incomplete & {"methods", "search"})
    return found + [
        finding
        for finding in check_space(space)
        if finding.path[0] not in placeholders and not (partial and finding.code in NEEDS_WHOLE_FILE)
    ]


def _drop(data: dict[str, Any], path: KeyPath) -> None:
    """Remove the key at ``path``. A list is removed whole: without one item, the indices of the others would shift."""
    keys = list(itertools.takewhile(lambda step: isinstance(step, str), path))
    holder: Any = data
    for key in keys[:-1]:
        holder = holder.get(key) if isinstance(holder, dict) else None
    if keys and isinstance(holder, dict):
        holder.pop(keys[-1], None)


def problems_at(path: str | Path, problems: Iterable[Problem]) -> list[Problem]:
    """Add file and line to problems that name a key of a space file (``datasets[0].root``), and sort them by line."""
    try:
        lines = load_yaml(path, name=Path(path).name).lines
    except InputError:
        return list(problems)
    placed = []
    for problem in problems:
        steps = tuple(int(n) if n else name for name, n in re.findall(r"([^.\[\]]+)|\[(\d+)\]", problem.where))
        known = steps and re.match(r"[a-z_]+($|[.\[])", problem.where) and steps[0] in SpaceFile.model_fields
        placed.append(lines.problem(steps, problem.what) if known else problem)
    return by_line(placed)


def _key_path(fault: Any) -> KeyPath:
    """Return the location of a pydantic error without the branch of a union at its end."""
    loc = tuple(fault["loc"])
    named = fault["type"] == "extra_forbidden" or not loc or isinstance(loc[-1], int)
    return loc if named or not _BRANCH.fullmatch(loc[-1]) else loc[:-1]


def _schema_findings(error: ValidationError) -> list[SpaceFinding]:
    """One finding per key; the branches of a union are joined with "or"."""
    faults = error.errors()
    parents = {path[:n] for path in map(_key_path, faults) for n in range(len(path))}
    messages: dict[KeyPath, list[str]] = {}
    for fault in faults:
        path = _key_path(fault)
        if fault["type"] == "too_short" and path in parents:  # pydantic counts the valid items only
            continue
        messages.setdefault(path, []).append(_plain(fault))
    return [SpaceFinding("schema", path, _either(list(dict.fromkeys(texts)))) for path, texts in messages.items()]


def _either(texts: list[str]) -> str:
    """Join ``must be at least 0, not -1`` and ``must be 'auto', not -1`` to one requirement."""
    first = [text.rpartition(", not ")[0] or text for text in texts[:-1]]
    return " or ".join([*first, texts[-1].removeprefix("must be ") if first else texts[-1]])


def _plain(error: Any) -> str:
    hint = " (docs/space-file.md lists the keys)" if error["type"] == "extra_forbidden" else ""
    return describe(error) + hint


def space_hash(space: SpaceFile) -> str:
    """Return the SHA-256 of everything that can change a result.

    ``resources`` and ``storage`` are left out; ``search.retries`` and ``search.timeout_s`` enter with their defaults,
    which earlier versions hashed.
    """
    content = space.model_dump(mode="json", exclude={"resources", "storage"})
    defaults = SearchSection().model_dump(mode="json", include={"retries", "timeout_s"})
    content["search"] |= defaults
    return sha256_hex(json.dumps(content, sort_keys=True))


def sweep_id(space: SpaceFile) -> str:
    """Return the sweep's name in storage: the space's name and the first 8 digits of its hash."""
    return f"{space.name}-{space_hash(space)[:8]}"
