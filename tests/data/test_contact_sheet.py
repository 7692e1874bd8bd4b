from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from amsam_ray.cli.data import data
from amsam_ray.data.contact_sheet import SheetImage, contact_sheet, spread
from tests.data import layouts

GREEN, RED = (0, 229, 118), (255, 61, 113)


def _count(sheet: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((sheet == colour).all(axis=2).sum())


def test_outline_and_box_are_drawn_at_their_positions() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    mask = np.zeros((100, 200), bool)
    mask[20:60, 40:120] = True
    plain = np.asarray(contact_sheet([SheetImage("a", image)], side=200))
    assert _count(plain, GREEN) == _count(plain, RED) == 0
    sheet = np.asarray(contact_sheet([SheetImage("a", image, mask, (150, 10, 190, 90))], side=200))
    rows, columns = np.nonzero((sheet == GREEN).all(axis=2))
    # The cell starts at 6, the picture of half the cell's height is centred in it.
    assert (rows.min(), rows.max()) == (6 + 50 + 20, 6 + 50 + 59)
    assert (columns.min(), columns.max()) == (6 + 40, 6 + 119)
    assert _count(sheet, GREEN) == 40 * 80 - 36 * 76
    rows, columns = np.nonzero((sheet == RED).all(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (66, 146, 156, 196)


def test_the_sheet_grows_by_rows() -> None:
    cells = [SheetImage(str(index), np.zeros((10, 10, 3), np.uint8)) for index in range(5)]
    assert contact_sheet(cells[:2], columns=3, side=50).size == (2 * 56 + 6, 74 + 6)
    assert contact_sheet(cells, columns=3, side=50).size == (3 * 56 + 6, 2 * 74 + 6)
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_samples_are_spread_evenly() -> None:
    names = [str(number) for number in range(100)]
    assert spread(names, 4) == ["12", "37", "62", "87"]
    assert spread(names[:3], 5) == names[:3]


def test_data_show_writes_a_png_without_broken_files(tmp_path: Path) -> None:
    layouts.folder(tmp_path)
    (tmp_path / "images/photo1.jpg").write_bytes(b"broken")
    out = tmp_path / "sheet.png"
    words = ["show", "folder", "--root", str(tmp_path), "--option", "test=1", "--detector", "none", "--out", str(out)]
    result = CliRunner().invoke(data, words)
    assert result.exit_code == 0, result.output
    assert "4 of 5 images" in result.output
    assert "photo1.jpg: not readable" in result.output
    sheet = np.asarray(Image.open(out))
    assert _count(sheet, GREEN) > 100
    assert _count(sheet, RED) == 0
