"""Building models imports neither torch's compiler nor what it needs, and leaves the compiler usable."""

from __future__ import annotations

import subprocess
import sys

IMPORTS = "import sys, amsam_ray.training.trial, torchvision; "


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_training_code_does_not_import_the_compiler() -> None:
    assert (
        run(IMPORTS + "print([m for m in ('torch._dynamo', 'torch._inductor', 'sympy') if m in sys.modules])") == "[]"
    )


def test_the_function_that_torchvision_asks_for_is_the_compiler_s() -> None:
    code = IMPORTS + (
        "asked = sys.modules['torchvision.ops.roi_align'].is_compile_supported('cpu'); "
        "import torch, torch._dynamo.utils as real; "
        "print(asked == real.is_compile_supported('cpu'), real.__file__ is not None, "
        "torch.compile(lambda x: 2 * x, backend='eager')(torch.ones(1)).item())"
    )
    assert run(code) == "True True 2.0"


def test_whatever_else_is_asked_for_imports_the_compiler() -> None:
    code = (
        "import sys; from amsam_ray.models.lean_imports import _COMPILER, _Deferred; "
        "sys.modules[_COMPILER] = _Deferred(_COMPILER); from torch._dynamo.utils import counters; "
        "print(type(counters).__name__, 'Deferred' in type(sys.modules[_COMPILER]).__name__)"
    )
    assert run(code) == "defaultdict False"
