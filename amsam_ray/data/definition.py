"""Find dataset definitions, and check datasets cheaply before a sweep. Imports no slow package.

A definition comes from this package (`amsam_ray/data/definitions`), from a user's YAML file, or from another
installed package through an entry point of the group ``amsam_ray.datasets``.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from amsam_ray.config.classes import class_problems, has_classes
from amsam_ray.config.datasets import DatasetConfig, path_fault
from amsam_ray.config.wording import describe
from amsam_ray.config.yaml_loader import load_yaml
from amsam_ray.data.findings import Finding
from amsam_ray.data.layout import Scan, scan
from amsam_ray.data.patterns import pattern_fault
from amsam_ray.data.schema import DatasetDefinition, OptionRule, unsafe_path
from amsam_ray.data.tree import LocalTree, Tree
from amsam_ray.errors import InputError, Problem

ENTRY_POINTS = "amsam_ray.datasets"
"""Entry point group for definitions of other packages; each entry loads to the path of a YAML file."""

_CLASS_OPTIONS = ("class", "ignore", "annotations")

DATA_ROOT_VARIABLE = "AMSAM_DATA"
"""Environment variable with the folder or s3:// prefix that holds each dataset under its name."""


def load_definition(path: Path) -> DatasetDefinition:
    """Read a definition from a YAML file.

    Raises:
        InputError: the file is missing, is not YAML or violates the schema; lists all problems.
    """
    document = load_yaml(path, kind="dataset definition")
    if document.repeated:
        raise InputError(document.repeated)
    try:
        definition = DatasetDefinition.model_validate(document.data)
    except ValidationError as error:
        problems = [
            Problem(f"{path} ({'.'.join(map(str, fault['loc'])) or 'file'})", describe(fault))
            for fault in error.errors()
        ]
        raise InputError(problems) from None
    problems = [
        Problem(f"{path} (options.{name}.default)", reason)
        for name, rule in definition.options.items()
        if rule.default is not None and (reason := _misfit(rule, rule.default))
    ]
    if problems:
        raise InputError(problems)
    return definition


@cache
def definitions() -> Mapping[str, DatasetDefinition]:
    """Return all definitions by name: those of this package and those of entry points.

    Raises:
        InputError: an entry point cannot be loaded, or two definitions have one name.
    """
    folder = importlib.resources.files("amsam_ray.data") / "definitions"
    paths = sorted(Path(str(item)) for item in folder.iterdir() if item.name.endswith(".yaml"))
    found = {definition.name: definition for definition in map(load_definition, paths)}
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        where = f"entry point {point.name} ({point.value})"
        try:
            definition = load_definition(Path(point.load()))
        except (ImportError, AttributeError, TypeError) as error:
            what = f"does not load ({error}); repair or uninstall the package that provides it"
            raise InputError(Problem(where, what)) from None
        if definition.name in found:
            raise InputError(Problem(where, f"defines {definition.name}, which already exists; rename it"))
        found[definition.name] = definition
    return found


def get_definition(name: str) -> DatasetDefinition:
    """Return the definition called ``name``, or the one in the YAML file ``name``.

    Raises:
        InputError: there is no such definition.
    """
    if name.endswith((".yaml", ".yml")):
        return load_definition(Path(name).expanduser())
    known = definitions()
    if name not in known:
        what = f"is not a known dataset; choose from {', '.join(known)}, or give the path of a YAML definition"
        raise InputError(Problem(name, what))
    return known[name]


