"""HSNet against loops over the positions, and its figures."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from amsam_ray.models.baselines.hsnet import (
    RESNET50,
    Branch,
    CentrePivotConv4d,
    HSNet,
    branches_of_one_grid,
    share_of_votes,
)
from tests.models.baselines.states import assert_finite_gradients, output_shapes, trained

RANDOM = torch.Generator().manual_seed(0)


def noise(*shape):
    return torch.randn(shape, generator=RANDOM)


def square_masks(*batch, side=64):
    masks = torch.zeros(*batch, 1, side, side)
    masks[..., side // 4 : side // 2, side // 4 :] = 1
    return masks


def pyramid(batch, *sizes, channels=(6, 7, 8), maps=(4, 6, 3)):
    return [
        noise(batch, width, size, size)
        for count, width, size in zip(maps, channels, sizes, strict=True)
        for _ in range(count)
    ]


def naive_conv4d(x, conv, stride):
    """A full 4-D convolution, position by position, with a kernel that is 0 off the two pivots."""
    (outputs, inputs, side, _), half = conv.query.weight.shape, conv.query.weight.shape[2] // 2
    kernel = torch.zeros(outputs, inputs, side, side, side, side)
    kernel[:, :, :, :, half, half] += conv.query.weight
    kernel[:, :, half, half] += conv.support.weight
    padded = F.pad(x, (half,) * 8)
    batch, _, h, w, s, t = x.shape
    result = torch.zeros(batch, outputs, h, w, -(-s // stride), -(-t // stride))
    for b, i, j, u, v in product(*map(range, (batch, h, w, *result.shape[4:]))):
        k, m = u * stride, v * stride
        window = padded[b, :, i : i + side, j : j + side, k : k + side, m : m + side]
        result[b, :, i, j, u, v] = (kernel * window).flatten(1).sum(1) + conv.query.bias + conv.support.bias
    return result


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 4)])
def test_centre_pivot_convolution_is_the_4d_convolution_with_a_sparse_kernel(kernel, stride):
    conv = CentrePivotConv4d(2, 3, kernel, stride)
    x = noise(2, 2, 3, 2, 5, 4)
    torch.testing.assert_close(conv(x), naive_conv4d(x, conv, stride))


def test_correlations_are_the_clamped_cosines_with_the_masked_support():
    net = HSNet((Branch(1, (3, 3, 3), (1, 1, 1)),) * 3)
    query, support = ([noise(1, 5, 2, 3) for _ in range(3)] for _ in range(2))
    masks = torch.tensor([[1.0, 0, 0.5], [0, 1, 0]]).reshape(1, 1, 2, 3)
    for found, ours, theirs in zip(net.correlations(query, support, masks), query, support, strict=True):
        assert found.shape == (1, 1, 2, 3, 2, 3)
        for i, j, k, m in product(range(2), range(3), range(2), range(3)):
            cosine = F.cosine_similarity(ours[0, :, i, j], theirs[0, :, k, m] * masks[0, 0, k, m], dim=0)
            torch.testing.assert_close(found[0, 0, i, j, k, m], cosine.clamp(min=0))


def literal_squeeze(layers, x, strides):
    """The blocks of a branch by their formulas, a 4-D tensor per sample and channel."""
    for (conv, norm), stride in zip(zip(layers[::3], layers[1::3], strict=True), strides, strict=True):
        x = naive_conv4d(x, conv, stride)
        groups = x.unflatten(1, (4, -1))
        axes = tuple(range(2, groups.ndim))
        mean, spread = groups.mean(axes, keepdim=True), groups.var(axes, correction=0, keepdim=True)
        x = ((groups - mean) / (spread + 1e-5).sqrt()).flatten(1, 2)
        x = (x * norm.weight.reshape(-1, 1, 1, 1, 1) + norm.bias.reshape(-1, 1, 1, 1, 1)).clamp(min=0)
    return x


def test_the_forward_pass_is_the_papers_at_the_smallest_size():
    net = HSNet((Branch(1, (3, 3, 3), (4, 1, 1)), Branch(2, (3, 3, 3), (2, 1, 1)), Branch(1, (3, 3, 3), (1, 1, 1))))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(noise(*parameter.shape), alpha=0.05)
    sizes = {"channels": (4, 4, 4), "maps": (1, 2, 1)}
    query, support = (pyramid(1, 4, 2, 1, **sizes) for _ in range(2))
    masks = square_masks(1, side=8)
    with torch.no_grad():
        fine, middle, coarse = (
            literal_squeeze(layers, x, (stride, 1, 1))
            for layers, x, stride in zip(net.squeeze, net.correlations(query, support, masks), (4, 2, 1), strict=True)
        )
        # All three have one support position left; the query grids are 4, 2 and 1.
        mixed = literal_squeeze(net.mix[0], coarse.expand_as(middle) + middle, (1, 1, 1))
        larger = F.interpolate(mixed[..., 0, 0], (4, 4), mode="bilinear", align_corners=True)[..., None, None]
        mixed = literal_squeeze(net.mix[1], larger + fine, (1, 1, 1)).mean((4, 5))
        first, second, third, fourth = (net.decode[0], net.decode[2], net.classify[0], net.classify[2])
        x = second(first(mixed).relu()).relu()
        x = F.interpolate(x, (8, 8), mode="bilinear", align_corners=True)
        torch.testing.assert_close(net(query, support, masks), fourth(third(x).relu()), rtol=1e-4, atol=1e-4)


def test_parameter_counts():
    assert trained(HSNet(RESNET50)) == 2_573_794
    assert trained(HSNet(branches_of_one_grid(2, grid=16))) == 2_533_890


def test_shapes_of_resnet50_features():
    """The grids of an image of 104 pixels; 400 pixels have 50, 25 and 13."""
    net = HSNet()
    query, support = (pyramid(1, 13, 7, 4) for _ in range(2))
    with torch.no_grad(), output_shapes(*net.squeeze, *net.mix, net.decode) as shapes:
        logits = net(query, support, square_masks(1))
    assert shapes == [
        *((1, 128, grid, grid, 1, 1) for grid in (13, 7, 4)),
        *((1, 128, grid, grid, 1, 1) for grid in (7, 13)),
        (1, 64, 13, 13),
    ]
    assert logits.shape == (1, 2, 26, 26)


@pytest.mark.parametrize(("grid", "sizes"), [(16, (8, 4, 2)), (32, (8, 4, 2)), (64, (16, 4, 2))])
def test_shapes_of_one_grid(grid, sizes):
    """Every stage of a branch of the nano SAM (16) and of ViT grids, here with a small query."""
    net = HSNet(branches_of_one_grid(1, grid), align_corners=False)
    query, support = ([noise(1, 3, side, side) for _ in range(3)] for side in (2, grid))
    with torch.no_grad(), output_shapes(*list(net.squeeze[0].children())[::3], net.decode) as shapes:
        logits = net(query, support, square_masks(1, side=4 * grid))
    widths = zip((16, 64, 128), sizes, strict=True)
    assert shapes == [*((1, width, 2, 2, side, side) for width, side in widths), (1, 64, 2, 2)]
    assert logits.shape == (1, 2, 4, 4)


def test_the_votes_of_three_support_images():
    """Three 1 x 3 images: one with votes 3, 1 and 2; one with votes 1, 0 and 0; one without any."""
    finds = torch.tensor(
        [[[1, 1, 1], [1, 0, 0], [0, 0, 0]], [[1, 0, 1], [0, 0, 0], [0, 0, 0]], [[1, 0, 0]] + [[0] * 3] * 2]
    )
    logits = torch.stack([-finds, finds], dim=2)[:, :, :, None].float()
    shares = share_of_votes(logits)
    torch.testing.assert_close(shares[:, 0], torch.tensor([[1, 1 / 3, 2 / 3], [1, 0, 0], [0, 0, 0]]))
    assert (shares >= 0.5).tolist() == [[[True, False, True]], [[True, False, False]], [[False] * 3]]


def test_k_shots_are_k_passes():
    net = HSNet(branches_of_one_grid(1, 4), align_corners=False)
    query, support = [noise(2, 3, 4, 4) for _ in range(3)], [noise(2, 3, 3, 4, 4) for _ in range(3)]
    masks = square_masks(2, 3, side=16)
    with torch.no_grad():
        passes = [net(query, [maps[:, k] for maps in support], masks[:, k]) for k in range(3)]
        middle = torch.cat([logits[:, 1] - logits[:, 0] for logits in passes]).median()
        net.get_parameter("classify.2.bias")[0] += middle  # so that about half of the pixels are object
        found = net.votes(query, support, masks, (16, 16))
        passes = [net(query, [maps[:, k] for maps in support], masks[:, k]) for k in range(3)]
    objects = torch.stack([F.interpolate(logits, (16, 16), mode="bilinear").argmax(1) for logits in passes]).sum(0)
    assert 0 < found.mean() < 1
    torch.testing.assert_close(found, objects / objects.amax((1, 2), keepdim=True))


def test_gradients_are_finite_also_with_an_empty_mask():
    net = HSNet(branches_of_one_grid(2, 8), align_corners=False)
    query, support = ([noise(2, 3, 8, 8) for _ in range(6)] for _ in range(2))
    masks = square_masks(2)
    masks[0] = 0
    net(query, support, masks).square().mean().backward()
    assert_finite_gradients(net)


def test_a_prediction_does_not_depend_on_the_batch():
    net = HSNet(branches_of_one_grid(2, 8), align_corners=False)
    query, support = ([noise(3, 3, 8, 8) for _ in range(6)] for _ in range(2))
    masks = square_masks(3)
    with torch.no_grad():
        together = net(query, support, masks)
        alone = net([maps[1:2] for maps in query], [maps[1:2] for maps in support], masks[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
