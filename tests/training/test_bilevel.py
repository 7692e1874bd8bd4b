"""The three hypergradients on a small float64 problem with non-zero second derivatives."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from amsam_ray.training.bilevel import LowerStep, hypergradient
from amsam_ray.training.optim import AdamW

RATE, DECAY = 5e-3, 0.1


class Toy:
    """A two-layer tanh regression whose inputs are shifted by the prompt A; W is one flat vector."""

    def __init__(self, seed: int = 0):
        draw = torch.Generator().manual_seed(seed)

        def rand(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw, dtype=torch.float64)

        self.x1, self.y1, self.x2, self.y2 = rand(8, 5), rand(8), rand(8, 5), rand(8)
        self.weights, self.prompt = 0.5 * rand(5 * 6 + 6), 0.5 * rand(5)

    def _loss(self, weights: Tensor, prompt: Tensor, x: Tensor, y: Tensor) -> Tensor:
        hidden = torch.tanh((x + prompt) @ weights[:30].view(5, 6))
        return ((hidden @ weights[30:] - y) ** 2).mean()

    def lower(self, weights: Tensor, prompt: Tensor) -> Tensor:
        return self._loss(weights, prompt, self.x1, self.y1)

    def upper(self, weights: Tensor, prompt: Tensor) -> Tensor:
        return self._loss(weights, prompt, self.x2, self.y2)


def _after_steps(toy: Toy, steps: int):
    """The toy's weights after real torch.optim.AdamW steps, with torch's optimiser and ours in the same state."""
    theirs = torch.nn.Parameter(toy.weights.clone())
    optimiser = torch.optim.AdamW([theirs], lr=RATE, weight_decay=DECAY)
    ours = AdamW(weight_decay=DECAY)
    state = ours.start(toy.weights)
    for _ in range(steps):
        (grad,) = torch.autograd.grad(toy.lower(theirs, toy.prompt), theirs)
        _, state = ours.step(theirs.detach(), grad, state, RATE)
        theirs.grad = grad
        optimiser.step()
    return theirs, optimiser, LowerStep(toy.lower, ours, state, RATE)


def _upper_after_a_real_step(toy: Toy, weights: torch.nn.Parameter, optimiser, prompt: Tensor) -> Tensor:
    stepped = torch.nn.Parameter(weights.detach().clone())
    again = torch.optim.AdamW([stepped], lr=RATE, weight_decay=DECAY)
    again.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    again.zero_grad()
    toy.lower(stepped, prompt).backward()
    again.step()
    return toy.upper(stepped.detach(), prompt)


@pytest.mark.parametrize("steps", [1, 5])
def test_exact_equals_the_finite_difference_through_an_optimiser_step(steps):
    toy = Toy()
    weights, optimiser, lower = _after_steps(toy, steps)
    value, exact = hypergradient("exact", lower, toy.upper, weights, toy.prompt)
    reach, brute = 1e-5, torch.zeros_like(toy.prompt)
    for place in range(len(brute)):
        shift = torch.zeros_like(toy.prompt)
        shift[place] = reach
        forth = _upper_after_a_real_step(toy, weights, optimiser, toy.prompt + shift)
        back = _upper_after_a_real_step(toy, weights, optimiser, toy.prompt - shift)
        brute[place] = (forth - back) / (2 * reach)
    assert value == pytest.approx(float(_upper_after_a_real_step(toy, weights, optimiser, toy.prompt)), 1e-12)
    assert (exact - brute).norm() < 1e-4 * brute.norm()


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_unrolled_agrees_with_exact(steps):
    toy = Toy()
    weights, _, lower = _after_steps(toy, steps)
    _, exact = hypergradient("exact", lower, toy.upper, weights, toy.prompt)
    _, unrolled = hypergradient("unrolled", lower, toy.upper, weights, toy.prompt)
    _, first_order = hypergradient("first_order", lower, toy.upper, weights, toy.prompt)
    assert (unrolled - exact).norm() < 1e-3 * exact.norm()
    assert (first_order - exact).norm() > 1e-2 * exact.norm()


def test_second_order_term_alone_agrees_too():
    """With an upper loss that sees A only through W', the whole hypergradient is the second-order term."""
    toy = Toy()
    weights, _, lower = _after_steps(toy, 3)

    def only_through_weights(weights: Tensor, prompt: Tensor) -> Tensor:
        return toy.upper(weights, toy.prompt) + 0 * prompt.sum()

    _, exact = hypergradient("exact", lower, only_through_weights, weights, toy.prompt)
    _, unrolled = hypergradient("unrolled", lower, only_through_weights, weights, toy.prompt)
    assert exact.norm() > 0
    assert (unrolled - exact).norm() < 1e-3 * exact.norm()


