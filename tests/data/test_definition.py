from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.config.metrics import METRICS
from amsam_ray.data import definition as module
from amsam_ray.data.dataset import open_dataset
from amsam_ray.data.definition import check_dataset_config, definitions, get_definition, load_definition
from amsam_ray.errors import InputError
from tests.data import layouts

NAMES = {"tiktok", "vikram_human", "isic2018", "kvasir_seg", "cod10k", "camo", "istd", "folder", "procedural"}
OWN = {
    "name": "birds",
    "title": "Birds",
    "task": "birds on a feeder",
    "layouts": [{"pool": {"images": "photos", "masks": "labels"}}],
    "mask": {"name": "{stem}.label"},
    "split": {"test": 0.5},
    "metrics": ["iou", "dice"],
    "primary_metric": "iou",
    "citation": "own",
    "obtain": "ask around",
}


def _problems(config: DatasetConfig, shots: int = 4) -> str:
    return "\n".join(map(str, check_dataset_config(config, shots, "datasets[0]")))


def test_the_package_defines_its_datasets() -> None:
    assert set(definitions()) == NAMES
    for definition in definitions().values():
        assert definition.citation
        assert definition.obtain
        assert definition.primary_metric == definition.metrics[0]


@pytest.mark.parametrize(
    ("name", "metric", "maximise"),
    [("kvasir_seg", "mdice", True), ("cod10k", "mae", False), ("camo", "mae", False), ("istd", "ber", False)],
)
def test_primary_metrics_and_directions(name: str, metric: str, maximise: bool) -> None:
    assert (get_definition(name).primary_metric, get_definition(name).maximise) == (metric, maximise)
    assert METRICS[metric].maximise is maximise


