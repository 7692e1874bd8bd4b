"""Twenty-two ways to hand over labelled photographs, and some more: read as they are, or refused with the remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from amsam_ray.cli.data import data
from amsam_ray.cli.main import main
from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.config.yaml_loader import parse_yaml
from amsam_ray.data.check import check_dataset
from amsam_ray.data.dataset import open_dataset
from amsam_ray.data.definition import check_dataset_config
from amsam_ray.data.understand import Unreadable, understand
from tests.data import ways
from tests.data.ways import MORE_WAYS, WAYS

ALL = {**WAYS, **MORE_WAYS}
READ = [name for name, way in ALL.items() if way.train]
REFUSED = [name for name, way in ALL.items() if not way.train]


def _assert_pairs(config: DatasetConfig, train: int, test: int) -> None:
    """Every photograph is read once, with its own mask."""
    dataset = open_dataset(config, split="all")
    assert (len(dataset.train), len(dataset.test)) == (train, test)
    indices = []
    for name in dataset.train + dataset.test:
        indices.append(ways.index_of(dataset.image(name)))
        assert np.array_equal(dataset.mask(name), ways.truth(indices[-1])), f"{name} has another mask"
    assert len(set(indices)) == len(indices)


def test_there_are_twenty_two() -> None:
    assert len(WAYS) == 22


@pytest.mark.parametrize("name", READ)
def test_a_way_that_is_read(name: str, tmp_path: Path) -> None:
    way = ALL[name]
    root = tmp_path / "own"
    way.build(root)
    # As it is, without an option.
    config = DatasetConfig(name="folder", root=str(root))
    assert not check_dataset_config(config, way.train, "datasets[0]")
    _assert_pairs(config, way.train, way.test)
    assert not check_dataset(config).faults
    # By the printed definition.
    result = CliRunner().invoke(data, ["detect", str(root)])
    assert result.exit_code == 0, result.output
    assert f"{way.train} to train on, {way.test} to test" in result.output
    (entry,) = parse_yaml(result.output, "detected").data["datasets"]
    printed = DatasetConfig.model_validate(entry)
    _assert_pairs(printed, way.train, way.test)
    explicit, found = open_dataset(printed, split="all"), open_dataset(config, split="all")
    assert (explicit.train, explicit.test) == (found.train, found.test)


@pytest.mark.parametrize("name", REFUSED)
def test_a_way_that_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    way = ALL[name]
    root = tmp_path / "own"
    way.build(root)
    with pytest.raises(SystemExit) as stop:
        main(["data", "detect", str(root)])
    told = capsys.readouterr()
    assert stop.value.code == 2
    for words in way.told:
        assert words in told.err
    assert bool(told.out) == way.script
    # Never silently: a sweep refuses the folder, or each mask that it reads.
    config = DatasetConfig(name="folder", root=str(root))
    if not check_dataset_config(config, 4, "datasets[0]"):
        assert {fault.code for fault in check_dataset(config).faults} == {"mask-values"}
    if way.again is not None:
        _assert_pairs(DatasetConfig(name="folder", root=str(root), options=way.again), 6, 2)
    if way.script:
        script = tmp_path / "masks.py"
        script.write_text(told.out)
        subprocess.run([sys.executable, str(script)], check=True, timeout=60)
        _assert_pairs(config, 6, 2)


@pytest.mark.parametrize("name", REFUSED)
def test_the_same_remedy_is_told_before_a_sweep(name: str, tmp_path: Path) -> None:
    root = tmp_path / "own"
    ALL[name].build(root)
    with pytest.raises(Unreadable) as error:
        understand(str(root))
    problems = check_dataset_config(DatasetConfig(name="folder", root=str(root)), 4, "datasets[0]")
    if "mask-values" not in _codes(root):
        (problem,) = error.value.problems
        assert problem.what in problems[0].what


def _codes(root: Path) -> set[str]:
    try:
        return {finding.code for finding in check_dataset(DatasetConfig(name="folder", root=str(root))).findings}
    except Unreadable:
        return set()
