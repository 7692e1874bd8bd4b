"""Everything that is amiss in a dataset, all at once: `amsam-ray data check`.

Every file of every pair is read and decoded, one at a time, so memory does not grow with the number of images.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.data.dataset import Dataset, local_root, open_dataset
from amsam_ray.data.definition import check_options, get_definition
from amsam_ray.data.images import ImageError, decode_image, decode_mask
from amsam_ray.data.layout import Finding, Pair, scan
from amsam_ray.data.schema import Counts, DatasetDefinition, MaskRule
from amsam_ray.data.tree import LocalTree
from amsam_ray.errors import InputError, counted
from amsam_ray.hashing import sha256_hex

_ASPECT_TOLERANCE = 0.05
_BETWEEN_TOLERANCE = 0.1

_PHOTOGRAPH_RULES = {
    "exif": "turned upright by its EXIF orientation",
    "grey": "grey photograph, copied to three channels",
    "palette": "palette photograph, converted to RGB",
    "alpha": "photograph with an alpha channel, laid over white",
    "16-bit": "photograph of more than 8 bits, scaled to 8",
}
_MASK_RULES = {
    "rgb": "mask in colour: its largest channel counts",
    "palette": "palette mask: grey by value, in colour every colour but black is object",
    "alpha": "mask with an alpha channel",
    "16-bit": "mask of more than 8 bits: full scale 255 or 65535, whichever holds its values",
    "labels": "mask of values 0 and 1: 1 is object",
    "lossy": "mask in a lossy format: compression noise, cut at the threshold",
    "exif": "mask turned upright with its photograph",
    "resized": "mask of another size than its photograph, resized (nearest)",
}


@dataclass
class Report:
    """What `check_dataset` found.

    Attributes:
        name: the definition's.
        root: as given; empty for procedural images.
        train, test: usable images of each split.
        expected: the counts that the publisher states, where there are any.
        findings: faults, conversions and notes.
        sizes: smallest, median and largest number of pixels, as (width, height) of the photographs that have them.
        object_share: smallest, median and largest share of an image that is object.
    """

    name: str
    root: str
    train: int = 0
    test: int = 0
    expected: Counts | None = None
    findings: list[Finding] = field(default_factory=list)
    sizes: tuple[tuple[int, int], ...] = ()
    object_share: tuple[float, ...] = ()

    @property
    def faults(self) -> list[Finding]:
        """The findings that need mending."""
        return [finding for finding in self.findings if finding.severity == "fault"]

    def grouped(self) -> Iterator[tuple[str, str, list[Finding]]]:
        """Findings by severity (faults first) and kind."""
        for severity in ("fault", "converted", "note"):
            kinds = Counter(f.kind for f in self.findings if f.severity == severity)
            for kind in sorted(kinds):
                chosen = [f for f in self.findings if (f.severity, f.kind) == (severity, kind)]
                yield severity, kind, sorted(chosen, key=lambda f: f.where)


@dataclass(frozen=True)
class _Facts:
    """What one pair's files told."""

    name: str
    findings: tuple[Finding, ...]
    pixels_sha256: str | None = None
    size: tuple[int, int] | None = None
    object_share: float | None = None


