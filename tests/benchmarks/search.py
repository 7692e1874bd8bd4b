"""How busy lanes are kept, and what a suggestion costs. ``python -m tests.benchmarks.search [--json]``.

A sweep of 12 cells and 400 trials with a fake trial of 0.2 s in 8 lanes, with TPE and ASHA ladders as usual. Its
``utilisation`` is the share of lane time spent in trials from the moment when all lanes are up until the last trial
begins; ``overhead_s`` is what lies between two trials of a lane in that time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

LANES, CELLS, TRIALS, TRIAL_S = 8, 12, 400, 0.2
FINISHED = 1000
LEAST, MOST = 0.85, 0.1


def measure_sweep(folder: Path) -> dict[str, Any]:
    """Utilisation and overhead of a real sweep."""
    log = folder / "fake.log"
    os.environ["AMSAM_CACHE_DIR"] = str(folder / "cache")
    os.environ["AMSAM_FAKE"] = json.dumps({"seconds": TRIAL_S, "log": str(log)})
    from amsam_ray.search.sweep import RunOptions, run_sweep
    from tests.search.spaces import space

    seeds = 1
    source = space(
        datasets=4,
        shots=(4, 8, 16),
        trials=round(TRIALS / CELLS) - seeds,
        sampler="tpe",
        startup_trials=8,
        finals={"top_k": 1, "seeds": seeds},
        resources={"lanes": LANES, "cpus_per_lane": 0.2},
    )
    begun = time.time()
    outcome = run_sweep(source, str(folder / "results"), RunOptions(trial_function="tests.search.fakes:train"))
    starts = [json.loads(line) for line in log.read_text().splitlines()]
    return {**utilisation(starts), "trials": outcome.snapshot.done, "wall_s": round(time.time() - begun, 1)}


def utilisation(starts: list[dict[str, Any]]) -> dict[str, Any]:
    """From the starts of all trials, with the process and the time of each."""
    lanes: dict[int, list[float]] = {}
    for start in starts:
        lanes.setdefault(start["pid"], []).append(start["at"])
    begin = max(min(times) for times in lanes.values())
    end = max(start["at"] for start in starts)
    busy = sum(max(0.0, min(t + TRIAL_S, end) - max(t, begin)) for times in lanes.values() for t in times)
    gaps = [b - a - TRIAL_S for times in lanes.values() for a, b in pairwise(times) if a >= begin]
    return {
        "lanes": len(lanes),
        "utilisation": round(busy / (len(lanes) * (end - begin)), 4),
        "overhead_s": round(statistics.fmean(gaps), 4),
        "overhead_p95_s": round(statistics.quantiles(gaps, n=20)[-1], 4),
    }


def measure_suggestion() -> dict[str, float]:
    """Milliseconds of a suggestion by each sampler at 1,000 finished trials of its cell, median of 15."""
    import optuna

    from amsam_ray.search.study import CellStudy
    from amsam_ray.search.trials import TrialOutcome
    from tests.search.spaces import LAMBDA, LR, one_cell

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = {}
    keys = {"lr": LR, "lambda": LAMBDA, "alpha": {"uniform": [0.5, 1.0]}, "rank": {"choice": [2, 4, 8]}}
    for sampler in ("tpe", "random", "cmaes"):
        study = CellStudy(one_cell(sampler=sampler, trials=2 * FINISHED, space={**keys, "lr_prompt": LR}))
        filler = CellStudy(one_cell(sampler="random", trials=FINISHED, space={**keys, "lr_prompt": LR}))
        for number in range(FINISHED):
            params = filler.ask(number)
            study.restore(number, TrialOutcome(str(number), "completed", score=float(params["lambda"]), params=params))
        times = []
        for number in range(FINISHED, FINISHED + 15):
            begun = time.perf_counter()
            params = study.ask(number)
            times.append(time.perf_counter() - begun)
            study.tell(number, TrialOutcome(str(number), "completed", score=float(params["lambda"])))
        found[f"suggest_{sampler}_ms"] = round(1000 * statistics.median(times), 1)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--suggestions", action="store_true", help="only what a suggestion costs; starts no Ray")
    given = parser.parse_args()
    result: dict[str, Any] = measure_suggestion()
    passed = True
    if not given.suggestions:
        with tempfile.TemporaryDirectory(prefix="sb-", dir="/tmp") as folder:
            result |= measure_sweep(Path(folder))
        passed = result["utilisation"] >= LEAST and result["overhead_s"] < MOST
        result["passed"] = passed
    print(json.dumps(result) if given.json else "\n".join(f"{name:<20}{value}" for name, value in result.items()))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
