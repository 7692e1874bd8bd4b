"""SSP's prototypes against loops over the pixels, and its figures."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from amsam_ray.models.baselines.resnet import SspTrunk, load_resnet50
from amsam_ray.models.baselines.ssp import FeatureProjection, Ssp, compare, masked_means, self_support
from tests.models.baselines.states import assert_finite_gradients, trained

H, W, C = 4, 5, 6


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def masks_of(*batch, seed=0):
    return (noise(*batch, 1, H, W, seed=seed) > 0).float()


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def literal_mean(features, mask, value):
    chosen = [features[:, i, j] for i in range(H) for j in range(W) if mask[0, i, j] == value]
    return torch.stack(chosen).mean(0)


def literal_logits(features, background, foreground):
    """Ten times the cosine of each pixel; ``background`` is a function of the pixel."""
    result = torch.zeros(2, H, W)
    for i in range(H):
        for j in range(W):
            result[0, i, j] = 10 * cosine(features[:, i, j], background(i, j))
            result[1, i, j] = 10 * cosine(features[:, i, j], foreground)
    return result


def literal_confident(features, probability, threshold):
    pixels = [(float(probability[i, j]), features[:, i, j]) for i in range(H) for j in range(W)]
    above = [feature for value, feature in pixels if value > threshold]
    best = sorted(pixels, key=lambda pixel: -pixel[0])[:12]
    return above or [feature for _, feature in best], bool(above)


def literal_adaptive(features, background):
    """The attention of one pixel over the confident background features."""

    def prototype(i, j):
        weights = [math.exp(2 * cosine(features[:, i, j], feature)) for feature in background]
        return sum(weight * feature for weight, feature in zip(weights, background, strict=True)) / sum(weights)

    return prototype


def literal_ssp(query, supports, masks):
    """One query; also which of background and object had a confident pixel."""
    foreground = sum(literal_mean(f, m, 1) for f, m in zip(supports, masks, strict=True)) / len(supports)
    background = sum(literal_mean(f, m, 0) for f, m in zip(supports, masks, strict=True)) / len(supports)
    probability = literal_logits(query, lambda i, j: background, foreground).softmax(0)
    own_foreground, sure_foreground = literal_confident(query, probability[1], 0.7)
    own_background, sure_background = literal_confident(query, probability[0], 0.6)
    mean, adaptive = torch.stack(own_background).mean(0), literal_adaptive(query, own_background)
    mixed = 0.5 * foreground + 0.5 * torch.stack(own_foreground).mean(0)
    logits = literal_logits(query, lambda i, j: 0.3 * mean + 0.7 * adaptive(i, j), mixed)
    return logits, (sure_background, sure_foreground)


def episode(case):
    """Queries (2), supports (2 x 3) and masks, in which both, none or one of the classes are found with confidence."""
    query, support, masks = noise(2, C, H, W, seed=1), noise(2, 3, C, H, W, seed=2), masks_of(2, 3, seed=3)
    if case == "none":
        query = query + 20 * noise(C, 1, 1, seed=4)
        query, support = query, support + 20 * noise(C, 1, 1, seed=4)
    elif case == "background":
        direction = noise(C, 1, 1, seed=4)
        support = support + 2 * (1 - masks) * direction
        query = 0.3 * query + direction
    return query, support, masks


@pytest.mark.parametrize(
    ("case", "confident"), [("both", (True, True)), ("background", (True, False)), ("none", (False, False))]
)
def test_the_prediction_is_the_papers(case, confident):
    query, support, masks = episode(case)
    found = Ssp(nn.Identity())(query, support, masks).query
    for index in range(2):
        expected, sure = literal_ssp(query[index], support[index], masks[index])
        assert sure == confident
        torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-4)


def test_masked_means_of_a_half_covered_position():
    """Features 1, 2, 3, 4 with shares 1, 0.5, 0, 0: object (1 + 0.5 * 2) / 1.5, background (0.5 * 2 + 3 + 4) / 2.5."""
    features = torch.tensor([1.0, 2, 3, 4]).reshape(1, 1, 2, 2)
    masks = torch.tensor([1.0, 0.5, 0, 0]).reshape(1, 1, 2, 2)
    found = masked_means(features, masks, align_corners=True)
    torch.testing.assert_close(found[0, :, 0], torch.tensor([8 / 2.5, 2 / 1.5]), rtol=1e-4, atol=1e-4)


def test_self_support_ignores_all_other_pixels():
    """Two sure object pixels and two sure background pixels; a change of the unsure ones changes no mean."""
    logits = torch.tensor([[-9.0, -9, 9, 9, 0, 0], [9, 9, -9, -9, 0, 0]]).reshape(1, 2, 1, 6)
    features = noise(1, C, 1, 6)
    changed = features.clone()
    changed[..., 4:] += 5
    background, foreground, adaptive = self_support(features, logits)
    torch.testing.assert_close(background, features[..., 2:4].mean((2, 3)))
    torch.testing.assert_close(foreground, features[..., :2].mean((2, 3)))
    moved = self_support(changed, logits)
    torch.testing.assert_close((background, foreground), moved[:2])
    torch.testing.assert_close(adaptive[..., :4], moved[2][..., :4])


def test_the_outputs_for_the_loss_use_each_images_own_prototypes():
    query, support, masks = episode("both")
    query_masks = masks_of(2, seed=5)
    found = Ssp(nn.Identity())(query, support, masks, query_masks)
    for b in range(2):
        images = [(query[b], query_masks[b], found.own[b])]
        images += [(support[b, k], masks[b, k], found.support[b, k]) for k in range(3)]
        for features, mask, logits in images:
            background, foreground = (literal_mean(features, mask, value) for value in (0, 1))
            expected = literal_logits(features, lambda i, j, mean=background: mean, foreground)
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_logits_are_ten_times_the_cosines():
    features = torch.tensor([[3.0, 4.0]]).reshape(1, 2, 1, 1)
    logits = compare(features, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    torch.testing.assert_close(logits.flatten(), torch.tensor([6.0, 8.0]))


def test_on_resnet50(resnet_state):
    """Shapes, the number of trained parameters, finite gradients and independence of the batch with the real trunk."""
    model = Ssp(SspTrunk(load_resnet50(resnet_state, stride=8)))
    assert trained(model) == 8_290_304
    query, support = noise(2, 3, 33, 41), noise(2, 2, 3, 33, 41, seed=1)
    masks = masks_of(2, 3, seed=2)
    found = model(query, support, masks[:, :2], masks[:, 2])
    assert [tuple(logits.shape) for logits in found] == [(2, 2, 5, 6), (2, 2, 5, 6), (2, 2, 2, 5, 6)]
    torch.stack([logits.square().mean() for logits in found]).sum().backward()
    assert_finite_gradients(model)
    alone = model(query[1:], support[1:], masks[1:, :2]).query
    torch.testing.assert_close(found.query[1:].detach(), alone.detach(), rtol=1e-3, atol=1e-3)


def test_on_frozen_features():
    """The projection starts as the identity and is trained; a support image without an object gives no NaN."""
    model = Ssp(FeatureProjection(C), align_corners=False)
    query, support, masks = episode("both")
    masks[0] = 0
    found = model(query, support, masks, masks[:, 0])
    plain = Ssp(nn.Identity(), align_corners=False)(query, support, masks, masks[:, 0])
    for logits, expected in zip(found, plain, strict=True):
        torch.testing.assert_close(logits, expected)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):  # the first convolution's gradient is zero until the last has moved
        optimizer.zero_grad()
        torch.stack([logits.square().mean() for logits in model(query, support, masks, masks[:, 0])]).sum().backward()
        assert_finite_gradients(model)
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    with torch.no_grad():
        together, alone = model(query, support, masks).query, model(query[1:], support[1:], masks[1:]).query
    torch.testing.assert_close(together[1:], alone)
