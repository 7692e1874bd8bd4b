"""The nano SAM: segment-anything's own classes, weights that segment, and the parts of its pretraining."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

from amsam_ray.models import nano
from amsam_ray.models.weights import NANO_FILE
from tests.benchmarks import nano as benchmark
from tools.nano import objective
from tools.nano.augment import Framed, frame, recolour
from tools.nano.feed import Batch, SceneFeed

LIMIT = 10_000_000
"""Maximum size of a shipped file in bytes."""


@dataclass(frozen=True)
class Answer:
    """An unseen scene and the masks found in it (HW bool)."""

    given: benchmark.Sample
    boxed: np.ndarray
    cornered: np.ndarray
    unprompted: np.ndarray


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    measured, found = benchmark.Nano(), []
    for one in benchmark.scenes(14, seed=41, textures=20):
        measured.see(one.image)
        height, width = one.mask.shape
        corner = np.array([0.0, 0.0, width / 5, height / 5])
        found.append(Answer(one, *(measured.box(box) > 0 for box in (one.box, corner, None))))
    return found


def test_the_shipped_file_is_small_fp16_and_records_its_recipe() -> None:
    path = NANO_FILE
    assert path.stat().st_size < LIMIT
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  (not a dict)
    assert kinds == {"F16"}
    assert metadata["recipe"] == "scripts/pretrain_nano_sam.py"  # the path of the script when it wrote the file
    assert int(metadata["steps"]) > 100 and int(metadata["images"]) > 1000


def test_the_shapes_are_those_of_a_smaller_sam() -> None:
    sam = nano.build_nano_sam()
    assert sum(p.numel() for p in sam.parameters()) < LIMIT / 2
    with torch.inference_mode():
        features = sam.image_encoder(torch.zeros(1, 3, 256, 256))
        sparse, dense = sam.prompt_encoder(None, torch.tensor([[10.0, 20.0, 90.0, 80.0]]), None)
        logits, quality = sam.mask_decoder(features, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
    assert features.shape == (1, 128, 16, 16)
    assert logits.shape == (1, 3, 64, 64) and quality.shape == (1, 3)


def test_a_jittered_box_beats_the_filled_box_on_unseen_scenes(answers: list[Answer]) -> None:
    found = np.mean([benchmark.dice(a.boxed, a.given.mask) for a in answers])
    filled = np.mean([benchmark.dice(benchmark.filled(a.given), a.given.mask) for a in answers])
    assert found > filled + 0.05


def test_without_a_prompt_it_segments_the_salient_object(answers: list[Answer]) -> None:
    """Methods use no prompt as their default prompt, so its mask must depend on the image."""
    own, other = [], []
    for answer, stranger in zip(answers, answers[1:] + answers[:1], strict=True):
        own.append(benchmark.dice(answer.unprompted, answer.given.mask))
        size = stranger.given.mask.shape[::-1]
        moved = cv2.resize(answer.unprompted.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        other.append(benchmark.dice(moved, stranger.given.mask))
    assert np.mean(own) > np.mean(other) + 0.1


def test_another_box_gives_another_mask(answers: list[Answer]) -> None:
    same = [benchmark.dice(a.cornered, a.boxed) for a in answers]
    assert np.mean(same) < 0.5


# The pretraining's own parts.


@pytest.fixture(scope="module")
def batch() -> Batch:
    with SceneFeed(workers=1, capacity=32, size=96, seed=3, device=torch.device("cpu"), textures=10) as feed:
        feed.take(at_least=16)
        torch.manual_seed(0)
        return feed.sample(6)


@pytest.fixture(scope="module")
def framed(batch: Batch) -> Framed:
    return frame(batch, 64)


def test_the_batched_decoder_equals_segment_anythings(batch: Batch) -> None:
    torch.manual_seed(1)
    sam = nano.build_nano_sam().eval()
    features = torch.randn(1, 128, 16, 16)
    boxes = torch.tensor([[10.0, 20.0, 90.0, 80.0], [0.0, 0.0, 200.0, 100.0]])
    with torch.inference_mode():
        sparse, dense = sam.prompt_encoder(None, boxes, None)
        theirs = sam.mask_decoder.predict_masks(features, sam.prompt_encoder.get_dense_pe(), sparse, dense)
        ours = objective.decode(sam, features.expand(2, -1, -1, -1), sparse, dense, objective.Place(16))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_encoding_at_full_size_equals_the_encoder() -> None:
    sam = nano.build_nano_sam().eval()
    image = torch.randn(1, 3, 256, 256)
    with torch.inference_mode():
        torch.testing.assert_close(objective.encode(sam, image, objective.Place(16)), sam.image_encoder(image))


def test_a_small_image_keeps_its_place_in_the_grid() -> None:
    place = objective.Place(grid=8, left=3, top=5)
    table = torch.arange(256.0).view(1, 1, 16, 16)
    assert place.of(table)[0, 0, 0, 0] == 5 * 16 + 3
    assert place.shift(torch.tensor([[1.0, 2.0]]), 16).tolist() == [[49.0, 82.0]]


def test_framing_pads_as_sam_does_and_keeps_masks_on_the_image(batch: Batch, framed: Framed) -> None:
    assert framed.image.shape == (6, 3, 64, 64)
    assert (framed.extent.amax(dim=1) == 64).all(), "the longest side fills the input"
    for image, parts, valid, (width, height) in zip(
        framed.image, framed.parts, framed.valid, framed.extent.int(), strict=True
    ):
        assert valid[0, :height, :width].all() and valid.sum() == width * height
        assert (image[:, ~valid[0]] == 0).all() and (parts[~valid[0]] == 0).all()
    coloured = recolour(framed)
    assert coloured.min() >= 0 and coloured.max() <= 1
    assert (coloured[~framed.valid.expand_as(coloured)] == 0).all()


def test_prompts_match_their_masks(batch: Batch, framed: Framed) -> None:
    targets = objective.draw_targets(batch, framed, per_image=4, jitter=0.0)
    assert targets.image.tolist() == list(range(6)) * 4
    for mask, box, point, usable in zip(targets.mask, targets.box, targets.point, targets.usable, strict=True):
        if not usable:
            continue
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert mask[int(point[1]), int(point[0])]
    salient = torch.stack([batch.members[i, 0][framed.parts[i]] for i in range(6)])
    assert (targets.mask[:6] == salient).all(), "the first of an image's targets is the salient object"


def test_no_prompt_is_only_used_for_salient_objects() -> None:
    kinds = objective.kinds_of(count=400, batch=100)
    assert (kinds == objective.NOTHING).nonzero().max() < 100
    shares = torch.bincount(kinds).div(400)
    assert shares[objective.NOTHING] == pytest.approx(0.06)
    assert shares[objective.BOX] == pytest.approx(0.70)


def test_the_right_mask_has_the_lower_loss(batch: Batch, framed: Framed) -> None:
    targets = objective.draw_targets(batch, framed, per_image=2)
    chosen = targets.usable.nonzero()[:, 0]
    right = (F.avg_pool2d(targets.mask[chosen][:, None].float(), 4) * 2 - 1).expand(-1, 4, -1, -1) * 8
    ious = torch.ones(len(chosen), 4)
    good, dice = objective.mask_loss(right, ious, targets, chosen, objective.BOX)
    bad, none = objective.mask_loss(-right, 0 * ious, targets, chosen, objective.BOX)
    assert good < 0.5 < bad
    assert dice > 0.85 and none < 0.2


def test_recolouring_keeps_the_padding_black(batch: Batch) -> None:
    torch.manual_seed(5)
    framed = frame(batch, 64)
    assert all(not recolour(framed)[~framed.valid.expand(-1, 3, -1, -1)].any() for _ in range(3))
