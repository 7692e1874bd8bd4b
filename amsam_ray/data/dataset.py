"""Access the labelled images of a dataset by name. Opening reads names only; pixels are read on request."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from amsam_ray.config.classes import has_classes
from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.data.class_masks import ClassMasks
from amsam_ray.data.class_scan import FATAL, scan_classes
from amsam_ray.data.definition import check_options, get_definition, open_tree, resolve_root
from amsam_ray.data.images import decode_image, decode_mask, read_file, read_frame
from amsam_ray.data.layout import Scan, scan
from amsam_ray.data.pairing import Pair
from amsam_ray.data.schema import DatasetDefinition, MaskRule
from amsam_ray.data.tree import LocalTree
from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.hashing import sha256_hex

Split = Literal["search", "final", "all"]


class _Source(Protocol):
    def image(self, name: str) -> np.ndarray: ...
    def mask(self, name: str) -> np.ndarray: ...
    def image_key(self, name: str) -> str: ...
    def mask_key(self, name: str) -> str: ...


class Dataset:
    """The labelled images of one dataset that a trial of one role may use.

    Attributes:
        label: name of the dataset in leaderboards.
        definition: the definition it was opened by.
        train: names of the train pool, sorted.
        test: names of the test split, sorted; empty for search trials, so that they cannot read a test image.
    """

    def __init__(
        self,
        label: str,
        definition: DatasetDefinition,
        source: _Source,
        train: tuple[str, ...],
        test: tuple[str, ...],
    ):
        self.label, self.definition = label, definition
        self.train, self.test = train, test
        self._source = source
        self._names = frozenset(train) | frozenset(test)

    def image(self, name: str) -> np.ndarray:
        """Return a photograph, HWC uint8 RGB, upright.

        Raises:
            KeyError: this dataset object has no image of that name.
            ImageError: its file is missing or damaged.
        """
        return self._source.image(self._known(name))

    def mask(self, name: str) -> np.ndarray:
        """Return a mask, HW bool at the size of its photograph, True on the object. Raises as `image`."""
        return self._source.mask(self._known(name))

    def content_key(self, name: str) -> str:
        """Return the SHA-256 of the photograph's file (of its pixels if procedural), 64 hex digits."""
        return self._source.image_key(self._known(name))

    def mask_key(self, name: str) -> str:
        """Return the SHA-256 of the mask, as `content_key`."""
        return self._source.mask_key(self._known(name))

    def _known(self, name: str) -> str:
        if name not in self._names:
            raise KeyError(f"{self.label} has no image {name!r} in the splits that this trial may use")
        return name


def open_dataset(config: DatasetConfig, *, split: Split, mirror_dir: Path | None = None) -> Dataset:
    """Open a dataset for trials of one role.

    Args:
        config: which dataset, where and with which options.
        split: ``search`` opens the train pool only; ``final`` and ``all`` also open the test split, of which
            ``config.limit_test`` keeps the first images.
        mirror_dir: folder for local copies of datasets in buckets (`amsam_ray.paths.mirrors_dir`); needed for
            s3:// roots only.

    Raises:
        InputError: the definition, an option or the root is wrong, or no usable pair is found.
        AmsamError: the bucket cannot be mirrored.
    """
    definition = get_definition(config.name)
    options, problems = check_options(definition, config.options)
    if problems:
        raise InputError(problems)
    if definition.source == "procedural":
        procedural = _Procedural(options)
        count = options["train"]
        names = procedural.names
        return _limited(config, definition, procedural, names[:count], names[count:], split)
    root = local_root(config, mirror_dir)
    if has_classes(options):
        return _of_classes(config, definition, options, root, split)
    found = scan(LocalTree(root), definition, options)
    if not found.train or not found.test:
        raise InputError(_unusable(config, found))
    files = _Files(root, definition.mask_rule(options), {**found.train, **found.test})
    return _limited(config, definition, files, tuple(sorted(found.train)), tuple(sorted(found.test)), split)


def _of_classes(
    config: DatasetConfig, definition: DatasetDefinition, options: Mapping[str, Any], root: Path, split: Split
) -> Dataset:
    """Open one class of a dataset, or all its classes as one: only images that hold it are shots."""
    found = scan_classes(LocalTree(root), definition, options)
    faults = [Problem(f.where, f.what) for f in found.scan.findings if f.severity == "fault" and f.code in FATAL]
    if faults:
        raise InputError(faults)
    one = options.get("class")
    wanted = tuple(found.classes) if one is None else (str(one),)
    train, test = found.names(found.scan.train, wanted), tuple(sorted(found.scan.test))
    if split != "search" and options.get("absent") != "score":
        test = found.names(test, wanted)
    if not train or not test:
        raise InputError(_unusable(config, found.scan))
    source = _ClassFiles(
        root, definition.mask_rule(options), {**found.scan.train, **found.scan.test}, found.masks, wanted
    )
    return _limited(config, definition, source, train, test, split)


