"""First points from an earlier sweep: which they are, that a continued sweep keeps them, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amsam_ray.cli.main import main
from amsam_ray.config.space import SpaceFile
from amsam_ray.errors import InputError
from amsam_ray.search.cells import make_cells
from amsam_ray.search.checks import check_sweep
from amsam_ray.search.manifest import choose_sweep, read_manifest, write_manifest
from amsam_ray.search.options import RunOptions
from amsam_ray.search.prior import POINTS, describe_prior, read_prior
from amsam_ray.storage.base import Storage
from amsam_ray.storage.open import open_storage
from tests.records.synthetic import Folder, config, record
from tests.search.fakes import toy, train
from tests.search.in_process import sweep_in_process
from tests.search.spaces import LAMBDA, LR, space

EARLIER = "earlier-00000000"
SEARCHED = ("lr", "lambda")


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "cache"))
    return open_storage(tmp_path / "results")


def add(
    storage: Storage,
    *scores: float | None,
    dataset: str = "polyp",
    method: str = "am_sam",
    searched: tuple[str, ...] = SEARCHED,
    metric: str = "dice",
    **more: Any,
) -> None:
    """Record one search trial per score, with lr = 0.001, 0.002, ..."""
    for number, score in enumerate(scores):
        params = {"lr": 1e-3 * (number + 1), **more.get("params", {})}
        made = record(config(dataset, 4, method, metric=metric, **params), number, sweep=EARLIER, score=score)
        changes = {"searched": searched, **more.get("changes", {})}
        made = made.model_copy(update=changes)
        Folder(Path(storage.uri.removeprefix("file://"))).put(made.key, made.to_bytes())


def asking(**more: Any) -> SpaceFile:
    return space(prior=EARLIER, **more)


def rates(storage: Storage, **more: Any) -> list[float]:
    return [point["lr"] for point in read_prior(storage, asking(**more)).get("am_sam", ())]


def test_best_trials_come_first_and_only_a_few(storage: Storage) -> None:
    add(storage, 0.3, 0.8, 0.5, 0.7, 0.6)
    assert rates(storage) == [2e-3, 4e-3, 5e-3] and POINTS == 3


def test_direction_is_that_of_the_earlier_sweep(storage: Storage) -> None:
    add(storage, 0.3, 0.8, 0.5, metric="mae")
    assert rates(storage) == [1e-3, 3e-3, 2e-3]


def test_trials_that_show_nothing_are_left_out(storage: Storage) -> None:
    add(storage, 0.9, 0.8, changes={"status": "pruned"})
    add(storage, 0.7, dataset="shadow", changes={"published": True})
    add(storage, None, 0.2, dataset="person")
    assert rates(storage) == [2e-3]


def test_finals_and_other_methods_are_left_out(storage: Storage) -> None:
    add(storage, 0.4)
    add(storage, 0.9, method="blo_sam", dataset="shadow")
    final = record(config("polyp", role="final", lr=9e-3), 5, final=0, sweep=EARLIER, score=0.9, images=[0.9])
    Folder(Path(storage.uri.removeprefix("file://"))).put(final.key, final.to_bytes())
    assert rates(storage) == [1e-3]
    found = read_prior(storage, asking(methods=("am_sam", "blo_sam", "samed"), space={"lr": LR}))
    assert {method: [p["lr"] for p in points] for method, points in found.items()} == {
        "am_sam": [1e-3],
        "blo_sam": [1e-3],
    }


def test_cells_take_turns_and_equal_configurations_count_once(storage: Storage) -> None:
    add(storage, 0.9, 0.8, 0.7, dataset="polyp")
    add(storage, 0.1, 0.2, 0.3, dataset="shadow")  # the best one is the third
    assert rates(storage) == [1e-3, 3e-3, 2e-3]


def test_points_follow_the_published_setting_and_precede_those_of_the_file(storage: Storage) -> None:
    add(storage, 0.5, 0.6)
    mine = {"lr": 0.05, "lambda": 0.55}
    source = asking(first=[mine])
    (cell,) = make_cells(source, read_prior(storage, source))
    assert cell.published == {"lr": 5e-3, "lambda": 0.8}
    assert cell.first == ({"lr": 5e-3, "lambda": 0.8}, {"lr": 2e-3, "lambda": 0.8}, {"lr": 1e-3, "lambda": 0.8}, mine)
    assert make_cells(source)[0].first == (cell.first[0], mine)


def test_a_fixed_key_is_no_part_of_a_point(storage: Storage) -> None:
    add(storage, 0.5, params={"lambda": 0.6})
    source = asking(methods=({"name": "am_sam", "params": {"lambda": 0.7}}, {"name": "am_sam", "label": "both"}))
    fixed, both = make_cells(source, read_prior(storage, source))
    assert fixed.first[1] == {"lr": 1e-3} and both.first[1] == {"lr": 1e-3, "lambda": 0.6}


# Bad input


def refused(storage: Storage, source: SpaceFile) -> str:
    with pytest.raises(InputError) as caught:
        read_prior(storage, source)
    assert all(problem.where == "search.prior" for problem in caught.value.problems)
    assert {p.what for p in caught.value.problems} <= {
        p.what for p in check_sweep(source, storage.uri, RunOptions(trial_function="tests.search.fakes:train"))
    }
    return "\n".join(problem.what for problem in caught.value.problems)


def test_sweep_that_does_not_exist_is_refused(storage: Storage) -> None:
    assert refused(storage, asking()).endswith("it holds no sweep, or remove the key")
    add(storage, 0.5)
    text = refused(storage, space(prior="earlier"))
    assert text.startswith(f"earlier is not a sweep in {storage.uri}; choose from {EARLIER}")


def test_sweep_of_other_methods_is_refused(storage: Storage) -> None:
    add(storage, 0.5, method="samed")
    add(storage, 0.5, changes={"status": "failed"})
    text = refused(storage, asking(methods=("am_sam", "blo_sam"), space={"lr": LR}))
    assert text.startswith(f"{EARLIER} has no completed search trial of am_sam or blo_sam; name a sweep of the same")


def test_keys_that_do_not_fit_are_named(storage: Storage) -> None:
    add(storage, 0.5, params={"steps": 50, "rank": 8, "views": 0}, searched=("lr", "steps", "rank", "views"))
    # `views` has the value that this space has too.
    text = refused(storage, asking())
    assert text.startswith(f"{EARLIER} searched steps, rank for am_sam, and this space does not; add steps, rank to")
    choices = {"steps": {"choice": [50, 100]}, "rank": {"int": [2, 16]}}
    assert rates(storage, space={"lr": LR, **choices}) == [1e-3]
    entry = {"name": "am_sam", "params": {"rank": 4}}  # on purpose: an entry may fix what the earlier sweep searched
    assert rates(storage, methods=(entry,), space={"lr": LR, "steps": choices["steps"]}) == [1e-3]


def test_key_that_had_no_effect_needs_no_place(storage: Storage) -> None:
    searched = ("lr", "calibration", "alpha")
    add(storage, 0.5, params={"calibration": "off", "alpha": 0.9}, searched=searched)
    off = {"name": "am_sam", "params": {"calibration": "off"}}
    assert rates(storage, methods=(off,)) == [1e-3]
    assert "searched calibration for am_sam" in refused(storage, asking())


def test_value_that_the_backbone_cannot_have_is_refused(storage: Storage) -> None:
    add(storage, 0.5, params={"rank": 256}, searched=("lr", "rank"))
    text = refused(storage, asking(space={"lr": LR, "rank": {"int": [2, 16]}}))
    assert text.startswith(f"polyp.k4.am_sam.t0000 of {EARLIER} does not fit: rank is above the projection's width")


def test_value_that_this_version_does_not_know_is_refused(storage: Storage) -> None:
    add(storage, 0.5, searched=("lr", "prompt"), changes={"params": {"lr": 1e-3, "prompt": "self"}})
    text = refused(storage, asking(space={"lr": LR, "prompt": {"choice": ["box", "fused"]}}))
    assert "does not fit: prompt must be box | fused, not 'self'; name another sweep, or remove" in text


def test_command_names_the_line_and_ends_with_status_2(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(storage, 0.5)
    text = """\
