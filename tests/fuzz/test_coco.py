"""COCO files: damaged JSON and drawn annotations are refused, or rasterised at the stated size."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from hypothesis import strategies as st

from amsam_ray.data.coco import parse_coco, rasterise
from tests.fuzz.harness import attempt, fuzz
from tests.fuzz.hostile import damaged

WIDTH, HEIGHT = 24, 16

NUMBERS = st.one_of(
    st.integers(-30, 60), st.integers(-(2**70), 2**70), st.floats(allow_nan=True), st.booleans(), st.none()
)
DRAWABLE = st.lists(st.lists(st.floats(-10, 30), min_size=6, max_size=6), min_size=1, max_size=3)
POLYGONS = st.lists(st.lists(st.one_of(st.integers(-10, 40), NUMBERS), max_size=12), max_size=3)
RUNS = st.fixed_dictionaries(
    {
        "size": st.sampled_from([*[[HEIGHT, WIDTH]] * 4, [WIDTH, HEIGHT], [], None, [2**40, 2**40]]),
        "counts": st.one_of(
            st.lists(st.integers(0, 80), max_size=12).map(lambda runs: [*runs, max(0, HEIGHT * WIDTH - sum(runs))]),
            st.just("0`;"),
            st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30),
            st.lists(NUMBERS, max_size=8),
            NUMBERS,
        ),
    }
)
WHOLE: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
    "categories": [{"id": 3, "name": "tool"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [[1, 1, 9, 1, 9, 9]]},
        {"id": 2, "image_id": 1, "category_id": 3, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [4, 380]}},
    ],
}


def read(content: bytes) -> None:
    for image in parse_coco(content, "labels.json").images:
        for category in (3, 4):
            assert rasterise(image, [category]).shape == (image.height, image.width)


@fuzz(content=damaged([json.dumps(WHOLE).encode()]))
def test_damaged_coco_files(content: bytes) -> None:
    attempt("parse_coco", lambda: read(content))


@fuzz(segmentation=st.one_of(DRAWABLE, POLYGONS, RUNS, NUMBERS))
def test_drawn_segmentations(segmentation: Any) -> None:
    annotation = {"id": 1, "image_id": 1, "category_id": 3, "segmentation": segmentation}
    attempt("parse_coco", lambda: read(json.dumps({**WHOLE, "annotations": [annotation]}).encode()))


@fuzz(entry=st.dictionaries(st.sampled_from(["id", "file_name", "width", "height", "name", "image_id"]), NUMBERS))
def test_drawn_entries(entry: dict[str, Any]) -> None:
    for kind in ("images", "categories", "annotations"):
        content = json.dumps({**WHOLE, kind: [*WHOLE[kind], entry]}).encode()
        attempt("parse_coco", partial(read, content))
