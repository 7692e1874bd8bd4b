"""What a trial costs beside its training: lanes, and the ways that Ray documents. ``python -m tests.benchmarks.lanes``.

Four arms run one after the other, each in a process and a Ray of its own, with a training function that does nothing:

- ``lanes``: this package's, a whole sweep with records;
- ``nesting``: Ray Train under Ray Tune as documented, one ``TorchTrainer`` per Tune trial;
- ``functions``: plain Tune functions that import torch, a process per trial, no Ray Train;
- ``reused_functions``: the same with ``reuse_actors=True``.

The cost is lane-seconds: wall time at steady state, times the trials that run at once, per trial.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

AT_ONCE = 2
TRIALS = {"lanes": 200, "nesting": 6, "functions": 16, "reused_functions": 100}
MOST, RATIO = 0.2, 50.0


def costs(ends: list[float], started: float) -> dict[str, float]:
    """Seconds until the first trial ended, and lane-seconds of each in the second half."""
    ends = sorted(ends)
    half = len(ends) // 2
    return {
        "first_s": round(ends[0] - started, 2),
        "per_trial_s": round(AT_ONCE * (ends[-1] - ends[half - 1]) / (len(ends) - half), 4),
        "trials": len(ends),
    }


def lanes(folder: Path) -> dict[str, float]:
    """A sweep through ``run_sweep``."""
    os.environ["AMSAM_CACHE_DIR"] = str(folder / "cache")
    from amsam_ray.records.io import read_records
    from amsam_ray.search.sweep import RunOptions, run_sweep
    from amsam_ray.storage.open import open_storage
    from tests.search.spaces import space

    source = space(epochs=1, trials=TRIALS["lanes"], resources={"lanes": AT_ONCE})
    started = time.time()
    run_sweep(source, str(folder / "results"), RunOptions(trial_function="tests.search.fakes:train"))
    records, _ = read_records(open_storage(folder / "results"))
    return costs([r.finished.timestamp() for r in records if r.role == "search"], started)


def _start_ray(folder: Path) -> None:
    from amsam_ray.search.ray.cluster import prepare_environment

    prepare_environment()
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False, _temp_dir=str(folder / "ray"))


def _nothing(config: dict[str, Any]) -> None:
    """A training function that does nothing."""


def _nest(config: dict[str, Any]) -> None:
    from ray import train, tune
    from ray.train.torch import TorchTrainer

    TorchTrainer(
        _nothing,
        train_loop_config={},
        scaling_config=train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.9}),
        run_config=train.RunConfig(storage_path=config["folder"], name=f"train-{config['number']}"),
    ).fit()
    tune.report({"end": time.time()})


def _function(config: dict[str, Any]) -> None:
    import torch
    from ray import tune

    tune.report({"end": time.time(), "threads": torch.get_num_threads()})


def tuned(folder: Path, arm: str) -> dict[str, float]:
    """One of the ways that Ray documents."""
    _start_ray(folder)
    from ray import tune

    function = _nest if arm == "nesting" else _function
    cpus = 0.05 if arm == "nesting" else 0.9
    space = {"number": tune.grid_search(list(range(TRIALS[arm]))), "folder": str(folder / "runs")}
    started = time.time()
    results = tune.Tuner(
        tune.with_resources(function, {"cpu": cpus}),
        param_space=space,
        tune_config=tune.TuneConfig(max_concurrent_trials=AT_ONCE, reuse_actors=arm == "reused_functions"),
        run_config=tune.RunConfig(storage_path=str(folder / "runs"), name="tune", verbose=0),
    ).fit()
    return costs([(results[i].metrics or {})["end"] for i in range(len(results))], started)


def run_arm(arm: str) -> dict[str, float]:
    """One arm in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="lb-", dir="/tmp") as folder:
        command = [sys.executable, "-m", "tests.benchmarks.lanes", "--arm", arm, "--folder", folder]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        if done.returncode:
            raise RuntimeError(f"{arm} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
        return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--arm", choices=TRIALS, help="run this arm only, here")
    parser.add_argument("--folder", type=Path, help="where the arm may write")
    given = parser.parse_args()
    if given.arm:
        folder = given.folder or Path(tempfile.mkdtemp(prefix="lb-", dir="/tmp"))
        print(json.dumps(lanes(folder) if given.arm == "lanes" else tuned(folder, given.arm)))
        return 0
    arms = {arm: run_arm(arm) for arm in TRIALS}
    ratio = arms["nesting"]["per_trial_s"] / arms["lanes"]["per_trial_s"]
    passed = ratio >= RATIO and arms["lanes"]["per_trial_s"] < MOST
    if given.json:
        print(json.dumps({**arms, "nesting_over_lanes": round(ratio, 1), "passed": passed}))
    else:
        for arm, cost in arms.items():
            print(f"{arm:<18}{cost['per_trial_s']:>9.3f} s per trial, {cost['first_s']:>6.1f} s until the first")
        print(f"nesting costs {ratio:.0f} times as much as lanes (at least {RATIO:g} wanted; lanes below {MOST} s)")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
