"""Read YAML files written by users: plain data only, within limits, with the line of every key.

PyYAML's ``safe_load`` runs no code, but it expands aliases without limit, reads ``1:30`` as 90 and a date as an object,
keeps the last of two equal keys, and forgets the lines. This reader builds the data from PyYAML's events instead and
refuses what JSON could not hold.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.resolver import Resolver

from amsam_ray.errors import InputError, Problem

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1 << 20
"""Largest file, in bytes."""
MAX_DEPTH = 32
"""Deepest nesting of lists and mappings."""
MAX_NODES = 50_000
"""Most values and keys, counted after aliases are expanded."""
MAX_ALIASES = 1_000
"""Most uses of an alias."""
MAX_TEXT = 10_000
"""Longest text, in characters."""
MAX_KEY = 200
"""Longest key, in characters."""
MAX_DIGITS = 18
"""Most digits of a whole number; 18 digits fit in 64 bits."""

_TAG = "tag:yaml.org,2002:"
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_REMEDY = "close brackets and quotes, put a space after each colon, indent with spaces"


class KeyLines:
    """Lines of the keys of one file.

    Args:
        file: the name shown in messages.
        lines: line of each key path, counted from 1.
    """

    def __init__(self, file: str, lines: dict[KeyPath, int] | None = None):
        self.file = file
        self._lines = {} if lines is None else lines

    def line(self, path: KeyPath) -> int:
        """Return the line of ``path``, or of its nearest parent that is in the file; 1 without one."""
        return next((self._lines[p] for n in range(len(path), -1, -1) if (p := path[:n]) in self._lines), 1)

    def problem(self, path: KeyPath, what: str) -> Problem:
        """Return the problem ``what`` at ``file:line (key.path)``."""
        key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
        line = self.line(path)
        return Problem(f"{self.file}:{line}" + (f" ({key})" if key else ""), what, line)


@dataclass(frozen=True)
class Document:
    """The content of a YAML file.

    Attributes:
        data: None, bool, int, float, str, and lists and string-keyed dicts of these.
        lines: where each key is.
        repeated: one problem for every key that a mapping holds twice; ``data`` has its last value.
    """

    data: Any
    lines: KeyLines
    repeated: tuple[Problem, ...] = ()


def load_yaml(path: str | Path, *, kind: str = "YAML file", name: str | None = None) -> Document:
    """Read a YAML file of at most ``MAX_BYTES`` bytes.

    Args:
        path: the file, UTF-8.
        kind: what the file should be, for messages.
        name: name of the file in messages; None: ``path``.

    Raises:
        InputError: the file is missing or too large, or ``parse_yaml`` refuses its content.
    """
    shown = name or str(path)
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(Problem(shown, f"is larger than {MAX_BYTES >> 20} MiB; give a {kind}"))
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(Problem(shown, f"no such file; give the path of a {kind}")) from None
    except (OSError, ValueError) as error:  # a path with a NUL character, or bytes that are not UTF-8
        what = f"cannot be read as a {kind} ({error}); give a text file of YAML"
        raise InputError(Problem(shown, what)) from None
    return parse_yaml(text, shown)


def parse_yaml(text: str, file: str) -> Document:
    """Parse YAML that holds plain data.

    Accepted are null, true/false (also yes/no, on/off), decimal numbers, text, lists, mappings with text keys, and
    aliases and merge keys (``<<``) for these.

    Args:
        text: the YAML.
        file: its name, for messages.

    Raises:
        InputError: ``text`` is not YAML, exceeds a limit of this module, or holds tags, dates, non-finite or
            non-decimal numbers, keys that are not text, or control characters. One problem each, with its line.
    """
    return _Parser(file, text).document()


def syntax_problem(file: str, error: Exception) -> Problem:
    """Describe a YAML syntax error: its line, its cause and the remedy."""
    mark, start = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    what = " ".join((getattr(error, "problem", None) or str(error)).split())
    if mark and start and start.line != mark.line:
        what += f" {getattr(error, 'context', '')} that begins in line {start.line + 1}"
    line = mark.line + 1 if mark else None
    return Problem(f"{file}:{line}" if line else file, f"is not valid YAML: {what}; {_REMEDY}", line)


class _Parser:
    """Builds data from PyYAML's events, which are produced one at a time and without recursion.

    Events are typed Any because the stubs of PyYAML lack their attributes.
    """

    def __init__(self, file: str, text: str):
        self._file, self._text = file, text
        self._resolver = Resolver()
        self._lines: dict[KeyPath, int] = {}
        self._places = KeyLines(file, self._lines)
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._nodes = self._aliases = 0
        self._faults: list[Problem] = []
        self._repeated: list[Problem] = []

    def document(self) -> Document:
        try:
            data = self._document(yaml.parse(self._text, Loader=yaml.SafeLoader))
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: an escape that is no character
            raise InputError(syntax_problem(self._file, error)) from None
        if self._faults:
            raise InputError([*self._faults, *self._repeated])
        return Document(data, self._places, tuple(self._repeated))

    def _document(self, events: Iterator[Any]) -> Any:
        self._events = events
        next(events)  # the stream's start
        if isinstance(next(events), yaml.StreamEndEvent):
            return None
        data = self._value(next(events), ())
        next(events)  # the document's end
        if not isinstance(after := next(events), yaml.StreamEndEvent):
            self._stop(after, "a second YAML document begins here; keep one document per file")
        return data

    def _value(self, event: Any, path: KeyPath) -> Any:
        self._lines.setdefault(path, event.start_mark.line + 1)
        self._count(1, event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if len(path) > MAX_DEPTH:
            self._stop(event, f"is nested deeper than {MAX_DEPTH} levels; flatten it")
        if event.tag is not None:
            self._fault(path, f"has the tag {_shown(event.tag.replace(_TAG, '!!'))}; remove the tag")
        before = self._nodes
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
            while not isinstance(event_ := next(self._events), yaml.SequenceEndEvent):
                value.append(self._value(event_, (*path, len(value))))
        else:
            value = self._mapping(path)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._nodes - before + 1)
        return value

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            key = self._key(event, path)
            inside = (*path, key)
            self._lines[inside] = line
            value = self._value(next(self._events), inside)
            if key in first:
                what = f"is given twice, in lines {first[key]} and {line}; keep one"
                self._repeated.append(self._places.problem(inside, what))
            first.setdefault(key, line)
            if key == "<<" and isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
                for part in value if isinstance(value, list) else [value]:
                    if isinstance(part, dict):
                        merged = {**part, **merged}
                    else:
                        self._fault(inside, "must be a mapping or a list of mappings; remove it")
            else:
                own[key] = value
        return {**merged, **own}

    def _key(self, event: Any, path: KeyPath) -> str:
        self._count(1, event)
        line = event.start_mark.line + 1
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
            self._stop(event, "a key must be plain text; write `key: value`")
        if len(event.value) > MAX_KEY:
            self._stop(event, f"a key is longer than {MAX_KEY} characters; shorten it")
        if event.value == "<<":
            return "<<"
        inside = (*path, event.value)
        self._lines.setdefault(inside, line)
        before = len(self._faults)
        key = self._scalar(event, inside)
        if not isinstance(key, str) and len(self._faults) == before:
            self._fault(inside, "is not a text key; put it in quotes")
        return str(event.value)

    def _alias(self, event: Any) -> Any:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            self._stop(event, f"more than {MAX_ALIASES} aliases; write the values out")
        if event.anchor not in self._anchors:
            self._stop(event, f"the alias *{_shown(event.anchor)} has no anchor before it; write the value out")
        value, nodes = self._anchors[event.anchor]
        self._count(nodes, event)
        return copy.deepcopy(value)

    def _scalar(self, event: Any, path: KeyPath) -> Any:
        text = event.value
        if len(text) > MAX_TEXT:
            return self._fault(path, f"is longer than {MAX_TEXT:,} characters; shorten it")
        if found := _CONTROL.search(text):
            return self._fault(path, f"contains the character U+{ord(found[0]):04X}; remove it")
        kind = self._resolver.resolve(yaml.ScalarNode, text, (True, False)) if event.implicit[0] else f"{_TAG}str"
        match kind.removeprefix(_TAG):
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() in ("yes", "true", "on")
            case "int" if _DECIMAL.fullmatch(text):
                if len(text) > MAX_DIGITS:
                    return self._fault(path, f"has more than {MAX_DIGITS} digits; use a smaller number")
                return int(text)
            case "float" if ":" not in text:
                if text.lower().lstrip("+-") in (".inf", ".nan") or not math.isfinite(number := float(text)):
                    return self._fault(path, f"{_shown(text)} is not a finite number; give a finite number")
                return number
            case "int" | "float":
                what = f"{_shown(text)} is not a decimal number; write decimal digits, or put text in quotes"
                return self._fault(path, what)
            case other:
                what = "a date" if other == "timestamp" else f"YAML's {other}"
                return self._fault(path, f"{_shown(text)} is read as {what}; put it in quotes")

    def _count(self, nodes: int, event: Any) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            self._stop(event, f"holds more than {MAX_NODES:,} values; split or shorten the file")

    def _fault(self, path: KeyPath, what: str) -> None:
        self._faults.append(self._places.problem(path, what))

    def _stop(self, event: Any, what: str) -> NoReturn:
        line = event.start_mark.line + 1
        raise InputError([*self._faults, Problem(f"{self._file}:{line}", what, line)])


def _shown(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."
