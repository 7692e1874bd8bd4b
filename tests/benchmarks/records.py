"""How long leaderboards take over many records in a directory: ``python -m tests.benchmarks.records [--records N]``.

Writes N synthetic records (curves of 50 epochs; finals with 100 test images), then measures the leaderboard command's
work in fresh processes: from nothing, again with nothing new, and again with 10 new records.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import count as count_from
from pathlib import Path

from amsam_ray.records.schema import record_key

DATASETS = ("lesion", "polyp", "camouflage", "shadow", "person")
METHODS = ("am_sam", "blo_sam", "samed", "sam_adapter")
SHOTS, SEEDS, EPOCHS, IMAGES = (4, 8, 16), 5, 50, 100


def main() -> None:
    """Print one line per measurement, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, index = Path(folder) / "results", Path(folder) / "index"
        started = time.perf_counter()
        count, size = _write(root, Path(folder), options.records)
        figures = {"records": count, "megabytes": round(size / 1e6), "writing_s": time.perf_counter() - started}
        for name in ("from_nothing", "nothing_new", "ten_new"):
            if name == "ten_new":
                _write(root, Path(folder), 10, sweep="late-00000000")
            seconds, cpu, memory, rows = _measure(root, index)
            figures |= {f"{name}_s": seconds, f"{name}_cpu_s": cpu, f"{name}_mib": memory, "rows": rows}
    if options.json:
        print(json.dumps({key: round(value, 3) for key, value in figures.items()}))
        return
    for key, value in figures.items():
        print(f"{key:>18} {value:12.2f}")


def _write(root: Path, work: Path, wanted: int, sweep: str = "bench") -> tuple[int, int]:
    """Store ``wanted`` records as plain files (no fsync: this is not what is measured).

    Each cell gets its finals and a few search trials of its own; the other search trials are copies of those under
    numbers of their own, because making each from a configuration would take most of an hour.
    """
    from tests.records.synthetic import sweep_records  # not in the processes that are measured

    count = size = 0
    (root / "sweeps" / sweep / "records").mkdir(parents=True, exist_ok=True)
    made = [m for m, _ in sweep_records(work, sweep, DATASETS, SHOTS, METHODS, 8, SEEDS, EPOCHS, IMAGES)]
    search = [record for record in made if record.role == "search"]
    for number in count_from(0):
        for record in made if number == 0 else search:
            if count == wanted:
                return count, size
            place = record.number + 8 * number
            name = record.trial if number == 0 else f"{record.cell}.t{place:04d}"
            data = record.model_copy(update={"trial": name, "number": place}).to_bytes()
            (root / record_key(sweep, name)).write_bytes(data)
            count, size = count + 1, size + len(data)
    raise AssertionError("count_from never ends")


def _measure(root: Path, index: Path) -> tuple[float, float, float, int]:
    """(wall seconds, processor seconds, peak MiB, rows) of a process that does what ``amsam-ray leaderboard`` does."""
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--child", str(root), str(index)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    cpu, memory, rows = done.stdout.split()
    return seconds, float(cpu), float(memory), int(rows)


def _child(root: Path, index: Path) -> None:
    from amsam_ray.records.index import Index
    from amsam_ray.records.leaderboard import build_leaderboard
    from amsam_ray.records.tables import to_csv
    from amsam_ray.storage.open import open_storage

    own = Index(open_storage(root), index)
    own.update()
    rows = build_leaderboard(own.cells(), remember=own.remember)
    to_csv(rows)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, len(rows))


if __name__ == "__main__":
    if "--child" in sys.argv:
        _child(Path(sys.argv[-2]), Path(sys.argv[-1]))
    else:
        main()
