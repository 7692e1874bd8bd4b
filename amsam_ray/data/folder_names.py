"""Tell photographs from masks by the words in the names of folders and files. Imports no slow package.

`docs/data.md` documents the words. Case does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Literal

Role = Literal["image", "mask"]

IMAGE_WORDS = frozenset(
    {
        "image",
        "images",
        "img",
        "imgs",
        "photo",
        "photos",
        "photograph",
        "photographs",
        "picture",
        "pictures",
        "pic",
        "pics",
        "rgb",
        "input",
        "inputs",
        "frame",
        "frames",
        "original",
        "originals",
    }
)
"""Words in the names of folders of photographs."""

MASK_WORDS = frozenset(
    {
        "mask",
        "masks",
        "label",
        "labels",
        "annotation",
        "annotations",
        "ann",
        "anns",
        "annot",
        "annots",
        "gt",
        "gts",
        "groundtruth",
        "truth",
        "segmentation",
        "segmentations",
        "seg",
        "segs",
        "segmap",
        "segmaps",
        "matte",
        "mattes",
        "target",
        "targets",
    }
)
"""Words in the names of folders of masks."""

_FILLERS = frozenset({"jpeg", "jpg", "png", "class", "object", "ground", "raw", "the", "of"})
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_ALL_SPLITS = {**_SPLITS, "tr": "train", "vl": "val", "ts": "test"}  # as in imagesTr, beside a word for either kind

_FILE_MASK = "ground[ _-]?truth|segmentation|annotation|labels|label|masks|mask|matte|truth|target|seg|gt"
_FILE_IMAGE = "photograph|photo|picture|original|image|orig|input|img|rgb|sat|pic"
_GAP = r"[ _.\-]+"
_AFFIXES: dict[Role, tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]] = {
    "mask": (
        re.compile(f"(?P<core>.+?)(?P<end>{_GAP}(?:{_FILE_MASK}))", re.IGNORECASE | re.DOTALL),
        re.compile(f"(?P<start>(?:{_FILE_MASK}){_GAP})(?P<core>.+)", re.IGNORECASE | re.DOTALL),
        re.compile(_FILE_MASK, re.IGNORECASE),
    ),
    "image": (
        re.compile(f"(?P<core>.+?)(?P<end>{_GAP}(?:{_FILE_IMAGE})|_0000)", re.IGNORECASE | re.DOTALL),
        re.compile(f"(?P<start>(?:{_FILE_IMAGE}){_GAP})(?P<core>.+)", re.IGNORECASE | re.DOTALL),
        re.compile(_FILE_IMAGE, re.IGNORECASE),
    ),
}


@dataclass(frozen=True)
class Place:
    """What the folders above a file say.

    Attributes:
        role: of the lowest folder whose name has a word for photographs or masks.
        folder: the words of that folder's name, without those for a split.
        split: ``train``, ``val`` or ``test``, by the first folder that is named so.
        rest: the other folders; a photograph and its mask share them.
    """

    role: Role | None
    folder: str
    split: str | None
    rest: tuple[str, ...]


@lru_cache(maxsize=100_000)
def place(folder: str, strict: bool) -> Place:
    """Return what the path of a folder says.

    Args:
        folder: relative to the root.
        strict: count names that consist of known words only, such as ``train_masks``; otherwise also names that hold
            one, such as ``leaf_masks_v2``.
    """
    parts = PurePosixPath(folder).parts
    read = [_read_name(part, strict) for part in parts]
    lowest = max((index for index, (role, _) in enumerate(read) if role), default=None)
    first = next((index for index, (_, split) in enumerate(read) if split), None)
    rest = tuple(part for index, part in enumerate(parts) if index not in (lowest, first))
    return Place(
        None if lowest is None else read[lowest][0],
        "" if lowest is None else " ".join(word for word in _words(parts[lowest]) if word not in _ALL_SPLITS),
        None if first is None else read[first][1],
        rest,
    )


@lru_cache(maxsize=100_000)
def _read_name(name: str, strict: bool) -> tuple[Role | None, str | None]:
    words = _words(name)
    role: Role | None = None
    if any(word in MASK_WORDS for word in words):
        role = "mask"
    elif any(word in IMAGE_WORDS for word in words):
        role = "image"
    splits = _ALL_SPLITS if role else _SPLITS
    known = {*MASK_WORDS, *IMAGE_WORDS, *_FILLERS, *splits}
    digits = re.sub(r"[\W_a-zA-Z]", "", name)
    if strict and (digits or any(word not in known for word in words)):
        return None, None
    return role, next((splits[word] for word in words if word in splits), None)


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


@dataclass(frozen=True, order=True)
class Form:
    """How a file's stem is written: ``start``, then what photograph and mask share, then ``end``."""

    start: str = ""
    end: str = ""

    @property
    def plain(self) -> bool:
        """Whether the whole stem is shared."""
        return not (self.start or self.end)


def forms(stem: str, role: Role) -> Iterator[tuple[Form, str]]:
    """Yield the ways to read a stem as that of a photograph or a mask, each with the shared part.

    The shared part is empty if the stem is nothing but the word, such as ``mask``.
    """
    after, before, whole = _AFFIXES[role]
    if found := after.fullmatch(stem):
        yield Form(end=found["end"]), found["core"]
    if found := before.fullmatch(stem):
        yield Form(start=found["start"]), found["core"]
    if whole.fullmatch(stem):
        yield Form(start=stem), ""
