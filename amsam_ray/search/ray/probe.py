"""A short trial on a node of the cluster, to estimate what a sweep will take."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass

import ray

from amsam_ray.config.trial import TrialConfig
from amsam_ray.device import gpu_memory, peak_resident
from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.paths import cache_dir
from amsam_ray.search.cell_state import CellState
from amsam_ray.search.lane_size import LaneSize
from amsam_ray.search.ray.cluster import make_folder
from amsam_ray.search.ray.worker import load_trial_function
from amsam_ray.search.trials import derived_seed

_PROBE_EPOCHS = 5
_PROBE_S = 60.0


@dataclass(frozen=True)
class Probe:
    """Duration and memory of a short trial.

    Attributes:
        first_s: seconds until the end of the first epoch, including loading and preparing, which happen once per lane
            and once per sweep.
        epoch_s: seconds of each further epoch.
        host: largest resident size of its process in bytes.
        gpu, gpu_total: the most that torch held of its GPU's memory, and that memory, in bytes; 0 without a GPU.
    """

    first_s: float
    epoch_s: float
    host: int = 0
    gpu: int = 0
    gpu_total: int = 0


def probe(config: TrialConfig, trial_function: str, on_gpu: bool) -> Probe:
    """Run the first epochs of a trial in this process, on its GPU or not: at most five, and at most a minute."""
    times = [time.monotonic()]

    def report(epoch: int, score: float) -> bool:
        times.append(time.monotonic())
        return len(times) > _PROBE_EPOCHS or times[-1] - times[0] > _PROBE_S

    work_dir = make_folder()
    try:
        load_trial_function(trial_function)(
            config,
            cache_dir=cache_dir(),
            work_dir=work_dir,
            rungs=tuple(range(1, config.train.epochs + 1)),
            report=report,
        )
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)
    times.append(time.monotonic())
    epochs = max(1, len(times) - 3)
    epoch_s = (times[-2] - times[1]) / epochs if len(times) > 3 else times[1] - times[0]
    gpu, gpu_total = gpu_memory() if on_gpu else (0, 0)
    return Probe(times[1] - times[0], epoch_s, peak_resident(), gpu, gpu_total)


def probe_remotely(state: CellState, size: LaneSize, trial_function: str) -> Probe:
    """Run the probe in a process with a lane's resources, which this one may not have."""
    params = state.study.ask(0)
    seed = derived_seed(state.cell.source.search.seed, state.cell.id, 0, "trial")
    config = state.cell.config(params, seed=seed)
    task = ray.remote(num_cpus=size.cpus, num_gpus=size.gpus, memory=size.memory, max_retries=0)(probe)
    try:
        result: Probe = ray.get(task.remote(config, trial_function, size.gpus > 0))
    except ray.exceptions.RayTaskError as error:
        raise _fault_of(error.cause, state) from error
    except ray.exceptions.RayError as error:  # the process died, out of memory perhaps
        first = str(error).strip().splitlines()[0]
        raise AmsamError(
            f"The probe of {state.cell.id} did not finish ({first}); check the memory of the node"
        ) from error
    return result


def _fault_of(cause: Exception, state: CellState) -> AmsamError:
    """Convert an exception of the probe's process to an error for the user."""
    if isinstance(cause, AmsamError):
        return InputError(Problem(state.cell.id, str(cause)))
    return AmsamError(f"The probe of {state.cell.id} failed: {type(cause).__name__}: {cause}")
