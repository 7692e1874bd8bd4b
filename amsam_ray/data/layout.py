"""Pair photographs with masks, and split them, by the names of their files alone.

No pixel is read, so a scan is cheap enough to run before a sweep and works on the keys of a bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from amsam_ray.data.detect import Refusal, find_folders
from amsam_ray.data.findings import Finding, fault
from amsam_ray.data.pairing import Pair, PatternPair, pair_files, report_unclaimed_masks
from amsam_ray.data.patterns import PathPattern
from amsam_ray.data.schema import DatasetDefinition, Layout
from amsam_ray.data.splits import split_pool
from amsam_ray.data.tree import LocalTree, Tree, read_text
from amsam_ray.errors import counted

MAX_LIST_BYTES = 8 << 20
"""Largest list of names, in bytes."""
_SHOWN_NAMES, _SHOWN_LENGTH = 20, 200


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
    if definition.detect:
        found_folders = find_folders(tree, options)
        if isinstance(found_folders, Refusal):
            result.findings.append(fault(found_folders.code, found_folders.where or tree.uri, found_folders.what))
            return result
        options = {**options, **found_folders.options}
        result.findings += found_folders.findings
    patterns = choose_layout(tree, definition, options)
    if patterns is None:
        result.findings.append(no_layout(tree, definition, options))
        return result
    claimed: set[str] = set()
    photographs: set[str] = set()
    found = {
        split: pair_files(tree, pair, definition.images, claimed, photographs, result.findings)
        for split, pair in patterns.items()
    }
    for masks in dict.fromkeys(pair.masks for pair in patterns.values()):  # two splits may share a folder of masks
        report_unclaimed_masks(tree, masks, definition.images, claimed, photographs, result.findings)
    result.findings = list(dict.fromkeys(result.findings))
    if "pool" in found:
        divide_pool(tree, definition, options, found["pool"], result)
    else:
        take_published_split(found, result)
    return result


def no_layout(tree: Tree, definition: DatasetDefinition, options: Mapping[str, Any]) -> Finding:
    wanted = "; or ".join(
        ", ".join(f"{pair.images} and {pair.masks}" for pair in layout.pairs().values())
        for layout in definition.layouts
        if not _lacks_an_option(layout, options)
    )
    return fault("layout", tree.uri, f"does not hold the folders {_fill(wanted, options)}; {definition.obtain}")


def _fill(text: str, options: Mapping[str, Any]) -> str:
    for name, value in options.items():
        text = text.replace("{" + name + "}", str(value))
    return text


def _lacks_an_option(layout: Layout, options: Mapping[str, Any]) -> bool:
    """Return whether a layout names an option that has no value."""
    unset = ["{" + name + "}" for name, value in options.items() if value is None]
    texts = [text for pair in layout.pairs().values() for text in (pair.images, pair.masks)]
    return any(name in text for name in unset for text in texts)


def choose_layout(
    tree: Tree, definition: DatasetDefinition, options: Mapping[str, Any]
) -> dict[str, PatternPair] | None:
    """Return the patterns of the first layout whose photograph folders all exist, options filled in.

    A layout that names an option without a value is passed over.
    """
    for within in definition.within:
        for layout in definition.layouts:
            if _lacks_an_option(layout, options):
                continue
            filled = {
                split: PatternPair(
                    PathPattern.of(str(PurePosixPath(within, _fill(pair.images, options)))),
                    PathPattern.of(str(PurePosixPath(within, _fill(pair.masks, options))), definition.mask.name),
                )
                for split, pair in layout.pairs().items()
            }
            if all(tree.kind(pair.images.folder) in ("folder", "outside", "loop") for pair in filled.values()):
                return filled
    return None


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
    test: Any = options[rule.option] if rule.option else None
    test = rule.test if test is None else test
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
