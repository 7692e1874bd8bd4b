"""The properties of every method that adapts SAM, independent of its parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from torch.nn import functional as F

from amsam_ray.config.methods import METHODS, resolve_params
from amsam_ray.errors import AmsamError
from amsam_ray.models.adapted import AdaptedSam, build_method
from amsam_ray.models.backbone import encode_to
from amsam_ray.models.parts.head import WarmHead
from amsam_ray.models.parts.high_pass import high_pass
from amsam_ray.models.preprocess import box_to_input, logits_to_original, to_input
from amsam_ray.models.trained_model import ModelInputs
from tests.models.toy import SAM_METHODS, SIZE, toy_backbone, toy_inputs

BACKBONE = toy_backbone()
OTHER_HEAD = {"warm": "cold", "cold": "warm"}
VARIANTS = [
    *((method, {}) for method in SAM_METHODS),
    *((method, {"head": OTHER_HEAD[spec.defaults["head"]]}) for method, spec in METHODS.items() if "head" in spec.keys),
    *(("am_sam", {"calibration": mode}) for mode in ("off", "batch", "learned")),
    ("am_sam", {"levels": 1}),
    ("am_sam", {"detector": "off"}),
    ("am_mca_sam", {"adaptors": "tc", "adaptor_blocks": "last_1"}),
    ("am_mca_sam", {"adaptors": "none"}),
]


def train(model: AdaptedSam, inputs: ModelInputs, steps: int = 4) -> torch.Tensor:
    """Train all declared parameters for a few steps with a loss on every output; return the final logits."""
    parameters = dict(model.named_parameters())
    trained = [parameters[name] for name in model.lower + model.upper]
    target = (torch.rand(inputs.boxes.shape[0], 16, 16, generator=torch.Generator().manual_seed(1)) > 0.5).long()
    if trained:
        optimiser = torch.optim.Adam(trained, lr=0.01)
    for _ in range(steps if trained else 0):
        out = model(inputs)
        loss = F.cross_entropy(out.logits, target)
        for x, y in out.tokens + out.pooled:
            loss = loss + 0.1 * (1 - F.cosine_similarity(x, y + y.flip(0), dim=-1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return model.eval()(inputs).logits


@pytest.mark.parametrize(("method", "params"), VARIANTS, ids=lambda value: str(value))
class TestMethod:
    def build(self, method: str, params: dict, seed: int = 0) -> AdaptedSam:
        return build_method(method, resolve_params(method, params), BACKBONE, seed=seed)

    def test_starts_as_sam(self, method, params):
        """At step 0 the encoder is SAM's, and with a warm head the masks are those of SAM's predictor."""
        image = np.random.default_rng(3).integers(0, 256, (50, 80, 3), dtype=np.uint8)
        box = np.array([10.0, 5.0, 60.0, 45.0])
        model = self.build(method, params)
        pixels = to_input(image, SIZE)[None]
        inputs = ModelInputs(
            features=encode_to(BACKBONE, pixels, model.cache_point),
            boxes=torch.from_numpy(box_to_input(box, (50, 80), SIZE))[None],
            has_box=(True,),
            highpass=high_pass(pixels, 0.25),
        )
        if model.encoder is not None:
            embedding, _ = model.encoder(inputs.features, inputs.highpass)
            torch.testing.assert_close(embedding, encode_to(BACKBONE, pixels, "embedding"))
        logits = model(inputs).logits[0].detach()
        if not isinstance(model.decoder.head, WarmHead):
            assert logits[0].abs().max() > 0  # both channels of a cold head are random
            return
        predictor = SamPredictor(BACKBONE.sam)
        predictor.set_image(image)
        masks, _, low = predictor.predict(box=box if model.uses_boxes else None, multimask_output=False)
        scale = float(torch.as_tensor(model.calibration.channel_factor()).detach().mean())
        torch.testing.assert_close(logits[1], torch.from_numpy(low[0]) * scale, rtol=1e-3, atol=1e-4)
        background, foreground = logits_to_original(logits, (50, 80), SIZE)
        ours = (foreground > background).numpy()
        assert ours.any() and not ours.all() and (ours == masks[0]).mean() > 0.999

    def test_exactly_the_declared_parameters_change(self, method, params):
        model = self.build(method, params)
        declared = set(model.lower + model.upper)
        assert not set(model.lower) & set(model.upper)
        assert {name for name, p in model.named_parameters() if p.requires_grad} == declared
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        frozen = {name: value.clone() for name, value in BACKBONE.sam.state_dict().items()}
        train(model, toy_inputs(model))
        changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
        assert changed == declared
        assert all(torch.equal(value, frozen[name]) for name, value in BACKBONE.sam.state_dict().items())

    def test_saved_state_restores_identical_logits(self, method, params):
        model = self.build(method, params)
        inputs = toy_inputs(model)
        logits = train(model, inputs)
        other = self.build(method, params, seed=9).eval()
        other.load_trainable_state(model.trainable_state())
        with torch.no_grad():
            assert torch.equal(other(inputs).logits, logits)

    def test_the_same_seed_gives_the_same_result(self, method, params):
        random = torch.get_rng_state()
        first, second = (self.build(method, params, seed=5) for _ in range(2))
        assert torch.equal(torch.get_rng_state(), random)
        inputs = toy_inputs(first)
        assert torch.equal(train(first, inputs), train(second, inputs))
        if first.lower:
            other = self.build(method, params, seed=6)
            assert not torch.equal(train(other, inputs), train(self.build(method, params, seed=5), inputs))

    def test_a_batch_may_mix_images_with_and_without_a_box(self, method, params):
        """Masks do not depend on the other images of the batch, except with ``calibration: batch``."""
        model = self.build(method, params)
        train(model, toy_inputs(model))
        inputs = toy_inputs(model, batch=3)
        inputs.has_box = (True, False, True)
        with torch.no_grad():
            together = model(inputs).logits
            alone = torch.cat([model(one_of(inputs, i)).logits for i in range(3)])
        alike = torch.allclose(alone, together, rtol=1e-4, atol=1e-4)
        assert alike == (model.params.calibration != "batch")

    def test_second_derivatives_are_correct_in_float64(self, method, params):
        """A Hessian-vector product by double backward equals a finite difference of gradients."""
        model = self.build(method, params).double()
        train(model.train(), inputs := double(toy_inputs(model)), steps=2)
        model.train()
        trained = {n: p.detach().requires_grad_() for n, p in model.named_parameters() if p.requires_grad}
        if not trained:
            pytest.skip("nothing trains")
        # A short step, since kinks of ReLU within it make the finite difference inexact.
        direction = {n: torch.randn_like(p) / 100 for n, p in trained.items()}

        def slope(point, create_graph=False):
            logits = torch.func.functional_call(model, point, (inputs,)).logits
            loss = F.cross_entropy(logits, torch.ones(logits.shape[0], 16, 16, dtype=torch.long))
            return torch.autograd.grad(loss, list(point.values()), create_graph=create_graph)

        dot = sum((g * direction[n]).sum() for n, g in zip(trained, slope(trained, True), strict=True))
        product = torch.autograd.grad(dot, list(trained.values()), materialize_grads=True)
        step = 1e-5
        ahead, behind = (
            slope({n: (p + s * direction[n]).detach().requires_grad_() for n, p in trained.items()})
            for s in (step, -step)
        )
        difference = torch.cat([((a - b) / (2 * step)).flatten() for a, b in zip(ahead, behind, strict=True)])
        exact = torch.cat([p.flatten() for p in product])
        assert (exact - difference).norm() / exact.norm() < 1e-4

    def test_bf16_logits_are_close_to_fp32(self, method, params):
        model = self.build(method, params)
        inputs = toy_inputs(model)
        with torch.no_grad():
            full = model(inputs).logits
            with torch.autocast("cpu", torch.bfloat16):
                half = model(inputs).logits.float()
        assert (half - full).norm() / full.norm() < 0.1

    def test_levels_choose_the_level_that_trains_the_prompt(self, method, params):
        model = self.build(method, params)
        prompts = {name for name, p in model.named_parameters() if name.startswith("prompt.") and p.requires_grad}
        assert prompts == {n for n in model.lower + model.upper if n.startswith("prompt.")}
        if model.params.levels == 2:
            assert set(model.upper) == prompts != set()
        else:
            assert not model.upper


def one_of(inputs: ModelInputs, i: int) -> ModelInputs:
    return ModelInputs(**{name: value[i : i + 1] for name, value in vars(inputs).items()})


def double(inputs: ModelInputs) -> ModelInputs:
    doubled: dict[str, Any] = {
        name: v.double() if isinstance(v, torch.Tensor) else v for name, v in vars(inputs).items()
    }
    return ModelInputs(**doubled)


def test_a_state_of_another_rank_or_method_is_refused():
    model = build_method("am_sam", resolve_params("am_sam", {}), BACKBONE, seed=0)
    other = build_method("am_sam", resolve_params("am_sam", {"rank": 2}), BACKBONE, seed=0)
    with pytest.raises(AmsamError, match="belongs to another rank or backbone"):
        model.load_trainable_state(other.trainable_state())
    blo = build_method("blo_sam", resolve_params("blo_sam", {}), BACKBONE, seed=0)
    with pytest.raises(AmsamError, match="belongs to another method or setting"):
        model.load_trainable_state(blo.trainable_state())


def test_training_a_model_does_not_change_another_one():
    one, two = (build_method("am_sam", resolve_params("am_sam", {}), BACKBONE, seed=0) for _ in range(2))
    inputs = toy_inputs(one)
    before = two(inputs).logits
    train(one, inputs)
    assert torch.equal(two(inputs).logits, before)
