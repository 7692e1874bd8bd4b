"""Building models and scoring import neither the compiler of torch nor scikit-learn, and leave both usable."""

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
        "import sys; from amsam_ray.lean_imports import _COMPILER, _Deferred; "
        "sys.modules[_COMPILER] = _Deferred(_COMPILER); from torch._dynamo.utils import counters; "
        "print(type(counters).__name__, 'Deferred' in type(sys.modules[_COMPILER]).__name__)"
    )
    assert run(code) == "defaultdict False"


def test_models_are_built_without_memory_and_without_the_compiler() -> None:
    code = IMPORTS + (
        "import torch; from amsam_ray.models.backbone import build_sam; "
        "from amsam_ray.lean_imports import on_meta_device; "
        "context = on_meta_device(); context.__enter__(); "
        "models = [build_sam(arch, 256) for arch in ('nano', 'vit_b')]; "
        "context.__exit__(None, None, None); "
        "print({p.device.type for m in models for p in m.parameters()}, 'torch._dynamo' in sys.modules); "
        "from torch._refs import mul; import torch._dynamo as real; "
        "(torch.ones(2, device='meta') * 2).sum(); "
        "print(real.__file__ is not None, real is torch._dynamo, "
        "torch.compile(lambda x: 2 * x, backend='eager')(torch.ones(1)).item())"
    )
    assert run(code) == "{'meta'} False\nTrue True 2.0"


def test_views_are_drawn_without_the_compiler() -> None:
    code = (
        "import sys, numpy as np; from amsam_ray.data.augment import views; "
        "from amsam_ray.config.datasets import AugmentConfig; "
        "made = views(np.zeros((32, 32, 3), np.uint8), np.eye(32) > 0, 2, 0, AugmentConfig()); "
        "print(len(made), 'torch._dynamo' in sys.modules); "
        "import torch; from torchvision import tv_tensors; "
        "double = torch.compile(lambda x: tv_tensors.wrap(2 * x, like=x), backend='eager'); "
        "print(type(double(tv_tensors.Image(torch.ones(1, 2, 2)))).__name__)"
    )
    assert run(code) == "2 False\nImage"


def test_scores_do_not_import_scikit_learn_and_leave_its_measure_usable() -> None:
    code = (
        "import sys, amsam_ray.training.sod_package; print('sklearn' in sys.modules, end=' '); "
        "from py_sod_metrics import ContextMeasure; import py_sod_metrics; "
        "print(ContextMeasure.__module__, 'sklearn' in sys.modules, hasattr(py_sod_metrics, 'NoMeasure'))"
    )
    assert run(code) == "False py_sod_metrics.context_measure True False"
