"""The public API: lazy names, DataFrames, and the examples of its page."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import amsam_ray
from amsam_ray.search import sweep
from tests.records.synthetic import Folder, write_sweep

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    write_sweep(Folder(folder / "results"), folder, datasets=["lesion"], shots=[4], trials=6)
    return folder / "results"


def test_importing_the_package_loads_nothing_slow() -> None:
    code = (
        "import sys, amsam_ray; assert set(amsam_ray.__all__) <= set(dir(amsam_ray)); amsam_ray.load_space;"
        "print([m for m in ('torch', 'ray', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_a_documented_function() -> None:
    for name in amsam_ray.__all__:
        public = getattr(amsam_ray, name)
        assert inspect.isfunction(public) and public.__name__ == name and public.__doc__
        assert f"## `{name}`" in PAGE and f"| `{name}` |" in PAGE
    with pytest.raises(AttributeError, match="no attribute 'load_model'"):
        amsam_ray.load_model  # noqa: B018


def test_records_are_one_row_each(results: Path, tmp_path: Path) -> None:
    records = amsam_ray.read_records(results)
    assert len(records) == len(list(results.glob("sweeps/*/records/*.json")))
    assert records.trial.is_unique and set(records.method) == {"sam", "blo_sam", "am_sam"}
    finals = records[records.role == "final"]
    assert finals.test_dice.notna().all() and records[records.role == "search"].test_dice.isna().all()
    assert records[records.method == "am_sam"].alpha.between(0, 1).all()
    assert records[records.method == "sam"].alpha.isna().all()
    assert len(amsam_ray.read_records(results, "demo-00000000")) == len(records)
    empty = amsam_ray.read_records(tmp_path)
    assert len(empty) == 0 and "status" in empty.columns


def test_the_leaderboard_has_the_rows_and_columns_of_the_csv(results: Path) -> None:
    board = amsam_ray.leaderboard(results, published=False)
    assert list(board.method) and set(board.source) == {"run"} and board.dice_mean.between(0, 1).all()
    assert board.dice_mean.is_monotonic_decreasing
    assert len(amsam_ray.leaderboard(results, datasets=["polyp"])) == 0


def test_a_file_that_is_no_record_is_a_warning(tmp_path: Path) -> None:
    write_sweep(Folder(tmp_path / "r"), tmp_path, datasets=["lesion"], shots=[4], methods=["sam"])
    (tmp_path / "r/sweeps/demo-00000000/records/x.json").write_text("half")
    with pytest.warns(UserWarning, match=r"skipped .*x\.json"):
        assert len(amsam_ray.read_records(tmp_path / "r")) == 2
    with pytest.warns(UserWarning, match=r"skipped .*x\.json"):
        assert len(amsam_ray.leaderboard(tmp_path / "r", published=False)) == 1


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = inspect.signature(sweep.run_sweep)

    def stand_in(*args: Any, **kwargs: Any) -> types.SimpleNamespace:
        """Write synthetic records where the sweep would write its own."""
        given = real.bind(*args, **kwargs).arguments
        write_sweep(Folder(tmp_path / given["storage_uri"]), tmp_path, datasets=["lesion"], shots=[4], trials=3)
        return types.SimpleNamespace(sweep="demo-00000000", finished=True)

    monkeypatch.setattr(sweep, "run_sweep", stand_in)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search_spaces").symlink_to(ROOT / "search_spaces")
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(example, "docs/api.md", "exec"), names)
    assert names["outcome"].finished and names["mask"].shape == (96, 128) and len(names["board"]) == 3
