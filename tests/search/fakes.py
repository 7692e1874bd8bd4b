"""A trial function that replaces training in tests of the search.

It has the signature of ``amsam_ray.training.trial.train_trial``. The score is a smooth function of the hyperparameters,
so that searches have an optimum to find. Its other behaviour is set by ``AMSAM_FAKE``, a JSON object that the lanes
inherit: ``seconds`` per trial, ``pace`` (a file with the seconds, which a test may change), ``log`` (a file that
receives one line per start), and ``faults`` (seed of a trial -> its fault).
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from amsam_ray.config.trial import TrialConfig
from amsam_ray.data.images import ImageError
from amsam_ray.errors import InputError
from amsam_ray.training.result import TrialResult

Report = Callable[[int, float], bool]


def settings() -> dict[str, Any]:
    return json.loads(os.environ.get("AMSAM_FAKE", "{}"))


def node() -> str:
    """Return the id of the Ray node that this runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def quality(config: TrialConfig) -> float:
    """Return the final score of a configuration, in [0, 1]; the best is lr = 3e-3, lambda = 0.8."""
    params = config.params.as_dict()
    return toy(params.get("lr", 3e-3), params.get("lambda", 0.8))


def toy(lr: float, lambda_: float, best_lr: float = 3e-3, best_lambda: float = 0.8) -> float:
    """Return an objective with one optimum, of value 1."""
    return math.exp(-(math.log10(lr / best_lr) ** 2) - 4 * (lambda_ - best_lambda) ** 2)


def train(
    config: TrialConfig,
    *,
    cache_dir: Path,
    work_dir: Path,
    rungs: Sequence[int] = (),
    report: Report | None = None,
    on_epoch: Callable[[int, int], None] | None = None,
    device: str | None = None,
) -> TrialResult:
    """Return a deterministic learning curve that rises to ``quality``."""
    fake = settings()
    if log := fake.get("log"):
        with open(log, "a", encoding="utf-8") as file:
            start = {"pid": os.getpid(), "node": node(), "at": time.time(), "seed": config.seed}
            file.write(json.dumps(start) + "\n")
    fault = fake.get("faults", {}).get(str(config.seed))
    if fault == "diverge":
        return TrialResult("failed", reason="diverged at epoch 2", epochs_run=2, shots_sha256="0" * 64)
    cause_fault(fault)
    seconds = float(Path(fake["pace"]).read_text()) if "pace" in fake else fake.get("seconds", 0.0)
    epochs, best, curve = config.train.epochs, 0.0, []
    for epoch in range(1, epochs + 1):
        time.sleep(seconds / epochs)
        best = quality(config) * (1 - math.exp(-4 * epoch / epochs))
        curve.append({"epoch": float(epoch), "loss": 1 - best, f"val_{config.metric}": best})
        if on_epoch is not None:
            on_epoch(epoch, epochs)
        if epoch in rungs and report is not None and report(epoch, best):
            return TrialResult("pruned", val={config.metric: best}, best_epoch=epoch, epochs_run=epoch, curve=curve)
    test = {config.metric: best} if config.role == "final" else None
    images = [{"name": "a", config.metric: best}] if config.role == "final" else []
    return TrialResult(
        "completed",
        val={config.metric: best},
        best_epoch=epochs,
        epochs_run=epochs,
        curve=curve,
        test=test,
        test_images=images,
    )


def cause_fault(fault: str | None) -> None:
    """Cause one of the faults: raise, memory, data, input, exit, segfault, hang, hang_in_c."""
    if fault == "raise":
        raise ValueError("the labels are upside down")
    if fault == "memory":
        bytearray(1 << 60)
    if fault == "data":
        raise ImageError("photo.jpg", "is cut short; restore it")
    if fault == "input":
        raise InputError("the image is no image")
    if fault == "exit":
        os._exit(137)
    if fault == "segfault":
        ctypes.string_at(0)
    if fault == "hang":
        time.sleep(3600)
    if fault == "hang_in_c":  # never releases the interpreter lock
        ctypes.PyDLL(None).sleep(3600)
