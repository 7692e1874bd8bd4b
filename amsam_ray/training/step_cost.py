"""What a training step costs: its time, its work, what it reads back from the device, and the floor of the device."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakTensorKeyDictionary

from amsam_ray.device import synchronize
from amsam_ray.training.device_rates import DeviceRates, fastest
from amsam_ray.training.loop import Trainer
from amsam_ray.training.optim import AdamWState

_EPOCHS, _TIMED_S = 3, 10.0  # epochs that are timed, and seconds after which no further one begins
_PROFILED = 3  # steps

# Operations whose result, or its shape, depends on values that the host has to know.
_READING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim"}
# On a CPU these read the memory without an operation.
_DIRECT = {"tolist", "numpy", "__array__", "cpu"}
_ON_HOST = ("has_box", "detected", "has_object")  # of prepared pictures, whatever the device


@dataclass(frozen=True)
class StepCost:
    """The cost of one training step of both levels.

    Attributes:
        steps_per_epoch: steps of an epoch.
        seconds: per step, in the fastest of a few epochs, the drawing of batches included.
        kernel_share: share of a step's time that its tensor operations take. On a CPU their dispatch is included.
        host_reads: per epoch, how often the host reads a value that was computed on the device.
        sync_warnings: per epoch, how often torch warns that the host waits for CUDA; None on other devices.
        flops: floating-point operations of matrix products, convolutions and attention; a multiply-add counts as two.
        bytes: what has to be moved even if all intermediate results stay in caches: the batch, the weights and the
            optimiser's moments are read once, what is trained is written once.
        op_bytes: what moves if every operation reads its inputs from memory and writes its results to it.
        rates: of the device, measured beside it.
    """

    steps_per_epoch: int
    seconds: float
    kernel_share: float
    host_reads: int
    sync_warnings: int | None
    flops: int
    bytes: int
    op_bytes: int
    rates: DeviceRates

    @property
    def floor_seconds(self) -> float:
        """The longer of the times that the FLOPs and the bytes take at the device's measured rates."""
        return max(self.flops / self.rates.flops, self.bytes / self.rates.bytes)

    @property
    def times_floor(self) -> float:
        """``seconds`` over ``floor_seconds``."""
        return self.seconds / self.floor_seconds


