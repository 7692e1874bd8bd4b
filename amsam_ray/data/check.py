"""``amsam-ray data check``: read a whole dataset and list its faults, conversions and notes.

Every file of every pair is decoded, a few at a time, so memory does not grow with the number of images.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from amsam_ray.config.classes import has_classes
from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.data.class_check import count_classes, inspect_classes
from amsam_ray.data.class_scan import ClassScan, scan_classes
from amsam_ray.data.dataset import Dataset, local_root, open_dataset
from amsam_ray.data.definition import check_options, get_definition
from amsam_ray.data.findings import Finding, Severity, converted, fault, note
from amsam_ray.data.images import (
    BETWEEN_TOLERANCE,
    VOID,
    ImageError,
    Mask,
    MaskValuesError,
    Photograph,
    decode_image,
    decode_mask,
    read_file,
)
from amsam_ray.data.layout import scan
from amsam_ray.data.mask_values import listed
from amsam_ray.data.pairing import Pair
from amsam_ray.data.schema import Counts, MaskRule
from amsam_ray.data.tree import LocalTree
from amsam_ray.errors import InputError, counted
from amsam_ray.hashing import sha256_hex

_ASPECT_TOLERANCE = 0.05
_SEVERITIES: tuple[Severity, ...] = ("fault", "converted", "note")

Progress = Callable[[int, int], None]
"""Called with the number of images that are done and their total number."""


@dataclass
class DatasetReport:
    """The result of `check_dataset`.

    Attributes:
        name: the name of the definition.
        root: as the user gave it; empty for procedural images.
        train, test: number of usable images in each split.
        expected: the counts that the publisher states, if any.
        findings: faults, conversions and notes.
        sizes: (width, height) in pixels of the smallest, the median and the largest photograph.
        object_share: smallest, median and largest share of an image that is object, in [0, 1].
        classes: number of images of the train pool and of the test split that hold a class, by its name.
        mask_values: the distinct values of the masks that state few, sorted (`amsam_ray.data.images.Mask.values`).
    """

    name: str
    root: str
    train: int = 0
    test: int = 0
    expected: Counts | None = None
    findings: list[Finding] = field(default_factory=list)
    sizes: tuple[tuple[int, int], ...] = ()
    object_share: tuple[float, ...] = ()
    classes: dict[str, tuple[int, int]] = field(default_factory=dict)
    mask_values: tuple[int, ...] = ()

    @property
    def faults(self) -> list[Finding]:
        """The findings that the user has to correct."""
        return [finding for finding in self.findings if finding.severity == "fault"]

    def grouped(self) -> Iterator[tuple[Severity, str, list[Finding]]]:
        """Yield (severity, code, findings sorted by place), faults first."""
        ordered = sorted(self.findings, key=lambda f: (_SEVERITIES.index(f.severity), f.code, f.where))
        for (severity, code), group in groupby(ordered, key=lambda f: (f.severity, f.code)):
            yield severity, code, list(group)


@dataclass(frozen=True)
class _Inspection:
    """What the two files of one pair show; None where a file cannot be decoded."""

    name: str
    findings: tuple[Finding, ...]
    pixels_sha256: str | None = None
    size: tuple[int, int] | None = None
    object_share: float | None = None
    mask_values: tuple[int, ...] = ()


def check_dataset(
    config: DatasetConfig,
    *,
    mirror_dir: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> DatasetReport:
    """Read all of a dataset and report everything found.

    Args:
        config: which dataset, where, with which options.
        mirror_dir: as in `open_dataset`.
        progress: called after every image.

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
    by_class = scan_classes(LocalTree(root), definition, options) if has_classes(options) else None
    found = by_class.scan if by_class else scan(LocalTree(root), definition, options)
    report = DatasetReport(definition.name, str(config.root or root), len(found.train), len(found.test))
    report.expected, report.findings = definition.expected, list(found.findings)
    report.findings += _count_findings(report, definition.obtain)
    pairs, rule = {**found.train, **found.test}, definition.mask_rule(options)
    if by_class:
        counts = count_classes(by_class)
        report.classes = {name: (counts.train[name], counts.test[name]) for name in by_class.classes}
        report.findings += [finding for finding in counts.findings if finding not in report.findings]

    def inspect(name: str) -> _Inspection:
        return _inspect(root, pairs[name], by_class or rule)

    inspections = _inspect_all(inspect, sorted(pairs), progress)
    where = {name: pair.image for name, pair in pairs.items()}
    _summarise(report, inspections, frozenset(found.test), where, by_class is not None)
    return report