name: later
datasets:
  - {name: procedural, options: {family: lesion}}
shots: [4]
methods: [am_sam]
search:
  space: {lr: {loguniform: [1.0e-4, 1.0e-2]}}
  prior: unknown-12345678
"""
    (tmp_path / "space.yaml").write_text(text)
    for option in ([], ["--dry-run"]):
        arguments = ["tune", "--space", str(tmp_path / "space.yaml"), "--storage", storage.uri, *option]
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert "space.yaml:8 (search.prior): unknown-12345678 is not a sweep in" in capsys.readouterr().err


# Continuing


def test_continued_sweep_keeps_its_points(storage: Storage) -> None:
    add(storage, 0.5, 0.6)
    source = asking()
    begun = choose_sweep(storage, source, extend=False, fresh=False)
    assert [point["lr"] for point in begun.prior["am_sam"]] == [2e-3, 1e-3]
    write_manifest(storage, begun, source)
    add(storage, 0.5, 0.6, 0.9)  # the earlier sweep continues
    again = choose_sweep(storage, source, extend=False, fresh=False)
    assert again.prior == begun.prior and read_manifest(storage, again.sweep) == again
    shutil.rmtree(Path(storage.uri.removeprefix("file://")) / "sweeps" / EARLIER)
    assert choose_sweep(storage, source, extend=False, fresh=False).prior == begun.prior
    assert not check_sweep(source, storage.uri, RunOptions(trial_function="tests.search.fakes:train"))
    assert describe_prior(begun.prior, source) == f"First points from {EARLIER}: 2 for am_sam"


def test_other_prior_is_another_sweep_and_none_leaves_the_manifest_as_it_was(storage: Storage) -> None:
    add(storage, 0.5)
    plain = space()
    begun = choose_sweep(storage, plain, extend=False, fresh=False)
    write_manifest(storage, begun, plain)
    stored = json.loads(storage.get(f"sweeps/{begun.sweep}/sweep.json"))
    assert "prior" not in stored and "prior" not in stored["space"]["search"]
    other = choose_sweep(storage, asking(), extend=False, fresh=False)
    assert other.sweep != begun.sweep and other.earlier == begun.sweep
    extended = choose_sweep(storage, asking(), extend=True, fresh=False)
    assert extended.sweep == begun.sweep and len(extended.prior["am_sam"]) == 1


def test_damaged_points_are_refused(storage: Storage) -> None:
    add(storage, 0.5)
    source = asking()
    begun = choose_sweep(storage, source, extend=False, fresh=False)
    write_manifest(storage, replace(begun, prior={"am_sam": (5,)}), source)  # type: ignore[dict-item]
    with pytest.raises(InputError, match="is damaged; restore it"):
        read_manifest(storage, begun.sweep)


@pytest.mark.timeout(300)
def test_second_sweep_starts_from_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("tests.search.in_process.train_trial", train_toy)
    first = sweep_in_process(space(trials=12, name="first"), tmp_path, tmp_path / "cache")
    assert first.finished
    second = sweep_in_process(space(trials=5, name="second", shots=(8,), prior=first.sweep), tmp_path, tmp_path)
    assert second.finished
    results = open_storage(tmp_path / "results")

    def points(sweep: str) -> list[tuple[float, float]]:
        keys = sorted(e.key for e in results.list(f"sweeps/{sweep}/records/") if ".f" not in e.key)
        found = [json.loads(results.get(key)) for key in keys]
        return [(one["params"]["lr"], one["params"]["lambda"]) for one in found]

    tried, again = points(first.sweep), points(second.sweep)
    assert tried[0] == again[0] == (5e-3, 0.8)
    best = sorted(tried[1:], key=lambda point: -toy(*point))[:POINTS]
    assert again[1:4] == best and again[4] not in tried


def train_toy(trial: Any, *, cache_dir: Path, work_dir: Path) -> Any:
    return train(trial, cache_dir=cache_dir, work_dir=work_dir)


def test_default_leaves_the_stored_space_as_it_was() -> None:
    assert "prior" not in space(space={"lr": LR, "lambda": LAMBDA}).model_dump()["search"]
