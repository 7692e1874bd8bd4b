"""A trial with the time of each of its phases, and the cost of its steps. Training itself knows nothing of it.

For the duration of the trial, the functions that begin and end a phase are replaced by timed ones. On a GPU each of
them waits for the device, so that the trial takes a little longer than usual; ``StepCost.seconds`` is measured without.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from amsam_ray.config.trial import TrialConfig
from amsam_ray.data.dataset import Dataset
from amsam_ray.device import pick_device, synchronize
from amsam_ray.errors import AmsamError
from amsam_ray.inference import inputs
from amsam_ray.inference.adapter_file import save_adapter
from amsam_ray.models.backbone import Backbone
from amsam_ray.models.networks.maps import ResNetMaps, SamMaps
from amsam_ray.training import loop, setup
from amsam_ray.training.device_rates import measure_rates
from amsam_ray.training.lru_cache import LruCache
from amsam_ray.training.result import TrialResult
from amsam_ray.training.step_cost import StepCost, Stepper, step_cost
from amsam_ray.training.trial import train_trial

_Training = tuple[Any, ...]  # the arguments of a Trainer

_DETECTING = ("_detections", "_candidates")
_READING = ("image", "mask", "content_key", "mask_key")


class Spans:
    """A stopwatch for nested phases: each second counts for the innermost phase that is running.

    Args:
        device: a GPU is waited for at both ends of every phase.

    Attributes:
        seconds: ``phase`` or ``phase/part`` -> seconds, without those of its parts, in the order of the first starts.
            A part of a part counts as one of the outermost phase.
    """

    def __init__(self, device: torch.device):
        self.seconds: dict[str, float] = {}
        self._device = device
        self._open: list[str] = []
        self._since = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what runs inside as the phase ``name``, or as the part ``name`` of the running one."""
        path = f"{self._open[0]}/{name}" if self._open else name
        self._turn()
        self._open.append(path)
        self.seconds.setdefault(path, 0.0)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function``, timed."""

        def call(*given: Any, **named: Any) -> Any:
            with self(name):
                return function(*given, **named)

        return call

    def _turn(self) -> None:
        """Give the time since the last turn to the innermost phase."""
        synchronize(self._device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


@dataclass(frozen=True)
class TrialProfile:
    """Where the time of a trial went.

    Attributes:
        result: of the trial, ``pruned`` if it was cut short.
        device, threads: where it ran, and the number of CPU threads of torch.
        seconds: of the trial, from its configuration to its record.
        phases: as ``Spans.seconds``. The phases are ``load`` and ``prepare`` (parts ``decode``, ``detector``,
            ``encoder``), ``train`` (``upper``, ``lower``, ``score``, ``report``), ``select``, ``adapter file`` and
            ``record``. Imports that the trial is the first to need are part of them.
        step: None for a method that trains nothing.
    """

    result: TrialResult
    device: torch.device
    threads: int
    seconds: float
    phases: dict[str, float] = field(default_factory=dict)
    step: StepCost | None = None


def profile_trial(
    config: TrialConfig,
    *,
    cache_dir: Path,
    work_dir: Path,
    record: Callable[[TrialResult], None],
    epochs: int | None = None,
    device: str | None = None,
) -> TrialProfile:
    """Run one trial and measure its phases, then the cost of its steps.

    Inputs are prepared anew, below ``work_dir``: those that this node has stored are not used. The trained tensors are
    written there too, as the adapter file that a final writes.

    Args:
        config: of a search trial.
        cache_dir: this node's caches, for datasets and tuned detectors.
        work_dir: an empty folder.
        record: writes the record of the result; timed.
        epochs: ends the trial after this epoch, counted over folds, as early stopping does; None trains all.
        device: a torch device; None chooses one as ``amsam_ray.device.pick_device``.

    Raises:
        InputError: as ``train_trial``.
        AmsamError: the training diverged.
    """
    where = pick_device(device)
    spans, trainings = Spans(where), list[_Training]()
    started = time.perf_counter()
    with _timed(spans, trainings, work_dir / "prepared"):
        result = train_trial(
            config,
            cache_dir=cache_dir,
            work_dir=work_dir,
            rungs=() if epochs is None else (epochs,),
            report=None if epochs is None else lambda epoch, score: True,
            device=device,
        )
    if result.status == "failed":
        raise AmsamError(f"the trial {result.reason}; choose another cell or set a lower learning rate")
    if trainings:
        with spans("adapter file"):
            model = trainings[-1][0]
            save_adapter(work_dir / "adapter.safetensors", model.trainable_state(), config, model.frozen.fingerprint)
    with spans("record"):
        record(result)
    seconds = time.perf_counter() - started
    step = None
    if trainings:
        dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
        step = step_cost(lambda: Stepper(*trainings[-1]), measure_rates(where, dtype))
    return TrialProfile(result, where, torch.get_num_threads(), seconds, dict(spans.seconds), step)


@contextmanager
def _timed(spans: Spans, trainings: list[_Training], prepared: Path) -> Iterator[None]:
    """Time the phases of the trials that run inside, and keep what their trainers are made of."""
    plain_phase, plain_run = setup.TrialSetup.phase, loop.run

    @contextmanager
    def phase(self: setup.TrialSetup, name: str) -> Iterator[None]:
        with spans(name), plain_phase(self, name):
            yield

    class Timed(loop.Trainer):
        def __init__(self, *given: Any):
            super().__init__(*given)
            trainings[:] = [given]

        _move_prompt = spans.timed("upper", loop.Trainer._move_prompt)
        _move_weights = spans.timed("lower", loop.Trainer._move_weights)

    def run(*given: Any, **named: Any) -> loop.LoopResult:
        for name in ("score", "report"):
            if named[name] is not None:
                named[name] = spans.timed(name, named[name])
        return plain_run(*given, **named)

    with ExitStack() as stack:
        for owner, name, value in (
            (setup, "prepared_dir", lambda cache: prepared),
            (setup, "_PREPARED", LruCache(capacity=1)),
            (setup, "cached_detectors", spans.timed("detector", setup.cached_detectors)),
            (setup.TrialSetup, "phase", phase),
            (loop, "Trainer", Timed),
            (loop, "run", run),
            *((kind, "encode", spans.timed("encoder", kind.encode)) for kind in (Backbone, ResNetMaps, SamMaps)),
            *((inputs.Preparer, n, spans.timed("detector", getattr(inputs.Preparer, n))) for n in _DETECTING),
            *((Dataset, n, spans.timed("decode", getattr(Dataset, n))) for n in _READING),
        ):
            stack.enter_context(_replaced(owner, name, value))
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)
