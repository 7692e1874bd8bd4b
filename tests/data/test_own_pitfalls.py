"""Data sets that look usable and would be read as something else: told, or refused with lines that work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amsam_ray.cli.data import dataset_config
from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.config.yaml_loader import parse_yaml
from amsam_ray.data.check import DatasetReport, check_dataset
from amsam_ray.data.understand import Unreadable, understand
from tests.data.ways import COUNT, SIDE, mask, photo, truth, values


def _check(root: Path, options: Mapping[str, Any] | None = None) -> DatasetReport:
    return check_dataset(DatasetConfig(name="folder", root=str(root), options=dict(options or {})))


def _refusal(root: Path) -> Unreadable:
    with pytest.raises(Unreadable) as error:
        understand(str(root))
    return error.value


def _lines(text: str) -> list[dict[str, Any]]:
    """Return the options of every line ``options: {...}`` in a message."""
    found = []
    for part in text.split("options: {")[1:]:
        ends = (end for end, sign in enumerate(part) if sign == "}" and part[:end].count("{") == part[:end].count("}"))
        found.append(parse_yaml("{" + part[: next(ends)] + "}", "line").data)
    return found


def _field_of_view(path: Path) -> None:
    disc = np.hypot(*(np.indices((SIDE, SIDE)) - SIDE / 2)) < 14
    values(path, disc.astype(np.uint8) * 255)


def _drive(root: Path) -> None:
    """DRIVE: vessels by two persons, the second for the test images alone, and the camera's field of view."""
    for i in range(COUNT):
        split = "training" if i < 5 else "test"
        photo(root / split / f"images/{i}_{split}.tif", i)
        mask(root / split / f"1st_manual/{i}_manual1.gif", i)
        _field_of_view(root / split / f"mask/{i}_{split}_mask.gif")
        if split == "test":
            mask(root / f"test/2nd_manual/{i}_manual2.gif", i)


def _hrf(root: Path) -> None:
    for i in range(COUNT):
        photo(root / f"images/{i}_dr.JPG", i)
        mask(root / f"manual1/{i}_dr.tif", i)
        _field_of_view(root / f"mask/{i}_dr_mask.tif")


@pytest.mark.parametrize("build", [_drive, _hrf])
def test_a_field_of_view_is_not_silently_the_object(build: Any, tmp_path: Path) -> None:
    build(tmp_path)
    vessels, view = _lines(str(_refusal(tmp_path)))
    assert "manual1" in vessels["masks"] and "mask" in view["masks"]
    assert [fault.code for fault in _check(tmp_path).faults] == ["ambiguous"]
    drawn = np.quantile([truth(i).mean() for i in range(COUNT)], (0, 0.5, 1))
    for options, shares in ((vessels, drawn), (view, [np.pi * 14**2 / SIDE**2] * 3)):
        report = _check(tmp_path, options)
        assert (report.faults, report.train + report.test) == ([], COUNT)
        assert np.allclose(report.object_share, shares, atol=0.01)


def test_a_folder_named_manual_is_read_where_no_other_holds_masks(tmp_path: Path) -> None:
    _drive(tmp_path)
    for folder in tmp_path.glob("*/mask"):
        folder.rename(folder.with_name("field"))
    options = understand(str(tmp_path)).entry["options"]
    assert options["masks"] == "training/1st_manual/{stem}_manual1"
    assert not _check(tmp_path).faults
    # A share contradicts the published split, which is not dropped silently.
    assert [fault.code for fault in _check(tmp_path, {"test": 0.3}).faults] == ["ambiguous"]


def _maps(root: Path, upper: int, lower: int, palette: list[int] | None = None, background: int = 0) -> None:
    """Masks whose upper rows hold one value and whose lower rows another."""
    for i in range(COUNT):
        photo(root / f"images/{i}.png", i)
        rows = np.arange(SIDE)[:, None] < 9 + i
        pixels = np.where(truth(i), np.where(rows, upper, lower), background).astype(np.uint8)
        values(root / f"masks/{i}.png", pixels, palette)


@pytest.mark.parametrize(("upper", "lower", "background"), [(128, 255, 0), (150, 255, 0)])
def test_grey_values_that_become_one_object_are_told(upper: int, lower: int, background: int, tmp_path: Path) -> None:
    _maps(tmp_path, upper, lower, background=background)
    (told,) = (line for line in understand(str(tmp_path)).notes if "fill areas" in line)
    assert [one.code for one in _check(tmp_path).findings] == ["mask-areas"] * COUNT
    (options,) = _lines(told)
    report = _check(tmp_path, options)
    assert not report.faults
    assert set(report.classes) == {f"class_{value}" for value in (upper, lower, background) if value}


