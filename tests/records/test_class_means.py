"""Leaderboards of datasets with classes: a row for each class, and the mean row of a method."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.records.index import Index
from amsam_ray.records.leaderboard import build_leaderboard, update_leaderboards
from amsam_ray.records.schema import Record
from amsam_ray.records.tables import Row, readable_table
from amsam_ray.storage.open import open_storage
from tests.records.synthetic import config, record, write_record

CLASSES = {"polyp": 1, "tool": 2}


def of_class(one: str, method: str, shots: int, **options: Any) -> Any:
    made = config("folder", shots, method, **options)
    chosen = {"classes": CLASSES, "class": one}
    return made.model_copy(update={"dataset": DatasetConfig(name="folder", root="/data/kvasir", options=chosen)})


def cell(one: str, images: Any, method: str = "am_sam", *, shots: int = 4, score: float = 0.7) -> list[Record]:
    """One search trial and its finals, one for each entry of ``images``."""
    made = [record(of_class(one, method, shots), 3, score=score)]
    for seed, scores in enumerate(images):
        final = of_class(one, method, shots, role="final", seed=seed)
        made.append(record(final, 3, seed, score=score, images=scores))
    return made


def stored(tmp_path: Path, *cells: list[Record]) -> Index:
    storage = open_storage(tmp_path / "results")
    for made in (one for of_cell in cells for one in of_cell):
        write_record(storage, made)
    index = Index(storage, tmp_path / "index")
    assert index.update() == []
    return index


def rows_of(tmp_path: Path, *cells: list[Record], **options: Any) -> list[Row]:
    return build_leaderboard(stored(tmp_path, *cells).cells(), **options)


def test_the_mean_row_averages_the_classes_and_adds_their_costs(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        cell("polyp", [[0.5, 0.7], [0.7, 0.9]], score=0.8),
        cell("tool", [[0.3, 0.3], [0.1, 0.3]], score=0.6),
    )
    assert [(row["dataset"], row["source"]) for row in rows] == [
        ("kvasir", "mean"),
        ("kvasir.polyp", "run"),
        ("kvasir.tool", "run"),
    ]
    mean = rows[0]
    assert mean["dice_mean"] == pytest.approx((0.7 + 0.25) / 2)
    # By seed: (0.6 + 0.3) / 2 and (0.8 + 0.2) / 2.
    assert mean["dice_std"] == pytest.approx(np.std([0.45, 0.5], ddof=1))
    assert mean["val_dice"] == pytest.approx(0.7)
    assert (mean["classes"], mean["seeds"], mean["trials"]) == ("polyp tool", 2, 2)
    assert mean["seconds"] == pytest.approx(18.0) and mean["trained_params"] == 200
    assert "p_vs_next" not in mean and "adapter" not in mean


def test_only_methods_with_all_classes_have_a_mean_and_the_best_comes_first(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        *(cell(one, [[0.5]], "blo_sam") for one in CLASSES),
        *(cell(one, [[0.6]], "am_sam") for one in CLASSES),
        cell("polyp", [[0.9]], "samed"),
        cell("tool", [], "samed"),
    )
    assert [row["method"] for row in rows if row["source"] == "mean"] == ["am_sam", "blo_sam"]


def test_shots_have_means_of_their_own(tmp_path: Path) -> None:
    cells = [cell(one, [[level]], shots=shots) for one in CLASSES for shots, level in ((4, 0.4), (8, 0.8))]
    rows = rows_of(tmp_path, *cells)
    assert [(row["shots"], row["dice_mean"]) for row in rows if row["source"] == "mean"] == [(8, 0.8), (4, 0.4)]


def test_neighbours_are_compared_within_a_class(tmp_path: Path) -> None:
    images = np.linspace(0.3, 0.6, 12)
    cells = [
        cell(one, [images + gain], method) for one in CLASSES for method, gain in (("am_sam", 0.2), ("samed", 0.0))
    ]
    rows = rows_of(tmp_path, *cells)
    assert [row["method"] for row in rows] == ["am_sam", "samed"] * 3
    assert [row.get("p_vs_next") is not None for row in rows] == [False, False, True, False, True, False]


def test_a_filter_takes_a_dataset_with_its_classes_or_one_class(tmp_path: Path) -> None:
    index = stored(tmp_path, *(cell(one, [[0.5]]) for one in CLASSES))
    labels = [row["dataset"] for row in build_leaderboard(index.cells(), datasets=["kvasir"])]
    assert labels == ["kvasir", "kvasir.polyp", "kvasir.tool"]
    labels = [row["dataset"] for row in build_leaderboard(index.cells(), datasets=["kvasir.tool"])]
    assert labels == ["kvasir.tool"]


def test_a_dataset_and_its_classes_are_one_file(tmp_path: Path) -> None:
    stored(tmp_path, *(cell(one, [[0.5]]) for one in CLASSES))
    update_leaderboards(open_storage(tmp_path / "results"), index_dir=tmp_path / "index")
    folder = tmp_path / "results" / "leaderboards"
    assert sorted(path.name for path in folder.iterdir()) == ["all.csv", "kvasir.csv"]
    with (folder / "kvasir.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [(row["dataset"], row["source"], row["classes"]) for row in read] == [
        ("kvasir", "mean", "polyp tool"),
        ("kvasir.polyp", "run", ""),
        ("kvasir.tool", "run", ""),
    ]


def test_the_readable_table_shows_mean_rows(tmp_path: Path) -> None:
    header, body = readable_table(rows_of(tmp_path, *(cell(one, [[0.5], [0.6]]) for one in CLASSES)))
    shown = dict(zip(header, body[0], strict=True))
    assert (shown["dataset"], shown["source"], shown["Dice %"]) == ("kvasir", "mean", "55.0 ± 7.1")
