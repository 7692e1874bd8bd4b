"""From a tree of files and a definition to named pairs of photograph and mask, and all that is amiss on the way.

Reads names only, never pixels: cheap enough to run before a sweep, and over the keys of a bucket alike.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from amsam_ray.data.schema import DatasetDefinition, FolderPair
from amsam_ray.data.splits import split_pool
from amsam_ray.data.tree import Entry, LocalTree, Tree
from amsam_ray.errors import counted

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
"""Suffixes of files that are read as images, in lower case."""

Severity = Literal["fault", "converted", "note"]

_LINKS = {
    "loop": "the link leads back to itself; remove it",
    "outside": "the link leaves the data root; copy the file here, or make a root that holds its target",
    "broken": "the link leads to nothing; remove it or restore its target",
}


@dataclass(frozen=True)
class Finding:
    """Something about a dataset that its user should know.

    Attributes:
        kind: a short stable name, e.g. ``no-mask``.
        severity: ``fault`` (needs mending), ``converted`` (read by a documented rule) or ``note``.
        where: file or folder below the root.
        what: what it is and, for a fault, the remedy.
    """

    kind: str
    severity: Severity
    where: str
    what: str


@dataclass(frozen=True)
class Pair:
    """A labelled image: its name and the two files below the root."""

    name: str
    image: str
    mask: str


@dataclass
class Scan:
    """What lies below a root.

    Attributes:
        train: labelled images that shots may be drawn from, by name.
        test: labelled images of the test split, by name.
        findings: everything amiss, in no particular order.
    """

    train: dict[str, Pair] = field(default_factory=dict)
    test: dict[str, Pair] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def scan(tree: Tree, definition: DatasetDefinition, options: Mapping[str, Any]) -> Scan:
    """Find the pairs and the split of a dataset of files.

    Args:
        tree: the data root.
        definition: what to look for; ``source`` is ``files``.
        options: validated, with defaults filled in (`amsam_ray.data.definition.check_options`).
    """
    result = Scan()
    pairs_of = _choose_layout(tree, definition, options)
    if pairs_of is None:
        wanted = "; or ".join(
            ", ".join(f"{pair.images} and {pair.masks}" for pair in layout.pairs().values())
            for layout in definition.layouts
        )
        what = f"does not hold the folders {_fill(wanted, options)}; {definition.obtain}"
        result.findings.append(Finding("layout", "fault", tree.uri, what))
        return result
    claimed: set[str] = set()
    found = {split: _pairs(tree, definition, pair, claimed, result.findings) for split, pair in pairs_of.items()}
    _orphan_masks(tree, definition, pairs_of, claimed, result.findings)
    if "pool" in found:
        _divide(tree, definition, options, found["pool"], result)
    else:
        _name_published(found, result)
    return result


def _fill(text: str, options: Mapping[str, Any]) -> str:
    for name, value in options.items():
        text = text.replace("{" + name + "}", str(value))
    return text


def _choose_layout(
    tree: Tree, definition: DatasetDefinition, options: Mapping[str, Any]
) -> dict[str, FolderPair] | None:
    """The first layout of which every photograph folder is there, its folders below the root filled in."""
    for within in definition.within:
        for layout in definition.layouts:
            filled = {
                split: FolderPair(
                    images=str(PurePosixPath(within, _fill(pair.images, options))),
                    masks=str(PurePosixPath(within, _fill(pair.masks, options))),
                )
                for split, pair in layout.pairs().items()
            }
            if all(tree.kind(pair.images) in ("folder", "outside", "loop") for pair in filled.values()):
                return filled
    return None


def _pairs(
    tree: Tree, definition: DatasetDefinition, folders: FolderPair, claimed: set[str], findings: list[Finding]
) -> dict[str, Pair]:
    """Pairs of one pair of folders by stem of the photograph.

    Masks that some photograph asked for are added to ``claimed``; what cannot be paired goes to ``findings``.
    """
    by_stem = _group(_images(tree, folders.masks, None))
    images = _group(_images(tree, folders.images, findings))
    wanted_by = {name: definition.mask.name.replace("{stem}", name) for name in images}
    folded: dict[str, list[str]] = defaultdict(list)
    for stem in by_stem.keys() - set(wanted_by.values()):  # a mask of its own photograph is no other's
        folded[_fold(stem)].extend(by_stem[stem])
    pairs: dict[str, Pair] = {}
    for name, files in sorted(images.items()):
        if not _matches(name, definition.images):
            continue
        image, wanted = f"{folders.images}/{files[0]}", wanted_by[name]
        masks = by_stem.get(wanted) or folded.get(_fold(wanted), [])
        claimed.update(f"{folders.masks}/{mask}" for mask in masks)
        if len(files) > 1:
            text = f"{len(files)} photographs share the name {name} ({', '.join(files)}); keep or rename one"
            findings.append(Finding("same-name", "fault", image, text))
        elif len(masks) > 1:
            text = f"{len(masks)} masks fit ({', '.join(masks)}); keep one"
            findings.append(Finding("many-masks", "fault", image, text))
        elif not masks:
            text = f"left out: no mask {folders.masks}/{wanted}.*; add it or remove the photograph"
            findings.append(Finding("no-mask", "fault", image, text))
        else:
            pairs[name] = Pair(name, image, f"{folders.masks}/{masks[0]}")
            if PurePosixPath(masks[0]).stem != wanted:
                text = f"is paired with {folders.masks}/{masks[0]}, whose name differs in case or Unicode form"
                findings.append(Finding("case", "converted", image, text))
    return pairs


def _images(tree: Tree, folder: str, findings: list[Finding] | None) -> list[str]:
    """File names of a folder's images; the rest goes to ``findings``, where given."""
    seen: list[str] = []
    told: list[Finding] = []
    kind = tree.kind(folder)
    if kind in _LINKS:
        told.append(Finding(f"link-{kind}", "fault", folder, _LINKS[kind]))
    entries: Sequence[Entry] = tree.folder(folder)
    for entry in entries:
        where, suffix = f"{folder}/{entry.name}", PurePosixPath(entry.name).suffix.lower()
        if entry.kind in _LINKS:
            told.append(Finding(f"link-{entry.kind}", "fault", where, _LINKS[entry.kind]))
        elif entry.kind == "folder":
            told.append(Finding("sub-folder", "note", where, "ignored: only the folder itself is read"))
        elif suffix not in SUFFIXES:
            text = f"ignored: {suffix or 'no suffix'} is not among {', '.join(sorted(SUFFIXES))}"
            told.append(Finding("not-an-image", "note", where, text))
        else:
            seen.append(entry.name)
    if kind == "folder" and not seen:
        told.append(Finding("empty", "fault", folder, "holds no image; check the root and the folder's name"))
    if findings is not None:
        findings.extend(told)
    return seen


