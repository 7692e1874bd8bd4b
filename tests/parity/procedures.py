"""How the public codes train: hypergradient, optimiser and schedule, with torch's own optimisers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from tests.parity.references import Reference

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Sample:
    """A batch of images, B x 3 x S x S, and labels, B x side x side of 0 and 1."""

    images: Tensor
    label: Tensor


def weights_of(model: Reference) -> list[Tensor]:
    """Return the trained parameters but the prompt, in the order of the names."""
    return [part for name, parts in model.names.items() if not name.startswith("prompt.") for part in parts]


def loss_of(model: Reference, loss: Loss, sample: Sample) -> Tensor:
    """Return the loss of one batch."""
    return loss(model(sample.images), sample.label)


def first_order(model: Reference, loss: Loss, upper: Sample) -> Tensor:
    """Return the gradient of the upper level with the weights held constant."""
    (gradient,) = torch.autograd.grad(loss_of(model, loss, upper), model.no_mask)
    return gradient


def unrolled(
    model: Reference,
    optimiser: Optimizer,
    loss: Loss,
    lower: Sample,
    upper: Sample,
    *,
    reach: float = 0.01,
    first_corrections: bool = False,
) -> Tensor:
    """Return BLO-SAM's second-order gradient of the prompt.

    The weights take AdamW's step on a copy. The second term is -rate (d2 L1 / dA dW) v, with v the gradient of the
    upper loss at the copy's weights, by a central difference of length ``reach``.

    The public code uses the bias corrections of the first step at every step, as ``first_corrections`` does.
    """
    ahead, stepping = copy.deepcopy((model, optimiser))
    if first_corrections:
        for state in stepping.state.values():
            state["step"].zero_()
    stepping.zero_grad()
    loss_of(ahead, loss, lower).backward()
    ahead.no_mask.grad = None
    stepping.step()
    direct, *vector = torch.autograd.grad(loss_of(ahead, loss, upper), [ahead.no_mask, *weights_of(ahead)])
    length = math.sqrt(sum(float(part.square().sum()) for part in vector))
    sides = []
    for sign in (1, -1):
        beside = copy.deepcopy(model)
        with torch.no_grad():
            for weight, part in zip(weights_of(beside), vector, strict=True):
                weight.add_(part, alpha=sign * reach / length)
        sides.append(torch.autograd.grad(loss_of(beside, loss, lower), beside.no_mask)[0])
    rate = optimiser.param_groups[0]["lr"]
    return direct - rate * (sides[0] - sides[1]) / (2 * reach / length)


def set_rate(optimiser: Optimizer, rate: float) -> None:
    """Set the rate of the next step."""
    for group in optimiser.param_groups:
        group["lr"] = rate
