"""Pair photographs with masks, and split them, by the names of their files alone.

No pixel is read, so a scan is cheap enough to run before a sweep and works on the keys of a bucket.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from amsam_ray.data.findings import Finding, converted, fault, note
from amsam_ray.data.schema import DatasetDefinition, FolderPair
from amsam_ray.data.splits import split_pool
from amsam_ray.data.tree import LocalTree, Tree, read_text
from amsam_ray.errors import counted

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
"""Suffixes of the files that are read as images, in lower case."""

MAX_LIST_BYTES = 8 << 20
"""Largest list of names, in bytes."""
_SHOWN_NAMES, _SHOWN_LENGTH = 20, 200

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


@dataclass
class Scan:
    """The labelled images below a data root.

    Attributes:
        train: labelled images that shots may be drawn from, by name.
        test: labelled images of the test split, by name.
        findings: faults, conversions and notes, in no particular order.
    """

    train: dict[str, Pair] = field(default_factory=dict)
    test: dict[str, Pair] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def scan(tree: Tree, definition: DatasetDefinition, options: Mapping[str, Any]) -> Scan:
    """Pair and split the files of a dataset.

    Args:
        tree: the data root.
        definition: what to look for; ``source`` is ``files``.
        options: validated, with defaults filled in (`amsam_ray.data.definition.check_options`).
    """
    result = Scan()
    folders = choose_layout(tree, definition, options)
    if folders is None:
        result.findings.append(no_layout(tree, definition, options))
        return result
    claimed: set[str] = set()
    found = {split: pair_files(tree, definition, pair, claimed, result.findings) for split, pair in folders.items()}
    check_unclaimed_masks(tree, definition, folders, claimed, result.findings)
    if "pool" in found:
        divide_pool(tree, definition, options, found["pool"], result)
    else:
        take_published_split(found, result)
    return result


def no_layout(tree: Tree, definition: DatasetDefinition, options: Mapping[str, Any]) -> Finding:
    wanted = "; or ".join(
        ", ".join(f"{pair.images} and {pair.masks}" for pair in layout.pairs().values())
        for layout in definition.layouts
    )
    return fault("layout", tree.uri, f"does not hold the folders {_fill(wanted, options)}; {definition.obtain}")


def _fill(text: str, options: Mapping[str, Any]) -> str:
    for name, value in options.items():
        text = text.replace("{" + name + "}", str(value))
    return text


def choose_layout(
    tree: Tree, definition: DatasetDefinition, options: Mapping[str, Any]
) -> dict[str, FolderPair] | None:
    """Return the folders of the first layout whose photograph folders all exist, options filled in."""
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


def pair_files(
    tree: Tree, definition: DatasetDefinition, folders: FolderPair, claimed: set[str], findings: list[Finding]
) -> dict[str, Pair]:
    """Pair the files of one folder of photographs and one of masks, by the stem of the photograph.

    Adds the masks that fit some photograph to ``claimed``, and what cannot be paired to ``findings``.
    """
    masks_by_stem = _by_stem(_images(tree, folders.masks, None))
    images = _by_stem(_images(tree, folders.images, findings))
    wanted_by = {name: definition.mask.name.replace("{stem}", name) for name in images}
    folded: dict[str, list[str]] = defaultdict(list)
    for stem in masks_by_stem.keys() - set(wanted_by.values()):  # a mask with an exact match is not offered to others
        folded[_fold(stem)].extend(masks_by_stem[stem])
    pairs: dict[str, Pair] = {}
    for name, files in sorted(images.items()):
        if not _matches(name, definition.images):
            continue
        image, wanted = f"{folders.images}/{files[0]}", wanted_by[name]
        masks = masks_by_stem.get(wanted) or folded.get(_fold(wanted), [])
        claimed.update(f"{folders.masks}/{mask}" for mask in masks)
        if len(files) > 1:
            text = f"{len(files)} photographs share the name {name} ({', '.join(files)}); keep or rename one"
            findings.append(fault("same-name", image, text))
        elif len(masks) > 1:
            text = f"{len(masks)} masks fit ({', '.join(masks)}); keep one"
            findings.append(fault("many-masks", image, text))
        elif not masks:
            text = f"left out: no mask {folders.masks}/{wanted}.*; add it or remove the photograph"
            findings.append(fault("no-mask", image, text))
        else:
            pairs[name] = Pair(name, image, f"{folders.masks}/{masks[0]}")
            if PurePosixPath(masks[0]).stem != wanted:
                text = f"is paired with {folders.masks}/{masks[0]}, whose name differs in case or Unicode form"
                findings.append(converted("case", image, text))
    return pairs


def _images(tree: Tree, folder: str, findings: list[Finding] | None) -> list[str]:
    """List the file names of a folder's images; report everything else to ``findings``, if given."""
    seen: list[str] = []
    other: list[Finding] = []
    kind = tree.kind(folder)
    if kind in _LINKS:
        other.append(fault(f"link-{kind}", folder, _LINKS[kind]))
    for entry in tree.folder(folder):
        where, suffix = f"{folder}/{entry.name}", PurePosixPath(entry.name).suffix.lower()
        if entry.kind in _LINKS:
            other.append(fault(f"link-{entry.kind}", where, _LINKS[entry.kind]))
        elif entry.kind == "folder":
            other.append(note("sub-folder", where, "ignored: only the folder itself is read"))
        elif suffix not in SUFFIXES:
            text = f"ignored: {suffix or 'no suffix'} is not among {', '.join(sorted(SUFFIXES))}"
            other.append(note("not-an-image", where, text))
        else:
            seen.append(entry.name)
    if kind == "folder" and not seen:
        other.append(fault("empty", folder, "holds no image; check the root and the folder's name"))
    if findings is not None:
        findings.extend(other)
    return seen


