"""The classes of a dataset: one dataset with N named classes is N datasets that differ by ``options.class`` alone.

The option ``classes`` maps each name to where the class is in the masks: a value of a label map, a folder of masks, or
a category of a COCO file. A sweep makes cells of every class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from amsam_ray.config.datasets import CLASS_NAME, DatasetConfig
from amsam_ray.errors import Problem

MAX_CLASSES = 256
"""Most classes of one dataset."""
MAX_VALUE = 65_535
"""Largest value of a label map."""
_MAX_TEXT = 200

ALL = "all"
"""The value of ``classes`` that stands for all that the files hold."""

ClassMap = Mapping[str, int | str]
"""Name of each class -> value of a label map, folder of masks, or id or name of a COCO category."""


def has_classes(options: Mapping[str, Any]) -> bool:
    """Whether the masks of a dataset with these options are read by class."""
    return options.get("classes") is not None or options.get("annotations") is not None


def base_label(label: str) -> str:
    """Return the dataset's name in the label of one of its classes: ``kvasir`` of ``kvasir.polyp``."""
    return label.partition(".")[0]


def class_label(label: str) -> str | None:
    """Return the class in a dataset's label: ``polyp`` of ``kvasir.polyp``; None if it has none."""
    return label.partition(".")[2] or None


def class_datasets(config: DatasetConfig) -> tuple[DatasetConfig, ...]:
    """Return the datasets of the single classes, in the order of ``classes``; ``config`` itself if it has none.

    ``classes: all`` cannot be divided before the files are read; it is returned as it is.
    """
    classes = config.options.get("classes")
    if not isinstance(classes, Mapping) or config.options.get("class") is not None:
        return (config,)
    return tuple(
        config.model_copy(update={"label": f"{config.label}.{name}", "options": {**config.options, "class": name}})
        for name in classes
    )


def class_values(classes: ClassMap) -> dict[str, int]:
    """Return the value of each class in a label map that is written.

    It is that of ``classes`` if all are values of label maps; classes in folders or COCO categories without such values
    are numbered from 1 in the order of their names.
    """
    if all(isinstance(value, int) and 1 <= value <= MAX_VALUE for value in classes.values()):
        return {name: int(value) for name, value in classes.items()}
    return {name: number for number, name in enumerate(sorted(classes), start=1)}


def class_problems(options: Mapping[str, Any]) -> list[Problem]:
    """Return everything that is wrong with the options ``classes``, ``class`` and ``ignore`` by themselves.

    Args:
        options: of a dataset; those not given are absent or None.
    """
    classes, one = options.get("classes"), options.get("class")
    problems = [] if classes is None or classes == ALL else _map_problems(classes, options.get("annotations") is None)
    if one is not None and classes is None:
        problems.append(Problem("class", "requires classes; name the classes, or remove it"))
    elif one is not None and isinstance(classes, Mapping) and one not in classes:
        known = ", ".join(map(str, classes))
        problems.append(Problem("class", f"{str(one)[:_MAX_TEXT]!r} is not one of the classes; choose from {known}"))
    elif one is not None and classes == ALL:
        problems.append(Problem("class", "requires named classes; write classes: {NAME: VALUE} instead of all"))
    return [*problems, *_ignore_problems(options.get("ignore"), classes)]


def _map_problems(classes: Any, values_name_files: bool) -> list[Problem]:
    if not isinstance(classes, Mapping) or not classes:
        what = f"must name the classes, not {str(classes)[:_MAX_TEXT]!r}; write {{polyp: 1, tool: 2}}, or all"
        return [Problem("classes", what)]
    if len(classes) > MAX_CLASSES:
        return [Problem("classes", f"names {len(classes):,} classes; name at most {MAX_CLASSES}")]
    problems: list[Problem] = []
    owner: dict[int | str, str] = {}
    for name, value in classes.items():
        where = f"classes.{str(name)[:_MAX_TEXT]}"
        if not CLASS_NAME.fullmatch(str(name)):
            what = "is not a valid name; use at most 32 lower-case letters, digits or _, such as "
            problems.append(Problem(where, what + class_name(str(name))))
        if fault := _value_fault(value, values_name_files):
            problems.append(Problem(where, fault))
            continue
        if value in owner:
            problems.append(Problem(where, f"has the value of {owner[value]}, {value}; give each class its own"))
        owner.setdefault(value, name)
    kinds = {type(value) for value in classes.values()}
    if values_name_files and not problems and len(kinds) > 1:
        what = "mixes values of label maps and names of folders; use either"
        problems.append(Problem("classes", what))
    return problems


def _value_fault(value: Any, values_name_files: bool) -> str | None:
    """Return why ``value`` cannot stand for a class, with the remedy; None if it can."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return f"must be a value of the label maps or a name, not {str(value)[:_MAX_TEXT]!r}"
    if isinstance(value, str):
        if not value.strip() or len(value) > _MAX_TEXT:
            return f"must be a name of 1 to {_MAX_TEXT} characters; shorten or complete it"
        return None
    if values_name_files and value == 0:
        return "is 0, which is the background; give the value of the class, or remove it"
    if not (1 if values_name_files else 0) <= value <= (MAX_VALUE if values_name_files else 2**53):
        return f"is {value}, which no file can hold; use 1 to {MAX_VALUE:,}"
    return None


def _ignore_problems(ignore: Any, classes: Any) -> list[Problem]:
    if ignore is None:
        return []
    plain = isinstance(ignore, list | tuple) and len(ignore) <= MAX_CLASSES
    if not plain or not all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= MAX_VALUE for v in ignore):
        what = f"must list values of 1 to {MAX_VALUE:,} that count as background; write [255]"
        return [Problem("ignore", what)]
    if classes is None:
        return [Problem("ignore", "requires classes; name the classes, or remove it")]
    taken = {value: name for name, value in classes.items()} if isinstance(classes, Mapping) else {}
    return [
        Problem("ignore", f"holds {value}, the value of class {taken[value]}; remove it here or there")
        for value in ignore
        if value in taken
    ]


def class_name(text: str) -> str:
    """Return ``text`` as a name of a class: lower-case letters, digits and ``_``."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:32].strip("_") or "object"
