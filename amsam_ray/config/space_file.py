"""Reads a space file and tells everything that is wrong with it, each with its line."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from amsam_ray.config.space import SpaceFile
from amsam_ray.config.space_checks import check_space
from amsam_ray.errors import InputError, Problem, yaml_problem
from amsam_ray.hashing import sha256_hex

KeyPath = tuple[str | int, ...]


class Places:
    """Where in the file a key stands.

    Args:
        file: the name shown in messages.
        node: the root of the composed YAML.
    """

    def __init__(self, file: str, node: yaml.Node | None):
        self.file = file
        self.repeated: list[Problem] = []
        self._lines: dict[KeyPath, int] = {}
        if node is not None:
            self._walk(node, ())

    def _walk(self, node: yaml.Node, path: KeyPath) -> None:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                step = (*path, key.value)
                self._lines[step] = key.start_mark.line + 1
                if key.value in seen:
                    self.repeated.append(Problem(self.at(step), "is given twice; keep one"))
                seen.add(key.value)
                self._walk(value, step)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._walk(value, (*path, index))

    def at(self, path: KeyPath) -> str:
        """``file:line (key.path)`` of ``path``, or of the nearest key above it that is in the file."""
        for length in range(len(path), -1, -1):
            line = self._lines.get(path[:length])
            if line is not None:
                break
        key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
        return f"{self.file}:{line or 1}" + (f" ({key})" if key else "")


def load_space(path: str | Path) -> SpaceFile:
    """Read and check a space file; touches nothing but that file.

    Raises:
        InputError: with every problem found, each as ``file:line (key): what is wrong and what to do``.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(Problem(str(path), "there is no such file; give the path of a space file")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Problem(str(path), f"cannot be read as text ({error}); give a YAML file")) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(yaml_problem(path.name, error)) from None
    places = Places(path.name, node)
    if not isinstance(data, dict):
        raise InputError(Problem(path.name, "must hold keys and values (name, datasets, shots, methods, ...)"))
    return _validated(data, places)


def parse_space(data: Mapping[str, Any], file: str = "space") -> SpaceFile:
    """A space from plain data, for example from a sweep's stored copy or a notebook. Raises InputError."""
    return _validated(dict(data), Places(file, None))


def _validated(data: dict[str, Any], places: Places) -> SpaceFile:
    problems = list(places.repeated)
    try:
        space = SpaceFile.model_validate(data)
    except ValidationError as error:
        problems += [Problem(places.at(_in_file(e["loc"])), _plain(e)) for e in error.errors()]
        problems += [Problem(places.at(path), what) for path, what in _beside(data, error)]
        raise InputError(by_line(problems)) from None
    problems += [Problem(places.at(path), what) for path, what in check_space(space)]
    if problems:
        raise InputError(by_line(problems))
    return space


def by_line(problems: Iterable[Problem]) -> list[Problem]:
    """In the order of the file that they are in; those without a line come last."""

    def line(problem: Problem) -> float:
        found = re.match(r"[^\s:]+:(\d+)( |$)", problem.where)
        return int(found[1]) if found else float("inf")

    return sorted(problems, key=line)


# Stand-ins for what a broken file lacks, so that the rest of it can be checked all the same.
_STAND_INS: dict[str, Any] = {
    "name": "x",
    "datasets": [{"name": "procedural", "options": {"family": "lesion"}}],
    "shots": [2],
    "methods": ["am_mca_sam"],
}


def _beside(data: dict[str, Any], error: ValidationError) -> list[tuple[KeyPath, str]]:
    """What is wrong beside what the schema refused: the same checks on the file without the refused parts."""
    rest = copy.deepcopy(data)
    found: list[tuple[KeyPath, str]] = []
    refused: set[KeyPath] = set()
    while True:
        for path in (_in_file(e["loc"]) for e in error.errors()):
            refused.add(path)
            _drop(rest, path)
        made_up = set(_STAND_INS) - set(rest)
        try:
            space = SpaceFile.model_validate({**_STAND_INS, **rest})
        except ValidationError as further:
            paths = {_in_file(e["loc"]) for e in further.errors()}
            if paths <= refused:  # no part of the file is left to drop
                return found
            # Some checks are made only once all others pass.
            found += [(_in_file(e["loc"]), _plain(e)) for e in further.errors()]
            error = further
        else:
            break
    incomplete = made_up | {str(path[0]) for path in refused if path}
    return found + [
        (path, what)
        for path, what in check_space(space)
        if path[0] not in made_up and not (incomplete & {"methods", "search"} and _misses_something(what))
    ]


def _drop(data: dict[str, Any], path: KeyPath) -> None:
    """Take the key at ``path`` out; a list goes as a whole: without one item, the places after it would be wrong."""
    keys = list(itertools.takewhile(lambda step: isinstance(step, str), path))
    holder: Any = data
    for key in keys[:-1]:
        holder = holder.get(key) if isinstance(holder, dict) else None
    if keys and isinstance(holder, dict):
        holder.pop(keys[-1], None)


def _misses_something(what: str) -> bool:
    """Whether a finding may be due to a part that was left out rather than to the file."""
    return any(words in what for words in ("acts on none", "has no effect", "nothing in search.space", "does not hold"))


def problems_at(path: str | Path, problems: Iterable[Problem]) -> list[Problem]:
    """Problems that name a key of a space file (``datasets[0].root``), with the file and line of that key, in order."""
    try:
        node = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return list(problems)
    places, placed = Places(Path(path).name, node), []
    for problem in problems:
        steps = tuple(int(n) if n else name for name, n in re.findall(r"([a-z0-9_]+)|\[(\d+)\]", problem.where))
        known = steps and re.match(r"[a-z_]+($|[.\[])", problem.where) and steps[0] in SpaceFile.model_fields
        placed.append(Problem(places.at(steps), problem.what) if known else problem)
    return by_line(placed)


def _in_file(loc: tuple[Any, ...]) -> KeyPath:
    """Pydantic's location without the names of union branches, which no file holds."""
    return tuple(s for s in loc if isinstance(s, int) or not s.startswith(("literal[", "constrained-", "function-")))


def _plain(error: Any) -> str:
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "extra_forbidden":
        return "is not a known key; remove it or mend its spelling (docs/space-file.md lists the keys)"
    if kind == "missing":
        return "is missing; add it"
    if kind == "value_error":
        return str(context.get("error", error["msg"]))
    given = error.get("input")
    shown = f", not {given!r}" if isinstance(given, str | int | float | bool) or given is None else ""
    return error["msg"][0].lower() + error["msg"][1:] + shown


def space_hash(space: SpaceFile) -> str:
    """SHA-256 over everything that can change a result; where it runs and where results go are left out."""
    content = space.model_dump(mode="json", exclude={"resources", "storage"})
    return sha256_hex(json.dumps(content, sort_keys=True))


def sweep_id(space: SpaceFile) -> str:
    """The sweep's name in storage: the space's name and the first 8 digits of its hash."""
    return f"{space.name}-{space_hash(space)[:8]}"
