"""A whole sweep in this process: the driver's own parts around one trial after the other, without Ray's lanes."""

from __future__ import annotations

import time
from pathlib import Path

from amsam_ray.config.space import SpaceFile
from amsam_ray.search.cells import make_cells
from amsam_ray.search.checks import with_named_classes
from amsam_ray.search.manifest import choose_sweep, write_manifest
from amsam_ray.search.recorder import Recorder
from amsam_ray.search.resume import restore_cells
from amsam_ray.search.state import SweepState
from amsam_ray.search.sweep import SweepResult, run_sweep
from amsam_ray.storage.open import open_storage
from amsam_ray.training.trial import train_trial


def sweep_in_process(space: SpaceFile, folder: Path, cache_dir: Path) -> SweepResult:
    """Run every trial of a sweep, and let ``run_sweep`` finish it: it checks the space and writes the leaderboards.

    Args:
        space: what to search.
        folder: receives ``results``, the storage, and ``work``.
        cache_dir: caches of prepared inputs.
    """
    uri = str(folder / "results")
    named, storage = with_named_classes(space), open_storage(uri)
    manifest = choose_sweep(storage, named, extend=False, fresh=False)
    write_manifest(storage, manifest, named)
    recorder = Recorder(uri, manifest.sweep)

    def abort(reason: str) -> None:
        raise AssertionError(reason)

    state = SweepState(restore_cells(make_cells(named, manifest.prior), []), 0, recorder.write_failure, abort)
    while trial := state.next_trial():
        started = time.time()
        result = train_trial(trial.config, cache_dir=cache_dir, work_dir=folder / "work" / trial.trial_id)
        state.settle(trial, recorder.write(trial, result, {}, started, {}))
    assert recorder.close(10.0) == []
    return run_sweep(space, uri)
