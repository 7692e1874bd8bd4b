"""A dataset of three classes end to end: label maps in, a sweep, one label map out; and the same from a COCO file."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from amsam_ray.cli.main import cli
from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.config.space_file import parse_space
from amsam_ray.errors import InputError
from amsam_ray.inference.adapter_file import AdapterFileError
from amsam_ray.inference.label_maps import load_label_predictor
from amsam_ray.inference.predict import load_predictor
from amsam_ray.records.io import read_records
from amsam_ray.records.schema import Record
from amsam_ray.search.cells import make_cells
from amsam_ray.search.checks import check_sweep, with_named_classes
from amsam_ray.search.options import RunOptions
from amsam_ray.storage.open import open_storage
from tests.data.classes import CLASSES, put_coco, put_label_maps, scenes
from tests.search.driving import ROOT
from tests.search.in_process import sweep_in_process

pytestmark = pytest.mark.timeout(1800)
MADE = scenes(12)
TEST = 4


def content(root: Path, **changes: Any) -> dict[str, Any]:
    """A space of one method on three classes, small enough to train in seconds."""
    dataset = {"name": "folder", "root": str(root), "label": "scenes", "options": {"classes": CLASSES, "test": TEST}}
    return {
        "name": "classes",
        "datasets": [dataset],
        "shots": [4],
        "methods": [{"name": "blo_sam", "params": {"head": "warm"}}],
        "detector": {"weights": "none"},
        "train": {"epochs": 8, "batch_size": 4, "hypergradient": "first_order"},
        "search": {"trials": 1, "scheduler": "none", "space": {"lr": {"loguniform": [1.0e-3, 1.0e-2]}}},
        "finals": {"top_k": 1, "seeds": 1},
        "resources": {"lanes": 1},
        **changes,
    }


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with label maps (``maps``), the results of their sweep (``results``) and its ``cache``."""
    folder = tmp_path_factory.mktemp("swept")
    put_label_maps(folder / "maps", MADE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMSAM_CACHE_DIR", str(folder / "cache"))
        outcome = sweep_in_process(parse_space(content(folder / "maps")), folder, folder / "cache")
        assert outcome.finished and not outcome.failed_cells
        assert [row["dataset"] for row in outcome.leaderboard] == [
            "scenes",
            *(f"scenes.{one}" for one in sorted(CLASSES)),
        ]
        yield folder


def records(swept: Path) -> dict[str, Record]:
    found, problems = read_records(open_storage(str(swept / "results")))
    assert problems == []
    return {record.trial: record for record in found}


def finals(swept: Path) -> dict[str, Record]:
    """The final of each class."""
    return {r.dataset.partition(".")[2]: r for r in records(swept).values() if r.role == "final"}


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_every_class_has_a_row_and_the_method_a_mean_row(swept: Path) -> None:
    with (swept / "results" / "leaderboards" / "scenes.csv").open() as file:
        rows = {row["dataset"]: row for row in csv.DictReader(file)}
    assert next(iter(rows)) == "scenes" and set(rows) == {"scenes", *(f"scenes.{one}" for one in CLASSES)}
    assert {rows[f"scenes.{one}"]["trial"] for one in CLASSES} == {
        f"scenes.{one}.k4.blo_sam.t0000.f0" for one in CLASSES
    }
    scores = {
        one: statistics.fmean(float(image["dice"] or 0) for image in r.test_images) for one, r in finals(swept).items()
    }
    for one, score in scores.items():
        assert float(rows[f"scenes.{one}"]["dice_mean"]) == pytest.approx(score, abs=1e-6)
    assert float(rows["scenes"]["dice_mean"]) == pytest.approx(statistics.fmean(scores.values()), abs=1e-6)


def test_the_classes_share_the_embeddings_of_the_images(swept: Path) -> None:
    shots = [image["name"] for record in records(swept).values() for image in record.val_images]
    tests = [image["name"] for record in finals(swept).values() for image in record.test_images]
    stored = list((swept / "cache" / "prepared").rglob("*.safetensors"))
    # Half of the shots select the configuration; the other half trains and is in no record.
    assert len(set(tests)) + len(set(shots)) <= len(stored) <= len(MADE) < len(tests) + 3 * 4


def test_a_coco_file_of_the_same_masks_gives_the_same_numbers(swept: Path, tmp_path: Path) -> None:
    put_coco(tmp_path / "coco", MADE)
    data = content(tmp_path / "coco")
    data["datasets"][0]["options"]["annotations"] = "labels.json"
    outcome = sweep_in_process(parse_space(data), tmp_path, swept / "cache")
    again = {record.trial: record for record in read_records(open_storage(str(tmp_path / "results")))[0]}
    assert set(again) == set(records(swept)) and len(again) == 2 * len(CLASSES)
    for trial, record in records(swept).items():
        same = {"val", "val_images", "curve", "test", "test_images", "shots_sha256", "seed"}
        assert again[trial].model_dump(include=same) == record.model_dump(include=same)
    with (swept / "results" / "leaderboards" / "scenes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["dice_mean"]) for row in rows] == [
        pytest.approx(row["dice_mean"], rel=1e-5) for row in outcome.leaderboard
    ]


def test_predict_writes_one_label_map_from_all_classes(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(swept / "cache"))
    given = [swept / "maps" / "images" / f"scene{index:03d}.png" for index in (9, 10)]
    storage = ("--storage", swept / "results")
    assert run("predict", *given, "--adapter", "scenes.k4.blo_sam", "--out", tmp_path / "out", *storage).exit_code == 0
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == {"background": 0, **CLASSES}
    adapters = {one: swept / "results" / str(record.adapter) for one, record in finals(swept).items()}
    single = {one: load_predictor(adapter, "cpu") for one, adapter in adapters.items()}
    for path in given:
        probabilities = {}
        for one, predictor in single.items():
            (prediction,) = predictor([np.asarray(Image.open(path))])
            probabilities[one] = prediction.probability
            mask = np.asarray(Image.open(tmp_path / "out" / "masks" / one / path.name))
            assert np.array_equal(mask, prediction.mask * np.uint8(255))
        labels = np.asarray(Image.open(tmp_path / "out" / "labels" / path.name))
        best = max(probabilities.values(), key=lambda p: float(p.max()))
        assert labels.shape == best.shape and Image.open(tmp_path / "out" / "overlays" / path.name).size == (96, 96)
        for one, value in CLASSES.items():
            others = [p for name, p in probabilities.items() if name != one]
            alone = (probabilities[one] > 0.5) & np.all([probabilities[one] > p for p in others], axis=0)
            assert np.array_equal(labels == value, alone)  # floating-point probabilities do not tie here
    assert run("predict", given[0], "--adapter", "scenes.k4", "--out", tmp_path / "two", *storage).exit_code == 0
    one_way, other = (np.asarray(Image.open(tmp_path / out / "labels" / given[0].name)) for out in ("out", "two"))
    assert np.array_equal(one_way, other)


def test_a_mean_row_is_no_cell_and_the_commands_say_which_are(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(swept / "cache"))
    with pytest.raises(
        InputError, match=r"not one cell but those of several classes; choose from scenes\.lesion\.k4\."
    ):
        run("show", "scenes.k4.blo_sam", "--storage", swept / "results")
    assert run("show", "scenes.lesion.k4.blo_sam", "--storage", swept / "results").exit_code == 0
    with pytest.raises(InputError, match=r"has no adapter file of a class; choose a trained method .*\(blo_sam\)"):
        run("predict", ROOT / "docs" / "images" / "demo.png", "--adapter", "scenes.k4.am_sam", "--out", "o",
            "--storage", swept / "results")  # fmt: skip


def test_a_report_has_a_section_for_the_means_and_one_for_each_class(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(swept / "cache"))
    assert run("report", "--storage", swept / "results", "--out", tmp_path / "report.html").exit_code == 0
    text = (tmp_path / "report.html").read_text()
    assert all(f'<section id="{name}">' in text for name in ("scenes", *(f"scenes.{one}" for one in CLASSES)))
    assert "scenes, mean over the classes: blo_sam with 4 shots leads" in text


def test_models_of_a_label_map_must_be_those_of_all_classes(swept: Path) -> None:
    adapters = {one: swept / "results" / str(record.adapter) for one, record in finals(swept).items()}
    with pytest.raises(InputError, match="has no trained model of person; let the sweep of these classes finish"):
        load_label_predictor({one: adapters[one] for one in ("lesion", "polyp")}, "cpu")
    swapped = {"lesion": adapters["polyp"], "polyp": adapters["lesion"], "person": adapters["person"]}
    with pytest.raises(InputError, match="its adapter is that of class polyp of lesion, person, polyp"):
        load_label_predictor(swapped, "cpu")


@pytest.mark.parametrize(
    ("found", "put", "expected"),
    [
        (b'\\"polyp\\":2', b'\\"polyp\\":0', "its adapter is not that of a class"),
        (b'\\"class\\":\\"lesion\\"', b'\\"clasp\\":\\"lesion\\"', "holds no usable config"),
    ],
)
def test_an_adapter_with_wrong_classes_is_refused(swept: Path, found: bytes, put: bytes, expected: str) -> None:
    adapter = (swept / "results" / str(finals(swept)["lesion"].adapter)).read_bytes()
    assert adapter.count(found) == 1
    with pytest.raises(AdapterFileError, match=expected):
        load_label_predictor({"lesion": adapter.replace(found, put)}, "cpu")


def test_cells_of_classes_are_named_and_ordered(tmp_path: Path) -> None:
    space = parse_space(content(tmp_path, methods=["sam", "blo_sam"]))
    wanted = [f"scenes.{one}.k4.{method}" for one in CLASSES for method in ("sam", "blo_sam")]
    assert [cell.id for cell in make_cells(space)] == wanted


def test_all_classes_are_named_before_a_sweep_is(tmp_path: Path) -> None:
    put_label_maps(tmp_path, MADE)
    data = content(tmp_path)
    data["datasets"][0]["options"]["classes"] = "all"
    named = with_named_classes(parse_space(data))
    assert named.datasets[0].options["classes"] == {"class_1": 1, "class_2": 2, "class_3": 3}
    assert [cell.dataset.label for cell in make_cells(named)] == ["scenes.class_1", "scenes.class_2", "scenes.class_3"]


def test_the_check_counts_shots_and_held_out_images_of_every_class(tmp_path: Path) -> None:
    put_label_maps(tmp_path / "maps", MADE)
    data = content(tmp_path / "maps", shots=[2, 8], selection={"mode": "holdout", "images": 1})
    data["datasets"].append({**data["datasets"][0], "label": "other", "options": {"classes": {"a": 1, "b": 1}}})
    found = check_sweep(parse_space(data), str(tmp_path / "results"), RunOptions())
    texts = [f"{problem.where}: {problem.what}" for problem in found]
    assert [text.partition(" is in ")[0] for text in texts[:3]] == [
        f"datasets[0].options.classes.{one}: class {one}" for one in CLASSES
    ]
    assert "is in 8 images of the train pool, and 9 are drawn" in texts[0]
    assert texts[3] == "datasets[1].options.classes.b: has the value of a, 1; give each class its own"


def test_a_dataset_of_one_class_can_be_swept_alone(tmp_path: Path) -> None:
    one = DatasetConfig(name="folder", root=str(tmp_path), options={"classes": CLASSES, "class": "polyp"}, label="p")
    space = parse_space(content(tmp_path, datasets=[one.model_dump(mode="json")]))
    assert [cell.id for cell in make_cells(space)] == ["p.k4.blo_sam"]