def check_options(definition: DatasetDefinition, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return a dataset's options with defaults filled in, and the problems of the given ones."""
    values = {name: rule.default for name, rule in definition.options.items()}
    problems = []
    for name, value in given.items():
        if name not in definition.options:
            known = ", ".join(definition.options)
            remedy = f"choose from {known}" if known else "it has none, remove it"
            problems.append(Problem(name, f"is not an option of {definition.name}; {remedy}"))
            continue
        if reason := _misfit(definition.options[name], value):
            problems.append(Problem(name, reason))
        values[name] = value
    return values, problems + class_problems({name: values.get(name) for name in ("classes", *_CLASS_OPTIONS)})


def _misfit(rule: OptionRule, value: Any) -> str | None:
    """Return why ``value`` does not fit ``rule``, with the remedy; None if it fits."""
    if rule.type == "split":
        return _split_misfit(value)
    if rule.type in ("classes", "values"):  # `class_problems` checks them together
        return None
    if not isinstance(value, int if rule.type == "int" else str) or isinstance(value, bool):
        return f"must be {'a whole number' if rule.type == 'int' else 'text'}, not {value!r}"
    if rule.choices is not None and value not in rule.choices:
        return f"{value!r} is not one of {', '.join(map(str, rule.choices))}"
    if isinstance(value, int):
        low, high = rule.minimum, rule.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            return f"{value} is out of range, choose {low} to {high if high is not None else 'any'}"
        return None
    return (unsafe_path(value) or pattern_fault(value)) if rule.type == "folder" else None


def _split_misfit(value: Any) -> str | None:
    if isinstance(value, str) and value:
        return None
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return None
    if isinstance(value, float) and 0 < value < 1:
        return None
    return f"must be a number of images, a share below 1, names or the path of a list of names, not {value!r}"


def resolve_root(config: DatasetConfig) -> str | None:
    """Return the dataset's root as given, or its folder below ``$AMSAM_DATA``; None if neither is set."""
    if config.root is not None:
        return config.root
    base = os.environ.get(DATA_ROOT_VARIABLE)
    return f"{base.rstrip('/')}/{get_definition(config.name).name}" if base else None


def open_tree(root: str) -> Tree:
    """Return the tree of files below a root, without downloading any.

    Raises:
        InputError: the folder is missing, or the bucket does not answer or holds no image there.
    """
    if root.startswith("s3://"):
        from amsam_ray.data.mirror import list_tree

        return list_tree(root)
    if fault := path_fault(root):
        raise InputError(Problem(root[:100], f"the data root {fault}"))
    path = Path(root).expanduser()
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise InputError(Problem(root, f"the data root {what}; give the folder that holds the dataset"))
    return LocalTree(path)


def check_dataset_config(config: DatasetConfig, max_shots: int, where: str) -> list[Problem]:
    """Check a dataset before a sweep by reading names and no pixels.

    The images of a dataset with classes are checked by `amsam_ray.data.class_check`, which reads its masks.

    Args:
        config: the requested dataset.
        max_shots: largest number of labelled images that any cell draws, including held-out ones.
        where: place in the user's file, put in front of every problem.

    Returns:
        Every problem that would prevent the use of the dataset.
    """
    try:
        definition = get_definition(config.name)
    except InputError as error:
        return [Problem(f"{where}.name", str(error))]
    options, wrong = check_options(definition, config.options)
    problems = [Problem(f"{where}.options.{p.where}", p.what) for p in wrong]
    if definition.source == "procedural":
        if config.root is not None:
            problems.append(Problem(f"{where}.root", "procedural images need no files; remove the root"))
        return problems or _enough(options["train"], max_shots, f"{where}.options.train")
    root = resolve_root(config)
    if root is None:
        what = f"is missing; give the dataset's folder or s3://bucket/prefix, or set {DATA_ROOT_VARIABLE}"
        return [*problems, Problem(f"{where}.root", what)]
    try:
        tree = open_tree(root)
    except InputError as error:
        return [*problems, *(Problem(f"{where}.root", str(p)) for p in error.problems)]
    if has_classes(options):
        return problems
    return problems or _check_scan(scan(tree, definition, options), max_shots, where)


def _check_scan(found: Scan, max_shots: int, where: str) -> list[Problem]:
    usable = bool(found.train and found.test)
    # A sweep can do without one bad file, but not with another test split than the requested one.
    faults = [f for f in found.findings if f.severity == "fault" and (not usable or f.code == "unknown-test")]
    if faults:
        return [_placed(fault, where) for fault in faults]
    return _enough(len(found.train), max_shots, f"{where}.root")


def _placed(fault: Finding, where: str) -> Problem:
    """Return a fault as a problem of the option that causes it, or of the root."""
    if fault.where.startswith("options."):
        return Problem(f"{where}.{fault.where}", fault.what)
    return Problem(f"{where}.root", f"{fault.where}: {fault.what}")


def _enough(available: int, wanted: int, where: str) -> list[Problem]:
    if available >= wanted:
        return []
    what = f"{wanted} labelled images are more than the {available} of the train pool; use fewer shots"
    return [Problem(where, what)]
