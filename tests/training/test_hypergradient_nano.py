"""The unrolled hypergradient against the exact one on the shipped nano SAM, after some epochs of training."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.config.methods import resolve_params
from amsam_ray.config.networks import BackboneConfig
from amsam_ray.config.trial import TrainConfig
from amsam_ray.data.dataset import open_dataset
from amsam_ray.inference.feature_cache import NoCache
from amsam_ray.inference.inputs import Batch, Needs, Preparer
from amsam_ray.models.adapted import build_method
from amsam_ray.models.backbone import load_backbone
from amsam_ray.training.bilevel import LowerStep, hypergradient
from amsam_ray.training.loop import Roles, Trainer
from amsam_ray.training.pictures import originals

RATE = 5e-3


def _in_float64(batch: Batch) -> Batch:
    return replace(batch, inputs=replace(batch.inputs, features=batch.inputs.features.double()))


@cache
def _after(method: str, epochs: int):
    """W, A, the lower level's next step and the upper loss after some epochs on lesions, in float64."""
    model = build_method(method, resolve_params(method, {}), load_backbone(BackboneConfig()), seed=0)
    dataset = open_dataset(DatasetConfig(name="procedural", options={"family": "lesion"}), split="search")
    needs = Needs.of(model, training=True, precision="fp32", fallback="full_image")
    pictures = Preparer(model.backbone, None, NoCache()).prepare(originals(dataset, dataset.train[:4], 0), needs)
    trainer = Trainer(model, pictures, Roles([0, 1], [2, 3]), TrainConfig(epochs=20), 0)
    for _ in range(epochs):
        trainer.epoch()
    model.double()
    state = trainer._weights_state
    state = replace(state, exp_avg=state.exp_avg.double(), exp_avg_sq=state.exp_avg_sq.double())
    lower = trainer._lower_loss(_in_float64(pictures.batch([0])), None, "fp32")
    step = LowerStep(lower, trainer._optimiser, state, RATE)
    upper = trainer._upper_loss(_in_float64(pictures.batch([2])))
    return step, upper, trainer.weights.double(), trainer.prompt.double()


def _gap(point, reach: float) -> float:
    """|unrolled - exact| / |exact|"""
    _, exact = hypergradient("exact", *point)
    _, unrolled = hypergradient("unrolled", *point, reach=reach)
    return float((unrolled - exact).norm() / exact.norm())


@pytest.mark.parametrize("method", ["blo_sam", "am_sam"])
def test_unrolled_agrees_with_exact_on_nano(method):
    """At every point with a short reach; with the published one, where no kink of a ReLU is within it."""
    points = [_after(method, epochs) for epochs in (0, 1, 3)]
    assert max(_gap(point, 1e-4) for point in points) < 1e-6
    gaps = sorted(_gap(point, 1e-2) for point in points)
    assert gaps[0] < 1e-4  # the loss is smooth within the reach
    assert gaps[-1] > 1e-2  # a kink is within it, which is why docs/training.md gives no bound


def test_first_order_differs_on_nano():
    point = _after("am_sam", epochs=1)
    _, exact = hypergradient("exact", *point)
    _, first_order = hypergradient("first_order", *point)
    assert (first_order - exact).norm() > 0.05 * exact.norm()


def test_exact_equals_the_finite_difference_through_the_step_on_nano():
    """A directional check in A, with the step taken by torch's own AdamW."""
    step, upper, weights, prompt = _after("am_sam", epochs=1)
    _, exact = hypergradient("exact", step, upper, weights, prompt)

    def through(at: torch.Tensor) -> float:
        stepped = torch.nn.Parameter(weights.clone())
        optimiser = torch.optim.AdamW([stepped], lr=RATE, weight_decay=step.optimiser.weight_decay)
        moments = {"exp_avg": step.state.exp_avg.clone(), "exp_avg_sq": step.state.exp_avg_sq.clone()}
        optimiser.state[stepped] = {"step": torch.tensor(float(step.state.steps)), **moments}
        step.loss(stepped, at).backward()
        optimiser.step()
        return float(upper(stepped.detach(), at))

    unit = exact / exact.norm()
    reach = 1e-6
    slope = (through(prompt + reach * unit) - through(prompt - reach * unit)) / (2 * reach)
    assert slope == pytest.approx(float(exact.norm()), rel=1e-4)
