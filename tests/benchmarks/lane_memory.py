"""What a lane holds in memory: ``python -m tests.benchmarks.lane_memory [--rows nano:256:am_sam ...] [--json]``.

Each row is one trial in a process of its own that has imported what a lane's worker imports: ``method`` at its
published setting on ``arch`` with random weights, trained for one epoch of ``shots`` procedural images and scored as a
final on two test images. ``peak_gib`` is the largest resident size of the process, ``estimate_gib`` what
``amsam_ray.search.lane_memory`` states for a lane's worker.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from amsam_ray.config.methods import METHODS
from amsam_ray.config.space_file import parse_space
from amsam_ray.search.cells import make_cells
from amsam_ray.search.lane_memory import lane_memory
from tests.benchmarks.step import vit_b

_ROWS = (
    "nano:256:blo_sam", "nano:256:am_sam", "nano:256:samed", "nano:512:samed", "vit_b:512:blo_sam", "vit_b:512:samed",
    "vit_b:1024:blo_sam", "vit_b:1024:am_sam", "vit_b:1024:samed", "nano:256:deeplabv3", "nano:256:swin_unet",
    "nano:256:hsnet", "nano:256:ssp",
)  # fmt: skip
_GIB = 2**30


def measure(arch: str, size: int, method: str, shots: int, batch: int) -> dict[str, float | int | str]:
    """Return one row, measured in this process."""
    import ray.train  # noqa: F401  # as a worker

    from amsam_ray.search.ray import worker  # noqa: F401
    from amsam_ray.training.trial import train_trial

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbone: dict[str, object] = {"arch": arch, "image_size": size}
        if arch != "nano":
            torch.save(vit_b(size).state_dict(), folder / "weights.pth")
            backbone["checkpoint"] = str(folder / "weights.pth")
        options = {"family": "lesion", "train": 16, "test": 2}
        space = parse_space(
            {
                "name": "memory",
                "datasets": [{"name": "procedural", "options": options}],
                "shots": [shots],
                "methods": [{"name": method, "params": {"features": "random"} if METHODS[method].start else {}}],
                "backbone": backbone,
                "train": {"epochs": 1, "batch_size": batch},
            }
        )
        (cell,) = make_cells(space)
        config = cell.config({}, seed=0, role="final")
        started = time.process_time()
        train_trial(config, cache_dir=folder / "cache", work_dir=folder / "work")
        seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "arch": arch,
        "size": size,
        "method": method,
        "shots": shots,
        "batch": batch,
        "peak_gib": round(peak / _GIB, 2),
        "estimate_gib": round(lane_memory(space).on_cpu / _GIB, 2),
        "cpu_s": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=_ROWS, metavar="ARCH:SIZE:METHOD")
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--here", action="store_true", help="measure one row in this process")
    options = parser.parse_args()
    if options.here:
        arch, size, method = options.rows[0].split(":")
        print(json.dumps(measure(arch, int(size), method, options.shots, options.batch)))
        return
    rows = []
    for row in options.rows:
        command = [sys.executable, "-m", "tests.benchmarks.lane_memory", "--here", "--rows", row]
        command += ["--shots", str(options.shots), "--batch", str(options.batch)]
        rows.append(
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        )
        if not options.json:
            print(rows[-1], flush=True)
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
