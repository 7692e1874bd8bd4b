"""From the command to the first recorded trial: ``python -m tests.benchmarks.startup [--runs N] [--json]``.

Each run is ``amsam-ray tune --max-trials 1`` on the demo's space in a process of its own, with the results in an empty
folder and the caches of earlier runs. The first run is not counted: it fills the page cache and the prepared inputs.
Seconds are wall time seen from outside, so the machine must be idle.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

SPACE = Path(__file__).parents[2] / "search_spaces" / "demo.yaml"
_PHASE = re.compile(r"([a-zA-Z][a-zA-Z ]*) (\d+\.\d) s")


def run(folder: Path, cache: Path) -> dict[str, Any]:
    """Run one trial and return ``first_trial_s`` and the seconds of each phase, as the log states them."""
    command = [sys.executable, "-m", "amsam_ray.cli.main", "tune", "--space", str(SPACE)]
    command += ["--storage", str(folder), "--max-trials", "1"]
    environment = {**os.environ, "AMSAM_CACHE_DIR": str(cache)}
    started = time.time()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while process.poll() is None and not list(folder.glob("sweeps/*/records/*.json")):
            time.sleep(0.02)
        first = time.time() - started
        printed, _ = process.communicate(timeout=300)
    if process.returncode != 0 or not list(folder.glob("sweeps/*/records/*.json")):
        raise SystemExit(printed.decode())
    log = max((cache / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime).read_text()
    phases = (
        next(line for line in log.splitlines() if "Start-up: " in line).partition("Start-up: ")[2].partition(";")[0]
    )
    return {"first_trial_s": round(first, 2), **{name.strip(): float(s) for name, s in _PHASE.findall(phases)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for number in range(options.runs + 1):
            rows.append(run(Path(root) / f"results{number}", Path(root) / "cache"))
            if not options.json:
                print(f"{'warm-up' if number == 0 else f'run {number}'}: {rows[-1]}", flush=True)
    counted = rows[1:]
    print(
        json.dumps({"runs": len(counted), **{key: round(median(row[key] for row in counted), 2) for key in counted[0]}})
    )


if __name__ == "__main__":
    main()
