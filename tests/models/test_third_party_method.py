"""A package outside the project adds a method in one file: it is listed, searched, trained, recorded and ranked."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from amsam_ray.config.methods import METHODS, discover_methods
from amsam_ray.config.space_file import parse_space
from amsam_ray.inference.predict import load_predictor
from amsam_ray.models.methods import PUBLISHED_ORDER
from amsam_ray.records.environment import describe_environment
from amsam_ray.records.io import read_records, write_trial
from amsam_ray.records.leaderboard import leaderboard_key, update_leaderboards
from amsam_ray.records.schema import Record
from amsam_ray.search.cells import make_cells
from amsam_ray.storage.open import open_storage
from amsam_ray.training.trial import train_trial
from tests.training.toys import random_nano

NAME = "upscaling_only"
PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The example of the page, installed into a folder of its own as pip would do it."""
    section = PAGE.read_text().partition("## Adding a method")[2]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (project,) = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    folder = tmp_path / "site"
    metadata = folder / f"{NAME}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / f"{NAME}.py").write_text(code)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
    lines = []
    for group, points in tomllib.loads(project)["project"]["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package is on the path of this process during the test."""
    monkeypatch.syspath_prepend(package)
    discover_methods.cache_clear()
    yield
    discover_methods.cache_clear()
    sys.modules.pop(NAME, None)


def test_the_command_lists_it_without_torch(package: Path) -> None:
    code = (
        "import sys; from amsam_ray.cli.methods import methods;"
        "methods(['list'], standalone_mode=False); print('torch' in sys.modules)"
    )
    project = str(PAGE.parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), project])}
    listed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert f"{NAME}: Upscaling only (an example)" in listed and "lr=0.001" in listed
    assert listed.splitlines()[-1] == "False"


@pytest.mark.usefixtures("installed")
def test_it_is_trained_recorded_and_ranked(tmp_path: Path) -> None:
    assert tuple(METHODS) == (*PUBLISHED_ORDER, NAME)
    backbone = random_nano(tmp_path)
    options = {"family": "lesion", "size": 64, "train": 12, "test": 5}
    space = parse_space(
        {
            "name": "third-party",
            "datasets": [{"name": "procedural", "options": options}],
            "shots": [4],
            "methods": [NAME],
            "backbone": backbone.model_dump(),
            "detector": {"weights": "none"},
            "train": {"epochs": 2},
            "search": {"space": {"lr": {"loguniform": [1e-4, 1e-2]}}},
        }
    )
    (cell,) = make_cells(space)
    assert cell.first == ({"lr": 1e-3},)

    started = time.time()
    config = cell.config(cell.first[0], seed=0, role="final")
    result = train_trial(config, cache_dir=tmp_path / "cache", work_dir=tmp_path)
    assert result.status == "completed" and result.epochs_run == 2 and result.trained_params > 1000
    assert result.adapter is not None
    assert backbone.checkpoint is not None
    predictor = load_predictor(result.adapter, backbone=Path(backbone.checkpoint))
    ((mask, _, _),) = predictor([np.zeros((40, 60, 3), np.uint8)])
    assert mask.shape == (40, 60)

    storage = open_storage(tmp_path / "results")
    record = Record.build(
        trial=f"{cell.id}.t0000.f0",
        sweep="third-party-00000000",
        config=config,
        result=result,
        environment=describe_environment({}),
        started=started,
        finished=time.time(),
        searched=tuple(cell.space),
    )
    write_trial(storage, record, result)
    assert read_records(storage) == ([record], [])
    assert update_leaderboards(storage, index_dir=tmp_path / "index").problems == []
    table = storage.get(leaderboard_key(cell.dataset.label)).decode()
    (row,) = [row for row in csv.DictReader(io.StringIO(table)) if row["source"] == "run"]
    assert (row["method"], float(row["lr"]), int(row["trained_params"])) == (NAME, 1e-3, result.trained_params)
    assert result.test is not None and float(row["dice_mean"]) == pytest.approx(result.test["dice"], abs=1e-4)