def check_dataset(
    config: DatasetConfig,
    *,
    mirror_dir: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Read all of a dataset and list everything that is amiss.

    Args:
        config: which dataset, where, with which options.
        mirror_dir: as in `open_dataset`.
        progress: told how many of how many images are done.

    Raises:
        InputError: the definition, an option or the root itself is wrong.
    """
    definition = get_definition(config.name)
    options, problems = check_options(definition, config.options)
    if problems:
        raise InputError(problems)
    if definition.source == "procedural":
        return _check_procedural(open_dataset(config, split="all"), progress)
    root = local_root(config, mirror_dir)
    found = scan(LocalTree(root), definition, options)
    report = Report(definition.name, str(config.root or root), len(found.train), len(found.test))
    report.expected, report.findings = definition.expected, list(found.findings)
    _check_counts(report, definition)
    pairs = {**found.train, **found.test}
    facts = _read_all(lambda name: _inspect(root, pairs[name], definition.mask), sorted(pairs), progress)
    _summarise(report, facts, frozenset(found.test), {name: pair.image for name, pair in pairs.items()})
    return report


def _check_counts(report: Report, definition: DatasetDefinition) -> None:
    if report.expected is None or not (report.train or report.test):
        return
    found = {"train": report.train, "test": report.test}
    for split, wanted in (("train", report.expected.train), ("test", report.expected.test)):
        if found[split] != wanted:
            what = f"{counted(found[split], 'usable image')}, {wanted} published; {definition.obtain}"
            report.findings.append(Finding("count", "fault", f"{split} split", what))


def _read_all(
    inspect: Callable[[str], _Facts], names: list[str], progress: Callable[[int, int], None]
) -> Iterator[_Facts]:
    """Facts of all pairs in order; decoding releases the GIL, and only a few images are held at a time."""
    workers = min(8, os.cpu_count() or 1)
    remaining = iter(names)
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        while batch := list(islice(remaining, 4 * workers)):
            for facts in pool.map(inspect, batch):
                done += 1
                progress(done, len(names))
                yield facts


def _inspect(root: Path, pair: Pair, rule: MaskRule) -> _Facts:
    findings: list[Finding] = []
    try:
        photograph = decode_image(_read(root, pair.image), pair.image)
    except ImageError as error:
        return _Facts(pair.name, (Finding("unreadable", "fault", pair.image, _tail(error, pair.image)),))
    for note in photograph.conversions:
        text = _PHOTOGRAPH_RULES.get(note, f"{note.upper()} photograph, converted to RGB")
        findings.append(Finding(note, "converted", pair.image, text))
    size = (photograph.frame.width, photograph.frame.height)
    digest = sha256_hex(repr(photograph.pixels.shape).encode() + photograph.pixels.tobytes())
    try:
        mask = decode_mask(_read(root, pair.mask), pair.mask, rule, photograph.frame)
    except ImageError as error:
        findings.append(Finding("mask-unreadable", "fault", pair.mask, _tail(error, pair.mask)))
        return _Facts(pair.name, tuple(findings), digest, size)
    for note in mask.conversions:
        findings.append(Finding(f"mask-{note}", "converted", pair.mask, _MASK_RULES[note]))
    share = float(mask.pixels.mean())
    findings += _doubts(pair, mask.size, size, mask.between, share)
    return _Facts(pair.name, tuple(findings), digest, size, share)


def _doubts(
    pair: Pair, mask_size: tuple[int, int], size: tuple[int, int], between: float, share: float
) -> Iterator[Finding]:
    """What is legal and yet likely wrong in a mask."""
    aspect = (mask_size[0] / mask_size[1]) / (size[0] / size[1])
    if not 1 / (1 + _ASPECT_TOLERANCE) <= aspect <= 1 + _ASPECT_TOLERANCE:
        shapes = f"{mask_size[0]}x{mask_size[1]} against {size[0]}x{size[1]}"
        text = f"is of another shape than its photograph ({shapes}); is it another photograph's?"
        yield Finding("mask-shape", "fault", pair.mask, text)
    if between > _BETWEEN_TOLERANCE:
        text = f"{between:.0%} of its pixels are neither black nor white; is it a mask?"
        yield Finding("mask-values", "fault", pair.mask, text)
    if share == 0:
        yield Finding("mask-empty", "note", pair.mask, "holds no object at all; right?")
    if share == 1:
        yield Finding("mask-full", "note", pair.mask, "is object all over; right?")


def _read(root: Path, path: str) -> bytes:
    try:
        return (root / path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); restore it") from None


def _tail(error: ImageError, path: str) -> str:
    return str(error).removeprefix(f"{path}: ")


def _summarise(report: Report, facts: Iterator[_Facts], test: frozenset[str], where: dict[str, str]) -> None:
    """Fill in duplicates, sizes and object shares."""
    first: dict[str, str] = {}
    sizes, shares = [], []
    for fact in facts:
        report.findings.extend(fact.findings)
        if fact.size is not None:
            sizes.append(fact.size)
        if fact.object_share is not None:
            shares.append(fact.object_share)
        if fact.pixels_sha256 is None:
            continue
        twin = first.setdefault(fact.pixels_sha256, fact.name)
        if twin == fact.name:
            continue
        if (twin in test) != (fact.name in test):
            text = f"is the same picture as {where[twin]}, in the other split; remove one of them"
            report.findings.append(Finding("leak", "fault", where[fact.name], text))
        else:
            text = f"is the same picture as {where[twin]}, in the same split"
            report.findings.append(Finding("duplicate", "note", where[fact.name], text))
    if sizes:
        sizes.sort(key=lambda size: size[0] * size[1])
        report.sizes = (sizes[0], sizes[len(sizes) // 2], sizes[-1])
    if shares:
        report.object_share = tuple(float(np.quantile(shares, q)) for q in (0, 0.5, 1))


def _check_procedural(dataset: Dataset, progress: Callable[[int, int], None]) -> Report:
    def inspect(name: str) -> _Facts:
        image, mask = dataset.image(name), dataset.mask(name)
        size = (image.shape[1], image.shape[0])
        return _Facts(name, (), dataset.content_key(name), size, float(mask.mean()))

    report = Report(dataset.definition.name, "", len(dataset.train), len(dataset.test))
    names = [*dataset.train, *dataset.test]
    facts = _read_all(inspect, names, progress)
    _summarise(report, facts, frozenset(dataset.test), {name: name for name in names})
    return report