def local_root(config: DatasetConfig, mirror_dir: Path | None) -> Path:
    """Return the local folder that holds a dataset of files: its root, or the local mirror of a bucket.

    Raises:
        InputError: no root is known, it does not exist, or a bucket is given without ``mirror_dir``.
    """
    root = resolve_root(config)
    if root is None:
        raise InputError(Problem(config.label, "has no root; give the folder that holds the dataset"))
    if not root.startswith("s3://"):
        tree = open_tree(root)
        assert isinstance(tree, LocalTree)
        return tree.root
    if mirror_dir is None:
        raise InputError(Problem(root, "needs a folder for a local copy; give mirror_dir"))
    from amsam_ray.data.mirror import mirror

    return mirror(root, mirror_dir)


def _unusable(config: DatasetConfig, found: Scan) -> list[Problem]:
    faults = [Problem(f.where, f.what) for f in found.findings if f.severity == "fault"]
    return faults or [Problem(config.label, "has no labelled image; see `amsam-ray data check`")]


def _limited(
    config: DatasetConfig,
    definition: DatasetDefinition,
    source: _Source,
    train: tuple[str, ...],
    test: tuple[str, ...],
    split: Split,
) -> Dataset:
    test = () if split == "search" else test[: config.limit_test]
    return Dataset(config.label, definition, source, train, test)


class _Files:
    """A source of pairs of files below a local root."""

    def __init__(self, root: Path, rule: MaskRule, pairs: Mapping[str, Pair]):
        self._root, self._rule, self._pairs = root, rule, dict(pairs)

    def image(self, name: str) -> np.ndarray:
        path = self._pairs[name].image
        return decode_image(self._read(path), str(self._root / path)).pixels

    def mask(self, name: str) -> np.ndarray:
        pair = self._pairs[name]
        frame = read_frame(self._read(pair.image), str(self._root / pair.image))
        return decode_mask(self._read(pair.mask), str(self._root / pair.mask), self._rule, frame).pixels

    def image_key(self, name: str) -> str:
        return sha256_hex(self._read(self._pairs[name].image))

    def mask_key(self, name: str) -> str:
        return sha256_hex(self._read(self._pairs[name].mask))

    def _read(self, path: str) -> bytes:
        return read_file(self._root / path, str(self._root / path))


class _ClassFiles(_Files):
    """A source whose masks are those of some classes."""

    def __init__(
        self,
        root: Path,
        rule: MaskRule,
        pairs: Mapping[str, Pair],
        masks: ClassMasks,
        classes: tuple[str, ...],
    ):
        super().__init__(root, rule, pairs)
        self._masks, self._classes = masks, classes

    def mask(self, name: str) -> np.ndarray:
        path = self._pairs[name].image
        return self._masks.mask(name, self._classes, read_frame(self._read(path), str(self._root / path)))

    def mask_key(self, name: str) -> str:
        # Of the pixels: all classes share one file, and the same masks in another format are the same masks.
        return _array_key(self.mask(name))


class _Procedural:
    """A source of procedural images, drawn from a seed."""

    def __init__(self, options: Mapping[str, Any]):
        self._family, self._seed, self._size = options["family"], options["seed"], options["size"]
        total = options["train"] + options["test"]
        self._index = {f"{self._family}-{index:06d}": index for index in range(total)}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._index)

    def image(self, name: str) -> np.ndarray:
        return self._draw(name)[0].copy()

    def mask(self, name: str) -> np.ndarray:
        return self._draw(name)[1].copy()

    def image_key(self, name: str) -> str:
        return _array_key(self._draw(name)[0])

    def mask_key(self, name: str) -> str:
        return _array_key(self._draw(name)[1])

    def _draw(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return _render(self._family, self._seed, self._index[name], self._size)


@lru_cache(maxsize=8)  # image, mask and their keys are requested one after the other
def _render(family: str, seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    from amsam_ray.data.procedural import render

    try:
        return render(family, seed, index, size)
    except RuntimeError as error:
        raise AmsamError(f"{error}; choose another seed") from None


def _array_key(array: np.ndarray) -> str:
    head = f"{array.dtype.str}{array.shape}".encode()
    return sha256_hex(head + np.ascontiguousarray(array).tobytes())