class Stepper(Trainer):
    """A trainer whose steps can be taken one by one."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return self._steps

    def iteration(self) -> Callable[[], list[Tensor]]:
        """Draw the batches of a step and return a function that takes it: both levels move, and it returns their
        losses, upper level first. Called again, it takes a step on the same batches.
        """
        batch, upper = self._batch(self._d1), None if self._d2 is None else self._batch(self._d2)
        tokens = self._draw_tokens(batch)
        rate, rate_prompt = self._rate(self._params.lr), self._rate(self._params.lr_prompt)

        def step() -> list[Tensor]:
            losses = [] if upper is None else [self._move_prompt(batch, tokens, upper, rate, rate_prompt)]
            return [*losses, self._move_weights(batch, tokens, rate)]

        return step

    def device_tensors(self) -> list[Tensor]:
        """Return the tensors that are on the device before the first step."""
        pictures = [value for name, value in vars(self._pictures).items() if name not in _ON_HOST]
        moments = [
            moment
            for state in (self._weights_state, self._prompt_state)
            for moment in (vars(state).values() if isinstance(state, AdamWState) else [state])
        ]
        model = [*self._model.parameters(), *self._model.buffers()]
        found = [*pictures, *model, *moments, self.weights, self.prompt]
        return [value for value in found if isinstance(value, Tensor)]


def step_cost(make: Callable[[], Stepper], rates: DeviceRates) -> StepCost:
    """Measure the steps of a training.

    Args:
        make: returns a new trainer, before its first epoch; called several times.
        rates: of the trainer's device.

    Raises:
        Diverged: a loss was NaN or Inf.
    """
    flops, moved, op_bytes = _work(make())
    reads, warned = _host_reads(make())
    trainer = make()
    return StepCost(
        steps_per_epoch=trainer.steps_per_epoch,
        seconds=_seconds(make),
        kernel_share=_kernel_share(trainer),
        host_reads=reads,
        sync_warnings=warned,
        flops=flops,
        bytes=moved,
        op_bytes=op_bytes,
        rates=rates,
    )


def _seconds(make: Callable[[], Stepper]) -> float:
    begun = time.perf_counter()
    times: list[float] = []
    while len(times) < _EPOCHS and (not times or time.perf_counter() - begun < _TIMED_S):
        trainer = make()
        synchronize(trainer.weights.device)
        started = time.perf_counter()
        trainer.epoch()  # ends with a read of its losses
        times.append((time.perf_counter() - started) / trainer.steps_per_epoch)
    return min(times)


def _kernel_share(trainer: Stepper) -> float:
    device = trainer.weights.device
    fastest(lambda: trainer.iteration()()[0], device, repeats=1)
    cuda = device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        started = time.perf_counter()
        for _ in range(_PROFILED):
            trainer.iteration()()
        synchronize(device)
        elapsed = time.perf_counter() - started
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    busy = [  # `key_averages` has the same sums, and takes a second per thousand operations
        (event.start_ns(), event.end_ns())
        for event in profiler.profiler.kineto_results.events()
        if (event.device_type() == DeviceType.CUDA if cuda else event.name().startswith("aten::"))
    ]
    return _covered(busy) / 1e9 / elapsed


def _covered(intervals: list[tuple[int, int]]) -> int:
    """Return the length of the union of intervals, each a start and an end."""
    total, until = 0, 0
    for start, end in sorted(intervals):
        total += max(0, end - max(start, until))
        until = max(until, end)
    return total


def _work(trainer: Stepper) -> tuple[int, int, int]:
    """Return the FLOPs, the least bytes and the bytes of all operations of one step."""
    step = trainer.iteration()
    with FlopCounterMode(display=False) as counter, _Traffic() as traffic:
        step()
    written = 3 * trainer.trained * trainer.weights.element_size()  # what is trained, and its two moments
    return counter.get_total_flops(), traffic.outside + written, traffic.moved


class _Traffic(TorchDispatchMode):
    """Counts the bytes of tensors that operations read and write.

    Attributes:
        outside: bytes of the memory that existed before, each read once.
        moved: bytes of the inputs and results of all operations that are not views.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outside = self.moved = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read, written = _tensors((args, kwargs)), _tensors(result)
        for tensor in read:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._seen:
                self._seen.add(storage._cdata)
                self.outside += storage.nbytes()
        self._seen.update(tensor.untyped_storage()._cdata for tensor in written)
        if not func.is_view:
            self.moved += sum(tensor.nbytes for tensor in (*read, *written))
        return result


def _host_reads(trainer: Stepper) -> tuple[int, int | None]:
    """Return the reads of device values in an epoch, and torch's warnings of waiting for CUDA."""
    operations = _Reads(trainer.device_tensors())
    with operations, _DirectReads(operations), _sync_warnings(trainer.weights.device) as warned:
        trainer.epoch()
    return operations.count, None if warned is None else len(warned)


class _Reads(TorchDispatchMode):
    """Counts operations that read a value computed on the device.

    On a CPU the memory of host and device is one. There a tensor counts as the device's if it was computed from
    ``seeds``; numbers drawn on the host do not.
    """

    def __init__(self, seeds: list[Tensor]):
        super().__init__()
        self.count = 0
        self._computed = WeakTensorKeyDictionary()
        for tensor in seeds:
            self._computed[tensor] = True

    def on_device(self, tensor: Tensor) -> bool:
        """Whether a tensor is the device's."""
        return tensor.is_cuda or tensor in self._computed

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [tensor for tensor in _tensors((args, kwargs)) if self.on_device(tensor)]
        if read:
            name = func.overloadpacket.__name__
            masked = name.startswith("index") and any(t.dtype == torch.bool for t in _tensors(args[1:2]))
            fetched = any(t.is_cuda for t in read) and any(t.device.type == "cpu" for t in _tensors(result))
            self.count += name in _READING or masked or fetched
            for tensor in _tensors(result):
                self._computed[tensor] = True
        return result


class _DirectReads(TorchFunctionMode):
    """Counts reads of a CPU's memory that are no operation, such as ``tolist``."""

    def __init__(self, operations: _Reads):
        super().__init__()
        self._operations = operations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _DIRECT and not args[0].is_cuda and self._operations.on_device(args[0]):
            self._operations.count += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _sync_warnings(device: torch.device) -> Iterator[list[warnings.WarningMessage] | None]:
    """Yield a list that fills with torch's warnings of synchronising operations; None without CUDA."""
    if device.type != "cuda":
        yield None
        return
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode(mode)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
