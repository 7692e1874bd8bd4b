"""Read COCO annotation files: polygons and run lengths, as https://cocodataset.org/#format-data describes them.

A file is checked whole before anything of it is rasterised: pycocotools runs compiled code on what it is given and
checks little.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amsam_ray.config.datasets import path_fault
from amsam_ray.data.images import MAX_PIXELS
from amsam_ray.data.schema import unsafe_path
from amsam_ray.errors import InputError, Problem, counted

MAX_BYTES = 32 << 20
"""Largest annotation file, in bytes; Python needs up to 20 times as much for it. COCO val2017 has 19 MiB."""
_MAX_POINTS = 100_000  # of one polygon
_MAX_OUTLINE = 4_000_000  # pixels along one polygon: pycocotools allocates 60 bytes for each
_MAX_ID = 2**53
_MAX_TEXT = 200
_SHOWN = 20

Segmentation = list[list[float]] | dict[str, Any]
"""Polygons, each x, y, x, y, ... in pixels; or run lengths, ``{size: [height, width], counts: list or text}``."""


@dataclass(frozen=True)
class CocoImage:
    """An annotated image: its path as the file states it, its size in pixels, and (category, segmentation) pairs."""

    file_name: str
    width: int
    height: int
    annotations: tuple[tuple[int, Segmentation], ...]


@dataclass(frozen=True)
class CocoFile:
    """The checked content of a COCO file.

    Attributes:
        categories: names by id.
        images: in the file's order.
    """

    categories: Mapping[int, str]
    images: tuple[CocoImage, ...]


def load_coco(path: Path, name: str) -> CocoFile:
    """Read and check a COCO file.

    Args:
        path: the file.
        name: its name in messages.

    Raises:
        InputError: it is missing, larger than ``MAX_BYTES``, no COCO file, or damaged; lists the first problems of
            each kind of entry.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        what = f"cannot be read ({error.strerror}); give the path of a COCO file below the root"
        raise InputError(Problem(name, what)) from None
    if len(content) > MAX_BYTES:
        what = f"is larger than {MAX_BYTES >> 20} MiB; divide it, or save label maps instead"
        raise InputError(Problem(name, what))
    return parse_coco(content, name)


def parse_coco(content: bytes, name: str) -> CocoFile:
    """Check the content of a COCO file, as `load_coco`."""
    try:
        data = json.loads(content, parse_constant=_no_constant)
    except RecursionError:
        raise InputError(Problem(name, "is nested too deeply to be a COCO file; export it again")) from None
    except ValueError as error:  # also UnicodeDecodeError
        raise InputError(Problem(name, f"is not JSON ({str(error)[:_MAX_TEXT]}); export it again")) from None
    lists = data if isinstance(data, dict) else {}
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(lists.get(key), list)]
    if missing:
        what = f"is not a COCO file: no list {', '.join(missing)}; export the masks as COCO instance segmentation"
        raise InputError(Problem(name, what))
    problems: list[Problem] = []
    categories = _categories(lists["categories"], name, problems)
    images = _images(lists["images"], name, problems)
    annotations = _annotations(lists["annotations"], categories, images, name, problems)
    if problems:
        raise InputError(_cut(problems, name))
    return CocoFile(categories, tuple(CocoImage(*images[key], tuple(annotations[key])) for key in images))


def rasterise(image: CocoImage, categories: Iterable[int]) -> np.ndarray:
    """Return the pixels that any annotation of ``categories`` covers, HW bool at the size that the file states.

    Instances of one class, crowds included, are joined.
    """
    from pycocotools import mask as coco

    wanted, size = frozenset(categories), [image.height, image.width]
    runs: list[dict[str, Any]] = []
    for category, segmentation in image.annotations:
        if category not in wanted:
            continue
        if isinstance(segmentation, list):
            runs += coco.frPyObjects(segmentation, *size)
        elif isinstance(segmentation["counts"], list):
            runs.append(coco.frPyObjects(segmentation, *size))
        else:
            runs.append({"size": size, "counts": segmentation["counts"]})
    if not runs:
        return np.zeros(size, dtype=bool)
    covered: np.ndarray = coco.decode(coco.merge(runs)).astype(bool)  # once: an image may hold thousands of instances
    return covered


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number of JSON")


def _cut(problems: list[Problem], name: str) -> list[Problem]:
    rest = len(problems) - _SHOWN
    return problems if rest <= 0 else [*problems[:_SHOWN], Problem(name, f"holds {counted(rest, 'more fault')}")]


def _id(value: Any) -> int | None:
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_ID
    return value if fits else None


def _entries(items: list[Any], kind: str, name: str, problems: list[Problem]) -> Iterator[tuple[str, int, Any]]:
    """Yield the place in messages, id and content of each entry of a list; report entries without an id of their own.

    Annotations are numbered by their place where an exporter gave them no ids: nothing refers to these.
    """
    seen: set[int] = set()
    for place, item in enumerate(items):
        where = f"{name} ({kind}[{place}])"
        number = _id(item.get("id", place if kind == "annotations" else None)) if isinstance(item, dict) else None
        if number is None:
            problems.append(Problem(where, "has no id that is a whole number of at least 0; export the file again"))
        elif number in seen:
            problems.append(Problem(where, f"repeats the id {number}; give each entry its own"))
        else:
            seen.add(number)
            yield where, number, item


