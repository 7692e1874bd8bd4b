"""Leaderboards: the arithmetic, what represents a cell, the order, and the papers' rows."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from amsam_ray.config.methods import resolve_params
from amsam_ray.records.index import Index
from amsam_ray.records.leaderboard import acting_params, build_leaderboard, update_leaderboards
from amsam_ray.records.published import published_rows, published_tables
from amsam_ray.records.schema import Record
from amsam_ray.records.significance import DRAWS
from amsam_ray.records.tables import Row, columns, readable_table, to_csv, to_json, to_markdown
from amsam_ray.storage.open import open_storage
from tests.records.synthetic import config, record, write_record


def rows_of(tmp_path: Path, *records: Record, **options) -> list[Row]:
    storage = open_storage(tmp_path / "results")
    for made in records:
        write_record(storage, made)
    index = Index(storage, tmp_path / "index")
    assert index.update() == []
    return build_leaderboard(index.cells(), **options)


def cell(label: str = "am_sam", *, score=0.7, images=((0.5, 0.7), (0.6, 0.8)), number=3, sweep="a-00000000", **options):
    """One search trial and its finals, one per entry of ``images``."""
    yield record(config(method=label, **options), number, score=score, sweep=sweep)
    for seed, scores in enumerate(images):
        final = config(method=label, role="final", seed=seed, **options)
        yield record(final, number, seed, score=score, images=scores, sweep=sweep)


def test_mean_and_deviation_over_seeds(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, *cell(lr=0.002, alpha=0.5))
    assert row["dice_mean"] == pytest.approx(0.65)
    assert row["dice_std"] == pytest.approx(np.std([0.6, 0.7], ddof=1))
    assert (row["seeds"], row["trials"], row["val_dice"]) == (2, 1, 0.7)
    assert (row["lr"], row["alpha"], row["source"]) == (0.002, 0.5, "run")
    assert row["seconds"] == 9.0 and row["gpu_seconds"] == 4.5


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, *cell("sam", images=[[0.5, 0.7]]))
    assert row["dice_std"] is None and row["seeds"] == 1


def test_interval_is_the_bootstrap_over_seeds_and_images(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    images = np.clip(random.normal(0.7, 0.1, (3, 50)), 0, 1)
    (row,) = rows_of(tmp_path, *cell(images=images))
    means = []
    for _ in range(DRAWS):
        seeds, names = random.integers(0, 3, 3), random.integers(0, 50, 50)
        means.append(images[seeds][:, names].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    assert row["dice_ci_low"] == pytest.approx(low, abs=0.004)
    assert row["dice_ci_high"] == pytest.approx(high, abs=0.004)
    assert row["dice_ci_low"] < row["dice_mean"] < row["dice_ci_high"]


def test_paired_test_against_the_next_row(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    base = random.uniform(0.4, 0.8, 30)
    better, worse = base + random.normal(0.05, 0.05, 30), base
    first, second = rows_of(tmp_path, *cell("am_sam", images=[better]), *cell("blo_sam", images=[worse]))
    assert [first["method"], second["method"]] == ["am_sam", "blo_sam"]
    assert first["p_vs_next"] == pytest.approx(stats.wilcoxon(better - worse, alternative="greater").pvalue)
    assert first["p_vs_next"] < 0.01
    assert second.get("p_vs_next") is None


def test_equal_scores_have_no_significant_gain(tmp_path: Path) -> None:
    first, _ = rows_of(tmp_path, *cell("am_sam"), *cell("blo_sam"))
    assert first["p_vs_next"] == 1.0


def test_lower_is_better_for_errors(tmp_path: Path) -> None:
    good, bad = [[0.02, 0.03, 0.01]], [[0.2, 0.31, 0.12]]
    records = [*cell("samed", dataset="cod10k", metric="mae", images=good, score=0.02)]
    records += cell("am_sam", dataset="cod10k", metric="mae", images=bad, score=0.3)
    rows = [row for row in rows_of(tmp_path, *records) if row["source"] == "run"]
    assert [row["method"] for row in rows] == ["samed", "am_sam"]
    assert rows[0]["p_vs_next"] < 0.2
    # Among two sweeps of one cell the smaller selection error represents it.
    again = rows_of(
        tmp_path, *cell("samed", dataset="cod10k", metric="mae", images=bad, score=0.01, sweep="b-00000000")
    )
    assert next(r for r in again if r["method"] == "samed")["sweep"] == "b-00000000"


def test_test_scores_are_not_used_for_selection(tmp_path: Path) -> None:
    records = [*cell(score=0.8, images=[[0.1, 0.2]], number=1), *cell(score=0.6, images=[[0.9, 0.9]], number=2)]
    records += cell(score=0.7, images=[[0.9, 0.9]], sweep="b-00000000")
    (row,) = rows_of(tmp_path, *records)
    assert (row["sweep"], row["trial"]) == ("a-00000000", "lesion.k4.am_sam.t0001.f0")
    assert row["dice_mean"] == pytest.approx(0.15)


def test_cells_without_finals_come_last(tmp_path: Path) -> None:
    records = [*cell("blo_sam", images=[[0.1, 0.1]]), record(config(), 0, score=0.99, sweep="a-00000000")]
    records.append(record(config(method="samed"), 0, status="failed", sweep="a-00000000"))
    rows = rows_of(tmp_path, *records)
    assert [row["method"] for row in rows] == ["blo_sam", "am_sam", "samed"]
    assert rows[1]["val_dice"] == 0.99 and "dice_mean" not in rows[1] and rows[1]["seeds"] == 0
    assert (rows[2]["trials"], rows[2]["failed"]) == (1, 1) and "val_dice" not in rows[2]


def test_only_hyperparameters_with_an_effect_are_shown(tmp_path: Path) -> None:
    off, samed = rows_of(tmp_path, *cell(calibration="off", score=0.9), *cell("samed", images=[[0.1, 0.1]]))
    assert "alpha" not in off and off["calibration"] == "off" and "lr_prompt" in off
    assert "lr_prompt" not in samed and "rank" in samed


def test_gain_over_sam_adapter(tmp_path: Path) -> None:
    records = [*cell("sam_adapter", images=[[0.5, 0.5]]), *cell("mca_sam", images=[[0.6, 0.6]])]
    records += cell("am_sam", shots=8)
    rows = {row["method"]: row for row in rows_of(tmp_path, *records)}
    assert rows["mca_sam"]["vs_sam_adapter"] == pytest.approx(0.2)
    assert "vs_sam_adapter" not in rows["sam_adapter"] and "vs_sam_adapter" not in rows["am_sam"]


def test_published_numbers_are_the_papers() -> None:
    found = {
        (t.reference[-7:], m if t.reference[-1] != "4" else (t.dataset, m), k): s
        for t in published_tables()
        for m, r in t.scores.items()
        for k, s in zip(t.shots, r, strict=True)
    }
    assert len(found) == 18 + 6 + 6 + 16
    assert found["Table 1", "am_sam", 4] == 81.3 and found["Table 1", "am_sam", 8] == 86.7
    assert found["Table 1", "deeplabv3", 4] == 31.8 and found["Table 1", "blo_sam", 8] == 84.0
    assert found["Table 2", "am_sam", 16] == 93.3 and found["Table 2", "blo_sam", 4] == 89.1
    assert found["Table 3", "am_sam", 8] == 73.6 and found["Table 3", "blo_sam", 8] == 62.3
    table_4 = {
        ("isic2018", "none"): (65.1, 62.3),
        ("isic2018", "calibration"): (65.8, 68.6),
        ("isic2018", "detector"): (67.7, 71.8),
        ("isic2018", "both"): (66.3, 73.6),
        ("tiktok", "none"): (76.3, 84.0),
        ("tiktok", "calibration"): (82.4, 84.8),
        ("tiktok", "detector"): (82.7, 85.2),
        ("tiktok", "both"): (83.4, 86.7),
    }
    for (dataset, parts), row in table_4.items():
        assert tuple(found["Table 4", (dataset, f"am_sam-{parts}"), k] for k in (4, 8)) == row
    gains = {(t.dataset, t.metric): t.gains["mca_sam"] for t in published_tables() if t.gains}
    assert gains == {
        ("cod10k", "mae"): -20.0,
        ("camo", "mae"): -6.0,
        ("istd", "ber"): -15.4,
        ("kvasir_seg", "mdice"): 7.9,
    }


def test_published_rows_are_sorted_with_measured_rows(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, *cell(dataset="isic2018", images=[[0.70, 0.72]]))
    order = [(row["source"], row["method"], row["shots"], row["dice_mean"]) for row in rows[:6]]
    assert order == [
        ("paper", "am_sam", 8, 0.736),
        ("paper", "am_sam-both", 8, 0.736),
        ("paper", "am_sam", 16, 0.719),
        ("paper", "am_sam-detector", 8, 0.718),
        ("run", "am_sam", 4, pytest.approx(0.71)),
        ("paper", "blo_sam", 16, 0.71),
    ]
    papers = {row["reference"] for row in rows if row["source"] == "paper"}
    assert papers == {f"AM-SAM, arXiv 2410.09714, Table {number}" for number in (3, 4)}
    assert published_rows("procedural", "lesion") == []


def test_a_row_states_its_protocol(tmp_path: Path) -> None:
    params = resolve_params("samed", {"protocol": "published"}).as_dict()
    assert acting_params("samed", params)["protocol"] == "published"
    before = {key: value for key, value in params.items() if key not in ("protocol", "ahead", "reach")}
    assert "protocol" not in acting_params("samed", before)  # a record of an earlier version


def test_filters(tmp_path: Path) -> None:
    records = [*cell(), *cell(shots=8), *cell(dataset="polyp")]
    assert len(rows_of(tmp_path, *records, shots=[8])) == 1
    assert {r["dataset"] for r in rows_of(tmp_path, datasets=["polyp"])} == {"polyp"}


def test_pandas_reads_the_csv_unchanged(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, *cell(lr=1e-4), *cell("samed", dataset="isic2018"))
    frame = pd.read_csv(io.BytesIO(to_csv(rows)))
    assert list(frame.columns[:8]) == [
        "dataset",
        "shots",
        "method",
        "source",
        *(f"dice_{s}" for s in ("mean", "std", "ci_low", "ci_high")),
    ]
    assert frame["lr"].iloc[-1] == 1e-4
    assert frame["dice_mean"].tolist() == pytest.approx([row["dice_mean"] for row in rows])
    assert next(csv.reader(io.StringIO(to_csv(rows).decode()))) == columns(rows)
    assert [r["method"] for r in json.loads(to_json(rows))] == [r["method"] for r in rows]


def test_an_empty_leaderboard_has_a_header_only() -> None:
    assert to_csv([]).decode().startswith("dataset,shots,method,source,dice_mean")


def test_readable_tables_show_per_cent(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, *cell())
    header, (line,) = readable_table(rows)
    assert line[header.index("Dice %")] == "65.0 ± 7.1"
    assert to_markdown(rows).splitlines()[2].startswith("| lesion | 4 | am_sam | run | 65.0 ± 7.1 |")


def test_stored_leaderboards(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "results")
    for made in (*cell(), *cell(dataset="polyp")):
        write_record(storage, made)
    storage.put("leaderboards/lesion.csv", b"stale")
    (tmp_path / "results" / "leaderboards" / "my notes.csv").write_text("mine")
    (tmp_path / "results/sweeps/a-00000000/records/x.json").write_text("half")
    (problem,) = update_leaderboards(storage, index_dir=tmp_path / "index").problems
    assert problem.where.endswith("x.json")
    lesion, polyp, both = (storage.get(f"leaderboards/{n}.csv").decode() for n in ("lesion", "polyp", "all"))
    assert lesion.splitlines() + polyp.splitlines()[1:] == both.splitlines()
    assert len(both.splitlines()) == 3
    before = (tmp_path / "results/leaderboards/all.csv").stat().st_mtime_ns
    update_leaderboards(storage, index_dir=tmp_path / "index")
    assert (tmp_path / "results/leaderboards/all.csv").stat().st_mtime_ns == before
