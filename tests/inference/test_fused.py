"""Fused prompts: the masks of all candidate boxes, averaged with the confidences as weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from amsam_ray.config.networks import DetectorConfig
from amsam_ray.data.procedural import render
from amsam_ray.inference.feature_cache import FeatureCache
from amsam_ray.inference.inputs import CANDIDATE_CONFIDENCE, CANDIDATES, Needs, PreparedSet, Preparer
from amsam_ray.inference.masks import foreground_logits
from amsam_ray.models.adapted import AdaptedSam
from amsam_ray.models.detector import Detection, Detector, load_detector
from tests.inference.test_inputs import PICTURES
from tests.models.tiny_detector import tiny_detector
from tests.models.toy import SIZE, toy_backbone
from tests.training.toys import toy_model, toy_set

CALIBRATIONS = ["off", "batch", "sample", "learned"]
COUNTS = [3, 1, 0, 2]  # candidates of each picture


def _fused_set(model: AdaptedSam) -> PreparedSet:
    """Four pictures with 3, 1, 0 and 2 candidates."""
    draws = torch.Generator().manual_seed(0)
    low = torch.rand(4, CANDIDATES, 2, generator=draws) * 30
    boxes = torch.cat([low, low + 8 + torch.rand(4, CANDIDATES, 2, generator=draws) * 20], dim=2)
    confidences = torch.rand(4, CANDIDATES, generator=draws).sort(descending=True).values
    confidences *= torch.arange(CANDIDATES)[None] < torch.tensor(COUNTS)[:, None]
    return replace(toy_set(model), candidates=boxes, confidences=confidences)


def _logits(model: AdaptedSam, pictures: PreparedSet, index: list[int]) -> dict[int, torch.Tensor]:
    return dict(foreground_logits(model, pictures, index, precision="fp32"))


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_fusing_equals_a_loop_over_the_candidates(calibration: str) -> None:
    fusing = toy_model(calibration=calibration, prompt="fused")
    single = toy_model(calibration=calibration, prompt="box")
    pictures = _fused_set(fusing)
    assert pictures.candidates is not None and pictures.confidences is not None
    found = _logits(fusing, pictures, [0, 1, 2, 3])
    for position, count in enumerate(COUNTS):
        if not count:
            continue
        total, weights = torch.zeros_like(found[0]), 0.0
        for place in range(count):
            weight = float(pictures.confidences[position, place])
            boxes = pictures.boxes.clone()
            boxes[position] = pictures.candidates[position, place]
            one = replace(pictures, boxes=boxes, candidates=None, confidences=None)
            total += weight * _logits(single, one, [position])[position].sigmoid()
            weights += weight
        assert torch.allclose(found[position].sigmoid(), total / weights, atol=1e-5)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_a_picture_without_a_candidate_is_decoded_without_a_box(calibration: str) -> None:
    fusing = toy_model(calibration=calibration, prompt="fused")
    pictures = _fused_set(fusing)
    without = replace(
        pictures, has_box=torch.zeros(4, dtype=torch.bool), candidates=None, confidences=None
    )  # the set itself has a box for every picture
    single = toy_model(calibration=calibration, prompt="box")
    fused, plain = _logits(fusing, pictures, [2])[2], _logits(single, without, [2])[2]
    assert torch.allclose(fused, plain, atol=1e-4)
    assert not torch.allclose(fused, _logits(single, replace(pictures, candidates=None), [2])[2], atol=1e-2)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_a_fused_prediction_does_not_depend_on_other_pictures(calibration: str) -> None:
    model = toy_model(calibration=calibration, prompt="fused")
    pictures = _fused_set(model)
    together = _logits(model, pictures, [3, 0, 2, 1])
    for position in range(4):
        assert torch.allclose(_logits(model, pictures, [position])[position], together[position], atol=1e-5)


def test_certain_masks_stay_finite() -> None:
    model = toy_model(prompt="fused")
    pictures = _fused_set(model)
    huge = replace(pictures, features=pictures.features * 1e3)
    assert all(bool(torch.isfinite(logits).all()) for logits in _logits(model, huge, [0, 1, 2, 3]).values())


class _Stub:
    """A detector with given candidates; its single box is the first."""

    def __init__(self, fingerprint: str, found: list[Detection]):
        self.fingerprint, self.found, self.asked = fingerprint, found, []  # type: ignore[var-annotated]

    def detect(self, images: list[np.ndarray]) -> list[Detection | None]:
        return [next(iter(self.found), None) for _ in images]

    def candidates(self, images: list[np.ndarray], *, confidence: float, limit: int) -> list[list[Detection]]:
        self.asked.append((confidence, limit))
        return [self.found for _ in images]


FUSED = Needs("embedding", boxes=True, pixels=False, views=False, precision="fp32", fallback="none", candidates=True)
FIRST = _Stub("first", [Detection((0.0, 0.0, 20.0, 10.0), 0.4), Detection((2.0, 4.0, 8.0, 16.0), 0.1)])
SECOND = _Stub("second", [Detection((10.0, 0.0, 30.0, 30.0), 0.7)])


def test_the_pool_gives_the_candidates_of_all_its_detectors(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    pool = (FIRST, SECOND)
    preparer = Preparer(toy_backbone(), SECOND, cache, pool)  # type: ignore[arg-type]
    prepared = preparer.prepare(PICTURES, FUSED)
    assert prepared.candidates is not None and prepared.confidences is not None
    assert prepared.candidates.shape == (3, 2 * CANDIDATES, 4)
    wanted = torch.zeros(2 * CANDIDATES)
    wanted[[0, 1, CANDIDATES]] = torch.tensor([0.4, 0.1, 0.7])
    assert torch.allclose(prepared.confidences, wanted.expand(3, -1))
    # pictures of 100 x 200, 64 x 64 and 128 x 32 pixels, resized to 64 on the longer side
    assert torch.allclose(prepared.candidates[1, 1], torch.tensor([2.0, 4.0, 8.0, 16.0]), atol=0.1)
    assert torch.allclose(prepared.candidates[2, CANDIDATES], torch.tensor([5.0, 0.0, 15.0, 15.0]), atol=0.1)
    assert FIRST.asked == SECOND.asked == [(CANDIDATE_CONFIDENCE, CANDIDATES)]
    again = preparer.prepare(PICTURES, FUSED)
    assert again.candidates is not None and torch.equal(again.candidates, prepared.candidates)
    assert len(FIRST.asked) == 1  # read from the cache


def test_the_prompt_box_is_the_most_confident_candidate_of_the_pool(tmp_path: Path) -> None:
    preparer = Preparer(toy_backbone(), FIRST, FeatureCache(tmp_path), (FIRST, SECOND))  # type: ignore[arg-type]
    box = preparer.prepare(PICTURES, FUSED).prompt_box(0, SIZE)
    assert box is not None and np.allclose(box, [10, 0, 30, 30], atol=0.1)
    for pool in ((_Stub("nothing", []),), ()):
        none = Preparer(toy_backbone(), None, FeatureCache(tmp_path), pool)  # type: ignore[arg-type]
        assert none.prepare(PICTURES, FUSED).prompt_box(0, SIZE) is None


def test_another_pool_has_another_key(tmp_path: Path) -> None:
    pools = [(FIRST,), (SECOND,), (FIRST, SECOND), ()]
    keys = {Preparer(toy_backbone(), FIRST, FeatureCache(tmp_path), pool).key for pool in pools}  # type: ignore[arg-type]
    assert len(keys) == 4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    path = tiny_detector(tmp_path_factory.mktemp("detector"))
    found = load_detector(DetectorConfig(weights=str(path), confidence=0.0))
    assert found is not None
    return found


def _images() -> list[np.ndarray]:
    return [render("polyp", 0, number, 64)[0] for number in range(3)]


def test_candidates_are_sorted_limited_and_at_least_as_confident_as_asked(tiny: Detector) -> None:
    everything = tiny.candidates(_images(), confidence=0.0, limit=100)
    for found in everything:
        confidences = [detection.confidence for detection in found]
        assert len(found) > 3 and confidences == sorted(confidences, reverse=True)
    assert tiny.candidates(_images(), confidence=0.0, limit=3) == [found[:3] for found in everything]
    level = everything[0][1].confidence
    for found, kept in zip(everything, tiny.candidates(_images(), confidence=level - 1e-6, limit=100), strict=True):
        assert {d.confidence for d in kept} == {d.confidence for d in found if d.confidence > level - 1e-6}
    assert tiny.candidates(_images(), confidence=1.0, limit=3) == [[], [], []]


def test_detect_gives_the_best_candidate_at_the_configured_confidence(tiny: Detector) -> None:
    before = tiny.detect(_images())
    assert before == [found[0] for found in tiny.candidates(_images(), confidence=0.0, limit=100)]
    tiny.candidates(_images(), confidence=0.9, limit=8)
    assert tiny.detect(_images()) == before  # another confidence asked for in between changes nothing