def _categories(items: list[Any], name: str, problems: list[Problem]) -> dict[int, str]:
    found: dict[int, str] = {}
    for where, number, item in _entries(items, "categories", name, problems):
        text = item.get("name")
        if not isinstance(text, str) or not text.strip() or len(text) > _MAX_TEXT:
            problems.append(Problem(where, f"has no name of 1 to {_MAX_TEXT} characters; name the category"))
        elif text in found.values():
            problems.append(Problem(where, f"repeats the name {text!r}; give each category its own"))
        else:
            found[number] = text
    return found


def _images(items: list[Any], name: str, problems: list[Problem]) -> dict[int, tuple[str, int, int]]:
    found: dict[int, tuple[str, int, int]] = {}
    for where, number, item in _entries(items, "images", name, problems):
        file, width, height = item.get("file_name"), _id(item.get("width")), _id(item.get("height"))
        if not isinstance(file, str) or (fault := path_fault(file) or unsafe_path(file)):
            what = fault if isinstance(file, str) else "is missing; export the file again"
            problems.append(Problem(where, f"file_name {what}"))
        elif not width or not height or width * height > MAX_PIXELS:
            what = f"has no width and height of 1 to {MAX_PIXELS:,} pixels in all; export the file again"
            problems.append(Problem(where, what))
        else:
            found[number] = (file, width, height)
    return found


def _annotations(
    items: list[Any],
    categories: Mapping[int, str],
    images: Mapping[int, tuple[str, int, int]],
    name: str,
    problems: list[Problem],
) -> dict[int, list[tuple[int, Segmentation]]]:
    found: dict[int, list[tuple[int, Segmentation]]] = {number: [] for number in images}
    refused = bool(problems)  # what refers to a refused image or category is no further fault
    for where, _, item in _entries(items, "annotations", name, problems):
        image, category = _id(item.get("image_id")), _id(item.get("category_id"))
        if image is None or image not in images or category is None or category not in categories:
            kind, number = ("category", category) if image in images else ("image", image)
            if not refused:
                what = f"belongs to {kind} {number}, which the file does not hold; add it or remove the annotation"
                problems.append(Problem(where, what))
            continue
        _, width, height = images[image]
        if fault := _segmentation_fault(item.get("segmentation"), width, height):
            problems.append(Problem(where, f"segmentation {fault}"))
        else:
            found[image].append((category, item["segmentation"]))
    return found


def _segmentation_fault(value: Any, width: int, height: int) -> str | None:
    """Return why a segmentation cannot be rasterised on an image of that size, with the remedy; None if it can."""
    if isinstance(value, list) and value:
        return next((fault for polygon in value if (fault := _polygon_fault(polygon, width, height))), None)
    if isinstance(value, dict):
        return _runs_fault(value, width, height)
    return "is missing; export masks (polygons or run lengths), boxes alone are not enough"


def _polygon_fault(polygon: Any, width: int, height: int) -> str | None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or len(polygon) > 2 * _MAX_POINTS:
        return f"is not a list of polygons of 3 to {_MAX_POINTS:,} points, x, y, x, y, ...; draw it again"
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in polygon):
        return "holds a coordinate that is not a number; draw it again"
    if max(map(abs, polygon)) > 2 * MAX_PIXELS:  # before numpy, which refuses larger whole numbers
        return f"leaves the image of {width}x{height}; draw it again"
    points = np.array(polygon, dtype=float).reshape(-1, 2)
    size = np.array([width, height])
    if np.any(points < -size) or np.any(points > 2 * size):  # a little outside is usual and harmless
        return f"leaves the image of {width}x{height}; draw it again"
    steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
    if steps.sum() > _MAX_OUTLINE:
        return f"has an outline of more than {_MAX_OUTLINE:,} pixels; simplify it"
    return None


def _runs_fault(runs: Mapping[str, Any], width: int, height: int) -> str | None:
    if runs.get("size") != [height, width]:
        return (
            f"has run lengths of size {str(runs.get('size'))[:50]} on an image of [{height}, {width}]; export it again"
        )
    counts = runs.get("counts")
    numbers = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(numbers, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        return "has run lengths that are damaged; export it again"
    if any(n < 0 for n in numbers) or sum(numbers) != width * height:
        return f"has run lengths that do not cover {width}x{height} pixels; export it again"
    return None


def _unpacked(text: str) -> list[int] | None:
    """Return the run lengths of COCO's compressed text; None if it is damaged.

    Each number is a series of characters with six bits: five of the number, least significant first, and one that says
    whether more follow. From the third on, a number is the difference to the one two before it.
    """
    numbers: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value = shift = 0
    return numbers if not shift else None
