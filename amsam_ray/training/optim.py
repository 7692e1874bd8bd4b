"""Optimisers as functions, the learning-rate schedules, and parameters as one flat vector.

The unrolled hypergradient needs the optimiser's real next step as a differentiable map from a gradient to new
weights. ``torch.optim`` offers no such map, so AdamW is written here as one, and a test holds it against
``torch.optim.AdamW`` step by step.

All parameters of a level live in one vector of P elements. A step is then a dozen operations on one tensor rather
than on some eighty small ones, and the vector algebra of the hypergradient is plain arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

_LAST_RATE = 1e-7  # of SAM-Adapter's cosine

Number = float | Tensor
"""A number, or one for each of M trials that train together: M x 1 in float64, next to their M x P values."""


class FlatParams:
    """A mapping between named tensors and one vector, in both directions.

    Args:
        named: the tensors that give names, order and shapes; all of one dtype and device. A level that trains
            nothing has none, and an empty vector.
    """

    def __init__(self, named: Mapping[str, Tensor]):
        self.shapes = {name: tensor.shape for name, tensor in named.items()}
        self.sizes = [tensor.numel() for tensor in named.values()]

    def __len__(self) -> int:
        return sum(self.sizes)

    def flatten(self, named: Mapping[str, Tensor]) -> Tensor:
        """Return a vector with a copy of the tensors' values, detached."""
        return torch.cat([named[name].detach().reshape(-1) for name in self.shapes])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Return views of ``vector`` in the tensors' shapes; gradients flow back into the vector."""
        parts = vector.split(self.sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


@dataclass(frozen=True)
class AdamWState:
    """The state of AdamW between steps: the number of steps taken, and the two moments, each a vector.

    Of several trials together: M x 1 numbers, and M x P moments.
    """

    steps: int | Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


@dataclass(frozen=True)
class AdamW:
    """Decoupled weight decay regularisation (arXiv 1711.05101) with torch's order of operations.

    Attributes:
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: share of the weights taken away per step, times the rate.
    """

    weight_decay: Number
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    @staticmethod
    def start(params: Tensor) -> AdamWState:
        """The state before the first step."""
        return AdamWState(0, torch.zeros_like(params), torch.zeros_like(params))

    def step(self, params: Tensor, grad: Tensor, state: AdamWState, lr: Number) -> tuple[Tensor, AdamWState]:
        """The next parameters and the next state; nothing is changed in place.

        Differentiable in ``params`` and ``grad``. Where the gradient has been exactly zero from the start, as for
        LoRA's A while B is zero or behind a ReLU that is off, the step is zero and its derivative is taken as zero:
        Adam's own there is 1/eps, which would multiply a mixed derivative that is zero as well.

        Args:
            params: P values, or M x P.
            grad: the loss's gradient at ``params``.
            state: as left by the step before.
            lr: this step's rate.
        """
        beta1, beta2 = self.betas
        steps = state.steps + 1
        exp_avg = beta1 * state.exp_avg + (1 - beta1) * grad
        exp_avg_sq = beta2 * state.exp_avg_sq + (1 - beta2) * grad * grad
        moved = exp_avg_sq > 0
        root = torch.where(moved, exp_avg_sq, 1).sqrt() / beside(params, (1 - beta2**steps) ** 0.5) + self.eps
        update = torch.where(moved, exp_avg, 0) / root / beside(params, 1 - beta1**steps)
        after = params * beside(params, 1 - lr * self.weight_decay) - beside(params, lr) * update
        return after, AdamWState(steps, exp_avg.detach(), exp_avg_sq.detach())


@dataclass(frozen=True)
class Adam(AdamW):
    """Adam (arXiv 1412.6980) as torch's: the weight decay is an L2 penalty, part of the gradient."""

    def step(self, params: Tensor, grad: Tensor, state: AdamWState, lr: Number) -> tuple[Tensor, AdamWState]:
        """The next parameters and the next state, as :meth:`AdamW.step`."""
        decoupled = AdamW(weight_decay=0.0, betas=self.betas, eps=self.eps)
        return decoupled.step(params, grad + beside(params, self.weight_decay) * params, state, lr)


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum as torch's: v = mu v + g + w p, p = p - lr v; v starts as g + w p.

    Attributes:
        weight_decay: w, an L2 penalty.
        momentum: mu.
    """

    weight_decay: Number
    momentum: float = 0.9

    @staticmethod
    def start(params: Tensor) -> Tensor:
        """The velocity before the first step: zero."""
        return torch.zeros_like(params)

    def step(self, params: Tensor, grad: Tensor, state: Tensor, lr: Number) -> tuple[Tensor, Tensor]:
        """The next parameters and the next velocity; arguments as :meth:`AdamW.step`."""
        velocity = self.momentum * state + grad + beside(params, self.weight_decay) * params
        return params - beside(params, lr) * velocity, velocity.detach()


class Optimiser(Protocol):
    """An optimiser as a function from parameters, gradient, state and rate to the next parameters and state."""

    def start(self, params: Tensor) -> Any:
        """The state before the first step."""

    def step(self, params: Tensor, grad: Tensor, state: Any, lr: Number) -> tuple[Tensor, Any]:
        """The next parameters and the next state; nothing is changed in place."""


def beside(params: Tensor, number: Number) -> Number:
    """Return a number as one that multiplies ``params`` without changing their dtype.

    It is rounded to that dtype here and not before: that is how torch multiplies a tensor by a plain number, so a
    trial that trains with others takes the same steps as by itself.
    """
    return number.to(params.dtype) if isinstance(number, Tensor) else number


def make_optimiser(name: str, weight_decay: Number) -> Optimiser:
    """Return the optimiser called ``name``, as ``config.protocol.Protocol.optimiser``."""
    kinds: dict[str, Callable[[Number], Optimiser]] = {"adamw": AdamW, "adam": Adam, "sgd": Sgd}
    return kinds[name](weight_decay)


def stack_states(
    states: Sequence[Any], stack: Callable[[Sequence[Tensor]], Tensor], column: Callable[[Sequence[float]], Tensor]
) -> Any:
    """Return the states of M trials as one state of all.

    Args:
        states: of the same optimiser.
        stack: makes the rows of a tensor from vectors.
        column: makes an M x 1 tensor from numbers.
    """
    if not isinstance(states[0], AdamWState):
        return stack(states)
    averages = stack([state.exp_avg for state in states]), stack([state.exp_avg_sq for state in states])
    return AdamWState(column([state.steps for state in states]), *averages)


def split_states(joint: Any, before: Sequence[Any], split: Callable[[Tensor], Sequence[Tensor]], *, moved: bool) -> Any:
    """Return each trial's state from that of all.

    Args:
        joint: state of all trials.
        before: states of the trials before the step.
        split: returns the vectors of a tensor's rows.
        moved: whether a step was taken. The numbers of steps are counted here, and not read from the device.
    """
    if not isinstance(joint, AdamWState):
        return split(joint)
    averages = zip(before, split(joint.exp_avg), split(joint.exp_avg_sq), strict=True)
    return [AdamWState(old.steps + moved, *vectors) for old, *vectors in averages]


def poly_rate(base: float, iteration: int, iterations: int, ramp: int) -> float:
    """SAMed's schedule (arXiv 2304.13785), also BLO-SAM's and AM-SAM's: warm-up, then polynomial decay.

    During the first ``ramp`` iterations the rate climbs linearly to ``base``; from there on it is
    base (1 - i / I)^0.9, with i counted from the end of the warm-up, as SAMed's code counts.

    Args:
        base: lr0, the initial rate.
        iteration: which step, from 0.
        iterations: I, all steps of the run.
        ramp: number of iterations of the warm-up; the rate never reaches ``base`` in a shorter run.
    """
    if iteration < ramp:
        return base * (iteration + 1) / ramp
    return base * (1 - (iteration - ramp) / iterations) ** 0.9


def cosine_rate(base: float, epoch: int, epochs: int) -> float:
    """SAM-Adapter's schedule (arXiv 2304.09148): a cosine from ``base`` to 1e-7, constant within an epoch.

    Args:
        base: lr0, the initial rate.
        epoch: which epoch, from 0.
        epochs: all epochs of the run (20 in the published code).
    """
    return _LAST_RATE + (base - _LAST_RATE) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def step_rate(base: float, iteration: int, iterations: int) -> float:
    """SSP's schedule (arXiv 2207.11549): a tenth of the rate after each third of the steps.

    Args:
        base: lr0, the initial rate.
        iteration: which step, from 0.
        iterations: I, all steps of the run.
    """
    return base * 0.1 ** (3 * iteration // iterations)
