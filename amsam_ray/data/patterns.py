"""Patterns of paths below a data root, such as ``images/{stem}`` and ``{path}/masks/{stem}_mask``.

``{stem}`` stands for a part of one name, ``{path}`` for any number of whole folders. A photograph and its mask agree in
both. File suffixes are not part of a pattern, unless it ends in one: ``{stem}.jpg``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
"""Suffixes of the files that are read as images, in lower case."""

MASK_SUFFIXES = SUFFIXES | {".gif", ".npy"}
"""Suffixes of masks. A file of the two further ones counts only if no other mask fits its photograph."""

_HOLES = re.compile(r"(\{path\}/|\{stem\})")

Key = tuple[str, str]
"""What stands for ``{path}``, without a slash at its end, and for ``{stem}``."""


def pattern_fault(text: str) -> str | None:
    """Return why ``text`` is not a usable pattern, with the remedy; None if it is one, or a folder's path."""
    holes = _HOLES.findall(text)
    for hole in ("{path}/", "{stem}"):
        if holes.count(hole) > 1:
            return f"{text!r} holds {hole.strip('/')} more than once; write it once"
    if "{path}" in _HOLES.sub("", text) or re.search(r"[^/]\{path\}", text):
        return f"{text!r} must hold {{path}} as a whole folder; write for example images/{{path}}/{{stem}}"
    if "{path}/" in holes and "{stem}" in holes and holes.index("{path}/") > holes.index("{stem}"):
        return f"{text!r} holds {{path}} after {{stem}}; write {{path}} first"
    return None


@dataclass(frozen=True)
class PathPattern:
    """The paths of the photographs or the masks of one split.

    Attributes:
        text: relative to the root, with ``{stem}`` or ``{path}`` or both.
    """

    text: str

    @classmethod
    def of(cls, text: str, name: str = "{stem}") -> PathPattern:
        """Return the pattern ``text``; if it is the path of a folder, that of the files called ``name`` in it."""
        if not _HOLES.search(text):
            text = name if text in ("", ".") else f"{text}/{name}"
        return cls(str(PurePosixPath(text)))

    @cached_property
    def suffix(self) -> str | None:
        """The suffix that the pattern asks for, in lower case; None if any will do."""
        found = PurePosixPath(self.text).suffix.lower()
        return found if found in MASK_SUFFIXES else None

    @cached_property
    def _body(self) -> str:
        return self.text[: -len(self.suffix)] if self.suffix else self.text

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts = {"{path}/": "(?P<path>(?:[^/]+/)*)", "{stem}": "(?P<stem>[^/]+)"}
        return re.compile("".join(parts.get(part, re.escape(part)) for part in _HOLES.split(self._body)), re.DOTALL)

    @cached_property
    def folder(self) -> str:
        """The fixed folder above the first placeholder, ``.`` for the root."""
        fixed = _HOLES.split(self.text)[0]
        return str(PurePosixPath(fixed.rpartition("/")[0]))

    @cached_property
    def recursive(self) -> bool:
        """Whether the files are in folders below ``folder``."""
        rest = self.text if self.folder == "." else self.text[len(self.folder) + 1 :]
        return "/" in rest

    @property
    def holes(self) -> frozenset[str]:
        """The placeholders that the pattern holds."""
        return frozenset(_HOLES.findall(self.text))

    @cached_property
    def literal(self) -> int:
        """Number of characters that are fixed: of two patterns that fit a file, the one with more describes it."""
        return len(_HOLES.sub("", self.text))

    def key(self, path: str) -> Key | None:
        """Return what the placeholders stand for in the path of a file, None if the pattern does not fit it."""
        file = PurePosixPath(path)
        if self.suffix and file.suffix.lower() != self.suffix:
            return None
        found = self._regex.fullmatch(str(file.with_suffix("")))
        if found is None:
            return None
        groups = found.groupdict()
        key = ((groups.get("path") or "").rstrip("/"), groups.get("stem") or "")
        return key if any(key) else None

    def fill(self, key: Key) -> str:
        """Return the path, without suffix, for what the placeholders stand for."""
        path, stem = key
        return self._body.replace("{path}/", f"{path}/" if path else "").replace("{stem}", stem)


def key_name(key: Key) -> str:
    """Return the name of the image with this key: folders and stem, joined by ``_``."""
    path, stem = key
    return "_".join([*(part for part in path.split("/") if part), *([stem] if stem else [])])


def as_text(options: Mapping[str, Any]) -> str:
    """Return options as a line of a space file: ``options: {images: "a/{stem}", masks: b}``."""
    inner = ", ".join(f"{name}: {quoted(value)}" for name, value in options.items())
    return f"options: {{{inner}}}"


def quoted(value: Any) -> str:
    """Return a value as YAML within braces, in quotes if it needs them."""
    text = str(value)
    return text if re.fullmatch("[A-Za-z][A-Za-z0-9_/-]*", text) else json.dumps(text, ensure_ascii=False)