def test_definitions_load_without_slow_imports() -> None:
    code = (
        "import sys; from amsam_ray.data.definition import definitions; definitions();"
        "print([m for m in ('torch', 'numpy', 'pandas', 'ray', 'boto3', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_yaml_file_is_enough_for_a_new_dataset(tmp_path: Path) -> None:
    for index in range(4):
        layouts.put_pair(tmp_path, f"photos/{index}.png", f"labels/{index}.label.png", index)
    path = tmp_path / "birds.yaml"
    path.write_text(yaml.safe_dump(OWN))
    config = DatasetConfig(name=str(path), root=str(tmp_path))
    assert config.label == "birds"
    dataset = open_dataset(config, split="all")
    assert (len(dataset.train), len(dataset.test), dataset.definition.primary_metric) == (2, 2, "iou")


def test_the_example_of_the_docs_is_a_definition(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/data.md").read_text()
    (example,) = re.findall(r"```yaml\n(name: birds.*?)```", page, flags=re.DOTALL)
    (tmp_path / "birds.yaml").write_text(example)
    for index in range(102):
        for name in (f"photos/2025/{index}.jpg", f"labels/2025/{index}.label.png"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
    config = DatasetConfig(name=str(tmp_path / "birds.yaml"), root=str(tmp_path), options={"year": "2025"})
    assert not check_dataset_config(config, 2, "datasets[0]")
    assert "the 2 of the train pool" in _problems(config)


def test_an_entry_point_brings_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "birds.yaml"
    path.write_text(yaml.safe_dump(OWN))
    (tmp_path / "birds_plugin.py").write_text(f"PATH = {str(path)!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("birds", "birds_plugin:PATH", module.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    definitions.cache_clear()
    try:
        assert get_definition("birds").title == "Birds"
    finally:
        definitions.cache_clear()


@pytest.mark.parametrize(("value", "what"), [("nowhere:PATH", "does not load"), ("clash:PATH", "already exists")])
def test_a_bad_entry_point_is_reported_by_name(
    value: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clash.yaml").write_text(yaml.safe_dump({**OWN, "name": "istd"}))
    (tmp_path / "clash.py").write_text(f"PATH = {str(tmp_path / 'clash.yaml')!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("mine", value, module.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    definitions.cache_clear()
    try:
        with pytest.raises(InputError, match=what):
            definitions()
    finally:
        definitions.cache_clear()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layouts": []}, "at least one layout"),
        ({"layouts": [{"pool": {"images": "../x", "masks": "y"}}]}, "leaves the data root"),
        ({"layouts": [{"pool": {"images": "/x", "masks": "y"}}]}, "relative to the data root"),
        ({"layouts": [{"train": {"images": "x", "masks": "y"}}]}, "both train and test"),
        ({"metrics": ["accuracy"]}, "unknown metrics accuracy"),
        ({"metrics": ["dice"]}, "must hold the primary metric"),
        ({"metrics": ["iou", "dice_low_res"]}, "reported for every dataset"),
        ({"split": {}}, "needs split.test"),
        ({"mask": {"name": "mask"}}, "must hold {stem} once"),
        ({"colour": "blue"}, "is not a known key"),
    ],
)
def test_an_invalid_definition_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({**OWN, **change}))
    with pytest.raises(InputError, match=message):
        load_definition(path)


def test_a_definition_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("title: own\nname: [a\n")
    with pytest.raises(InputError, match=r"own\.yaml:3: is not valid YAML: .* begins in line 2; close brackets"):
        load_definition(path)
    with pytest.raises(InputError, match="no such file; give the path of a dataset definition"):
        load_definition(tmp_path / "missing.yaml")


def test_all_problems_of_a_dataset_are_reported_at_once() -> None:
    options = {"images": "../secret", "colour": 1, "test": 1.5}
    told = _problems(DatasetConfig(name="folder", root="/no/such/place", options=options))
    assert "datasets[0].options.images: '../secret' leaves the data root" in told
    assert "datasets[0].options.colour: is not an option of folder" in told
    assert "datasets[0].options.test: must be a number of images" in told
    assert "datasets[0].root: /no/such/place: the data root does not exist" in told


def test_an_unknown_dataset_lists_the_known_ones() -> None:
    assert "istd" in _problems(DatasetConfig(name="imagenet"))


def test_a_missing_root_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMSAM_DATA", raising=False)
    assert "set AMSAM_DATA" in _problems(DatasetConfig(name="istd"))


def test_the_root_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.istd(tmp_path / "istd")
    monkeypatch.setenv("AMSAM_DATA", str(tmp_path))
    assert not _problems(DatasetConfig(name="istd"), shots=2)


def test_too_few_images_for_the_shots(tmp_path: Path) -> None:
    layouts.folder(tmp_path)
    told = _problems(DatasetConfig(name="folder", root=str(tmp_path)), shots=8)
    assert "8 labelled images are more than the 4 of the train pool" in told
    assert "the 3 of the train pool" in _problems(DatasetConfig(name="procedural", options={"train": 3}))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"family": "cat"}, "is not one of lesion"),
        ({"size": 8}, "out of range"),
        ({"train": "many"}, "must be a whole number"),
        ({"seed": True}, "must be a whole number"),
    ],
)
def test_procedural_options_are_checked(options: dict[str, object], what: str) -> None:
    assert what in _problems(DatasetConfig(name="procedural", label="x", options=options))


def test_a_procedural_dataset_has_no_root() -> None:
    assert "remove the root" in _problems(DatasetConfig(name="procedural", root="/data"))


def test_a_list_that_names_an_unknown_image_stops_a_sweep(tmp_path: Path) -> None:
    layouts.folder(tmp_path)
    told = _problems(DatasetConfig(name="folder", root=str(tmp_path), options={"test": ["photo0", "photo77"]}))
    assert "names photo77, which the dataset does not hold" in told


def test_a_missing_layout_tells_where_it_looked(tmp_path: Path) -> None:
    told = _problems(DatasetConfig(name="folder", root=str(tmp_path), options={"images": "photos"}))
    assert f"{tmp_path}: does not hold the folders photos and masks; put photographs into images/" in told
    told = _problems(DatasetConfig(name="cod10k", root=str(tmp_path)))
    assert "Train/Image and Train/GT_Object, Test/Image and Test/GT_Object; or " in told


def test_a_dataset_is_called_by_a_word_not_by_its_title(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMSAM_DATA", raising=False)
    assert "is missing; give the dataset's folder or s3://bucket/prefix" in _problems(DatasetConfig(name="folder"))


def test_one_bad_pair_does_not_stop_a_sweep(tmp_path: Path) -> None:
    layouts.folder(tmp_path)
    (tmp_path / "masks/photo1.png").unlink()
    assert not _problems(DatasetConfig(name="folder", root=str(tmp_path)), shots=2)
