"""COCO files: what is read, and that damaged and hostile ones are refused before anything is rasterised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as pycoco

from amsam_ray.data import coco
from amsam_ray.data.coco import load_coco, parse_coco, rasterise
from amsam_ray.errors import InputError

WIDTH, HEIGHT = 12, 8


def content(*segmentations: Any, **changes: Any) -> dict[str, Any]:
    """A file with one image of 12x8 pixels and one annotation of each given segmentation, in category 3."""
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 3, "name": "tool"}, {"id": 4, "name": "polyp"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 3, "segmentation": segmentation}
            for number, segmentation in enumerate(segmentations)
        ],
        **changes,
    }


def problems(data: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_coco(data if isinstance(data, bytes) else json.dumps(data).encode(), "labels.json")
    return [str(problem) for problem in caught.value.problems]


def drawn(*segmentations: Any) -> np.ndarray:
    found = parse_coco(json.dumps(content(*segmentations)).encode(), "labels.json")
    return rasterise(found.images[0], [3])


def runs(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed run lengths of a mask, by their definition: column by column, background first."""
    flat = mask.flatten(order="F")
    borders = [0, *(np.flatnonzero(np.diff(flat.astype(int))) + 1).tolist(), len(flat)]
    counts = np.diff(borders).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def packed(mask: np.ndarray) -> dict[str, Any]:
    made = pycoco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": made["size"], "counts": made["counts"].decode()}


def test_polygons_and_both_kinds_of_run_lengths_give_the_drawn_pixels() -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[2:6, 3:9] = True
    assert np.array_equal(drawn([[3, 2, 9, 2, 9, 6, 3, 6]]), mask)
    assert np.array_equal(drawn(runs(mask)), mask)
    assert np.array_equal(drawn(packed(mask)), mask)


@pytest.mark.parametrize("seed", range(8))
def test_run_lengths_of_any_mask_are_accepted_and_read_back(seed: int) -> None:
    draws = np.random.default_rng(seed)
    mask = draws.random((HEIGHT, WIDTH)) < draws.random()
    assert np.array_equal(drawn(runs(mask)), mask)
    assert np.array_equal(drawn(packed(mask)), mask)


def test_instances_of_one_class_are_joined_and_other_classes_left_out() -> None:
    data = content([[0, 0, 3, 0, 3, 3, 0, 3]], [[6, 4, 9, 4, 9, 7, 6, 7], [10, 0, 12, 0, 12, 2, 10, 2]])
    data["annotations"].append({"image_id": 1, "category_id": 4, "segmentation": [[0, 5, 2, 5, 2, 8, 0, 8]]})
    image = parse_coco(json.dumps(data).encode(), "x").images[0]
    tool, polyp = rasterise(image, [3]), rasterise(image, [4])
    assert tool[1, 1] and tool[5, 7] and tool[1, 11] and not tool[6, 1]
    assert polyp[6, 1] and not polyp[1, 1]
    assert np.array_equal(rasterise(image, [3, 4]), tool | polyp)


def test_pixels_of_two_overlapping_classes_belong_to_both() -> None:
    data = content([[0, 0, 6, 0, 6, 6, 0, 6]])
    data["annotations"].append({"image_id": 1, "category_id": 4, "segmentation": [[3, 3, 9, 3, 9, 8, 3, 8]]})
    image = parse_coco(json.dumps(data).encode(), "x").images[0]
    assert rasterise(image, [3])[4, 4] and rasterise(image, [4])[4, 4]


