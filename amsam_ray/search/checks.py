"""The checks before a sweep starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.config.space import SpaceFile
from amsam_ray.config.space_file import by_line, problems_at
from amsam_ray.config.yaml_loader import load_yaml
from amsam_ray.data.definition import check_dataset_config
from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.search.cells import make_cells
from amsam_ray.search.options import TRIAL_FUNCTION, RunOptions
from amsam_ray.search.ray.cluster import check_ray
from amsam_ray.search.ray.worker import load_trial_function
from amsam_ray.search.samplers import check_sampler
from amsam_ray.storage.open import check_storage


def check_sweep(space: SpaceFile, storage_uri: str, options: RunOptions) -> list[Problem]:
    """Return everything that prevents a sweep from running and can be known before it starts. Leaves no files."""
    problems = check_ray(options.address)
    if options.address is None:
        problems += _check_weights(space) if options.trial_function == TRIAL_FUNCTION else _check_function(options)
        problems += _check_size(space)
    problems += [
        problem
        for index, dataset in enumerate(space.datasets)
        for problem in check_dataset_config(dataset, max(space.shots), f"datasets[{index}]")
    ]
    where = "storage" if storage_uri == space.storage else "--storage"
    return [*problems, *([] if problems else check_space_alone(space)), *check_storage(storage_uri, where)]


def check_space_alone(space: SpaceFile) -> list[Problem]:
    """Return what prevents a sweep and can be known from its space file, without its data, models and storage."""
    found = {problem for cell in make_cells(space) for problem in check_sampler(cell)}
    return sorted(found, key=str)


def _check_size(space: SpaceFile) -> list[Problem]:
    """Check a lane's processors before Ray starts; GPUs are counted by Ray."""
    wanted, cores = space.resources.cpus_per_lane, os.cpu_count() or 1
    if wanted <= cores:
        return []
    what = f"a lane needs {wanted:g} CPU, more than the {cores} of this machine; use at most {cores}"
    return [Problem("resources.cpus_per_lane", what)]


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
    from amsam_ray.models.weights import check_backbone

    return [*check_backbone(space.backbone), *check_detector(space.detector)]


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
    of_data = [p for i, dataset in valid for p in check_dataset_config(dataset, most, f"datasets[{i}]")]
    return by_line([*refused.problems, *problems_at(path, of_data)])


def _dataset(item: Any) -> DatasetConfig | None:
    try:
        return DatasetConfig.model_validate(item)
    except ValidationError:
        return None
