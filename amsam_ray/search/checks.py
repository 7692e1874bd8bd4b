"""What would keep a sweep from running, found before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.config.space_file import by_line, problems_at
from amsam_ray.data.definition import check_dataset_config
from amsam_ray.errors import InputError, Problem


def all_problems(path: str | Path, refused: InputError) -> list[Problem]:
    """What ``load_space`` refused, and what is wrong with the data of those datasets that can be read all the same."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        datasets, shots = data["datasets"], data.get("shots")
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError):
        return refused.problems
    items = datasets if isinstance(datasets, list) else []
    readable = [(i, dataset) for i, item in enumerate(items) if (dataset := _dataset(item))]
    most = max((n for n in shots if isinstance(n, int)), default=0) if isinstance(shots, list) else 0
    of_data = [p for i, dataset in readable for p in check_dataset_config(dataset, most, f"datasets[{i}]")]
    return by_line([*refused.problems, *problems_at(path, of_data)])


def _dataset(item: Any) -> DatasetConfig | None:
    try:
        return DatasetConfig.model_validate(item)
    except ValidationError:
        return None
