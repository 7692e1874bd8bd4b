"""Find masks in folders named ``manual``, as in data sets of retinal vessels. Imports no slow package.

DRIVE and HRF hold the vessels in ``1st_manual`` or ``manual1``, and the camera's field of view in ``mask``, whose name
is the one that other data sets use for the object.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from amsam_ray.data.folder_names import place
from amsam_ray.data.pairing import fold, is_image, join

_MANUAL = re.compile(r"(\d+(st|nd|rd|th)?[ _-]?)?manuals?([ _-]?\d+)?", re.IGNORECASE)
_SPLITS = ({"train", "test"}, {"train", "val"}, {"train", "val", "test"})


@dataclass(frozen=True)
class ManualReading:
    """One way to read folders named ``manual``.

    Attributes:
        options: ``images`` and ``masks``, and ``test_images`` and ``test_masks`` if the folders state the split.
        pairs: the mask of every photograph.
    """

    options: dict[str, str]
    pairs: Mapping[str, str]


@dataclass(frozen=True)
class _FolderPair:
    images: str
    masks: str
    pairs: Mapping[str, str]


def manual_readings(pictures: Iterable[str]) -> list[ManualReading]:
    """Return the ways to pair folders named ``manual`` with the photographs beside them.

    Names agree apart from a part after a separator that all files of a folder share, such as ``21_training`` and
    ``21_manual1``. Of the folders of one name, those in train and test are the published split.

    Args:
        pictures: paths below the root.
    """
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in pictures:
        by_folder[str(PurePosixPath(path).parent)].append(path)
    found: dict[tuple[str, ...], dict[str | None, list[_FolderPair]]] = defaultdict(lambda: defaultdict(list))
    for masks in sorted(by_folder):
        above, name = PurePosixPath(masks).parent, PurePosixPath(masks).name
        if not _MANUAL.fullmatch(name):
            continue
        for images in sorted(by_folder):
            beside = PurePosixPath(images).parent == above and place(images, strict=False).role == "image"
            pair = _pair(images, by_folder[images], masks, by_folder[masks]) if beside else None
            if pair:
                here = place(str(above), strict=False)
                found[name, *here.rest, PurePosixPath(images).name][here.split].append(pair)
    readings = [reading for splits in found.values() for reading in _by_split(splits)]
    used = [reading.pairs.keys() for reading in readings]
    return [reading for reading in readings if not any(reading.pairs.keys() < other for other in used)]


def _by_split(splits: Mapping[str | None, list[_FolderPair]]) -> Iterator[ManualReading]:
    if splits.keys() in _SPLITS:
        (train, *_), (test, *_) = splits["train"], splits["test" if "test" in splits else "val"]
        options = {"images": train.images, "masks": train.masks, "test_images": test.images, "test_masks": test.masks}
        yield ManualReading(options, {**train.pairs, **test.pairs})
        return
    for pairs in splits.values():
        for pair in pairs:
            yield ManualReading({"images": pair.images, "masks": pair.masks}, pair.pairs)


def _pair(images: str, photographs: Iterable[str], masks: str, files: Iterable[str]) -> _FolderPair | None:
    """Pair two folders by equal stems, or by stems without the end that all files of a folder share."""
    by_stem = {PurePosixPath(path).stem: path for path in photographs if is_image(path)}
    masks_by_stem = {PurePosixPath(path).stem: path for path in files}
    best: _FolderPair | None = None
    for image_end in dict.fromkeys(("", _shared_end(by_stem))):
        for mask_end in dict.fromkeys(("", _shared_end(masks_by_stem))):
            cores = {fold(stem.removesuffix(mask_end)): path for stem, path in masks_by_stem.items()}
            matched = ((path, cores.get(fold(stem.removesuffix(image_end)))) for stem, path in by_stem.items())
            pairs = {image: mask for image, mask in matched if mask}
            if len(pairs) > len(best.pairs if best else ()):
                best = _FolderPair(_pattern(images, image_end, mask_end), _pattern(masks, mask_end, image_end), pairs)
    return best


def _shared_end(stems: Iterable[str]) -> str:
    """Return the end that all stems share, from a separator on; empty if there is none."""
    stems = list(stems)
    ends = (stems[0][found.start() :] for found in re.finditer(r"(?<=.)[ _-]", stems[0])) if stems else ()
    return next((end for end in ends if all(stem.endswith(end) and stem != end for stem in stems)), "")


def _pattern(folder: str, end: str, other_end: str) -> str:
    """Return the pattern of a folder's files: the folder alone if both kinds have equal names."""
    return join(folder, f"{{stem}}{end}") if end or other_end else folder
