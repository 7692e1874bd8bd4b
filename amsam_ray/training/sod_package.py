"""What this package uses of pysodmetrics, imported without what it does not use.

``py_sod_metrics`` imports scikit-learn for one measure, the context measure: 1.3 s of processor time in every process
that computes scores. Here that part of the package is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_PACKAGE = "py_sod_metrics"
_PART = f"{_PACKAGE}.context_measure"
_NAMES = ("CamouflageContextMeasure", "ContextMeasure")


def _import_without_part() -> None:
    """Import the package, and the part only if something has imported it already."""
    if _PACKAGE in sys.modules:
        return
    stand_in = ModuleType(_PART)
    vars(stand_in).update(dict.fromkeys(_NAMES))
    sys.modules[_PART] = stand_in
    try:
        package = importlib.import_module(_PACKAGE)
    finally:
        del sys.modules[_PART]
    for name in (*_NAMES, "context_measure"):
        vars(package).pop(name, None)
    vars(package)["__getattr__"] = _from_part


def _from_part(name: str) -> Any:
    """Return the package's attribute ``name``, of those that are defined in the part."""
    if name not in _NAMES:
        raise AttributeError(f"module {_PACKAGE!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PART), name)


_import_without_part()

from py_sod_metrics import (  # noqa: E402
    MAE,
    DICEHandler,
    Emeasure,
    FmeasureV2,
    IOUHandler,
    Smeasure,
    WeightedFmeasure,
)

__all__ = ["MAE", "DICEHandler", "Emeasure", "FmeasureV2", "IOUHandler", "Smeasure", "WeightedFmeasure"]
