"""One label map from several classes: the rule, the files, and what the classes' models share of an image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amsam_ray.data.images import Frame
from amsam_ray.data.labels import decode_labels
from amsam_ray.data.schema import MaskRule
from amsam_ray.inference.feature_cache import ImageCache
from amsam_ray.inference.label_maps import label_map
from amsam_ray.inference.overlays import label_overlay, palette, save_labels

VALUES = {"polyp": 5, "tool": 2}


def row(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


def test_the_most_probable_class_has_the_pixel_and_the_background_what_no_class_has() -> None:
    labels = label_map({"tool": row(0.9, 0.6, 0.5, 0.1, 0.7), "polyp": row(0.8, 0.7, 0.4, 0.2, 0.7)}, VALUES)
    # At exactly one half a pixel is background, as in binary masks; a tie goes to the first name.
    assert labels.tolist() == [[2, 5, 0, 0, 5]]
    assert labels.dtype == np.uint16


@pytest.mark.parametrize("largest", [3, 255, 256, 65_535])
def test_a_written_label_map_is_read_back(tmp_path: Path, largest: int) -> None:
    labels = np.array([[0, 1, 2], [3, largest, 0]], dtype=np.uint16)
    save_labels(tmp_path / "labels" / "a.png", labels)
    content = (tmp_path / "labels" / "a.png").read_bytes()
    assert np.array_equal(decode_labels(content, "a.png", MaskRule(), Frame(3, 2, 1)).values_HW, labels)
    assert Image.open(tmp_path / "labels" / "a.png").mode == ("P" if largest <= 255 else "I;16")


def test_the_palette_is_that_of_pascal_voc() -> None:
    assert palette()[:5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert len({tuple(colour) for colour in palette().tolist()}) == 256


def test_an_overlay_outlines_every_class_in_its_colour() -> None:
    image, labels = np.full((40, 60, 3), 200, dtype=np.uint8), np.zeros((40, 60), dtype=np.uint16)
    labels[5:15, 5:15], labels[20:35, 30:50] = 1, 2
    drawn = label_overlay(image, labels)
    assert drawn[5, 10].tolist() == [128, 0, 0] and drawn[20, 40].tolist() == [0, 128, 0]
    assert drawn[10, 10].tolist() == drawn[0, 0].tolist() == [200, 200, 200]


def test_the_cache_of_an_image_computes_an_entry_once_until_it_forgets() -> None:
    cache = ImageCache()
    computed: list[list[int]] = []

    def compute(positions: list[int]) -> Iterator[dict[str, torch.Tensor]]:
        computed.append(positions)
        yield from ({"value": torch.tensor(position)} for position in positions)

    assert [int(entry["value"]) for entry in cache.get(["a", "b", "c"], compute, batch=2)] == [0, 1, 2]
    assert [int(entry["value"]) for entry in cache.get(["c", "d"], compute)] == [2, 1]
    cache.forget()
    cache.get(["a"], compute)
    assert computed == [[0, 1], [2], [1], [0]]
