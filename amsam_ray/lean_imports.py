"""Import torchvision, and build models without memory, without torch's compiler.

Importing ``torch._dynamo`` takes 2.5 s of processor time, as long as torch itself. Every process that builds a SAM
would pay for it, for one of three reasons. ``torchvision.ops.roi_align``, which segment-anything imports, needs one
function that tells whether a device can be compiled for; here that function imports the compiler when it is called.
Arithmetic on the meta device, and ``torchvision.tv_tensors``, mark functions that are not to be compiled; here they do
without while a model is built and while the module is imported.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo.utils"
_PACKAGE = "torch._dynamo"


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


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """Let functions inside be marked as not to be compiled without an import of torch's compiler.

    No thread of the process may compile anything meanwhile. The marks are lost: code that compiles such a function
    later traces into it.
    """
    import torch

    marked: list[Any] = []

    def disable(function: Callable[..., Any], recursive: bool = True, **given: Any) -> Callable[..., Any]:
        marked.append(function)
        return function

    stand_in = ModuleType(_PACKAGE)
    stand_in.disable = disable  # type: ignore[attr-defined]
    absent = _PACKAGE not in sys.modules
    if absent:
        sys.modules[_PACKAGE] = torch._dynamo = stand_in
    try:
        yield
    finally:
        if absent:
            del sys.modules[_PACKAGE], torch._dynamo
            for function in marked:
                # Where torch remembers what `disable` returned.
                vars(function).pop("__dynamo_disable", None)


@contextlib.contextmanager
def on_meta_device() -> Iterator[None]:
    """Create tensors inside without memory. No thread of the process may compile anything meanwhile."""
    import torch

    with without_compiler(), torch.device("meta"):
        yield


def import_transforms() -> None:
    """Import ``torchvision.tv_tensors`` and ``torchvision.transforms.v2``, and not torch's compiler."""
    import_torchvision()
    with without_compiler():
        for name in ("torchvision.tv_tensors", "torchvision.transforms.v2"):
            importlib.import_module(name)
