"""Pair the photographs and masks of one split by the names of their files alone."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from amsam_ray.data.findings import Finding, converted, fault, note
from amsam_ray.data.patterns import MASK_SUFFIXES, SUFFIXES, Key, PathPattern, key_name
from amsam_ray.data.tree import Tree

MAX_FILES = 2_000_000
"""Most files and folders of a search through sub-folders; no further folder is opened then."""
MAX_DEPTH = 12
"""Most folders below one another in such a search."""
_SKIPPED = frozenset({"__MACOSX"})  # what macOS adds to archives

_LINKS = {
    "loop": "the link leads back to itself; remove it",
    "outside": "the link leaves the data root; copy the file here, or choose a root that contains its target",
    "broken": "the target of the link does not exist; remove the link or restore its target",
}


@dataclass(frozen=True)
class Pair:
    """A labelled image: its name and the two files below the root."""

    name: str
    image: str
    mask: str


@dataclass(frozen=True)
class PatternPair:
    """Patterns of the photographs and the masks of one split."""

    images: PathPattern
    masks: PathPattern


def join(folder: str, name: str) -> str:
    """Return the path of an entry of a folder, ``.`` being the root."""
    return name if folder in ("", ".") else f"{folder}/{name}"


def walk(tree: Tree, folder: str, findings: list[Finding], most: int) -> Iterator[str]:
    """Yield the path of every file below a folder, in order; report unusable links and what is beyond the limits.

    Args:
        tree: the data root.
        folder: relative to it.
        findings: what is not followed is added.
        most: files and folders, as `MAX_FILES`.
    """
    waiting, seen = [(folder, 0)], 0
    while waiting:
        here, depth = waiting.pop()
        below = []
        try:
            entries = tree.folder(here)
        except OSError as error:
            findings.append(fault("unreadable", here, f"cannot be listed ({error.strerror}); change its permissions"))
            continue
        for entry in entries:
            where = join(here, entry.name)
            if entry.kind in _LINKS:
                findings.append(fault(f"link-{entry.kind}", where, _LINKS[entry.kind]))
            elif entry.kind == "folder" and entry.name not in _SKIPPED:
                below.append((where, depth + 1))
            elif entry.kind == "file":
                yield where
        seen += len(entries)
        if seen > most:
            what = f"holds more than {most:,} files and folders; choose a root below, or state images and masks"
            findings.append(fault("too-many", folder, what))
            return
        if below and depth >= MAX_DEPTH:
            findings += [note("sub-folder", one, f"ignored: it is below {MAX_DEPTH} folders") for one, _ in below]
        else:
            waiting.extend(reversed(below))


def pair_files(
    tree: Tree,
    patterns: PatternPair,
    globs: Sequence[str],
    claimed: set[str],
    photographs: set[str],
    findings: list[Finding],
) -> dict[str, Pair]:
    """Return the pairs of one split by name.

    Args:
        tree: the data root.
        patterns: of photographs and masks.
        globs: patterns of the names of photographs to use.
        claimed: the masks that fit some photograph are added.
        photographs: the files taken as photographs are added.
        findings: what cannot be paired is added.
    """
    masks_by_path = _masks(tree, patterns)
    images = _photographs(tree, patterns, findings)
    photographs.update(file for _, files in images.values() for file in files)
    wanted_by = {name: patterns.masks.fill(key) for name, (key, _) in images.items()}
    folded: dict[str, list[str]] = defaultdict(list)
    for path in masks_by_path.keys() - set(wanted_by.values()):  # a mask with an exact match is not offered to others
        folded[fold(path)].extend(masks_by_path[path])
    pairs: dict[str, Pair] = {}
    for name, (_, files) in sorted(images.items()):
        if not matches(name, globs):
            continue
        image, wanted = files[0], wanted_by[name]
        masks = masks_by_path.get(wanted) or folded.get(fold(wanted), [])
        claimed.update(masks)
        if len(files) > 1:
            text = f"{len(files)} photographs share the name {name} ({_names(files)}); keep or rename one"
            findings.append(fault("same-name", image, text))
        elif len(masks) > 1:
            findings.append(fault("many-masks", image, f"{len(masks)} masks fit ({_names(masks)}); keep one"))
        elif not masks:
            text = f"left out: no mask {wanted}{patterns.masks.suffix or '.*'}; add it or remove the photograph"
            findings.append(fault("no-mask", image, text))
        else:
            pairs[name] = Pair(name, image, masks[0])
            if str(PurePosixPath(masks[0]).with_suffix("")) != wanted:
                text = f"is paired with {masks[0]}, whose name differs in case or Unicode form"
                findings.append(converted("case", image, text))
    return pairs


def report_unclaimed_masks(
    tree: Tree,
    masks: PathPattern,
    globs: Sequence[str],
    claimed: set[str],
    photographs: set[str],
    findings: list[Finding],
) -> None:
    """Report masks without a photograph, and what else the folder of masks holds."""
    with_mask = {str(PurePosixPath(path).with_suffix("")) for path in claimed}
    for where in list_files(tree, masks, MASK_SUFFIXES, findings):
        if where in photographs or where in claimed:
            continue
        key = masks.key(where)
        if key is None:
            findings.append(note("mask-name", where, f"ignored: its name is not {PurePosixPath(masks.text).name}"))
        elif not is_image(where) and str(PurePosixPath(where).with_suffix("")) in with_mask:
            findings.append(note("not-an-image", where, "ignored: another mask fits its photograph"))
        elif matches(key_name(key), globs):
            text = f"no photograph is named {key_name(key)}; add it or remove the mask"
            findings.append(fault("no-image", where, text))


def list_files(tree: Tree, pattern: PathPattern, suffixes: frozenset[str], findings: list[Finding] | None) -> list[str]:
    """List the paths of files with one of ``suffixes`` where ``pattern`` looks; report the rest, if asked to."""
    seen: list[str] = []
    other: list[Finding] = []
    folder = pattern.folder
    kind = tree.kind(folder)
    if kind in _LINKS:
        other.append(fault(f"link-{kind}", folder, _LINKS[kind]))
    files = walk(tree, folder, other, MAX_FILES) if pattern.recursive else _files(tree, folder, other)
    for where in files:
        suffix = PurePosixPath(where).suffix.lower()
        if suffix in suffixes:
            seen.append(where)
        else:
            text = f"ignored: {suffix or 'no suffix'} is not among {', '.join(sorted(SUFFIXES))}"
            other.append(note("not-an-image", where, text))
    if kind == "folder" and not seen:
        other.append(fault("empty", folder, "holds no image; check the root and the folder's name"))
    if findings is not None:
        findings.extend(other)
    return seen


def _files(tree: Tree, folder: str, findings: list[Finding]) -> Iterator[str]:
    """Yield the path of every file directly in a folder; report the rest."""
    for entry in tree.folder(folder):
        where = join(folder, entry.name)
        if entry.kind in _LINKS:
            findings.append(fault(f"link-{entry.kind}", where, _LINKS[entry.kind]))
        elif entry.kind == "folder":
            findings.append(note("sub-folder", where, "ignored: only the folder itself is read"))
        else:
            yield where


def _photographs(tree: Tree, patterns: PatternPair, findings: list[Finding]) -> dict[str, tuple[Key, list[str]]]:
    """Return the key and the files of every photograph by name."""
    shared = patterns.images.folder == patterns.masks.folder or patterns.images.recursive or patterns.masks.recursive
    suffixes = MASK_SUFFIXES if shared else SUFFIXES
    found: dict[str, tuple[Key, list[str]]] = {}
    for where in list_files(tree, patterns.images, suffixes, findings):
        if shared and is_mask(where, patterns):
            continue
        key = patterns.images.key(where)
        if key is None or not is_image(where):
            pattern = PurePosixPath(patterns.images.text).name
            findings.append(note("image-name", where, f"ignored: it is neither {pattern} nor a mask"))
        else:
            found.setdefault(key_name(key), (key, []))[1].append(where)
    return found


def is_image(path: str) -> bool:
    """Return whether a file has the suffix of a photograph."""
    return PurePosixPath(path).suffix.lower() in SUFFIXES


def is_mask(path: str, patterns: PatternPair) -> bool:
    """Return whether a file is a mask: the masks' pattern fits it, and the photographs' not as closely."""
    if patterns.masks.key(path) is None:
        return False
    return patterns.images.key(path) is None or patterns.masks.literal > patterns.images.literal


def _masks(tree: Tree, patterns: PatternPair) -> dict[str, list[str]]:
    """Return the files of masks by their path without suffix."""
    groups: dict[str, list[str]] = defaultdict(list)
    for where in list_files(tree, patterns.masks, MASK_SUFFIXES, None):
        if is_mask(where, patterns):
            groups[str(PurePosixPath(where).with_suffix(""))].append(where)
    return {path: [file for file in files if is_image(file)] or files for path, files in groups.items()}


def _names(paths: Sequence[str]) -> str:
    return ", ".join(PurePosixPath(path).name for path in paths)


def fold(path: str) -> str:
    """Return a path without what differs between file systems: case, and the Unicode form of accented letters."""
    return unicodedata.normalize("NFC", path).casefold()


def matches(name: str, globs: Sequence[str]) -> bool:
    """Return whether a name fits one of the patterns of a definition."""
    return any(fnmatchcase(name, glob) for glob in globs)
