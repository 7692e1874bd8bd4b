"""Check the classes of a dataset before a sweep. Reads every mask: only images that hold a class can be its shots."""

from __future__ import annotations

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from amsam_ray.config.classes import ALL, has_classes
from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.data.class_scan import FATAL, ClassScan, scan_classes
from amsam_ray.data.dataset import local_root
from amsam_ray.data.definition import check_options, get_definition
from amsam_ray.data.findings import Finding, fault, note
from amsam_ray.data.images import Frame, ImageError
from amsam_ray.data.layout import Pair
from amsam_ray.data.tree import LocalTree
from amsam_ray.errors import InputError, Problem, counted
from amsam_ray.paths import mirrors_dir

_SHOWN = 20
_THREADS = 8  # decoding releases the GIL


@dataclass
class ClassCounts:
    """How often each class occurs.

    Attributes:
        train, test: number of images of the train pool and of the test split that hold a class, by its name.
        findings: masks that cannot be read, and values of label maps that belong to no class.
    """

    train: Counter[str] = field(default_factory=Counter)
    test: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


def count_classes(found: ClassScan) -> ClassCounts:
    """Read every mask of a dataset and count the images of each class."""
    counts = ClassCounts()
    strangers: dict[int, list[str]] = defaultdict(list)

    def read(name: str) -> tuple[frozenset[str], frozenset[int]] | ImageError:
        try:
            return found.masks.present(name), found.masks.unlisted(name)
        except ImageError as error:
            return error

    for pairs, count in ((found.scan.train, counts.train), (found.scan.test, counts.test)):
        with ThreadPoolExecutor(_THREADS) as pool:
            for name, held in zip(pairs, pool.map(read, pairs), strict=True):
                if isinstance(held, ImageError):
                    counts.findings.append(fault("mask-unreadable", held.where, held.what))
                    continue
                count.update(held[0])
                for value in held[1]:
                    strangers[value].append(pairs[name].mask)
    for value, files in sorted(strangers.items()):
        what = (
            f"holds the value {value}, which belongs to no class and is in {counted(len(files), 'label map')}; add it "
        )
        what += f"to classes, or write ignore: [{value}]"
        counts.findings.append(fault("label-value", files[0], what))
    return counts


def inspect_classes(found: ClassScan, pair: Pair, frame: Frame) -> tuple[list[Finding], float | None]:
    """Read the masks of all classes of one image.

    Args:
        found: the dataset.
        pair: the image.
        frame: the photograph's.

    Returns:
        What is to be told of them, and the share of the image that belongs to any class, in [0, 1]; None if the masks
        cannot be read.
    """
    try:
        present = found.masks.present(pair.name)
    except ImageError:  # `count_classes` lists it
        return [], None
    empty = np.zeros((frame.height, frame.width), dtype=bool)
    try:
        masks_CHW = np.stack([found.masks.mask(pair.name, [one], frame) for one in sorted(present)] or [empty])
    except ImageError as error:
        return [fault("mask-unreadable", error.where, error.what)], None
    covers_HW, findings = masks_CHW.sum(axis=0), []
    if not present:
        findings.append(
            note("mask-empty", pair.image, f"{pair.mask} holds no class there; check that this is intended")
        )
    if shared := np.count_nonzero(covers_HW > 1):
        what = f"{shared:,} pixels belong to several of {', '.join(sorted(present))}: to each of these in training"
        findings.append(note("class-overlap", pair.image, what))
    return findings, float((covers_HW > 0).mean())


def check_classes(config: DatasetConfig, shots: int, where: str) -> list[Problem]:
    """Check the classes of a dataset whose configuration `check_dataset_config` accepts.

    Args:
        config: the requested dataset.
        shots: largest number of labelled images of a class that any cell draws, including held-out ones.
        where: place in the user's file, put in front of every problem.

    Returns:
        Every problem that would prevent the use of a class; none for a dataset without classes.
    """
    try:
        found = _scan(config)
    except InputError as error:
        return [Problem(f"{where}.root", str(problem)) for problem in error.problems]
    if found is None:
        return []
    usable = bool(found.scan.train and found.scan.test)
    faults = [f for f in found.scan.findings if f.severity == "fault" and (not usable or f.code in FATAL)]
    if faults:
        return [_placed(finding, where) for finding in faults]
    counts = count_classes(found)
    problems = [_placed(finding, where) for finding in counts.findings[:_SHOWN]]
    if (rest := len(counts.findings) - _SHOWN) > 0:
        problems.append(Problem(f"{where}.root", f"{counted(rest, 'more fault')}; `amsam-ray data check` lists them"))
    if not found.classes and not problems:
        problems.append(Problem(f"{where}.options.classes", "finds no class: all masks are empty; check their values"))
    one = config.options.get("class")
    named = isinstance(config.options.get("classes"), dict)
    for name in found.classes if one is None else (str(one),):
        place = f"{where}.options.classes.{name}" if named else f"{where}.options"
        problems += _enough(name, counts, shots, config.options.get("absent") == "score", place)
    return problems


def _enough(name: str, counts: ClassCounts, shots: int, absent_scored: bool, where: str) -> list[Problem]:
    problems = []
    if counts.train[name] < shots:
        have = f"{counted(counts.train[name], 'image')} of the train pool"
        what = f"class {name} is in {have}, and {shots} are drawn; label more, use fewer shots or remove the class"
        problems.append(Problem(where, what))
    if not counts.test[name] and not absent_scored:
        what = f"class {name} is in no image of the test split; choose another split, or remove the class"
        problems.append(Problem(where, what))
    return problems


def _placed(finding: Finding, where: str) -> Problem:
    """Return a fault as a problem of the option that causes it, or of the root."""
    if finding.where.startswith("options."):
        return Problem(f"{where}.{finding.where}", finding.what)
    return Problem(f"{where}.root", f"{finding.where}: {finding.what}")


def named_classes(config: DatasetConfig) -> DatasetConfig:
    """Return the dataset with ``classes: all`` replaced by the classes that its files hold.

    Raises:
        InputError: they cannot be read.
    """
    if config.options.get("classes") != ALL:
        return config
    found = _scan(config)
    assert found is not None
    return config.model_copy(update={"options": {**config.options, "classes": dict(found.classes)}})


def _scan(config: DatasetConfig) -> ClassScan | None:
    """Scan a dataset with classes; a bucket is copied to this machine first. None for a dataset without classes."""
    definition = get_definition(config.name)
    options, problems = check_options(definition, config.options)
    if problems:
        raise InputError(problems)
    if definition.source != "files" or not has_classes(options):
        return None
    return scan_classes(LocalTree(local_root(config, mirrors_dir())), definition, options)