def _group(files: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in files:
        groups[PurePosixPath(name).stem].append(name)
    return groups


def _fold(stem: str) -> str:
    """A name with what differs between file systems taken away: case, and the form of accented letters."""
    return unicodedata.normalize("NFC", stem).casefold()


def _matches(stem: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(stem, pattern) for pattern in patterns)


def _orphan_masks(
    tree: Tree,
    definition: DatasetDefinition,
    pairs_of: Mapping[str, FolderPair],
    claimed: set[str],
    findings: list[Finding],
) -> None:
    """Masks that no photograph asked for, told once per folder: two splits may share a folder of masks."""
    before, after = (re.escape(part) for part in definition.mask.name.split("{stem}"))
    for folder in dict.fromkeys(pair.masks for pair in pairs_of.values()):
        for name in _images(tree, folder, findings):
            where = f"{folder}/{name}"
            stem = re.fullmatch(f"{before}(.+){after}", PurePosixPath(name).stem)
            if stem is None:
                text = f"ignored: its name is not {definition.mask.name}"
                findings.append(Finding("mask-name", "note", where, text))
            elif where not in claimed and _matches(stem[1], definition.images):
                text = f"no photograph is named {stem[1]}; add it or remove the mask"
                findings.append(Finding("no-image", "fault", where, text))


def _name_published(found: Mapping[str, dict[str, Pair]], result: Scan) -> None:
    """Published train and test folders: a name that both hold gets its split in front, in both."""
    shared = set(found["train"]) & set(found["test"])
    for split, target in (("train", result.train), ("test", result.test)):
        for stem, pair in found[split].items():
            name = f"{split}_{stem}" if stem in shared else stem
            target[name] = Pair(name, pair.image, pair.mask)


def _divide(
    tree: Tree, definition: DatasetDefinition, options: Mapping[str, Any], pool: dict[str, Pair], result: Scan
) -> None:
    """Apply the split rule to a pool."""
    rule = definition.split
    test: Any = options[rule.option] if rule.option else rule.test
    where = f"options.{rule.option}" if rule.option else "split.test"
    if isinstance(test, str):
        try:
            test = read_list(tree, test)
        except (OSError, UnicodeDecodeError) as error:
            what = f"the list of test images cannot be read ({error}); give a text file with one name a line"
            result.findings.append(Finding("test-list", "fault", where, what))
            return
    train, held_out, unknown = split_pool(sorted(pool), test)
    for name in unknown:
        what = f"names {name}, which the dataset does not hold; mend or remove the line"
        result.findings.append(Finding("unknown-test", "fault", where, what))
    if pool and not (train and held_out):
        left = f"{counted(len(train), 'image')} to train and {len(held_out)} to test"
        what = f"leaves {left} of {len(pool)}; choose another"
        result.findings.append(Finding("split", "fault", where, what))
    result.train = {name: pool[name] for name in train}
    result.test = {name: pool[name] for name in held_out}


def read_list(tree: Tree, path: str) -> list[str]:
    """Names in a text file, one a line, blank lines and ``#`` comments left out.

    Args:
        tree: the data root, where ``path`` is looked for first.
        path: below the root, or any path of this machine.
    """
    below = not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
    if below and tree.kind(path) == "file":
        text = tree.read_text(path)
    else:
        local = Path(path).expanduser()
        if not local.is_file() and isinstance(tree, LocalTree):
            raise FileNotFoundError(f"no file {path}, neither below {tree.uri} nor from here")
        text = local.read_text(encoding="utf-8")
    return list(_lines(text))


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        name = line.split("#", 1)[0].strip()
        if name:
            yield name
