"""The checks before a sweep starts."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.config.methods import METHODS, resolve_params
from amsam_ray.config.space import MethodEntry, SpaceFile
from amsam_ray.config.space_checks import switch_values
from amsam_ray.config.space_file import by_line, problems_at
from amsam_ray.config.yaml_loader import load_yaml
from amsam_ray.data.class_check import check_classes, named_classes
from amsam_ray.data.definition import check_dataset_config
from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.search.cells import make_cells
from amsam_ray.search.lane_size import GIB, least_memory_gib
from amsam_ray.search.manifest import choose_sweep
from amsam_ray.search.options import TRIAL_FUNCTION, RunOptions
from amsam_ray.search.ray.cluster import check_ray
from amsam_ray.search.ray.worker import load_trial_function
from amsam_ray.search.samplers import check_sampler
from amsam_ray.storage.open import check_storage, open_storage


def check_sweep(space: SpaceFile, storage_uri: str, options: RunOptions) -> list[Problem]:
    """Return everything that prevents a sweep from running and can be known before it starts. Leaves no files."""
    problems = check_ray(options.address)
    if options.address is None:
        problems += _check_weights(space) if options.trial_function == TRIAL_FUNCTION else _check_function(options)
        problems += _check_size(space)
    problems += _check_data(space)
    where = "storage" if storage_uri == space.storage else "--storage"
    of_storage = check_storage(storage_uri, where) or _check_prior(space, storage_uri, options)
    return [*problems, *([] if problems else check_space_alone(space)), *of_storage]


def _check_prior(space: SpaceFile, storage_uri: str, options: RunOptions) -> list[Problem]:
    """Check the earlier sweep that ``search.prior`` names, unless the sweep has begun and knows its first points."""
    if space.search.prior is None:
        return []
    with contextlib.suppress(InputError):  # a dataset that cannot be read is reported as such
        space = with_named_classes(space)
    try:
        choose_sweep(open_storage(storage_uri), space, extend=options.extend, fresh=options.fresh)
    except InputError as error:
        return error.problems
    return []


def check_space_alone(space: SpaceFile) -> list[Problem]:
    """Return what prevents a sweep and can be known from its space file, without its data, models and storage."""
    found = {problem for cell in make_cells(space) for problem in check_sampler(cell)}
    return sorted(found, key=str)


def _check_size(space: SpaceFile) -> list[Problem]:
    """Check a lane's processors and memory before Ray starts; GPUs, and what is available, are counted by Ray."""
    problems = []
    wanted, cores = space.resources.cpus_per_lane, os.cpu_count() or 1
    if wanted > cores:
        what = f"a lane needs {wanted:g} CPU, more than the {cores} of this machine; use at most {cores}"
        problems.append(Problem("resources.cpus_per_lane", what))
    memory, has = least_memory_gib(space), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    if memory > has:
        what = f"a lane needs {memory:.1f} GiB of memory, more than the {has:.1f} GiB of this machine; "
        what += "set it to what a lane takes, or run on a larger machine"
        problems.append(Problem("resources.memory_gib", what))
    return problems


def check_trial(space: SpaceFile) -> list[Problem]:
    """Return what prevents a trial of the space from running in this process: faults of its weights and datasets."""
    return [*_check_weights(space), *_check_data(space)]


def _check_data(space: SpaceFile) -> list[Problem]:
    drawn = max(space.shots) + space.selection.images
    return [
        problem
        for index, dataset in enumerate(space.datasets)
        for problem in _dataset_problems(dataset, drawn, f"datasets[{index}]")
    ]


def _dataset_problems(dataset: DatasetConfig, drawn: int, where: str) -> list[Problem]:
    return check_dataset_config(dataset, drawn, where) or check_classes(dataset, drawn, where)


def with_named_classes(space: SpaceFile) -> SpaceFile:
    """Return the space with ``classes: all`` replaced by the classes that the files hold now.

    A sweep is known by the space that names them, so that a class that is added later begins a new one.

    Raises:
        InputError: they cannot be read.
    """
    return space.model_copy(update={"datasets": tuple(named_classes(dataset) for dataset in space.datasets)})


def _check_function(options: RunOptions) -> list[Problem]:
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as Ray does for its workers
    try:
        load_trial_function(options.trial_function)
    except AmsamError as error:
        return [Problem("--trial-function", str(error))]
    finally:
        sys.path.remove(here)
    return []


def _check_weights(space: SpaceFile) -> list[Problem]:
    """Check the weight files of the frozen models on this machine; the nodes of a cluster may have their own."""
    from amsam_ray.models.detector_file import check_detector
    from amsam_ray.models.weights import check_backbone, check_published

    problems = check_detector(space.detector)
    if any(METHODS[entry.name].start is None or "sam" in _features(space, entry) for entry in space.methods):
        problems = [*check_backbone(space.backbone), *problems]
    for index, entry in enumerate(space.methods):
        start = METHODS[entry.name].start
        if start is not None and "imagenet" in _features(space, entry):
            others = " or ".join(choice for choice in start.choices if choice != "imagenet")
            where = f"methods[{index}].params.features"
            problems += [
                Problem(where, f"{entry.label} starts from {problem}; or set features: {others}")
                for problem in check_published(start.weights)
            ]
    return problems


def _features(space: SpaceFile, entry: MethodEntry) -> tuple[str, ...]:
    """Return the values that ``features`` can take for an entry; none for a method that adapts SAM."""
    if METHODS[entry.name].start is None:
        return ()
    return switch_values(space, entry).get("features", (resolve_params(entry.name, {}).features,))


def all_problems(path: str | Path, refused: InputError) -> list[Problem]:
    """Return what ``load_space`` refused, and the problems of the datasets whose configuration is valid.

    Args:
        path: the space file.
        refused: what ``load_space(path)`` raised.

    Returns:
        All problems in the order of the file.
    """
    try:
        data = load_yaml(path).data
    except InputError:
        return refused.problems
    if not isinstance(data, dict):
        return refused.problems
    datasets, shots = data.get("datasets"), data.get("shots")
    items = datasets if isinstance(datasets, list) else []
    valid = [(i, dataset) for i, item in enumerate(items) if (dataset := _dataset(item))]
    most = max((n for n in shots if isinstance(n, int)), default=0) if isinstance(shots, list) else 0
    of_data = [p for i, dataset in valid for p in _dataset_problems(dataset, most, f"datasets[{i}]")]
    return by_line([*refused.problems, *problems_at(path, of_data)])


def _dataset(item: Any) -> DatasetConfig | None:
    try:
        return DatasetConfig.model_validate(item)
    except ValidationError:
        return None
