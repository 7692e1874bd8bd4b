"""Memory and time of gradient checkpointing: ``python -m tests.benchmarks.checkpointing [--sizes 512 1024] [--json]``.

Each row is one process: ViT-B with random weights, one image a step, float32, two steps of the lower level. A row's
``step_gib`` is the process's largest resident size minus that before the first step, ``step_cpu_s`` the processor
seconds of the second step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from amsam_ray.config.methods import resolve_params
from amsam_ray.config.trial import TrainConfig
from amsam_ray.inference.inputs import PreparedSet
from amsam_ray.models.adapted import build_method
from amsam_ray.models.backbone import Backbone, encode_to
from amsam_ray.training.loop import Roles, Trainer
from tests.benchmarks.step import vit_b

_GIB = 2**30


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(method: str, word: str, size: int) -> dict[str, float | int | str]:
    """Return one row, measured in this process."""
    backbone = Backbone(vit_b(size), "vit_b", size, "0" * 64)
    model = build_method(method, resolve_params(method, {}), backbone, seed=0)
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    truth = np.zeros((size, size), dtype=bool)
    truth[size // 4 : size // 2, size // 4 : size // 2] = True
    target = torch.from_numpy(truth[::4, ::4].copy())[None]
    flag = torch.zeros(1, dtype=torch.bool)
    pictures = PreparedSet(
        names=("image",),
        features=encode_to(backbone, image, model.cache_point),
        boxes=torch.zeros(1, 4),
        has_box=flag,
        detected=flag,
        target=target,
        valid=torch.ones_like(target),
        truths=(truth,),
        pixels=image if model.needs_highpass else None,
    ).for_model(model)
    train = TrainConfig(epochs=2, batch_size=1, checkpointing=word)
    trainer = Trainer(model, pictures, Roles([0], [0]), train, 0)
    batch = trainer._batch(trainer._d1)
    before, seconds, losses = _resident(), 0.0, []
    for _ in range(2):
        started = time.process_time()
        losses.append(float(trainer._move_weights(batch, trainer._draw_tokens(batch), 1e-4)))
        seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "method": method,
        "size": size,
        "checkpointing": word,
        "step_gib": round((peak - before) / _GIB, 2),
        "step_cpu_s": round(seconds, 1),
        "loss": losses[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["samed", "med_sa", "sam_adapter"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--row", nargs=3, metavar=("METHOD", "WORD", "SIZE"), help="measure one row in this process")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    if options.row:
        method, word, size = options.row
        print(json.dumps(measure(method, word, int(size))))
        return
    rows = []
    for arguments in ((m, w, str(s)) for s in options.sizes for m in options.methods for w in ("off", "on")):
        command = [sys.executable, "-m", "tests.benchmarks.checkpointing", "--row", *arguments]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        if not options.json:
            print(rows[-1], flush=True)
    print(json.dumps({"threads": torch.get_num_threads(), "rows": rows}))


if __name__ == "__main__":
    main()
