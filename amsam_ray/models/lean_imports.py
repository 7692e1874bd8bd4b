"""Import torchvision without torch's compiler.

``torchvision.ops.roi_align`` imports ``torch._dynamo``, which takes 2.5 s of processor time, as long as torch itself,
for one function that tells whether a device can be compiled for. Every process that builds a SAM pays for it, as
segment-anything imports torchvision. Here that function imports the compiler when it is called.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo.utils"


class _Deferred(ModuleType):
    """Stands for the module while torchvision is imported; whatever else is asked of it imports the module."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # the import system asks for these
        return getattr(_compiler(), name)

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        """Return what the function of that name in the compiler returns."""
        return bool(_compiler().is_compile_supported(device_type))


def _compiler() -> ModuleType:
    if isinstance(sys.modules.get(_COMPILER), _Deferred):
        del sys.modules[_COMPILER]
    return importlib.import_module(_COMPILER)


def import_torchvision() -> None:
    """Import torchvision, and ``torch._dynamo`` only if something has imported it already."""
    if _COMPILER in sys.modules:
        return
    sys.modules[_COMPILER] = _Deferred(_COMPILER)
    try:
        importlib.import_module("torchvision")
    finally:
        if isinstance(sys.modules.get(_COMPILER), _Deferred):
            del sys.modules[_COMPILER]
