"""Finals of the few-shot models: the adapter file holds all that a prediction needs."""

from __future__ import annotations

import pytest

from amsam_ray.errors import AmsamError
from amsam_ray.inference.adapter_file import load_adapter
from amsam_ray.inference.export import export_adapter
from amsam_ray.inference.predict import load_predictor
from amsam_ray.models.backbone import load_backbone
from amsam_ray.training.metrics import score_image
from amsam_ray.training.setup import cached_dataset
from amsam_ray.training.trial import train_trial
from tests.training.toys import random_nano, small_trial


@pytest.mark.parametrize(
    ("method", "params", "held"),
    [
        ("hsnet", {}, {"support_maps", "support_masks"}),
        ("ssp", {"prototypes": 2}, {"background", "foreground"}),
        ("ssp", {"features": "random", "image_size": 64}, {"background", "foreground", "ssp.extract.stem.0.weight"}),
    ],
    ids=["hsnet on sam", "ssp on sam", "ssp on images"],
)
def test_a_prediction_from_the_adapter_file_equals_the_test_score(method, params, held, tmp_path):
    config = small_trial(random_nano(tmp_path), method, params=params, role="final", train={"epochs": 1})
    result = train_trial(config, cache_dir=tmp_path / "cache", work_dir=tmp_path)
    assert result.adapter is not None
    backbone = load_backbone(config.backbone)
    assert held <= set(load_adapter(result.adapter, backbone).trainable_state())
    predictor = load_predictor(result.adapter, "cpu", backbone=backbone)
    dataset = cached_dataset(config, tmp_path / "cache")
    for row in result.test_images:
        (prediction,) = predictor([dataset.image(row["name"])])
        scores = score_image(prediction.probability, dataset.mask(row["name"]), ["dice", "mae"])
        assert scores["dice"] == pytest.approx(row["dice"], abs=1e-3)
        assert scores["mae"] == pytest.approx(row["mae"], abs=1e-3) and prediction.box is None
    with pytest.raises(AmsamError, match="does not adapt SAM"):
        export_adapter(result.adapter.read_bytes(), tmp_path / "exported")
    if params.get("features") != "random":
        with pytest.raises(AmsamError, match="trained on a frozen SAM"):
            load_adapter(result.adapter, None)