def _by_stem(files: Sequence[str]) -> dict[str, list[str]]:
    """Return the file names by stem."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in files:
        groups[PurePosixPath(name).stem].append(name)
    return groups


def _fold(stem: str) -> str:
    """Remove what differs between file systems from a name: case, and the Unicode form of accented letters."""
    return unicodedata.normalize("NFC", stem).casefold()


def _matches(stem: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(stem, pattern) for pattern in patterns)


def check_unclaimed_masks(
    tree: Tree,
    definition: DatasetDefinition,
    folders: Mapping[str, FolderPair],
    claimed: set[str],
    findings: list[Finding],
) -> None:
    """Report masks without a photograph, once per folder: two splits may share a folder of masks."""
    before, after = (re.escape(part) for part in definition.mask.name.split("{stem}"))
    for folder in dict.fromkeys(pair.masks for pair in folders.values()):
        for name in _images(tree, folder, findings):
            where = f"{folder}/{name}"
            stem = re.fullmatch(f"{before}(.+){after}", PurePosixPath(name).stem)
            if stem is None:
                text = f"ignored: its name is not {definition.mask.name}"
                findings.append(note("mask-name", where, text))
            elif where not in claimed and _matches(stem[1], definition.images):
                text = f"no photograph is named {stem[1]}; add it or remove the mask"
                findings.append(fault("no-image", where, text))


def take_published_split(found: Mapping[str, dict[str, Pair]], result: Scan) -> None:
    """Take train and test as published; put the split in front of a name that both hold, in both."""
    shared = set(found["train"]) & set(found["test"])
    for split, target in (("train", result.train), ("test", result.test)):
        for stem, pair in found[split].items():
            name = f"{split}_{stem}" if stem in shared else stem
            target[name] = Pair(name, pair.image, pair.mask)


def divide_pool(
    tree: Tree, definition: DatasetDefinition, options: Mapping[str, Any], pool: dict[str, Pair], result: Scan
) -> None:
    """Divide a pool into train and test by the definition's split rule."""
    rule = definition.split
    test: Any = options[rule.option] if rule.option else rule.test
    where = f"options.{rule.option}" if rule.option else "split.test"
    if test is None:
        what = "states no test split; give a number of images, a share below 1, names or the path of a list"
        result.findings.append(fault("split", where, what))
        return
    if isinstance(test, str):
        try:
            test = read_list(tree, test)
        except (OSError, UnicodeDecodeError) as error:
            what = f"the list of test images cannot be read ({error}); give a text file with one name per line"
            result.findings.append(fault("test-list", where, what))
            return
    train, held_out, unknown = split_pool(sorted(pool), test)
    for name in unknown[:_SHOWN_NAMES]:
        what = f"names {name[:_SHOWN_LENGTH]}, which the dataset does not hold; correct or remove the line"
        result.findings.append(fault("unknown-test", where, what))
    if len(unknown) > _SHOWN_NAMES:
        what = f"names {len(unknown) - _SHOWN_NAMES:,} more that the dataset does not hold; give the list of its names"
        result.findings.append(fault("unknown-test", where, what))
    if pool and not (train and held_out):
        left = f"{counted(len(train), 'image')} to train and {len(held_out)} to test"
        what = f"leaves {left} of {len(pool)}; choose another split"
        result.findings.append(fault("split", where, what))
    result.train = {name: pool[name] for name in train}
    result.test = {name: pool[name] for name in held_out}


def read_list(tree: Tree, path: str) -> list[str]:
    """Read names from a text file, one per line; blank lines and ``#`` comments are skipped.

    Args:
        tree: the data root, where ``path`` is searched first.
        path: below the root, or any path on this machine.

    Raises:
        OSError: there is no such file, it cannot be read, or it is larger than ``MAX_LIST_BYTES``.
        UnicodeDecodeError: it is not UTF-8.
    """
    below = not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
    if below and tree.kind(path) == "file":
        text = tree.read_text(path, MAX_LIST_BYTES)
    else:
        local = Path(path).expanduser()
        if not local.is_file() and isinstance(tree, LocalTree):
            raise FileNotFoundError(f"no file {path}, neither below {tree.uri} nor from here")
        text = read_text(local, MAX_LIST_BYTES)
    return list(_lines(text))


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if name := line.split("#", 1)[0].strip():
            yield name
