"""The properties of every method that is not SAM, independent of its modules."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from amsam_ray.config.methods import METHODS, resolve_params
from amsam_ray.errors import AmsamError
from amsam_ray.models.adapted import build_method
from amsam_ray.models.build import build_model
from amsam_ray.models.seeded import seeded
from amsam_ray.models.trained_model import ModelInputs, Support, TrainedModel
from tests.models.toy import OFFLINE, SIZE, toy_backbone, toy_images

BACKBONE = toy_backbone()
SMALL = {"features": "random", "image_size": 32}
VARIANTS: list[tuple[str, dict[str, Any]]] = [*OFFLINE.items(), ("hsnet", SMALL), ("ssp", SMALL)]


def build(method: str, params: dict[str, Any], seed: int = 0) -> TrainedModel:
    return build_model(method, resolve_params(method, params), BACKBONE, seed=seed)


def images_of(model: TrainedModel, count: int, seed: int = 0) -> ModelInputs:
    pixels = F.interpolate(toy_images(count, seed), model.image_size)
    features = model.frozen.encode(pixels, model.cache_point)
    return ModelInputs(features, torch.zeros(count, 4), (False,) * count)


def support_of(model: TrainedModel, count: int, seed: int = 1) -> Support:
    side = model.frozen.output_side
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    masks[:, : 3 * side // 4, : side // 2] = True
    return Support(images_of(model, count, seed).features, masks, torch.ones_like(masks))


def arguments(model: TrainedModel, count: int = 2) -> tuple[Any, ...]:
    """Return what a training step gives to the model."""
    inputs = images_of(model, count)
    if not model.needs_support:
        return (inputs,)
    return inputs, support_of(model, count), support_of(model, count, seed=0)


def train(model: TrainedModel, steps: int = 2) -> dict[str, torch.Tensor | None]:
    """Train all declared parameters for a few steps and return the gradients of the last one."""
    parameters = dict(model.named_parameters())
    trained = [parameters[name] for name in model.lower]
    given = arguments(model)
    target = support_of(model, 2).masks.long()
    optimiser = torch.optim.SGD(trained, lr=0.03, momentum=0.9)
    model.train()
    with seeded(0):
        for _ in range(steps):
            output = model(*given)
            loss = F.cross_entropy(output.logits, target)
            for extra in output.auxiliary:
                loss = loss + extra.weight * F.cross_entropy(extra.logits, target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return {name: parameters[name].grad for name in model.lower}


@cache
def trained(method: str, params: str) -> TrainedModel:
    model = build(method, dict(VARIANTS[int(params)][1]))
    train(model)
    if model.needs_support:
        model.eval().remember(model(support_of(model, 3)))
    return model.eval()


@torch.no_grad()
def predict(model: TrainedModel, inputs: ModelInputs) -> torch.Tensor:
    return model.eval()(inputs).logits


@pytest.mark.parametrize(("number", "method"), [(str(i), v[0]) for i, v in enumerate(VARIANTS)])
class TestNetwork:
    def test_exactly_the_declared_tensors_change_and_gradients_are_finite(self, number, method):
        model = build(method, VARIANTS[int(number)][1])
        before = {name: value.clone() for name, value in model.state_dict().items()}
        gradients = train(model, steps=3)  # behind a layer that starts at zero, the first gradient is zero
        assert all(value is not None and bool(value.isfinite().all()) for value in gradients.values())
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {*model.lower, *model.statistics} and not model.upper
        assert {name for name, p in model.named_parameters() if p.requires_grad} == set(model.lower)

    def test_the_same_seed_gives_the_same_result(self, number, method):
        random = torch.get_rng_state()
        params = VARIANTS[int(number)][1]
        models = [build(method, params, seed=seed) for seed in (0, 4)]
        assert torch.equal(torch.get_rng_state(), random)
        for model in models:
            train(model)
        kept = trained(method, number).state_dict()
        same, other = ({n: v for n, v in model.state_dict().items() if n not in model.remembered} for model in models)
        assert all(torch.equal(value, kept[name]) for name, value in same.items())
        assert any(not torch.equal(value, kept[name]) for name, value in other.items())

    def test_a_saved_state_restores_identical_logits(self, number, method):
        model = trained(method, number)
        inputs = images_of(model, 2, seed=7)
        state = model.trainable_state()
        assert all(value.is_floating_point() for value in state.values())
        restored = build_model(method, model.params, BACKBONE, seed=9, restored=True)
        restored.load_trainable_state(state)
        assert torch.equal(predict(restored, inputs), predict(model, inputs))

    def test_a_prediction_does_not_depend_on_the_batch(self, number, method):
        model = trained(method, number)
        inputs = images_of(model, 3, seed=7)
        together = predict(model, inputs)
        side = model.frozen.output_side
        assert together.shape == (3, 2, side, side)
        for place in range(3):
            one = ModelInputs(inputs.features[place : place + 1], inputs.boxes[:1], (False,))
            torch.testing.assert_close(predict(model, one)[0], together[place], rtol=1e-3, atol=1e-3)

    def test_values_given_to_a_step_replace_the_models_own(self, number, method):
        """The training loop never writes to the model: parameters and statistics are arguments of a step."""
        model = build(method, VARIANTS[int(number)][1]).train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        values = {name: before[name].clone() for name in (*model.lower, *model.statistics)}
        with seeded(0):
            functional_call(model, values, arguments(model), tie_weights=False)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(not torch.equal(values[name], before[name]) for name in model.statistics)


@pytest.mark.parametrize("method", ["hsnet", "ssp"])
def test_a_few_shot_model_predicts_from_its_support(method):
    model = build(method, OFFLINE[method])
    inputs = images_of(model, 2)
    logits = []
    for seed in (1, 2):
        model.eval().remember(model(support_of(model, 3, seed)))
        logits.append(predict(model, inputs))
    assert not torch.equal(*logits)
    state = model.trainable_state()
    assert set(model.remembered) <= set(state)
    with pytest.raises(AmsamError, match="lacks parameter"):
        model.load_trainable_state({name: v for name, v in state.items() if name != model.remembered[0]})
    name = model.remembered[1]
    with pytest.raises(AmsamError, match=f"parameter {name} has shape"):
        model.load_trainable_state({**state, name: state[name][..., :-1]})


def test_the_number_of_prototypes_changes_what_ssp_remembers_and_predicts():
    shapes, logits = [], []
    for prototypes in (1, 2, 8):
        model = build("ssp", {**OFFLINE["ssp"], "prototypes": prototypes})
        support = support_of(model, 4)
        model.eval().remember(model(support))
        shapes.append(tuple(model.get_buffer("foreground").shape))
        logits.append(predict(model, images_of(model, 2)))
    assert shapes == [(1, 32), (2, 32), (4, 32)]
    assert not torch.equal(logits[0], logits[1]) and not torch.equal(logits[1], logits[2])
    means = model.get_buffer("foreground")
    one = build("ssp", OFFLINE["ssp"])
    one.eval().remember(one(support))
    torch.testing.assert_close(one.get_buffer("foreground")[0], means.mean(dim=0))


def test_padding_of_the_support_is_no_background():
    model = build("ssp", OFFLINE["ssp"]).eval()
    support = support_of(model, 2)
    support.valid[:, :, 8:] = False
    changed = Support(support.features.clone(), support.masks, support.valid)
    changed.features[:, :, :, 3:] += 5.0  # a feature covers 4 x 4 pixels, and resizing reaches half of one further
    with torch.no_grad():
        first, second = (model(one) for one in (support, changed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_network_is_no_method_of_sam():
    with pytest.raises(Exception, match="recipe of type NetworkRecipe"):
        build_method("ssp", resolve_params("ssp", OFFLINE["ssp"]), BACKBONE, seed=0)


def test_every_network_has_variants_here():
    assert {method for method, _ in VARIANTS} == {name for name, spec in METHODS.items() if spec.start is not None}
    assert BACKBONE.image_size == SIZE
