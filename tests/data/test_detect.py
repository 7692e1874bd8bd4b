"""The rules by which folders are found, at their edges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from amsam_ray.cli.data import data
from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.data import detect, pairing
from amsam_ray.data.check import check_dataset
from amsam_ray.data.dataset import open_dataset
from amsam_ray.data.definition import check_options, get_definition
from amsam_ray.data.detect import Folders, Refusal, find_folders
from amsam_ray.data.layout import scan
from amsam_ray.data.patterns import as_text
from amsam_ray.data.tree import KeyTree, LocalTree
from amsam_ray.data.understand import Unreadable, understand
from tests.data import ways


def _keys(*patterns: str, count: int = 4) -> KeyTree:
    return KeyTree("s3://bucket", [pattern.format(i=i) for pattern in patterns for i in range(count)])


def _found(tree: KeyTree | LocalTree, **options: object) -> dict[str, object]:
    result = find_folders(tree, options)
    assert isinstance(result, Folders), result
    return result.options


def _refused(tree: KeyTree | LocalTree, **options: object) -> Refusal:
    result = find_folders(tree, options)
    assert isinstance(result, Refusal), result
    return result


@pytest.mark.parametrize(
    ("images", "masks", "options"),
    [
        ("images/{i}.png", "mask/{i}.png", "images: images, masks: mask"),
        ("img/{i}.png", "ground_truth/{i}.png", "images: img, masks: ground_truth"),
        ("JPEGImages/{i}.jpg", "Annotations/{i}.png", "images: JPEGImages, masks: Annotations"),
        ("set/Imgs/{i}.jpg", "set/GT/{i}.png", "images: set/Imgs, masks: set/GT"),
        ("{i}.jpg", "{i}_GroundTruth.png", 'images: "{stem}", masks: "{stem}_GroundTruth"'),
        ("{i}.jpg", "{i}.mask.png", 'images: "{stem}", masks: "{stem}.mask"'),
        ("{i}.jpg", "{i} label.png", 'images: "{stem}", masks: "{stem} label"'),
        ("{i}.jpg", "GT-{i}.png", 'images: "{stem}", masks: "GT-{stem}"'),
        ("{i}.tif", "{i}.npy", 'images: "{stem}.tif", masks: "{stem}.npy"'),
        ("images/{i}.jpg", "images/{i}_seg.png", 'images: "images/{stem}", masks: "images/{stem}_seg"'),
        ("train/{i}.jpg", "masks/{i}.png", "images: train, masks: masks"),
        ("leaf_photos_v2/{i}.jpg", "leaf_masks_v2/{i}.png", "images: leaf_photos_v2, masks: leaf_masks_v2"),
        ("{i}/images/x.jpg", "{i}/masks/x.png", 'images: "{path}/images/{stem}", masks: "{path}/masks/{stem}"'),
        ("a/{i}/img.jpg", "a/{i}/gt.png", 'images: "a/{path}/img", masks: "a/{path}/gt"'),
    ],
)
def test_common_names_are_found(images: str, masks: str, options: str) -> None:
    assert as_text(_found(_keys(images, masks))) == f"options: {{{options}}}"


@pytest.mark.parametrize(
    ("others", "told"),
    [
        (["labels/{i}.png", "gt/{i}.png"], 2),  # two folders of masks
        (["labels/{i}.png", "labels/{i}_mask.png"], 2),  # two masks of each photograph
        (["Imgs/{i}.png", "labels/{i}.png"], 2),  # two folders of photographs
    ],
)
def test_several_readings_are_refused_with_the_lines_of_each(others: list[str], told: int) -> None:
    tree = _keys("Photos/{i}.png", *others)
    refusal = _refused(tree)
    assert refusal.code == "ambiguous"
    assert len(refusal.readings) == told
    definition = get_definition("folder")
    for reading in refusal.readings:
        assert as_text(reading) in refusal.what
        options, problems = check_options(definition, reading)
        assert not problems
        assert len(scan(tree, definition, options).train) == 3


def test_the_plain_layout_goes_before_all_others() -> None:
    tree = _keys("images/{i}.png", "masks/{i}.png", "labels/{i}.png", "train/images/{i}.png", "train/masks/{i}.png")
    assert _found(tree) == {"images": "images", "masks": "masks"}


def test_a_few_names_by_chance_do_not_count_beside_all() -> None:
    tree = KeyTree("b", [f"images/{n}.png" for n in "abc"] + [f"labels/{n}_mask.png" for n in "abc"] + ["labels/a.png"])
    assert _found(tree) == {"images": "images/{stem}", "masks": "labels/{stem}_mask"}


def test_objects_of_voc_are_not_another_reading() -> None:
    tree = _keys("JPEGImages/{i}.jpg", "SegmentationClass/{i}.png", "SegmentationObject/{i}.png")
    assert _found(tree)["masks"] == "SegmentationClass"


def test_folders_named_train_and_test_are_the_split() -> None:
    tree = _keys(
        "images/{i}.png", "Test/images/{i}.png", "Test/masks/{i}.png", "train/images/{i}.png", "train/masks/{i}.png"
    )
    definition = get_definition("folder")
    found = scan(tree, definition, check_options(definition, {})[0])
    assert {pair.image.partition("/")[0] for pair in found.train.values()} == {"train"}
    assert {pair.image.partition("/")[0] for pair in found.test.values()} == {"Test"}
    assert [(f.code, f.where) for f in found.findings] == [("not-used", "images")]


def test_the_option_test_divides_all_folders_anew() -> None:
    tree = _keys("test/images/{i}.png", "test/masks/{i}.png", "train/images/{i}.png", "train/masks/{i}.png")
    definition = get_definition("folder")
    found = scan(tree, definition, check_options(definition, {"test": 2})[0])
    assert (len(found.train), len(found.test)) == (6, 2)
    assert {"test_0", "train_0"} <= found.train.keys() | found.test.keys()


def test_names_that_become_equal_are_a_fault() -> None:
    tree = KeyTree("b", ["images/a/b_c.png", "images/a_b/c.png", "images/x/y.png", "masks/a/b_c.png", "masks/x/y.png"])
    definition = get_definition("folder")
    found = scan(tree, definition, check_options(definition, {"test": 1})[0])
    assert ("same-name", "images/a/b_c.png") in {(f.code, f.where) for f in found.findings}


def test_one_given_folder_is_kept_and_the_other_found() -> None:
    tree = _keys("photos/{i}.png", "labels/{i}_gt.png", "images/{i}.png")
    assert _found(tree, images="photos") == {"images": "photos/{stem}", "masks": "labels/{stem}_gt"}
    assert _found(tree, masks="labels", images="images") == {"images": "images", "masks": "labels"}


@pytest.mark.parametrize(
    ("options", "where", "words"),
    [
        ({"images": "{stem}_x"}, "options.masks", "give both"),
        ({"test_images": "a"}, "options.test_masks", "give both"),
        ({"test_images": "a", "test_masks": "b"}, "options.images and masks", "give them"),
        ({"images": "a", "masks": "b", "test_images": "a", "test_masks": "b", "test": 3}, "options.test", "remove one"),
        ({"images": "{path}/{stem}", "masks": "masks"}, "options.masks", "{path} and {stem} in both"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, object], where: str, words: str) -> None:
    refusal = _refused(_keys("images/{i}.png"), **options)
    assert refusal.where == where
    assert words in refusal.what


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("via.json", '{"a.jpg9": {"regions": [{"shape_attributes": {}}]}}', "VIA"),
        ("ls.json", '[{"annotations": [{"result": [{"original_width": 9}]}]}]', "Label Studio"),
        ("a.jpg.json", '{"objects": [{"bitmap": {"data": "x"}}]}', "Supervisely"),
        ("a.xml", "<annotation><object><bndbox><xmin>1</xmin></bndbox></object></annotation>", "boxes"),
        ("a.txt", "0 0.5 0.5 0.1 0.2\n", "boxes"),
        ("a.nii.gz", "x", "volumes"),
        ("a.npz", "x", "archives of arrays"),
        ("a.mat", "x", "MATLAB"),
        ("README.txt", "photographs of leaves", "holds no photographs with masks of fitting names"),
    ],
)
def test_other_formats_are_named_with_a_remedy(name: str, text: str, words: str, tmp_path: Path) -> None:
    ways.photo(tmp_path / "a.jpg", 1)
    (tmp_path / name).write_text(text)
    with pytest.raises(Unreadable) as error:
        understand(str(tmp_path))
    (problem,) = error.value.problems
    assert words in problem.what
    assert any(
        remedy in problem.what for remedy in ("export again", "draw a mask", "choose", "write each", "put photographs")
    )


def test_masks_that_are_no_images_do_not_make_the_plain_layout() -> None:
    refusal = _refused(_keys("images/{i}.png", "masks/{i}.mat"))
    assert (refusal.code, refusal.where) == ("annotations", "masks/0.mat")


def test_links_out_of_the_root_are_neither_followed_nor_silent(tmp_path: Path) -> None:
    ways.WAYS["labels"].build(tmp_path / "away")
    root = tmp_path / "root"
    ways.WAYS["labels"].build(root)
    (root / "gt").symlink_to(tmp_path / "away/labels")
    (root / "images/out.jpg").symlink_to(tmp_path / "away/images/0.jpg")
    (root / "loop").symlink_to(".")
    found = scan(LocalTree(root), get_definition("folder"), check_options(get_definition("folder"), {})[0])
    assert len(found.train) + len(found.test) == ways.COUNT
    told = {(finding.code, finding.where) for finding in found.findings}
    assert {("link-outside", "gt"), ("link-outside", "images/out.jpg"), ("link-loop", "loop")} <= told


def test_the_search_ends_at_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = KeyTree("b", ["/".join("d" * 40) + "/images/a.png"])
    assert "holds no photographs" in _refused(deep).what
    ways.WAYS["cases"].build(tmp_path)
    monkeypatch.setattr(detect, "MAX_SEARCHED", 5)
    assert _refused(LocalTree(tmp_path)).code == "too-many"
    monkeypatch.setattr(pairing, "MAX_FILES", 5)
    definition = get_definition("folder")
    options, _ = check_options(definition, {"images": "{path}/image", "masks": "{path}/mask"})
    assert "too-many" in {finding.code for finding in scan(LocalTree(tmp_path), definition, options).findings}


def test_data_check_and_detect_refuse_a_set_of_empty_masks(tmp_path: Path) -> None:
    for i in range(ways.COUNT):
        ways.photo(tmp_path / f"images/{i}.png", i)
        ways.values(tmp_path / f"masks/{i}.png", np.zeros((ways.SIDE, ways.SIDE), np.uint8))
    config = DatasetConfig(name="folder", root=str(tmp_path))
    assert [fault.code for fault in check_dataset(config).faults] == ["masks-empty"]
    with pytest.raises(Unreadable, match="none of 8 masks holds an object"):
        understand(str(tmp_path))
    ways.mask(tmp_path / "masks/3.png", 3)
    assert not check_dataset(config).faults
    understand(str(tmp_path))


def test_data_check_lists_the_values_of_label_maps(tmp_path: Path) -> None:
    ways.WAYS["classes"].build(tmp_path)
    result = CliRunner().invoke(data, ["check", "folder", "--root", str(tmp_path)])
    assert result.exit_code == 1
    assert "│ mask values   │ 0, 1, 2" in result.output
    assert result.output.count("mask-values") == ways.COUNT
    report = json.loads(
        CliRunner().invoke(data, ["check", "folder", "--root", str(tmp_path), "--format", "json"]).output
    )
    assert report["mask_values"] == [0, 1, 2]
    nonzero = ["check", "folder", "--root", str(tmp_path), "--option", "object=nonzero"]
    assert CliRunner().invoke(data, nonzero).exit_code == 0


def test_several_colours_are_told(tmp_path: Path) -> None:
    for i in range(ways.COUNT):
        ways.photo(tmp_path / f"JPEGImages/{i}.jpg", i)
        halves = ways.truth(i).astype(np.uint8)
        halves[: 9 + i] *= 2
        ways.values(tmp_path / f"SegmentationClass/{i}.png", halves, [0, 0, 0, 128, 0, 0, 0, 64, 0])
    result = CliRunner().invoke(data, ["detect", str(tmp_path)])
    assert result.exit_code == 0
    assert "masks: SegmentationClass, classes: all}" in result.output
    found = {finding.code for finding in check_dataset(DatasetConfig(name="folder", root=str(tmp_path))).findings}
    assert "mask-colours" in found
    dataset = open_dataset(DatasetConfig(name="folder", root=str(tmp_path)), split="all")
    for name in dataset.train:
        assert np.array_equal(dataset.mask(name), ways.truth(ways.index_of(dataset.image(name))))


def test_json_holds_the_same_definition(tmp_path: Path) -> None:
    ways.WAYS["splits"].build(tmp_path)
    facts = json.loads(CliRunner().invoke(data, ["detect", str(tmp_path), "--format", "json"]).output)
    assert (facts["train"], facts["test"]) == (5, 2)
    assert facts["datasets"][0]["options"]["test_images"] == "test/images"
    assert any("val/images: 1 image not used with masks" in note for note in facts["notes"])


def test_a_bucket_is_read_by_names_and_not_detected() -> None:
    assert _found(_keys("imgs/{i}.jpg", "labels/{i}.png")) == {"images": "imgs", "masks": "labels"}


def test_names_of_files_stay_within_the_comments(tmp_path: Path) -> None:
    ways.WAYS["labels"].build(tmp_path)
    for folder in ("images", "labels"):
        name = next((tmp_path / folder).glob("0.*"))
        name.rename(name.with_stem("-\ndatasets: []\n\x1b[2J"))
    text = understand(str(tmp_path)).to_yaml()
    assert yaml.safe_load(text)["datasets"][0]["options"]["masks"] == "labels"
    assert "\x1b" not in text


def test_photographs_are_not_taken_for_masks(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for i in range(ways.COUNT):
        ways.photo(tmp_path / f"{i}.jpg", i)
        ways.values(tmp_path / f"{i}.png", noise.integers(0, 256, (ways.SIDE, ways.SIDE, 3)).astype(np.uint8))
    with pytest.raises(Unreadable, match="neither black nor white in many pixels, as photographs are"):
        understand(str(tmp_path))
    assert "mask-values" in {f.code for f in check_dataset(DatasetConfig(name="folder", root=str(tmp_path))).faults}