def test_an_image_without_annotations_is_kept() -> None:
    assert parse_coco(json.dumps(content()).encode(), "x").images[0].annotations == ()


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        (None, "boxes alone are not enough"),
        ([], "boxes alone are not enough"),
        ([[1, 2, 3, 4]], "3 to 100,000 points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "3 to 100,000 points"),
        ([[0, 0] * 100_001], "3 to 100,000 points"),
        ([[0, 0, 1, 1, "2", 2]], "not a number"),
        ([[0, 0, True, 1, 2, 2]], "not a number"),
        ([[0, 0, 5, 5, 10**400, 2]], "leaves the image"),
        ([[0, 0, 5, 5, 1e9, 2]], "leaves the image"),
        ([[0, 0, -13, 5, 5, 2]], "leaves the image"),
        ({"size": [12, 8], "counts": [96]}, "run lengths of size [12, 8] on an image of [8, 12]"),
        ({"size": [8, 12], "counts": [95]}, "do not cover 12x8"),
        ({"size": [8, 12], "counts": [-4, 100]}, "do not cover 12x8"),
        ({"size": [8, 12], "counts": [1.5, 94.5]}, "damaged"),
        ({"size": [8, 12], "counts": "zz"}, "damaged"),
        ({"size": [8, 12], "counts": "~"}, "damaged"),
        ({"size": [8, 12], "counts": "o" * 9 + "0"}, "damaged"),
        ({"size": [8, 12], "counts": "11"}, "do not cover 12x8"),
        ({"size": [8, 12], "counts": None}, "damaged"),
    ],
)
def test_a_segmentation_that_cannot_be_drawn_is_refused(segmentation: Any, expected: str) -> None:
    (problem,) = problems(content(segmentation))
    assert problem.startswith("labels.json (annotations[0]): segmentation ") and expected in problem


def test_an_outline_that_would_fill_the_memory_is_refused() -> None:
    data = content([[0, 0, 5_999, 0] * 500])
    data["images"][0] |= {"width": 6_000, "height": 6_000}
    (problem,) = problems(data)
    assert "outline of more than 4,000,000 pixels" in problem


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/passwd", "x/../../a.png", "a\\b.png", "a\0.png", "", "a\n.png", "x" * 300, 7, None]
)
def test_a_file_name_outside_the_root_is_refused(name: Any) -> None:
    data = content()
    data["images"][0]["file_name"] = name
    (problem,) = problems(data)
    assert problem.startswith("labels.json (images[0]): file_name ")


def test_all_faults_of_a_file_are_listed_together() -> None:
    data = content(
        [[0, 0, 3, 0, 3, 3]],
        images=[
            {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
            {"id": 1, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
            {"id": 2, "file_name": "c.png", "width": 10**6, "height": 10**6},
            {"id": 3, "file_name": "d.png", "width": 0, "height": 5},
            "text",
        ],
        categories=[{"id": 3, "name": "tool"}, {"id": 4, "name": "tool"}, {"id": 5, "name": " "}, {"id": -1}],
    )
    found = problems(data)
    assert [problem.split(":")[0] for problem in found] == [
        *("labels.json (categories[1])", "labels.json (categories[2])", "labels.json (categories[3])"),
        *("labels.json (images[1])", "labels.json (images[2])", "labels.json (images[3])", "labels.json (images[4])"),
    ]


def test_an_annotation_of_an_unknown_image_or_category_is_refused() -> None:
    data = content([[0, 0, 3, 0, 3, 3]], [[0, 0, 3, 0, 3, 3]])
    data["annotations"][0]["image_id"] = 9
    data["annotations"][1]["category_id"] = "3"
    first, second = problems(data)
    assert "belongs to image 9, which the file does not hold" in first
    assert "belongs to category None" in second


def test_many_faults_are_counted() -> None:
    found = problems(content(*[None] * 50))
    assert len(found) == 21 and "30 more faults" in found[-1]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"images": [NaN]}', "NaN is not a number of JSON"),
        (b"[" + b"9" * 5_000 + b"]", "is not JSON"),
        (b"[]", "no list images, annotations, categories"),
        (b'{"images": [], "categories": [], "annotations": {}}', "no list annotations"),
    ],
)
def test_what_is_no_coco_file_is_refused(data: bytes, expected: str) -> None:
    (problem,) = problems(data)
    assert expected in problem


def test_a_file_above_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "MAX_BYTES", 1 << 20)
    path = tmp_path / "labels.json"
    path.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(InputError, match="larger than 1 MiB"):
        load_coco(path, "labels.json")
