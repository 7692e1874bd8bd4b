"""The functional AdamW against torch's own, the schedule, and the flat vector."""

from itertools import pairwise

import pytest
import torch

from amsam_ray.training.optim import AdamW, FlatParams, cosine_rate, make_optimiser, poly_rate, step_rate


def test_adamw_takes_the_same_steps_as_torch():
    torch.manual_seed(0)
    start = torch.randn(7, dtype=torch.float64)
    theirs = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.999), weight_decay=0.1)
    mine, ours = start.clone(), AdamW(weight_decay=0.1)
    state = ours.start(mine)
    for step in range(20):
        rate = poly_rate(0.1, step, 20, ramp=4)
        grad = torch.randn(7, dtype=torch.float64)
        optimiser.param_groups[0]["lr"] = rate
        theirs.grad = grad.clone()
        optimiser.step()
        mine, state = ours.step(mine, grad, state, rate)
        assert torch.allclose(mine, theirs.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "build"),
    [("adam", torch.optim.Adam), ("sgd", lambda given, **rest: torch.optim.SGD(given, momentum=0.9, **rest))],
)
def test_the_other_optimisers_take_the_same_steps_as_torch(name, build):
    torch.manual_seed(0)
    start = torch.randn(7, dtype=torch.float64)
    theirs = torch.nn.Parameter(start.clone())
    optimiser = build([theirs], lr=0.1, weight_decay=0.01)
    mine, ours = start.clone(), make_optimiser(name, 0.01)
    state = ours.start(mine)
    for step in range(20):
        rate = step_rate(0.1, step, 20)
        grad = torch.randn(7, dtype=torch.float64)
        optimiser.param_groups[0]["lr"] = rate
        theirs.grad = grad.clone()
        optimiser.step()
        mine, state = ours.step(mine, grad, state, rate)
        assert torch.allclose(mine, theirs.detach(), rtol=1e-12, atol=0)


def test_the_step_schedule_takes_a_tenth_after_each_third():
    rates = [step_rate(1.0, step, 7) for step in range(7)]
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_adamw_does_not_change_its_arguments():
    params, grad = torch.ones(3), torch.tensor([1.0, -2.0, 0.5])
    optimiser = AdamW(weight_decay=0.1)
    state = optimiser.start(params)
    optimiser.step(params, grad, state, 0.1)
    assert torch.equal(params, torch.ones(3))
    assert state.steps == 0 and not state.exp_avg.any() and not state.exp_avg_sq.any()


def test_derivative_of_a_step_is_finite_where_the_gradient_was_always_zero():
    grad = torch.tensor([0.0, 1e-3, -1.0], requires_grad=True)
    optimiser = AdamW(weight_decay=0.0)
    params = torch.ones(3)
    after, _ = optimiser.step(params, grad, optimiser.start(params), 0.1)
    (derivative,) = torch.autograd.grad(after.sum(), grad)
    assert torch.isfinite(derivative).all()
    assert derivative[0] == 0 and after[0] == 1


def test_weight_decay_pulls_towards_zero():
    params, grad = torch.full((2,), 2.0), torch.zeros(2)
    none, some = AdamW(weight_decay=0.0), AdamW(weight_decay=0.5)
    assert torch.equal(none.step(params, grad, none.start(params), 0.1)[0], params)
    assert torch.allclose(some.step(params, grad, some.start(params), 0.1)[0], torch.full((2,), 1.9))


def test_poly_rate_is_the_published_formula():
    rates = [poly_rate(5e-3, i, 10, 0) for i in range(10)]
    assert rates == [5e-3 * (1 - i / 10) ** 0.9 for i in range(10)]


def test_warm_up_climbs_to_the_base_rate_and_then_decays():
    rates = [poly_rate(1.0, i, 20, 5) for i in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0
    assert all(later < earlier for earlier, later in pairwise(rates[5:]))


def test_cosine_rate_is_that_of_torch():
    optimiser = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=2e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 20, eta_min=1e-7)
    for epoch in range(20):
        assert cosine_rate(2e-4, epoch, 20) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
        optimiser.step()
        schedule.step()


def test_flat_params_round_trip_and_pass_gradients():
    named = {"a": torch.randn(2, 3), "b": torch.randn(()), "c": torch.randn(4)}
    flat = FlatParams(named)
    vector = flat.flatten(named).requires_grad_()
    views = flat.unflatten(vector)
    assert len(flat) == 11
    assert all(torch.equal(views[name], named[name]) for name in named)
    (grad,) = torch.autograd.grad((views["c"] * 2).sum() + views["b"], vector)
    assert grad.tolist() == [0.0] * 6 + [1.0] + [2.0] * 4