def test_large_grey_areas_are_refused_with_lines_that_read_them(tmp_path: Path) -> None:
    _maps(tmp_path, 255, 128)
    lines = _lines(str(_refusal(tmp_path)))
    assert [set(options) - {"images", "masks"} for options in lines] == [{"object"}, {"classes"}]
    for options in lines:
        assert not _check(tmp_path, options).faults


def test_soft_borders_and_nearly_white_values_are_no_areas(tmp_path: Path) -> None:
    _maps(tmp_path, 250, 255)
    for file in (tmp_path / "masks").iterdir():
        image = Image.open(file)
        image.resize((SIDE // 2, SIDE // 2), Image.Resampling.BOX).save(file)
    assert {one.code for one in _check(tmp_path).findings} == {"mask-resized"}


def test_the_void_border_of_palettes_is_told(tmp_path: Path) -> None:
    table = [0, 0, 0, 128, 0, 0] + [0] * 3 * 253 + [224, 224, 192]
    _maps(tmp_path, 1, 255, table)
    assert {one.code for one in _check(tmp_path).findings} >= {"mask-void", "mask-palette"}
    (told,) = (line for line in understand(str(tmp_path)).notes if "border of no class" in line)
    (options,) = _lines(told)
    report = _check(tmp_path, options)
    assert (report.faults, set(report.classes)) == ([], {"class_1"})
    del options["ignore"]
    assert "mask-void" in {one.code for one in _check(tmp_path, options).findings}


def test_masks_that_cover_every_image_are_a_fault(tmp_path: Path) -> None:
    _maps(tmp_path, 255, 255, background=255)
    assert [fault.code for fault in _check(tmp_path).faults] == ["masks-full"]
    assert "background is black" in str(_refusal(tmp_path))


def test_label_maps_in_arrays_are_read_as_the_refusal_says(tmp_path: Path) -> None:
    _maps(tmp_path, 1, 2)
    for file in (tmp_path / "masks").iterdir():
        np.save(file.with_suffix(".npy"), np.asarray(Image.open(file)))
        file.unlink()
    for options in _lines(str(_refusal(tmp_path))):
        assert not _check(tmp_path, options).faults, options


def test_the_refusal_lists_the_values_of_all_maps(tmp_path: Path) -> None:
    _maps(tmp_path, 1, 2)
    for i in range(COUNT):
        values(tmp_path / f"masks/{i}.png", truth(i).astype(np.uint8) * (1 + i % 2))
    one, by_class = _lines(str(_refusal(tmp_path)))
    assert by_class["classes"] == {"class_1": 1, "class_2": 2}
    assert not _check(tmp_path, by_class).faults and not _check(tmp_path, one).faults


def test_masks_of_which_none_can_be_read_are_refused(tmp_path: Path) -> None:
    for i in range(COUNT):
        photo(tmp_path / f"images/{i}.png", i)
        (tmp_path / "masks").mkdir(exist_ok=True)
        np.save(tmp_path / f"masks/{i}.npy", np.zeros((SIDE, SIDE, 3)))
    assert "is an array of shape 32x32x3" in str(_refusal(tmp_path))


def test_masks_of_one_colour_are_read_as_the_refusal_says(tmp_path: Path) -> None:
    for i in range(COUNT):
        photo(tmp_path / f"images/{i}.png", i)
        values(tmp_path / f"masks/{i}.png", truth(i)[..., None] * np.array([128, 0, 0], np.uint8))
    (options,) = _lines(str(_refusal(tmp_path)))
    assert not _check(tmp_path, options).faults


def test_maps_in_rgb_are_not_advised_to_be_read_by_class(tmp_path: Path) -> None:
    _maps(tmp_path, 1, 2)
    table = np.array([[0, 0, 0], [255, 0, 0], [0, 250, 0]], np.uint8)
    for file in (tmp_path / "masks").iterdir():
        Image.fromarray(table[np.asarray(Image.open(file))]).save(file)
    (told,) = (line for line in understand(str(tmp_path)).notes if "every colour" in line)
    assert "save the masks as grey PNG files" in told
    assert all("save it as a grey PNG" in one.what for one in _check(tmp_path).findings if one.code == "mask-colours")


def test_a_placeholder_needs_no_quotes_on_the_command_line() -> None:
    pairs = ("images={stem}", "masks={path}/{stem}_m", "test_masks='{stem}'", "classes={a: 1}")
    options = dataset_config("folder", "x", pairs).options
    assert options == {"images": "{stem}", "masks": "{path}/{stem}_m", "test_masks": "{stem}", "classes": {"a": 1}}
