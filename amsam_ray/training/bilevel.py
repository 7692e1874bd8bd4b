"""The gradient of the upper level: three ways to differentiate L2(W*(A), A) with respect to A.

AM-SAM's eq. 6-8, after BLO-SAM (arXiv 2402.16338) and DARTS (arXiv 1806.09055). W are the trainable weights, A the
prompt embedding, L1 the loss on D1 and L2 the loss on D2. W*(A) is taken one step ahead along g = dL1/dW (W, A), by
one of three rules:

- ``sgd``: W' = W - lr g, as in DARTS and the papers.
- ``adamw``: W' = AdamW(W, g), the optimiser's real next step with its moments, bias correction and weight decay.
- ``mixed``: W' = AdamW(W, g) with the derivative of the plain step, dW'/dg = -lr, as in BLO-SAM's code.

Then, with v = dL2/dW' and u = (dW'/dg)^T v,

    dL2/dA = dL2/dA (W', A) + (d^2 L1 / dA dW) u.

- ``first_order``: W* is held constant at W: dL2/dA (W, A).
- ``unrolled``: the second term by central difference, [dL1/dA (W + r u) - dL1/dA (W - r u)] / 2r with
  r = ``reach`` / ||u||. Two further passes, no second derivatives.
- ``exact``: the same by double backward.

Where the loss is smooth between W - r u and W + r u, the two agree within 1e-4 on SAM's decoder. If a ReLU of the
decoder has its kink between them, the difference includes it and the derivative does not; at the published reach the
two then differ by a few hundredths up to 2.7 times the gradient's norm. A reach of 1e-4 meets almost no kink, and its
rounding errors are larger.

Several trials can be differentiated at once: W is then M x P, A is M x Q, and a loss is M values, each of one row of W
and A alone, so that the gradient of their sum holds the gradient of each.

Nothing here changes W, A or the optimiser's state in place, and no gradients are accumulated: all come from
``torch.autograd.grad``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amsam_ray import parallel
from amsam_ray.training.optim import Number, Optimiser, beside

REACH = 0.01
"""Length of the finite difference's step in the space of W, as in DARTS and BLO-SAM."""

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LowerStep:
    """The lower level's next step: its loss and its optimiser.

    Attributes:
        loss: L1 of (W, A) on one batch of D1, both flat; the same value for the same arguments at every call.
        optimiser, state, lr: those of the next step.
        rule: how W' is taken and differentiated: ``adamw``, ``sgd`` or ``mixed``, see the module.
    """

    loss: Loss
    optimiser: Optimiser
    state: Any
    lr: Number
    rule: str = "adamw"

    def ahead(self, weights: Tensor, grad: Tensor) -> Tensor:
        """Return W' as a differentiable function of ``grad``. Raises ValueError for an unknown ``rule``."""
        if self.rule == "sgd":
            return weights - beside(weights, self.lr) * grad
        if self.rule not in ("adamw", "mixed"):
            raise ValueError(f"the step ahead {self.rule!r} is unknown; use adamw, sgd or mixed")
        if self.rule == "mixed":
            arrived = self.optimiser.step(weights, grad.detach(), self.state, self.lr)[0]
            return arrived - beside(weights, self.lr) * (grad - grad.detach())
        return self.optimiser.step(weights, grad, self.state, self.lr)[0]


def gradient(loss: Loss, weights: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """Return L and dL/dW at (W, A), both means over workers, detached."""
    weights = weights.detach().requires_grad_()
    value = loss(weights, prompt.detach())
    (grad,) = torch.autograd.grad(value.sum(), weights)
    return parallel.mean(value.detach()), parallel.mean(grad)


def hypergradient(
    mode: str, lower: LowerStep, upper: Loss, weights: Tensor, prompt: Tensor, *, reach: float = REACH
) -> tuple[Tensor, Tensor]:
    """Return L2 and its gradient with respect to A, both means over workers, detached.

    Args:
        mode: ``first_order``, ``unrolled`` or ``exact``.
        lower: the lower level's next step.
        upper: L2 of (W, A) on one batch of D2.
        weights: W, P values, or M x P.
        prompt: A, Q values, or M x Q.
        reach: r ||u|| of ``unrolled``.

    Raises:
        ValueError: unknown ``mode``.
    """
    weights, prompt = weights.detach(), prompt.detach()
    if mode == "first_order":
        return gradient(lambda a, w: upper(w, a), prompt, weights)
    if mode == "unrolled":
        return _unrolled(lower, upper, weights, prompt, reach)
    if mode == "exact":
        return _exact(lower, upper, weights, prompt)
    raise ValueError(f"hypergradient {mode!r} is unknown; use first_order, unrolled or exact")


def _exact(lower: LowerStep, upper: Loss, weights: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
    weights, prompt = weights.requires_grad_(), prompt.requires_grad_()
    (grad,) = torch.autograd.grad(lower.loss(weights, prompt).sum(), weights, create_graph=True)
    value = upper(lower.ahead(weights, parallel.mean(grad)), prompt)
    (total,) = torch.autograd.grad(value.sum(), prompt)
    return parallel.mean(value.detach()), parallel.mean(total)


def _unrolled(lower: LowerStep, upper: Loss, weights: Tensor, prompt: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    grad = gradient(lower.loss, weights, prompt)[1].requires_grad_()
    ahead = lower.ahead(weights, grad)
    arrived, at = ahead.detach().requires_grad_(), prompt.requires_grad_()
    value = upper(arrived, at)
    towards, direct = torch.autograd.grad(value.sum(), (arrived, at))
    (through,) = torch.autograd.grad(ahead, grad, parallel.mean(towards))
    # r = reach / length would overflow for a very short direction, so the direction is normalised first. A direction of
    # length 0 stays 0: whether it is one is not asked, as the answer would have to be read from the device.
    length = through.norm(dim=-1, keepdim=True)
    unit = through / length.clamp_min(torch.finfo(length.dtype).tiny)
    forth = _prompt_gradient(lower.loss, weights + reach * unit, prompt)
    back = _prompt_gradient(lower.loss, weights - reach * unit, prompt)
    second = parallel.mean(forth - back) * (length.double() / (2 * reach)).to(length.dtype)
    return parallel.mean(value.detach()), parallel.mean(direct) + second


def _prompt_gradient(loss: Loss, weights: Tensor, prompt: Tensor) -> Tensor:
    at = prompt.detach().requires_grad_()
    (grad,) = torch.autograd.grad(loss(weights, at).sum(), at)
    return grad
