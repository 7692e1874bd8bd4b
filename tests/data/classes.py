"""A dataset of three classes in miniature: objects of three procedural families, pasted into one photograph."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as pycoco

from amsam_ray.data.procedural import render

CLASSES = {"lesion": 1, "polyp": 2, "person": 3}
SIDE = 96


def scene(index: int, classes: Iterable[str] = CLASSES, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """A photograph (HWC uint8) and its label map (HW uint8): one object of each class, in one third of the image each.

    Later classes cover earlier ones where they overlap.
    """
    image, labels = render("shadow", 3, index, side)[0], np.zeros((side, side), dtype=np.uint8)
    half = side // 2
    corners = {"lesion": (0, 0), "polyp": (0, half), "person": (half, half // 2)}
    for name in classes:
        pixels, mask = render(name, 5, index, half)
        row, column = corners[name]
        place = (slice(row, row + half), slice(column, column + half))
        image[place][mask] = pixels[mask]
        labels[place][mask] = CLASSES[name]
    return image, labels


def scenes(count: int, rare: str | None = None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scenes by name; the class ``rare`` is in every fourth only."""
    return {
        f"scene{index:03d}": scene(index, [name for name in CLASSES if name != rare or index % 4 == 0])
        for index in range(count)
    }


def put_photographs(root: Path, made: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write the photographs to ``images/``."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    for name, (image, _) in made.items():
        Image.fromarray(image).save(root / "images" / f"{name}.png")


def put_label_maps(root: Path, made: dict[str, tuple[np.ndarray, np.ndarray]], palette: bool = False) -> None:
    """Write photographs, and label maps to ``masks/``, as grey values or with a palette."""
    put_photographs(root, made)
    (root / "masks").mkdir()
    for name, (_, labels) in made.items():
        picture = Image.fromarray(labels)
        if palette:
            picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200])
        picture.save(root / "masks" / f"{name}.png")


def put_class_folders(root: Path, made: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write photographs, and a mask for each class that an image holds to ``masks/<class>/``."""
    put_photographs(root, made)
    for one, value in CLASSES.items():
        (root / "masks" / one).mkdir(parents=True)
        for name, (_, labels) in made.items():
            if (labels == value).any():
                Image.fromarray((labels == value).astype(np.uint8) * 255).save(root / "masks" / one / f"{name}.png")


def put_coco(root: Path, made: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write photographs, and all masks to ``labels.json`` as run lengths, every mask as two instances."""
    put_photographs(root, made)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": value, "name": name.title()} for name, value in CLASSES.items()],
    }
    for number, (name, (_, labels)) in enumerate(made.items()):
        height, width = labels.shape
        content["images"].append({"id": number, "file_name": f"{name}.png", "width": width, "height": height})
        for value in CLASSES.values():
            rows = np.flatnonzero((labels == value).any(axis=1))
            if not len(rows):
                continue
            upper = np.arange(height)[:, None] < (rows[0] + rows[-1]) // 2
            for part in (upper, ~upper):
                runs = pycoco.encode(np.asfortranarray(((labels == value) & part).astype(np.uint8)))
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]),
                        "image_id": number,
                        "category_id": value,
                        "iscrowd": 0,
                        "segmentation": {"size": runs["size"], "counts": runs["counts"].decode()},
                    }
                )
    (root / "labels.json").write_text(json.dumps(content))
