"""Whether a search pays: ``python -m tests.benchmarks.selection [--json] [--out FOLDER] [--cells ...] [--photos DIR]``.

In each cell (dataset, K shots, draw of the shots, method) a fixed list of configurations is scored by the selection
modes and retrained on all shots. Each selection rule then chooses a configuration, whose test Dice is compared with
that of the published setting. Datasets are the procedural families ``polyp`` and ``shadow`` and, with ``--photos``, a
folder of photographs, ``photos``: no default of the package was chosen on them. Further tables state in which cells
configurations differ by more than noise, and replay ``search.stop_when_flat``, ``search.prior`` and early stopping.

A cell is written DATASET/K/DRAW/METHOD, each part a comma-separated list: ``polyp,shadow/8/0,1,2/blo_sam``. Cells are
run in the order given. ``photos+tuned`` tunes the detector on the shots. Every training leaves a record in the output
folder; a later call continues there. ``table.md`` and ``figures.json`` are rewritten after every cell.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

from amsam_ray.paths import cache_dir
from tests.benchmarks.selection_report import figures, markdown
from tests.benchmarks.selection_rules import CellRecords
from tests.benchmarks.selection_trials import (
    DEVELOPMENT,
    FRESH,
    METHODS,
    PUBLISHED,
    RANDOM,
    RECIPE,
    SEEDS,
    Cell,
    CellRun,
    Photos,
)


def parse_cells(patterns: list[str]) -> list[Cell]:
    """Return the cells of all patterns in their order, each once."""
    found: dict[Cell, None] = {}
    for pattern in patterns:
        parts = [part.split(",") for part in pattern.split("/")]
        if len(parts) != 4:
            raise SystemExit(f"{pattern}: write a cell as DATASET/K/DRAW/METHOD")
        for dataset, shots, draw, method in product(*parts):
            if dataset.partition("+")[0] not in (*FRESH, *DEVELOPMENT) or method not in METHODS:
                raise SystemExit(f"{pattern}: use datasets {FRESH + DEVELOPMENT} and methods {METHODS}")
            found[Cell(dataset, int(shots), int(draw), method)] = None
    return list(found)


def run_cell(cell: Cell, photos: Photos | None, folder: Path, count: int) -> None:
    """Do the trainings of a cell that have no record yet, but those of ``run_extras``."""
    run = CellRun(cell, photos, folder)
    for number in range(count):
        run.d2(number)
        run.crossfit(number, 4)
        run.refit(number)
    choices = CellRecords(cell, folder, count).choices().values()
    repeated = {(choice.configuration, choice.protocol) for choice in choices}
    for number, protocol in sorted(repeated | {(PUBLISHED, "d2"), (RECIPE, "refit")}):
        for seed in SEEDS:
            if protocol == "d2":
                run.d2(number, seed)
            elif protocol.startswith("refit"):
                run.refit(number, seed, int(protocol.removeprefix("refit") or 4))


def run_longer(cell: Cell, photos: Photos | None, folder: Path, count: int) -> None:
    """Train the published configuration for as long as the paper does."""
    CellRun(cell, photos, folder).longer()


def run_two_folds(cell: Cell, photos: Photos | None, folder: Path, count: int) -> None:
    """Cross-fit every configuration with two folds."""
    run = CellRun(cell, photos, folder)
    for number in range(count):
        run.crossfit(number, 2)
    run_cell(cell, photos, folder, count)  # the choice with two folds may need finals with further seeds


def run_eight_folds(cell: Cell, photos: Photos | None, folder: Path, count: int) -> None:
    """Cross-fit every configuration with eight folds, and retrain each with all seeds, for its test score."""
    run = CellRun(cell, photos, folder)
    for number in range(count):
        run.crossfit(number, 8)
        for seed in SEEDS:
            run.refit(number, seed)
            run.refit(number, seed, 8)


EXTRAS = {"longer": run_longer, "two-folds": run_two_folds, "eight-folds": run_eight_folds}


def _single_threaded() -> None:
    import torch

    torch.set_num_threads(1)


def write_report(cells: list[Cell], folder: Path, count: int) -> dict[str, Any]:
    """Write figures and tables of all finished cells and return the figures."""
    # Cells with fewer configurations still compare the published setting with the recipe.
    counts = [2] if count == 2 else [count, 2]
    tried = [[CellRecords(cell, folder, number) for number in counts] for cell in cells]
    finished = [next(one for one in records if one.complete) for records in tried if any(r.complete for r in records)]
    found = figures(finished)
    (folder / "figures.json").write_text(json.dumps(found, indent=1))
    (folder / "table.md").write_text(markdown(found))
    return found


def main() -> int:
    """Run the cells and print one JSON object on the last line, or the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    parser.add_argument("--out", type=Path, help="folder of records and tables; default: in the cache folder")
    parser.add_argument("--cells", nargs="+", help="default: all datasets, 8 shots, draws 0, 1 and 2, blo_sam, am_sam")
    parser.add_argument("--photos", help="folder with images/ and masks/ of equal stems, the dataset `photos`")
    parser.add_argument("--photos-test", type=int, default=30, help="number of test photographs (default 30)")
    parser.add_argument("--configurations", type=int, default=2 + RANDOM, help="use the first N of the list")
    parser.add_argument(
        "--extras",
        nargs="*",
        choices=sorted(EXTRAS),
        default=sorted(EXTRAS),
        help="longer: the published setting for 100 epochs; two-folds, eight-folds: crossfit with so many, "
        "eight-folds also with three seeds of every configuration (default: all)",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each (default 2)")
    parser.add_argument("--report-only", action="store_true", help="train nothing; report what the folder holds")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = given.out or cache_dir() / "benchmarks" / "selection"
    folder.mkdir(parents=True, exist_ok=True)
    photos = Photos(str(Path(given.photos).resolve()), given.photos_test) if given.photos else None
    datasets = [name for name in FRESH if photos or name != "photos"]
    cells = parse_cells(given.cells or [f"{','.join(datasets)}/8/{draw}/blo_sam,am_sam" for draw in range(3)])
    if photos is None and not given.report_only and any(cell.dataset.startswith("photos") for cell in cells):
        raise SystemExit("the dataset `photos` needs --photos DIR")
    failed = 0
    if not given.report_only:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(given.workers, mp_context=context, initializer=_single_threaded) as pool:
            settings = photos, folder, given.configurations
            jobs = [run_cell, *(EXTRAS[name] for name in given.extras)]  # the extras of all cells come last
            running = {pool.submit(job, cell, *settings): cell for job in jobs for cell in cells}
            for future in as_completed(running):
                if error := future.exception():
                    failed += 1
                    traceback.print_exception(error)
                print(f"{running[future].key}: {'failed' if error else 'done'}", file=sys.stderr, flush=True)
                write_report(cells, folder, given.configurations)
    found = write_report(cells, folder, given.configurations)
    print(json.dumps(found) if given.json else markdown(found))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
