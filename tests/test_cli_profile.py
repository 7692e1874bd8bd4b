"""``amsam-ray profile`` prints one trial's phases and its step, and refuses what cannot run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from amsam_ray.cli.main import cli
from amsam_ray.errors import InputError
from tests.training.toys import random_nano


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "cache"))


def space_file(folder: Path, **changes: Any) -> Path:
    """Write a small space of two methods, of which the first trains nothing."""
    content = {
        "name": "tiny",
        "datasets": [{"name": "procedural", "options": {"family": "lesion", "train": 12, "test": 4, "size": 64}}],
        "shots": [4],
        "methods": ["sam", "blo_sam"],
        "backbone": random_nano(folder).model_dump(mode="json", exclude_defaults=True),
        "detector": {"weights": "none"},
        "train": {"epochs": 2},
        "search": {"trials": 2, "space": {"lr": {"loguniform": [1.0e-4, 1.0e-1]}}},
        "storage": str(folder / "results"),
        **changes,
    }
    path = folder / "tiny.yaml"
    path.write_text(json.dumps(content))
    return path


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, ["profile", *map(str, arguments)])
    if isinstance(result.exception, Exception) and not isinstance(result.exception, InputError):
        raise result.exception
    return result


def test_profile_of_the_first_cell_that_trains(tmp_path: Path) -> None:
    found = json.loads(run("--space", space_file(tmp_path), "--epochs", 1, "--json").stdout)
    assert (found["cell"], found["epochs"], found["step"]["host_reads_per_epoch"]) == ("lesion.k4.blo_sam", 1, 1)
    phases = found["phases_s"]
    assert phases["train"] == pytest.approx(sum(s for name, s in phases.items() if name.startswith("train/")), abs=1e-3)
    assert sum(s for name, s in phases.items() if "/" not in name) == pytest.approx(found["trial_s"], abs=1e-3)
    assert not (tmp_path / "results").exists()


def test_table_of_a_named_cell(tmp_path: Path) -> None:
    shown = run("--space", space_file(tmp_path), "--cell", "lesion.k4.sam").stdout
    rows = [line.split() for line in shown.splitlines()]
    assert shown.startswith("lesion.k4.sam: nano at 64 px, fp32, batches of 1, 0 epochs")
    assert {"load", "prepare", "encoder", "select", "record"} <= {row[0] for row in rows if row}
    assert "none: the method trains nothing" in shown


def problems(*arguments: object) -> list[str]:
    refused = run(*arguments).exception
    assert isinstance(refused, InputError) and refused.exit_status == 2
    return [str(problem) for problem in refused.problems]


def test_unknown_cells_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    (problem,) = problems("--space", space_file(tmp_path), "--cell", "lesion.k8.sam")
    known = "lesion.k4.sam, lesion.k4.blo_sam"
    assert problem == f"--cell lesion.k8.sam: is not a cell of the space file; use one of {known}"


def test_all_problems_of_a_space_are_reported(tmp_path: Path) -> None:
    path = space_file(
        tmp_path,
        backbone={"arch": "vit_b", "checkpoint": str(tmp_path / "missing.pth")},
        datasets=[{"name": "folder", "root": str(tmp_path / "nothing"), "label": "mine"}],
    )
    found = problems("--space", path)
    assert len(found) == 2 and "missing.pth" in found[1] + found[0] and "datasets[0]" in found[0] + found[1]
    assert not (tmp_path / "cache").exists()
