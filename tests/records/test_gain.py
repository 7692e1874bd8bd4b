"""The gain over the published setting: its statistics, and what represents a cell beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amsam_ray.config.datasets import SelectionConfig
from amsam_ray.records.index import Index
from amsam_ray.records.io import read_records
from amsam_ray.records.leaderboard import build_leaderboard
from amsam_ray.records.schema import Record
from amsam_ray.records.significance import DRAWS, paired_gain
from amsam_ray.records.summary import RecordSummary, cell_summaries
from amsam_ray.records.tables import Row, columns, gain_text, readable_table
from amsam_ray.storage.open import open_storage
from tests.records.synthetic import config, record, write_record

CROSSFIT = SelectionConfig(mode="crossfit", folds=2)
Scores = Sequence[Sequence[float]]


def finals(scores: Scores, metric: str = "dice", dataset: str = "lesion") -> list[RecordSummary]:
    """One final per row of ``scores``, one test image per column."""
    return [
        RecordSummary.of(record(config(dataset, role="final", seed=seed, metric=metric), 0, seed, images=images))
        for seed, images in enumerate(scores)
    ]


def cell(
    number: int,
    images: Scores,
    *,
    choice: int | None,
    published: bool = False,
    score: float = 0.7,
    final_score: float | None = None,
    selection: SelectionConfig | None = CROSSFIT,
    sweep: str = "a-00000000",
    dataset: str = "lesion",
    metric: str = "dice",
) -> Iterator[Record]:
    """A search trial and its finals, one per row of ``images``; ``selection`` is that of the search."""
    chosen: dict[str, Any] = {"selection": selection, "dataset": dataset, "metric": metric}
    yield record(config(**chosen), number, score=score, sweep=sweep, published=published)
    paper = {**chosen, "selection": None} if published and selection == CROSSFIT else chosen
    for seed, scores in enumerate(images):
        final = config(role="final", seed=seed, **paper)
        yield record(
            final, number, seed, score=final_score, images=scores, sweep=sweep, published=published, choice=choice
        )


def only_row(tmp_path: Path, *records: Record) -> Row:
    """The only measured row, which the index and the records themselves must agree on."""
    storage = open_storage(tmp_path / "results")
    for made in records:
        write_record(storage, made)
    with contextlib.closing(Index(storage, tmp_path / "index")) as index:
        assert index.update() == []
        cells = index.cells()
    assert cells == cell_summaries(read_records(storage).records)
    (row,) = build_leaderboard(cells, published=False)
    return row


# The statistics


def test_gain_is_the_paired_bootstrap_over_images_and_seeds() -> None:
    random = np.random.default_rng(3)
    images = random.normal(0.6, 0.15, 40)
    ours = images + random.normal(0.04, 0.05, (3, 40))
    theirs = images + random.normal(0.0, 0.05, (2, 40))
    found = paired_gain(finals(ours.tolist()), finals(theirs.tolist()), "dice", maximise=True)
    assert found is not None
    gains = []
    for _ in range(DRAWS):
        drawn = random.integers(0, 40, 40)  # the same images for both
        first, second = ours[random.integers(0, 3, 3)], theirs[random.integers(0, 2, 2)]
        gains.append(first[:, drawn].mean() - second[:, drawn].mean())
    mean, low, high, p = found
    assert mean == pytest.approx(ours.mean() - theirs.mean())
    assert low == pytest.approx(np.quantile(gains, 0.025), abs=0.004)
    assert high == pytest.approx(np.quantile(gains, 0.975), abs=0.004)
    assert p == pytest.approx(2 * float((np.array(gains) <= 0).mean()), abs=0.02)
    # Pairing removes the variation between images: unpaired, the interval would be several times as wide.
    assert high - low < 0.08 < 4 * np.std(images) / np.sqrt(40)


@pytest.mark.parametrize("shift", [0.05, -0.05])
def test_known_shift(shift: float) -> None:
    images = np.linspace(0.3, 0.8, 10)
    ours, theirs = finals([(images + shift).tolist()] * 2), finals([images.tolist()] * 3)
    found = paired_gain(ours, theirs, "dice", maximise=True)
    assert found == (pytest.approx(shift), pytest.approx(shift), pytest.approx(shift), 1 / DRAWS)
    assert paired_gain(ours, theirs, "dice", maximise=False) == (
        pytest.approx(-shift),
        pytest.approx(-shift),
        pytest.approx(-shift),
        1 / DRAWS,
    )


def test_no_difference_has_p_one() -> None:
    same = finals([[0.4, 0.6, 0.5]] * 2)
    assert paired_gain(same, same, "dice", maximise=True) == (0.0, 0.0, 0.0, 1.0)


def test_images_without_a_score_are_left_out_of_both() -> None:
    ours, theirs = finals([[0.5, 0.9, float("nan")]]), finals([[0.4, float("nan"), 0.1]])
    found = paired_gain(ours, theirs, "dice", maximise=True)
    assert found is not None and found[0] == pytest.approx(0.1)


def test_no_gain_without_shared_images() -> None:
    two, three = finals([[0.5, 0.6]]), finals([[0.5, 0.6, 0.7]])
    assert paired_gain(two, three, "dice", maximise=True) is None
    assert paired_gain(two, two, "iou", maximise=True) is None
    assert paired_gain([], two, "dice", maximise=True) is None


def test_gain_is_computed_once_per_key() -> None:
    calls: list[str] = []

    def remember(key: str, compute):
        calls.append(key)
        return [0.1, 0.0, 0.2, 0.05]

    ours, theirs = finals([[0.5, 0.6]]), finals([[0.4, 0.5]])
    assert paired_gain(ours, theirs, "dice", maximise=True, remember=remember) == (0.1, 0.0, 0.2, 0.05)
    assert paired_gain(theirs, ours, "dice", maximise=True, remember=remember) is not None
    assert len(set(calls)) == 2


# The leaderboard


def test_published_finals_for_comparison_do_not_represent_the_cell(tmp_path: Path) -> None:
    # They score better on the selection images and on the test images, and still only measure the gain.
    row = only_row(
        tmp_path,
        *cell(0, [[0.9, 0.9]], choice=0, published=True, score=0.9, final_score=0.95),
        *cell(1, [[0.5, 0.6]], choice=1, score=0.6),
    )
    assert row["trial"] == "lesion.k4.am_sam.t0001.f0" and row["dice_mean"] == pytest.approx(0.55)
    assert row["seeds"] == 1 and row["trials"] == 2
    assert row["gain_over_published"] == pytest.approx(-0.35) and "kept" not in row


def test_chosen_configuration_represents_the_cell_before_better_runners_up(tmp_path: Path) -> None:
    row = only_row(
        tmp_path,
        *cell(2, [[0.9, 0.9]], choice=2, score=0.9),
        *cell(1, [[0.5, 0.6]], choice=1, score=0.6),
    )
    assert row["trial"] == "lesion.k4.am_sam.t0001.f0"
    assert "gain_over_published" not in row and "kept" not in row


def test_records_without_choice_are_ranked_by_the_selection_images(tmp_path: Path) -> None:
    row = only_row(
        tmp_path,
        *cell(2, [[0.1, 0.2]], choice=None, score=0.9, final_score=0.9, selection=None),
        *cell(1, [[0.5, 0.6]], choice=None, score=0.6, final_score=0.6, selection=None),
    )
    assert row["trial"] == "lesion.k4.am_sam.t0002.f0"


def test_selection_score_of_crossfitted_finals_is_that_of_the_search_trial(tmp_path: Path) -> None:
    row = only_row(tmp_path, *cell(3, [[0.5, 0.6], [0.6, 0.7]], choice=1, score=0.65, final_score=None))
    assert row["val_dice"] == 0.65 and row["seeds"] == 2


def test_gain_is_positive_where_a_smaller_error_is_better(tmp_path: Path) -> None:
    more: dict[str, Any] = {"dataset": "cod10k", "metric": "mae"}
    row = only_row(
        tmp_path,
        *cell(0, [[0.20, 0.31, 0.12]], choice=0, published=True, score=0.2, **more),
        *cell(1, [[0.02, 0.03, 0.01]], choice=1, score=0.1, **more),
    )
    assert row["gain_over_published"] == pytest.approx(0.19)
    assert 0 < row["gain_ci_low"] <= row["gain_over_published"] <= row["gain_ci_high"] and row["gain_p"] < 0.01


def test_kept_published_setting_is_stated(tmp_path: Path) -> None:
    row = only_row(tmp_path, *cell(0, [[0.5, 0.6]], choice=1, published=True, final_score=0.8))
    assert row["kept"] == "published" and row["gain_over_published"] == 0.0
    assert row.get("gain_ci_low") is None and row.get("gain_p") is None
    assert gain_text(row, "dice") == "kept published"
    header, (line,) = readable_table([row])
    assert line[header.index("gain over published")] == "kept published"


def test_tables_show_the_gain_with_its_interval(tmp_path: Path) -> None:
    row = only_row(
        tmp_path,
        *cell(0, [[0.5, 0.6]], choice=0, published=True),
        *cell(1, [[0.6, 0.7]], choice=1, score=0.8),
    )
    header, (line,) = readable_table([row])
    assert line[header.index("gain over published")] == "+10.0 [+10.0, +10.0]"
    names = columns([row])
    at = names.index("gain_over_published")
    assert names[at : at + 4] == ["gain_over_published", "gain_ci_low", "gain_ci_high", "gain_p"]
    assert gain_text({**row, "gain_ci_low": 0.05}, "mae") == "+0.1000 [+0.0500, +0.1000]"
    assert gain_text({}, "dice") == ""


def test_tables_without_a_gain_have_no_column_for_it(tmp_path: Path) -> None:
    row = only_row(tmp_path, *cell(1, [[0.6, 0.7]], choice=1))
    header, _ = readable_table([row])
    assert "gain over published" not in header and not {"kept", "gain_p"} & set(columns([row]))


def test_sweeps_with_held_out_selection_come_first(tmp_path: Path) -> None:
    # D2 trains the prompt, so its score is too high to compare with that of held-out images.
    held_out = SelectionConfig(mode="holdout", images=4)
    row = only_row(
        tmp_path,
        *cell(1, [[0.1, 0.1]], choice=None, score=0.99, final_score=0.99, selection=None, sweep="z-00000000"),
        *cell(1, [[0.5, 0.6]], choice=None, score=0.6, final_score=0.6, selection=held_out, sweep="a-00000000"),
    )
    assert row["sweep"] == "a-00000000"


def test_crossfitted_sweep_that_kept_the_published_setting_counts_as_held_out(tmp_path: Path) -> None:
    row = only_row(
        tmp_path,
        *cell(1, [[0.1, 0.1]], choice=None, score=0.99, final_score=0.99, selection=None, sweep="z-00000000"),
        *cell(0, [[0.5, 0.6]], choice=1, published=True, score=0.6, final_score=0.9, sweep="a-00000000"),
    )
    assert row["sweep"] == "a-00000000" and row["kept"] == "published"
