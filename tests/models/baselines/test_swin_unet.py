"""SwinUnet: patch expanding by hand, the wiring against torchvision's Swin Transformer, and its figures."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.models import swin_t

from amsam_ray.errors import InputError
from amsam_ray.models.baselines.swin_unet import PatchExpanding, SwinUnet, load_swin_unet
from tests.models.baselines.states import assert_finite_gradients, official_swin_t, output_shapes, trained

IMAGES = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def state():
    return official_swin_t()


@pytest.fixture(scope="module")
def model(state):
    return load_swin_unet(state)


def test_patch_expanding_by_hand():
    """Two tokens of one channel, 1 and 10, are written as 2 x 2 cells of two channels side by side."""
    expanding = PatchExpanding(1, 2, 2)
    with torch.no_grad():
        expanding.expand.weight.copy_(torch.arange(8.0).reshape(8, 1))
    cells: list[torch.Tensor] = []
    expanding.norm.register_forward_pre_hook(lambda _, given: cells.append(given[0]))
    expanding(torch.tensor([1.0, 10.0]).reshape(1, 1, 2, 1))
    assert cells[0].tolist() == [[[[0, 1], [2, 3], [0, 10], [20, 30]], [[4, 5], [6, 7], [40, 50], [60, 70]]]]


def test_patch_expanding_normalises_the_new_tokens():
    expanding = PatchExpanding(4, 2, 2)
    found = expanding(torch.randn(1, 3, 3, 4))
    assert found.shape == (1, 6, 6, 2)
    torch.testing.assert_close(found.sum(3), torch.zeros(1, 6, 6))  # the two channels are +1 and -1
    assert trained(PatchExpanding(768, 2, 384)) == 768 * 2 * 768 + 2 * 384


def literal_expand(expanding, x):
    factor = expanding.factor
    values = F.linear(x, expanding.expand.weight)
    channels = values.shape[3] // factor**2
    result = x.new_zeros(len(x), x.shape[1] * factor, x.shape[2] * factor, channels)
    for row in range(factor):
        for column in range(factor):
            cell = row * factor + column
            result[:, row::factor, column::factor] = values[..., cell * channels : (cell + 1) * channels]
    norm = expanding.norm
    return F.layer_norm(result, (channels,), norm.weight, norm.bias)


def test_the_forward_pass_joins_torchvisions_stages_as_the_paper_does(model, state):
    """An encoder of depths 2, 2, 2, 2 from the official file; the decoder's steps one by one."""
    encoder = swin_t(weights=None)
    encoder.load_state_dict(state)
    encoder.eval()
    stem, one, down_one, two, down_two, three, down_three, four = encoder.features
    with torch.no_grad():
        first = one(stem(IMAGES))
        second = two(down_one(first))
        third = three[:2](down_two(second))
        x = encoder.norm(four(down_three(third)))
        for stage, skip, blocks in zip(range(3), (third, second, first), (three[:2], two, one), strict=True):
            joined = torch.cat([literal_expand(model.expands[stage], x), skip], dim=3)
            x = blocks(F.linear(joined, model.fuse[stage].weight, model.fuse[stage].bias))
        pixels = literal_expand(model.enlarge, F.layer_norm(x, (96,)))
        expected = torch.einsum("bhwc,oc->bohw", pixels, model.classify.weight[:, :, 0, 0])
        torch.testing.assert_close(model.eval()(IMAGES), expected, rtol=1e-3, atol=1e-4)


def test_shapes_of_every_stage_at_224_pixels():
    with torch.device("meta"):
        model = SwinUnet()
        parts = (*model.encoder.features, *model.expands, *model.fuse, *model.decode, model.enlarge)
        with output_shapes(*parts) as shapes:
            logits = model(torch.zeros(1, 3, 224, 224))
    down = [(56, 96), (56, 96), (28, 192), (28, 192), (14, 384), (14, 384), (7, 768), (7, 768)]
    up = [(14, 384)] * 3 + [(28, 192)] * 3 + [(56, 96)] * 3 + [(224, 96)]
    assert shapes == [(1, side, side, width) for side, width in down + up]
    assert logits.shape == (1, 2, 224, 224)


def test_parameters_and_drop_path():
    with torch.device("meta"):
        model = SwinUnet()
    assert trained(model) == 27_168_228
    found = [[block.stochastic_depth.p for block in stage] for stage in (*model.encoder.features[1::2], *model.decode)]
    torch.testing.assert_close(torch.tensor(found[:4]).flatten(), torch.linspace(0, 0.2, 8))
    assert found[4:] == found[2::-1]


def test_a_prediction_does_not_depend_on_the_batch_and_gradients_are_finite(model):
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(IMAGES)[1:], model(IMAGES[1:]), rtol=1e-4, atol=1e-4)
    model.train()(IMAGES[:1]).square().mean().backward()
    assert_finite_gradients(model)


def test_another_state_dict_is_refused(state):
    wrong = {name: value for name, value in state.items() if not name.startswith("features.3.")}
    with pytest.raises(InputError, match=r"s\.pth: is no swin_t state dict: 26 of 119 keys .* features\.3\.0\.norm1"):
        load_swin_unet(wrong, where="s.pth")
