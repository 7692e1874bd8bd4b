"""The cost of a step: reads of device values, work and bytes that can be counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from amsam_ray.config.methods import METHODS
from amsam_ray.training import step_cost as subject
from amsam_ray.training.device_rates import DeviceRates, fastest, measure_rates
from amsam_ray.training.step_cost import Stepper, step_cost
from tests.training.toys import toy_training

RATES = DeviceRates(flops=1e9, bytes=1e9)


def stepper(method: str = "am_sam", **given: Any) -> Stepper:
    """Return the toy trainer of a method, whose steps can be taken one by one."""
    return Stepper(*toy_training(method, **given))


@pytest.mark.parametrize("method", [name for name, spec in METHODS.items() if spec.trainable])
def test_an_epoch_reads_its_losses_and_nothing_else(method: str) -> None:
    assert subject._host_reads(stepper(method)) == (1, None)


@pytest.mark.parametrize(
    ("read", "times"),
    [
        (lambda loss: float(loss), 1),
        (lambda loss: loss.tolist(), 1),
        (lambda loss: loss.numpy(), 1),
        (lambda loss: bool(loss > 0), 1),
        (lambda loss: loss[None][loss[None] > 0], 1),
        (lambda loss: loss[None].nonzero(), 1),
        (lambda loss: (loss * 2).view(1)[0].item(), 1),
        (lambda loss: torch.randperm(4).tolist(), 0),
        (lambda loss: float(torch.ones(3).sum()), 0),
        (lambda loss: loss.clamp_min(0).sqrt(), 0),
    ],
)
def test_reads_are_counted_per_step(
    read: Callable[[torch.Tensor], Any], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = stepper("blo_sam")
    plain = trainer._move_weights

    def reading(*given: Any) -> torch.Tensor:
        loss = plain(*given)
        read(loss)
        return loss

    monkeypatch.setattr(trainer, "_move_weights", reading)
    assert subject._host_reads(trainer) == (1 + times * trainer.steps_per_epoch, None)


def test_traffic_counts_old_memory_once_and_every_operation() -> None:
    left, right = torch.ones(10, 20), torch.ones(20, 30)
    with subject._Traffic() as traffic:
        product = left @ right
        ((product.T + 1) @ left).sum()
    assert traffic.outside == 4 * (200 + 600)
    assert traffic.moved == 4 * ((200 + 600 + 300) + (300 + 300) + (300 + 200 + 600) + (600 + 1))


def test_time_in_nested_operations_counts_once() -> None:
    assert subject._covered([(20, 30), (0, 10), (2, 4), (8, 12)]) == 22


def test_work_grows_with_the_batch_and_the_passes() -> None:
    one, two = (subject._work(stepper("blo_sam", batch_size=size, hypergradient="first_order")) for size in (1, 2))
    unrolled = subject._work(stepper("blo_sam", hypergradient="unrolled"))
    assert 1.8 < two[0] / one[0] < 2.01
    assert one[1] < two[1] < 2 * one[1]  # the weights are read once
    assert 2 < unrolled[0] / one[0] < 3  # five passes instead of two
    assert all(work[2] > work[1] for work in (one, two, unrolled))


def test_cost_of_a_step() -> None:
    cost = step_cost(lambda: stepper("blo_sam", batch_size=2), RATES)
    assert cost.steps_per_epoch == 1 and cost.seconds > 0 and 0 < cost.kernel_share <= 1
    assert cost.floor_seconds == max(cost.flops, cost.bytes) / 1e9
    assert cost.times_floor == cost.seconds / cost.floor_seconds


def test_a_step_taken_alone_equals_one_of_an_epoch() -> None:
    alone, epoch = stepper("am_sam", batch_size=2), stepper("am_sam", batch_size=2)
    epoch.epoch()
    losses = alone.iteration()()
    assert len(losses) == 2
    torch.testing.assert_close(alone.weights, epoch.weights, rtol=0, atol=0)
    torch.testing.assert_close(alone.prompt, epoch.prompt, rtol=0, atol=0)


def test_rates_of_this_machine() -> None:
    rates = measure_rates(torch.device("cpu"), torch.float32)
    assert 1e8 < rates.flops < 1e14 and 1e8 < rates.bytes < 1e13


def test_first_call_is_not_timed() -> None:
    calls = []
    fastest(lambda: calls.append(1), torch.device("cpu"), repeats=2)
    assert len(calls) == 3