def _check_procedural(dataset: Dataset, progress: Progress) -> DatasetReport:
    def inspect(name: str) -> _Inspection:
        image, mask = dataset.image(name), dataset.mask(name)
        size = (image.shape[1], image.shape[0])
        return _Inspection(name, (), dataset.content_key(name), size, float(mask.mean()))

    report = DatasetReport(dataset.definition.name, "", len(dataset.train), len(dataset.test))
    names = [*dataset.train, *dataset.test]
    inspections = _inspect_all(inspect, names, progress)
    _summarise(report, inspections, frozenset(dataset.test), {name: name for name in names})
    return report


def _count_findings(report: DatasetReport, obtain: str) -> Iterator[Finding]:
    """Compare the number of usable images with the published one, unless no image was found at all."""
    if report.expected is None or not (report.train or report.test):
        return
    counts = (("train", report.train, report.expected.train), ("test", report.test, report.expected.test))
    for split, found, published in counts:
        if found != published:
            what = f"{counted(found, 'usable image')}, {published} published; {obtain}"
            yield fault("count", f"{split} split", what)


def _inspect_all(inspect: Callable[[str], _Inspection], names: list[str], progress: Progress) -> Iterator[_Inspection]:
    """Inspect all pairs in order, in threads: decoding releases the GIL. Few images are in memory at a time."""
    workers = min(8, os.cpu_count() or 1)
    remaining = iter(names)
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        while batch := list(islice(remaining, 4 * workers)):
            for inspection in pool.map(inspect, batch):
                done += 1
                progress(done, len(names))
                yield inspection


def _inspect(root: Path, pair: Pair, rule: MaskRule | ClassScan) -> _Inspection:
    """Decode the photograph and the mask of one pair, or the masks of all classes."""
    try:
        photograph = decode_image(read_file(root / pair.image, pair.image), pair.image)
    except ImageError as error:
        return _Inspection(pair.name, (fault("unreadable", pair.image, error.what),))
    findings = [converted(code, pair.image) for code in photograph.conversions]
    pixels = photograph.pixels
    digest = sha256_hex(repr(pixels.shape).encode() + pixels.tobytes())
    size = (photograph.frame.width, photograph.frame.height)
    if isinstance(rule, ClassScan):
        of_classes, share = inspect_classes(rule, pair, photograph.frame)
        return _Inspection(pair.name, (*findings, *of_classes), digest, size, share)
    try:
        mask = decode_mask(read_file(root / pair.mask, pair.mask), pair.mask, rule, photograph.frame)
    except MaskValuesError as error:
        findings.append(fault("mask-values", pair.mask, error.what))
        return _Inspection(pair.name, tuple(findings), digest, size, None, error.values)
    except ImageError as error:
        findings.append(fault("mask-unreadable", pair.mask, error.what))
        return _Inspection(pair.name, tuple(findings), digest, size)
    findings += [converted(f"mask-{code}", pair.mask) for code in mask.conversions]
    findings += _suspect_mask(pair.mask, mask, photograph)
    return _Inspection(pair.name, tuple(findings), digest, size, float(mask.pixels.mean()), mask.values)