def test_first_order_is_the_gradient_at_the_current_weights():
    toy = Toy()
    weights, _, lower = _after_steps(toy, 2)
    prompt = toy.prompt.clone().requires_grad_()
    (plain,) = torch.autograd.grad(toy.upper(weights.detach(), prompt), prompt)
    _, first_order = hypergradient("first_order", lower, toy.upper, weights, toy.prompt)
    assert torch.equal(first_order, plain)


@pytest.mark.parametrize("mode", ["first_order", "unrolled", "exact"])
def test_arguments_and_state_are_unchanged(mode):
    toy = Toy()
    weights, _, lower = _after_steps(toy, 2)
    weights.grad = None
    before = weights.detach().clone(), toy.prompt.clone(), lower.state.exp_avg.clone()
    first = hypergradient(mode, lower, toy.upper, weights, toy.prompt)
    second = hypergradient(mode, lower, toy.upper, weights, toy.prompt)
    assert torch.equal(first[1], second[1])  # a call leaves no state behind
    assert weights.grad is None and toy.prompt.grad is None and not toy.prompt.requires_grad
    assert torch.equal(weights.detach(), before[0]) and torch.equal(toy.prompt, before[1])
    assert torch.equal(lower.state.exp_avg, before[2]) and lower.state.steps == 2


def test_a_zero_direction_leaves_the_direct_term():
    toy = Toy()
    weights, _, lower = _after_steps(toy, 2)

    def flat(weights: Tensor, prompt: Tensor) -> Tensor:
        return (prompt**2).sum() + 0 * weights.sum()

    _, unrolled = hypergradient("unrolled", lower, flat, weights, toy.prompt)
    assert torch.allclose(unrolled, 2 * toy.prompt)


def test_an_unknown_mode_is_refused():
    toy = Toy()
    weights, _, lower = _after_steps(toy, 0)
    with pytest.raises(ValueError, match="unrolled"):
        hypergradient("second_order", lower, toy.upper, weights, toy.prompt)


@pytest.mark.parametrize("steps", [0, 5])
@pytest.mark.parametrize("mode", ["unrolled", "exact"])
def test_a_plain_step_ahead_is_that_of_darts(mode, steps):
    toy = Toy()
    weights, _, lower = _after_steps(toy, steps)
    _, found = hypergradient(mode, replace(lower, rule="sgd"), toy.upper, weights, toy.prompt)
    prompt = toy.prompt.clone().requires_grad_()
    (grad,) = torch.autograd.grad(toy.lower(weights, prompt), weights, create_graph=True)
    (literal,) = torch.autograd.grad(toy.upper(weights - RATE * grad, prompt), prompt)
    assert (found - literal).norm() < 1e-6 * literal.norm()


@pytest.mark.parametrize("mode", ["unrolled", "exact"])
def test_a_mixed_step_ahead_arrives_as_adamw_and_differentiates_as_a_plain_step(mode):
    toy = Toy()
    weights, _, lower = _after_steps(toy, 5)
    value, found = hypergradient(mode, replace(lower, rule="mixed"), toy.upper, weights, toy.prompt)
    assert value == hypergradient(mode, lower, toy.upper, weights, toy.prompt)[0]
    prompt = toy.prompt.clone().requires_grad_()
    (grad,) = torch.autograd.grad(toy.lower(weights, prompt), weights, create_graph=True)
    arrived = lower.ahead(weights.detach(), grad.detach()).requires_grad_()
    direct, towards = torch.autograd.grad(toy.upper(arrived, prompt), (prompt, arrived))
    (second,) = torch.autograd.grad(grad, prompt, towards)
    literal = direct - RATE * second
    assert (found - literal).norm() < 1e-6 * literal.norm()


def test_the_reach_is_the_length_of_the_finite_difference():
    """The error of a central difference falls with the square of the reach."""
    toy = Toy()
    weights, _, lower = _after_steps(toy, 5)
    _, exact = hypergradient("exact", lower, toy.upper, weights, toy.prompt)
    gaps = [
        float((hypergradient("unrolled", lower, toy.upper, weights, toy.prompt, reach=reach)[1] - exact).norm())
        for reach in (1e-1, 1e-2)
    ]
    assert gaps[0] == pytest.approx(100 * gaps[1], rel=0.05)


def test_an_unknown_rule_is_refused():
    toy = Toy()
    weights, _, lower = _after_steps(toy, 0)
    with pytest.raises(ValueError, match="mixed"):
        hypergradient("exact", replace(lower, rule="momentum"), toy.upper, weights, toy.prompt)
