"""The masks of a dataset with classes: from label maps, a folder of masks for each class, or a COCO file.

Every source answers the same two questions about an image: which classes it holds, and where they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from amsam_ray.data.coco import CocoImage, rasterise
from amsam_ray.data.images import Frame, ImageError, decode_mask, read_frame, turn_as_stored
from amsam_ray.data.labels import decode_labels
from amsam_ray.data.schema import MaskRule

_REMEMBERED = 100_000  # files; what is kept of each is a few numbers


class ClassMasks(Protocol):
    """Where the classes are, by name of the image and name of the class."""

    def present(self, name: str) -> frozenset[str]:
        """Return the classes with at least one pixel in the image. Raises ImageError if its masks are unreadable."""

    def unlisted(self, name: str) -> frozenset[int]:
        """Return the values in the image's label map that belong to no class. Raises as `present`."""

    def mask(self, name: str, classes: Collection[str], frame: Frame) -> np.ndarray:
        """Return the pixels of any of ``classes``, HW bool at the photograph's size.

        Args:
            name: of the image.
            classes: names of classes.
            frame: the photograph's.

        Raises:
            ImageError: a mask is missing, unreadable, or of a size that the definition refuses.
        """


class LabelMaps:
    """One label map for each image.

    Args:
        root: the data root.
        rule: what to do with a map of another size than its photograph.
        files: path of the label map by name of the image.
        classes: value by name of the class.
        ignore: further values that count as background.
    """

    def __init__(
        self,
        root: Path,
        rule: MaskRule,
        files: Mapping[str, str],
        classes: Mapping[str, int],
        ignore: Collection[int] = (),
    ):
        self._root, self._rule, self._files = root, rule, dict(files)
        self._classes, self._ignore = dict(classes), frozenset(ignore)

    def values(self, name: str) -> frozenset[int]:
        """Return the values in a label map, without the background and the ignored ones. Raises as `present`."""
        path = self._files[name]
        return _values(self._root, path, *_stamp(self._root, path)) - self._ignore - {0}

    def present(self, name: str) -> frozenset[str]:
        values = self.values(name)
        return frozenset(one for one, value in self._classes.items() if value in values)

    def unlisted(self, name: str) -> frozenset[int]:
        return self.values(name) - frozenset(self._classes.values())

    def mask(self, name: str, classes: Collection[str], frame: Frame) -> np.ndarray:
        path = self._files[name]
        labels = decode_labels(_read(self._root, path), str(self._root / path), self._rule, frame)
        return np.isin(labels.values_HW, [self._classes[one] for one in classes])


class ClassFolders:
    """A mask for each class of an image, in the folder of the class; an absent file is an absent class.

    Args:
        root: the data root.
        rule: how masks are read.
        files: path of each mask by name of the image and class.
    """

    def __init__(self, root: Path, rule: MaskRule, files: Mapping[str, Mapping[str, str]]):
        self._root, self._rule, self._files = root, rule, {name: dict(masks) for name, masks in files.items()}

    def present(self, name: str) -> frozenset[str]:
        found = self._files[name].items()
        return frozenset(
            one for one, path in found if _has_object(self._root, path, self._rule, *_stamp(self._root, path))
        )

    def unlisted(self, name: str) -> frozenset[int]:
        return frozenset()

    def mask(self, name: str, classes: Collection[str], frame: Frame) -> np.ndarray:
        covered = np.zeros((frame.height, frame.width), dtype=bool)
        for one in classes:
            if path := self._files[name].get(one):
                covered |= decode_mask(_read(self._root, path), str(self._root / path), self._rule, frame).pixels
        return covered


class CocoMasks:
    """The annotations of a COCO file.

    Args:
        where: the file's name in messages.
        images: annotated image by name.
        classes: id of the category by name of the class.
    """

    def __init__(self, where: str, images: Mapping[str, CocoImage], classes: Mapping[str, int]):
        self._where, self._images, self._classes = where, dict(images), dict(classes)
        self._present: dict[str, frozenset[str]] = {}

    def present(self, name: str) -> frozenset[str]:
        if name not in self._present:
            image = self._images[name]
            used = {category for category, _ in image.annotations}
            here = [one for one, category in self._classes.items() if category in used]
            self._present[name] = frozenset(one for one in here if rasterise(image, [self._classes[one]]).any())
        return self._present[name]

    def unlisted(self, name: str) -> frozenset[int]:
        return frozenset()

    def mask(self, name: str, classes: Collection[str], frame: Frame) -> np.ndarray:
        image = self._images[name]
        covered = rasterise(image, [self._classes[one] for one in classes])
        turned, _ = turn_as_stored(Image.fromarray(covered.astype(np.uint8)), frame)
        if turned.size != (frame.width, frame.height):
            sizes = f"is {frame.width}x{frame.height}, and {self._where} states {image.width}x{image.height}"
            raise ImageError(image.file_name, f"{sizes}; annotate the photographs at their own size")
        return np.asarray(turned).astype(bool)


def _read(root: Path, path: str) -> bytes:
    try:
        return (root / path).read_bytes()
    except OSError as error:
        raise ImageError(path, f"cannot be read ({error.strerror}); restore it") from None


def _stamp(root: Path, path: str) -> tuple[int, int]:
    """Return what changes with a file's content: its size and the time of its last change in nanoseconds."""
    try:
        found = (root / path).stat()
    except OSError as error:
        raise ImageError(path, f"cannot be read ({error.strerror}); restore it") from None
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=_REMEMBERED)
def _values(root: Path, path: str, size: int, changed: int) -> frozenset[int]:
    found = decode_labels(_read(root, path), path, MaskRule(), None)
    return frozenset(map(int, np.unique(found.values_HW)))


@lru_cache(maxsize=_REMEMBERED)
def _has_object(root: Path, path: str, rule: MaskRule, size: int, changed: int) -> bool:
    data = _read(root, path)
    return bool(decode_mask(data, path, rule, read_frame(data, path)).pixels.any())
