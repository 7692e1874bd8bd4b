"""Checks of a space file's datasets, for files whose schema is refused as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.config.space_file import by_line, problems_at
from amsam_ray.config.yaml_loader import load_yaml
from amsam_ray.data.definition import check_dataset_config
from amsam_ray.errors import InputError, Problem


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
