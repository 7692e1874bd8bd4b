"""Losses against loops written from their formulas."""

import math

import pytest
import torch
from torch import Tensor

from amsam_ray.training.losses import bce_iou, ce_dice, cross_entropy, mask_loss, soft_dice, weighted_bce

Batch = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    logits = torch.randn(3, 2, 6, 5, dtype=torch.float64)
    target = torch.rand(3, 6, 5) > 0.6
    valid = torch.ones(3, 6, 5, dtype=torch.bool)
    valid[1, 4:] = False
    return logits, target, valid


def _pixels(logits, target, valid, image):
    for y in range(6):
        for x in range(5):
            if valid[image, y, x]:
                bg, fg = (float(value) for value in logits[image, :, y, x])
                yield math.exp(fg) / (math.exp(bg) + math.exp(fg)), float(target[image, y, x])


def test_cross_entropy_by_hand(batch: Batch):
    for image, got in enumerate(cross_entropy(*batch)):
        terms = [-math.log(p if t else 1 - p) for p, t in _pixels(*batch, image)]
        assert float(got) == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_soft_dice_by_hand(batch: Batch):
    for image, got in enumerate(soft_dice(*batch)):
        pixels = list(_pixels(*batch, image))
        both = []
        for pairs in ([(1 - p, 1 - t) for p, t in pixels], pixels):
            overlap = sum(s * t for s, t in pairs)
            total = sum(s * s for s, _ in pairs) + sum(t * t for _, t in pairs)
            both.append(1 - (2 * overlap + 1e-5) / (total + 1e-5))
        assert float(got) == pytest.approx(sum(both) / 2, rel=1e-12)


def test_bce_iou_by_hand(batch: Batch):
    losses = []
    for image in range(3):
        pixels = list(_pixels(*batch, image))
        bce = sum(-math.log(p if t else 1 - p) for p, t in pixels) / len(pixels)
        overlap = sum(p * t for p, t in pixels)
        losses.append(bce + 1 - overlap / (sum(p + t for p, t in pixels) - overlap))
    assert float(bce_iou(*batch)) == pytest.approx(sum(losses) / 3, rel=1e-9)


def test_weighted_bce_by_hand(batch: Batch):
    losses = []
    for image in range(3):
        pixels = list(_pixels(*batch, image))
        losses.append(sum(-2 * math.log(p) if t else -math.log(1 - p) for p, t in pixels) / len(pixels))
    assert float(weighted_bce(*batch)) == pytest.approx(sum(losses) / 3, rel=1e-12)


def test_soft_dice_over_the_batch_by_hand(batch: Batch):
    pixels = [pixel for image in range(3) for pixel in _pixels(*batch, image)]
    both = []
    for pairs in ([(1 - p, 1 - t) for p, t in pixels], pixels):
        overlap, total = sum(s * t for s, t in pairs), sum(s * s + t * t for s, t in pairs)
        both.append(1 - (2 * overlap + 1e-5) / (total + 1e-5))
    assert float(soft_dice(*batch, over_batch=True)) == pytest.approx(sum(both) / 2, rel=1e-12)
    whole = mask_loss("ce_dice", *batch, 0.8, over_batch=True)
    assert float(whole) == pytest.approx(float(0.2 * cross_entropy(*batch).mean()) + 0.8 * sum(both) / 2)


@pytest.mark.parametrize("resize", ["bilinear", "nearest"])
def test_the_loss_is_computed_at_the_resolution_of_the_target(batch: Batch, resize):
    logits, target, valid = batch
    large = torch.nn.functional.interpolate(logits, (12, 10), mode=resize)
    target, valid = (t.repeat_interleave(2, 1).repeat_interleave(2, 2) for t in (target, valid))
    found = mask_loss("bce", logits, target, valid, 0.8, resize=resize)
    assert torch.equal(found, weighted_bce(large, target, valid))


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 1.0])
def test_eq_5_is_the_weighted_sum(batch: Batch, lambda_):
    expected = (1 - lambda_) * cross_entropy(*batch).mean() + lambda_ * soft_dice(*batch).mean()
    assert torch.allclose(ce_dice(*batch, lambda_), expected)


@pytest.mark.parametrize("kind", ["ce_dice", "bce_iou", "bce"])
def test_padding_does_not_count(batch: Batch, kind):
    logits, target, valid = batch
    other = logits.clone()
    other[1, :, 4:] += 100
    assert torch.equal(mask_loss(kind, other, target, valid, 0.8), mask_loss(kind, logits, target, valid, 0.8))


@pytest.mark.parametrize("kind", ["ce_dice", "bce_iou", "bce"])
def test_the_loss_of_a_batch_is_the_mean_of_its_parts(batch: Batch, kind):
    logits, target, valid = batch
    whole = mask_loss(kind, logits, target, valid, 0.8)
    parts = [mask_loss(kind, logits[i : i + 1], target[i : i + 1], valid[i : i + 1], 0.8) for i in range(3)]
    assert torch.allclose(whole, torch.stack(parts).mean())


@pytest.mark.parametrize("kind", ["ce_dice", "bce_iou", "bce"])
def test_a_correct_mask_has_a_lower_loss_and_empty_masks_a_finite_one(kind):
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    target = torch.zeros(1, 8, 8, dtype=torch.bool)
    target[:, 2:5, 2:6] = True
    sign = torch.where(target, 20.0, -20.0)
    right = torch.stack((-sign, sign), 1)
    assert mask_loss(kind, right, target, valid, 0.8) < 1e-3
    assert mask_loss(kind, -right, target, valid, 0.8) > 0.9
    empty = torch.tensor([50.0, -50.0]).view(1, 2, 1, 1).expand(1, 2, 8, 8).clone().requires_grad_()
    loss = mask_loss(kind, empty, torch.zeros_like(target), valid, 0.8)
    (grad,) = torch.autograd.grad(loss, empty)
    assert torch.isfinite(loss) and torch.isfinite(grad).all()
