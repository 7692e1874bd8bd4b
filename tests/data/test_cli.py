from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from amsam_ray.cli.data import data
from tests.data import layouts


def test_list_prints_known_and_found_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.istd(tmp_path / "istd")
    layouts.kvasir_seg(tmp_path / "kvasir_seg")
    monkeypatch.setenv("AMSAM_DATA", str(tmp_path))
    result = CliRunner().invoke(data, ["list", "--format", "json"])
    entries = {entry["name"]: entry for entry in json.loads(result.output)}
    assert entries["istd"]["found"] == f"3/2 at {tmp_path}/istd"
    assert entries["kvasir_seg"]["found"] == f"0/5 at {tmp_path}/kvasir_seg"
    assert entries["camo"]["found"] == f"not at {tmp_path}/camo"
    assert entries["isic2018"]["expected"] == {"train": 2594, "test": 1000}
    assert entries["procedural"]["found"] == "always"
    table = CliRunner().invoke(data, ["list"]).output
    for name, entry in entries.items():
        assert name in table
        assert entry["citation"]
    assert "Kaggle account" in " ".join(table.split())


def test_list_without_a_data_root_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMSAM_DATA", raising=False)
    assert "set AMSAM_DATA" in CliRunner().invoke(data, ["list"]).output


def test_option_values_are_read_as_yaml(tmp_path: Path) -> None:
    layouts.folder(tmp_path)
    words = ["check", "folder", "--root", str(tmp_path), "--option", "test=[photo0, photo1]", "--format", "json"]
    report = json.loads(CliRunner().invoke(data, words).output)
    assert (report["train"], report["test"]) == (4, 2)


def test_a_dataset_in_a_yaml_file_is_checked(tmp_path: Path) -> None:
    layouts.folder(tmp_path, 4)
    (tmp_path / "mine.yaml").write_text(
        "{name: mine, title: Mine, task: mine, layouts: [{pool: {images: images, masks: masks}}], split: {test: 1},"
        " expected: {train: 9, test: 1}, metrics: [dice], citation: mine, obtain: ask me}"
    )
    result = CliRunner().invoke(data, ["check", str(tmp_path / "mine.yaml"), "--root", str(tmp_path)])
    assert result.exit_code == 1
    assert "3 usable images, 9 published; ask me" in result.output


def test_the_shipped_detector_draws_its_boxes(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    words = ["show", "procedural", "--option", "family=person", "--option", "train=2", "--option", "test=1"]
    result = CliRunner().invoke(data, [*words, "--confidence", "0", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "boxes by nano on 2 of 2" in result.output
    assert out.stat().st_size > 1000