def _suspect_mask(where: str, mask: Mask, photograph: Photograph) -> Iterator[Finding]:
    """Report what is legal in a mask and yet likely wrong."""
    width, height = photograph.frame.width, photograph.frame.height
    aspect = (mask.size[0] / mask.size[1]) / (width / height)
    if not 1 / (1 + _ASPECT_TOLERANCE) <= aspect <= 1 + _ASPECT_TOLERANCE:
        sizes = f"{mask.size[0]}x{mask.size[1]} against {width}x{height}"
        yield fault("mask-shape", where, f"has another aspect ratio than its photograph ({sizes}); use its own mask")
    if mask.between > BETWEEN_TOLERANCE:
        what = f"{mask.between:.0%} of its pixels are neither black nor white; replace it by a mask of two values, "
        what += "or add object: nonzero to the options if every value but 0 is the object"
        what += f" (found {listed(mask.values)})" if mask.values else ""
        yield fault("mask-values", where, what)
    if mask.colours > 1:
        what = f"holds {mask.colours} colours besides black, and all are object; for a class of each "
        if "rgb" in mask.conversions:
            what += "save it as a grey PNG of the values 1, 2, ... for the colours, and "
        what += "add classes: all to the options"
        yield note("mask-colours", where, what)
    if mask.void:
        what = f"holds {VOID}, in VOC's maps the border of no class, and it is object; to count it as background add "
        what += f"classes: all, ignore: [{VOID}] to the options"
        yield note("mask-void", where, what)
    if mask.areas:
        what = f"holds areas of the values {listed(mask.areas)}, and all are object; for a class of each add "
        what += "classes: all to the options; if 0 is not the background, save maps in which it is"
        yield note("mask-areas", where, what)
    if not mask.pixels.any():
        yield note("mask-empty", where, "holds no object; check that this is intended")
    if mask.pixels.all():
        yield note("mask-full", where, "covers the whole image; check that this is intended")


def _summarise(
    report: DatasetReport,
    inspections: Iterable[_Inspection],
    test: frozenset[str],
    where: dict[str, str],
    classes: bool = False,
) -> None:
    """Add the findings of all pairs to ``report``, with duplicates, sizes and object shares.

    Args:
        report: changed in place.
        inspections: one per pair.
        test: names of the test split.
        where: name -> the photograph's path.
        classes: whether masks are read by class; every pixel may then belong to one.
    """
    first: dict[str, str] = {}  # SHA-256 of the pixels -> the first name that has them
    sizes, shares, values = [], [], set()
    for inspection in inspections:
        report.findings.extend(inspection.findings)
        values |= set(inspection.mask_values)
        if inspection.size is not None:
            sizes.append(inspection.size)
        if inspection.object_share is not None:
            shares.append(inspection.object_share)
        if inspection.pixels_sha256 is not None:
            twin = first.setdefault(inspection.pixels_sha256, inspection.name)
            if twin != inspection.name:
                report.findings.append(_same_picture(inspection.name, twin, test, where))
    if sizes:
        sizes.sort(key=lambda size: size[0] * size[1])
        report.sizes = (sizes[0], sizes[len(sizes) // 2], sizes[-1])
    if shares:
        report.object_share = tuple(float(np.quantile(shares, q)) for q in (0, 0.5, 1))
        if report.object_share[0] == 1 and not classes:
            what = "every mask covers its whole image: no pixel is 0; save masks whose background is black (0)"
            report.findings.append(fault("masks-full", "masks", what))
        if not report.object_share[-1] and not any(finding.code == "classes" for finding in report.faults):
            what = "no mask holds an object; give the folder of the masks, or masks that are white on black"
            report.findings.append(fault("masks-empty", "masks", what))
    report.mask_values = tuple(sorted(values))


def _same_picture(name: str, twin: str, test: frozenset[str], where: dict[str, str]) -> Finding:
    text = f"is the same picture as {where[twin]}"
    if (twin in test) != (name in test):
        return fault("leak", where[name], f"{text}, in the other split; remove one of them")
    return note("duplicate", where[name], f"{text}, in the same split")
