"""The option `classes`: names, values and labels of the classes of a dataset."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from amsam_ray.config.classes import (
    base_label,
    class_datasets,
    class_label,
    class_name,
    class_problems,
    class_values,
)
from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.config.space_file import parse_space
from amsam_ray.errors import InputError

TWO = {"polyp": 1, "tool": 2}


def dataset(**options: Any) -> DatasetConfig:
    return DatasetConfig(name="folder", root="/data/kvasir", options=options)


def problems(**options: Any) -> list[str]:
    return [str(problem) for problem in class_problems(options)]


def test_every_class_is_a_dataset_that_differs_by_the_class_alone() -> None:
    whole = dataset(classes=TWO, test=5)
    polyp, tool = class_datasets(whole)
    assert (polyp.label, tool.label) == ("kvasir.polyp", "kvasir.tool")
    assert polyp.options == {"classes": TWO, "test": 5, "class": "polyp"}
    assert polyp.model_copy(update={"label": "kvasir", "options": whole.options}) == whole
    assert class_datasets(polyp) == (polyp,)


@pytest.mark.parametrize("options", [{}, {"classes": "all"}, {"classes": TWO, "class": "tool"}])
def test_other_datasets_are_not_divided(options: dict[str, Any]) -> None:
    assert class_datasets(dataset(**options)) == (dataset(**options),)


def test_a_dataset_of_one_class_is_labelled_with_it_and_read_back() -> None:
    tool = dataset(classes=TWO, **{"class": "tool"})
    assert tool.label == "kvasir.tool"
    assert DatasetConfig.model_validate(tool.model_dump(mode="json")) == tool
    assert (base_label(tool.label), class_label(tool.label)) == ("kvasir", "tool")
    assert (base_label("kvasir"), class_label("kvasir")) == ("kvasir", None)


@pytest.mark.parametrize("label", ["kvasir.polyp", "kvasir.", "a.b.tool", ".tool"])
def test_a_label_with_a_dot_must_end_with_its_class(label: str) -> None:
    with pytest.raises(ValidationError, match="label"):
        DatasetConfig(name="folder", root="/data", label=label, options={"classes": TWO, "class": "tool"})


@pytest.mark.parametrize("classes", [{"polyp": 1, "tool": 2}, {"a": "folder", "b": "other"}, {"k": 65_535}, "all"])
def test_classes_that_can_be_used_have_no_problem(classes: Any) -> None:
    assert problems(classes=classes) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"classes": {"polyp": 1, "lesion": 1}}, "classes.lesion: has the value of polyp, 1; give each class its own"),
        ({"classes": {"a": "masks", "b": "masks"}}, "classes.b: has the value of a, masks"),
        ({"classes": {"Big Tool": 1}}, "classes.Big Tool: is not a valid name"),
        ({"classes": {"Big Tool": 1}}, "such as big_tool"),
        ({"classes": {"x" * 33: 1}}, "is not a valid name"),
        ({"classes": {"..": 1}}, "is not a valid name"),
        ({"classes": {"polyp": 0}}, "classes.polyp: is 0, which is the background"),
        ({"classes": {"polyp": -1}}, "use 1 to 65,535"),
        ({"classes": {"polyp": 65_536}}, "use 1 to 65,535"),
        ({"classes": {"polyp": True}}, "must be a value of the label maps or a name"),
        ({"classes": {"polyp": 1.5}}, "must be a value of the label maps or a name"),
        ({"classes": {"polyp": None}}, "must be a value of the label maps or a name"),
        ({"classes": {"polyp": " "}}, "must be a name of 1 to 200 characters"),
        ({"classes": {"polyp": 1, "tool": "tools"}}, "classes: mixes values of label maps and names of folders"),
        ({"classes": {}}, "classes: must name the classes"),
        ({"classes": ["polyp"]}, "classes: must name the classes"),
        ({"classes": "polyp"}, "classes: must name the classes"),
        ({"classes": {f"c{n}": n + 1 for n in range(257)}}, "names 257 classes; name at most 256"),
        ({"classes": TWO, "class": "spoon"}, "class: 'spoon' is not one of the classes; choose from polyp, tool"),
        ({"classes": "all", "class": "tool"}, "class: requires named classes"),
        ({"class": "tool"}, "class: requires classes"),
        ({"ignore": [255]}, "ignore: requires classes"),
        ({"classes": TWO, "ignore": [2]}, "ignore: holds 2, the value of class tool"),
        ({"classes": TWO, "ignore": 255}, "ignore: must list values"),
        ({"classes": TWO, "ignore": [0]}, "ignore: must list values"),
    ],
)
def test_wrong_classes_are_refused(options: dict[str, Any], expected: str) -> None:
    (found,) = problems(**options)
    assert expected in found


def test_all_problems_of_the_classes_are_listed_together() -> None:
    found = problems(classes={"A": 1, "b": 0, "c": 1, "d": 1}, ignore=[0])
    assert [text.split(":")[0] for text in found] == ["classes.A", "classes.b", "classes.c", "classes.d", "ignore"]


def test_ids_and_names_of_coco_categories_may_be_mixed() -> None:
    assert problems(classes={"polyp": 0, "tool": "Surgical tool"}, annotations="labels.json") == []


def test_values_of_written_label_maps() -> None:
    assert class_values({"tool": 7, "polyp": 300}) == {"tool": 7, "polyp": 300}
    assert class_values({"tool": "tools", "polyp": "polyps"}) == {"polyp": 1, "tool": 2}
    assert class_values({"tool": 0, "polyp": 5}) == {"polyp": 1, "tool": 2}  # a COCO category may be 0


@pytest.mark.parametrize(
    ("text", "name"), [("Surgical tool", "surgical_tool"), ("left-kidney", "left_kidney"), ("???", "object")]
)
def test_names_from_folders_and_categories(text: str, name: str) -> None:
    assert class_name(text) == name


def space(*datasets: dict[str, Any], shots: int = 4) -> dict[str, Any]:
    return {"name": "x", "datasets": list(datasets), "shots": [shots], "methods": ["sam"]}


def test_a_class_and_another_dataset_must_not_share_a_label() -> None:
    whole = {"name": "folder", "root": "/data/kvasir", "options": {"classes": TWO}}
    one = {"name": "folder", "root": "/data/kvasir", "options": {"classes": TWO, "class": "tool"}}
    with pytest.raises(InputError, match=r"label kvasir\.tool is taken by an earlier entry"):
        parse_space(space(whole, one))
    parse_space(space({**whole, "label": "other"}, one))


def test_classes_count_as_cells() -> None:
    many = {"classes": {f"c{n}": n + 1 for n in range(256)}}
    datasets = [{"name": "folder", "root": "/data", "label": f"d{n}", "options": many} for n in range(40)]
    with pytest.raises(InputError, match="makes 10,240 cells"):
        parse_space(space(*datasets))
