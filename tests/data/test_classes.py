"""Masks by class: label maps, class folders and COCO files, and what is refused before a sweep starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amsam_ray.config.datasets import DatasetConfig, SelectionConfig
from amsam_ray.data.check import check_dataset
from amsam_ray.data.class_check import check_classes, named_classes
from amsam_ray.data.dataset import open_dataset
from amsam_ray.data.definition import check_dataset_config
from amsam_ray.data.few_shot import draw_shots
from amsam_ray.data.images import Frame, ImageError
from amsam_ray.data.labels import decode_labels
from amsam_ray.data.schema import MaskRule
from amsam_ray.errors import InputError
from tests.data.classes import CLASSES, put_class_folders, put_coco, put_label_maps, scenes
from tests.data.layouts import put_image

COUNT, TEST = 12, 4
MADE = scenes(COUNT, rare="polyp")
NAMED = {"annotations": "labels.json", "classes": {name: name.title() for name in CLASSES}}
KINDS: dict[str, dict[str, Any]] = {
    "maps": {"classes": CLASSES},
    "palette": {"classes": CLASSES},
    "folders": {"classes": {name: name for name in CLASSES}},
    "coco": {"annotations": "labels.json", "classes": CLASSES},
    "named": NAMED,
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("classes")
    put_label_maps(base / "maps", MADE)
    put_label_maps(base / "palette", MADE, palette=True)
    put_class_folders(base / "folders", MADE)
    put_coco(base / "coco", MADE)
    return {kind: base / kind for kind in ("maps", "palette", "folders", "coco")} | {"named": base / "coco"}


def of(root: Path, one: str | None = None, **options: Any) -> DatasetConfig:
    chosen = {} if one is None else {"class": one}
    return DatasetConfig(name="folder", root=str(root), options={"test": TEST, **options, **chosen})


def problems(config: DatasetConfig, shots: int = 2) -> list[str]:
    found = check_dataset_config(config, shots, "datasets[0]") or check_classes(config, shots, "datasets[0]")
    return [str(problem) for problem in found]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("one", CLASSES)
def test_every_way_to_give_classes_reads_the_same_masks(roots: dict[str, Path], kind: str, one: str) -> None:
    config = of(roots[kind], one, **KINDS[kind])
    assert problems(config) == []
    dataset = open_dataset(config, split="final")
    holding = {name for name, (_, labels) in MADE.items() if (labels == CLASSES[one]).any()}
    assert {*dataset.train, *dataset.test} == holding
    assert dataset.test == tuple(sorted(holding & {f"scene{index:03d}" for index in range(COUNT - TEST, COUNT)}))
    for name in holding:
        assert np.array_equal(dataset.mask(name), MADE[name][1] == CLASSES[one])
        assert np.array_equal(dataset.image(name), MADE[name][0])


def test_the_draw_depends_on_the_class_and_not_on_the_format(roots: dict[str, Path]) -> None:
    draws = {}
    for kind, options in KINDS.items():
        for one in ("lesion", "person"):
            config = of(roots[kind], one, **options).model_copy(update={"label": f"x.{one}"})
            draws[kind, one] = draw_shots(open_dataset(config, split="search"), 4, 0, SelectionConfig())
    assert len({draw.sha256 for (_, one), draw in draws.items() if one == "lesion"}) == 1
    assert draws["maps", "lesion"].sha256 != draws["maps", "person"].sha256


def test_classes_share_the_key_of_an_image_and_no_key_of_a_mask(roots: dict[str, Path]) -> None:
    lesion, person = (
        open_dataset(of(roots["maps"], one, classes=CLASSES), split="search") for one in ("lesion", "person")
    )
    name = lesion.train[0]
    assert lesion.content_key(name) == person.content_key(name)  # prepared inputs are stored under it
    assert lesion.mask_key(name) != person.mask_key(name)


def test_a_search_trial_has_no_test_image_and_reads_none(roots: dict[str, Path], tmp_path: Path) -> None:
    put_label_maps(tmp_path, MADE)
    (tmp_path / "masks" / f"scene{COUNT - 1:03d}.png").write_bytes(b"damaged")
    config = of(tmp_path, "lesion", classes=CLASSES)
    assert open_dataset(config, split="search").test == ()
    with pytest.raises(ImageError, match="not readable"):
        open_dataset(config, split="final")


def test_test_images_without_the_class_can_be_scored(roots: dict[str, Path]) -> None:
    dataset = open_dataset(of(roots["maps"], "polyp", classes=CLASSES, absent="score"), split="final")
    assert len(dataset.test) == TEST
    assert sum(dataset.mask(name).any() for name in dataset.test) == 1


def test_without_a_class_all_are_one_object(roots: dict[str, Path]) -> None:
    dataset = open_dataset(of(roots["maps"], classes=CLASSES), split="final")
    assert all(np.array_equal(dataset.mask(name), MADE[name][1] > 0) for name in dataset.train)


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("maps", {"class_1": 1, "class_2": 2, "class_3": 3}),
        ("palette", {"class_1": 1, "class_2": 2, "class_3": 3}),
        ("folders", {"lesion": "lesion", "person": "person", "polyp": "polyp"}),
        ("coco", {"lesion": "Lesion", "polyp": "Polyp", "person": "Person"}),
    ],
)
def test_all_takes_what_the_files_hold(roots: dict[str, Path], kind: str, classes: dict[str, Any]) -> None:
    options = {**KINDS[kind], "classes": "all"}
    found = named_classes(of(roots[kind], **options))
    assert found.options == {"test": TEST, **options, "classes": classes}
    assert problems(found) == []


def test_all_of_empty_masks_is_refused(tmp_path: Path) -> None:
    put_label_maps(tmp_path, {name: (image, labels * 0) for name, (image, labels) in MADE.items()})
    (found,) = problems(of(tmp_path, classes="all"))
    assert found == "datasets[0].options.classes: finds no class: all masks are empty; check their values"


def test_ignored_values_are_background(roots: dict[str, Path]) -> None:
    assert named_classes(of(roots["maps"], classes="all", ignore=[2])).options["classes"] == {
        "class_1": 1,
        "class_3": 3,
    }
    assert problems(of(roots["maps"], classes={"lesion": 1, "person": 3}, ignore=[2])) == []


def test_a_value_outside_the_map_is_refused(roots: dict[str, Path]) -> None:
    (found,) = problems(of(roots["maps"], classes={"lesion": 1, "person": 3}))
    assert found.startswith("datasets[0].root: masks/scene000.png: holds the value 2, which belongs to no class")
    assert found.endswith("is in 3 label maps; add it to classes, or write ignore: [2]")


def test_classes_in_too_few_images_are_refused_with_counts(roots: dict[str, Path]) -> None:
    found = problems(of(roots["maps"], classes={**CLASSES, "tool": 9}), shots=4)
    assert found == [
        "datasets[0].options.classes.polyp: class polyp is in 2 images of the train pool, and 4 are drawn; label more, "
        "use fewer shots or remove the class",
        "datasets[0].options.classes.tool: class tool is in 0 images of the train pool, and 4 are drawn; label more, "
        "use fewer shots or remove the class",
        "datasets[0].options.classes.tool: class tool is in no image of the test split; choose another split, or "
        "remove the class",
    ]
    assert problems(of(roots["maps"], "person", classes=CLASSES), shots=4) == []


def test_classes_that_no_folder_or_category_has_are_refused(roots: dict[str, Path]) -> None:
    found = problems(of(roots["folders"], classes={"lesion": "lesion", "tool": "tools", "up": "../lesion"}))
    assert len(found) == 2
    assert found[0].startswith("datasets[0].options.classes.tool: names the folder masks/tools, which does not exist")
    assert found[1].startswith("datasets[0].options.classes.up: '../lesion' leaves the data root")
    found = problems(
        of(roots["coco"], annotations="labels.json", classes={"a": "Spoon", "b": 9, "c": 1, "d": "Lesion"})
    )
    assert found == [
        "datasets[0].options.classes.a: 'Spoon' is not a category of labels.json; choose from 'Lesion' (1), 'Polyp' "
        "(2), 'Person' (3)",
        "datasets[0].options.classes.b: 9 is not a category of labels.json; choose from 'Lesion' (1), 'Polyp' (2), "
        "'Person' (3)",
        "datasets[0].options.classes.d: is category 1, as c is; give each class its own",
    ]


def test_a_coco_file_of_several_categories_needs_classes_and_of_one_does_not(
    roots: dict[str, Path], tmp_path: Path
) -> None:
    (found,) = problems(of(roots["coco"], annotations="labels.json"))
    assert "holds 3 categories with annotations; write classes: all, or classes: {lesion: 'Lesion'" in found
    put_coco(tmp_path, {name: (image, (labels == 1).astype(np.uint8)) for name, (image, labels) in MADE.items()})
    config = of(tmp_path, annotations="labels.json")
    assert problems(config) == []
    dataset = open_dataset(config, split="final")
    assert all(np.array_equal(dataset.mask(name), MADE[name][1] == 1) for name in dataset.test)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("none.json", "none.json does not exist; give the path of a COCO file below the root"),
        ("images", "images is a folder; give the path"),
        ("../labels.json", "'../labels.json' leaves the data root"),
        ("/etc/passwd", "must be relative to the data root"),
        ("images/scene000.png", "is not JSON"),
        ("link.json", "leaves the data root"),
    ],
)
def test_a_coco_file_that_cannot_be_read_is_refused(tmp_path: Path, path: str, expected: str) -> None:
    root = tmp_path / "root"
    put_coco(root, dict(list(MADE.items())[:2]))
    (tmp_path / "labels.json").write_text("{}")
    (root / "link.json").symlink_to(tmp_path / "labels.json")
    (found,) = problems(of(root, annotations=path, classes="all"))
    assert found.startswith("datasets[0].") and expected in found


def _coco(root: Path, change: Any) -> DatasetConfig:
    put_coco(root, MADE)
    content = json.loads((root / "labels.json").read_text())
    change(content)
    (root / "labels.json").write_text(json.dumps(content))
    return of(root, annotations="labels.json", classes=CLASSES)


def test_annotated_photographs_that_are_missing_or_share_a_name_are_reported(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["images"][0]["file_name"] = "other.png"
        content["images"][1]["file_name"] = "scene002.png"

    report = check_dataset(_coco(tmp_path, change))
    assert {(f.code, f.where) for f in report.faults} == {("no-image", "other.png"), ("same-name", "scene002.png")}


def test_annotations_of_another_size_than_the_photograph_are_faults(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["images"][0] |= {"width": 50, "height": 60}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"]] + [
            {"id": 10**6, "image_id": 0, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}
        ]

    (found,) = check_dataset(_coco(tmp_path, change)).faults
    assert found.code == "mask-unreadable" and "is 96x96, and labels.json states 50x60" in found.what


def test_the_check_counts_the_images_of_each_class_and_overlapping_pixels(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        square = [[10, 10, 20, 10, 20, 20, 10, 20]]
        for category in (1, 3):
            entry = {"id": 10**6 + category, "image_id": 0, "category_id": category, "segmentation": square}
            content["annotations"].append(entry)

    report = check_dataset(_coco(tmp_path, change))
    assert report.classes == {"lesion": (8, 4), "polyp": (2, 1), "person": (8, 4)}
    (overlap,) = (f for f in report.findings if f.code == "class-overlap")
    assert overlap.where == "images/scene000.png" and "100 pixels belong to several of lesion, person" in overlap.what
    assert report.faults == []


def test_masks_of_a_class_folder_without_a_photograph_are_reported(tmp_path: Path) -> None:
    put_class_folders(tmp_path, MADE)
    (tmp_path / "images" / "scene001.png").unlink()
    put_image(tmp_path / "images" / "new.png", MADE["scene001"][0])
    report = check_dataset(of(tmp_path, classes={name: name for name in CLASSES}))
    found = {(f.code, f.where) for f in report.faults}
    assert found == {
        ("no-mask", "images/new.png"),
        ("no-image", "masks/lesion/scene001.png"),
        ("no-image", "masks/person/scene001.png"),
    }


def test_folders_of_equal_class_names_are_refused(tmp_path: Path) -> None:
    put_class_folders(tmp_path, MADE)
    (tmp_path / "masks" / "person").rename(tmp_path / "masks" / "LESION")
    (found,) = problems(of(tmp_path, classes="all"))
    assert "the folder names 'LESION' and 'lesion' would both be class lesion; name the classes" in found


FRAME = Frame(6, 4, 1)
LABELS = np.arange(24, dtype=np.uint8).reshape(4, 6) % 5


def decoded(path: Path, pixels: Any, frame: Frame = FRAME, **options: Any) -> np.ndarray:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(path, **options)
    return decode_labels(path.read_bytes(), path.name, MaskRule(), frame).values_HW


def test_grey_palette_16_bit_and_grey_rgb_label_maps_have_their_values(tmp_path: Path) -> None:
    indexed = Image.fromarray(LABELS)
    indexed.putpalette([255, 255, 255] * 3 + [0, 0, 0] * 2)
    assert np.array_equal(decoded(tmp_path / "a.png", LABELS), LABELS)
    assert np.array_equal(decoded(tmp_path / "a.png", indexed), LABELS)
    assert np.array_equal(decoded(tmp_path / "a.png", indexed, transparency=3), LABELS)
    assert np.array_equal(decoded(tmp_path / "a.png", LABELS.astype(np.uint16) * 900), LABELS.astype(int) * 900)
    assert np.array_equal(decoded(tmp_path / "a.tif", LABELS.astype(np.float32)), LABELS)
    assert np.array_equal(decoded(tmp_path / "a.png", np.stack([LABELS] * 3, axis=-1)), LABELS)


def test_a_label_map_of_another_size_takes_the_nearest_value(tmp_path: Path) -> None:
    large = np.repeat(np.repeat(LABELS, 3, axis=0), 3, axis=1)
    assert np.array_equal(decoded(tmp_path / "a.png", large), LABELS)


def test_a_label_map_is_turned_as_its_photograph(tmp_path: Path) -> None:
    upright = decoded(tmp_path / "a.png", LABELS, Frame(4, 6, 6))  # orientation 6: turned by 90 degrees clockwise
    assert np.array_equal(upright, np.rot90(LABELS, -1))


@pytest.mark.parametrize(
    ("pixels", "name", "expected"),
    [
        (np.dstack([LABELS, LABELS, LABELS * 2]), "a.png", "is in colour"),
        (LABELS, "a.jpg", "lossy format JPEG"),
        (LABELS.astype(np.float32) + 0.5, "a.tif", "not whole numbers"),
        (LABELS.astype(np.float32) - 1, "a.tif", "not whole numbers"),
        (LABELS[:, :3], "a.png", "another aspect ratio"),
    ],
)
def test_what_is_no_label_map_is_refused(tmp_path: Path, pixels: np.ndarray, name: str, expected: str) -> None:
    with pytest.raises(ImageError, match=expected):
        decoded(tmp_path / name, pixels)


def test_classes_are_refused_for_datasets_without_them() -> None:
    config = DatasetConfig(name="procedural", options={"classes": CLASSES, "family": "lesion"})
    with pytest.raises(InputError, match="classes: is not an option of procedural"):
        open_dataset(config, split="search")
