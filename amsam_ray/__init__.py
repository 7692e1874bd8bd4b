"""Distributed hyperparameter search for adapting the Segment Anything Model to small datasets.

The public names below are imported on first use (PEP 562): ``import amsam_ray`` itself loads neither torch nor Ray nor
pandas. ``docs/api.md`` shows each of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amsam_ray.api import leaderboard, read_records
    from amsam_ray.config.space_file import load_space
    from amsam_ray.inference.predict import load_predictor
    from amsam_ray.search.sweep import run_sweep
    from amsam_ray.training.trial import train_trial

__version__ = "0.1.0"

__all__ = ["leaderboard", "load_predictor", "load_space", "read_records", "run_sweep", "train_trial"]

_MODULES = {
    "leaderboard": "amsam_ray.api",
    "load_predictor": "amsam_ray.inference.predict",
    "load_space": "amsam_ray.config.space_file",
    "read_records": "amsam_ray.api",
    "run_sweep": "amsam_ray.search.sweep",
    "train_trial": "amsam_ray.training.trial",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
