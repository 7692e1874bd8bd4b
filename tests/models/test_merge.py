"""Merged weights: segment_anything's predictor returns the masks of the model."""

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from amsam_ray.config.methods import resolve_params
from amsam_ray.errors import AmsamError
from amsam_ray.models.adapted import build_method
from amsam_ray.models.backbone import encode_to
from amsam_ray.models.merge import merged_state
from amsam_ray.models.preprocess import box_to_input, to_input
from amsam_ray.models.trained_model import ModelInputs
from tests.models.test_conformance import train
from tests.models.toy import SIZE, toy_backbone, toy_inputs, toy_sam

BACKBONE = toy_backbone()
IMAGE = np.random.default_rng(0).integers(0, 256, (56, 90, 3), dtype=np.uint8)
BOX = np.array([8.0, 6.0, 70.0, 50.0])


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("sam", {}),
        ("samed", {"head": "warm"}),
        ("blo_sam", {"head": "warm"}),
        ("am_mca_sam", {"adaptors": "none"}),
        *(("am_sam", {"calibration": mode}) for mode in ("off", "batch", "sample", "learned")),
        ("am_sam", {"detector": "off"}),
    ],
    ids=str,
)
def test_sams_predictor_returns_the_logits_of_the_model(method, params):
    model = build_method(method, resolve_params(method, params), BACKBONE, seed=0)
    train(model, toy_inputs(model))
    pixels = to_input(IMAGE, SIZE)[None]
    inputs = ModelInputs(
        features=encode_to(BACKBONE, pixels, model.cache_point),
        boxes=torch.from_numpy(box_to_input(BOX, IMAGE.shape[:2], SIZE))[None],
        has_box=(True,),
    )
    with torch.no_grad():
        background, foreground = model.eval()(inputs).logits[0]
    sam = toy_sam(seed=7)  # other weights, since the merged state must contain everything
    sam.load_state_dict(merged_state(model), strict=True)
    predictor = SamPredictor(sam)
    predictor.set_image(IMAGE)
    _, _, low = predictor.predict(box=BOX if model.uses_boxes else None, multimask_output=False)
    torch.testing.assert_close(torch.from_numpy(low[0]), foreground - background, rtol=1e-3, atol=1e-4)


def test_merging_changes_neither_backbone_nor_model():
    model = build_method("am_sam", resolve_params("am_sam", {}), BACKBONE, seed=0)
    state, own = BACKBONE.sam.state_dict(), model.trainable_state()
    before = {name: value.clone() for name, value in state.items()}
    for value in merged_state(model).values():
        value.zero_()
    assert all(torch.equal(value, before[name]) for name, value in state.items())
    assert all(torch.equal(value, own[name]) for name, value in model.trainable_state().items())


@pytest.mark.parametrize(
    ("method", "params", "reason"),
    [
        ("blo_sam", {}, "cold head"),
        ("samed", {}, "cold head"),
        ("med_sa", {}, "no place"),
        ("sam_adapter", {}, "no place"),
        ("mca_sam", {}, "no place"),
        ("am_mca_sam", {}, "no place"),
    ],
)
def test_a_method_that_sam_cannot_express_is_refused(method, params, reason):
    model = build_method(method, resolve_params(method, params), BACKBONE, seed=0)
    with pytest.raises(AmsamError, match=f"{method} cannot be merged .*{reason}"):
        merged_state(model)
