"""DeepLabV3 against its formulas on torchvision's ResNet-50, and its figures."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from amsam_ray.errors import InputError
from amsam_ray.models.baselines.deeplab import build_deeplabv3, load_deeplabv3
from amsam_ray.models.baselines.resnet import load_resnet50
from tests.models.baselines.states import assert_finite_gradients, output_shapes, trained

IMAGES = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model(resnet_state):
    return load_deeplabv3(resnet_state, auxiliary=True)


def normalised(norm, x):
    """A batch normalisation that has seen no image yet: mean 0, variance 1."""
    return (x / (1 + norm.eps) ** 0.5).relu()


def test_the_head_is_atrous_spatial_pyramid_pooling_on_stride_8(model, resnet_state):
    backbone = load_resnet50(resnet_state, stride=8).eval()
    aspp, conv, norm, _, last = model.classifier
    with torch.no_grad(), output_shapes(model.backbone.layer3, model.backbone.layer4, aspp) as shapes:
        x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(IMAGES))))
        x = backbone.layer4(backbone.layer3(backbone.layer2(backbone.layer1(x))))
        branches = [normalised(aspp.convs[0][1], F.conv2d(x, aspp.convs[0][0].weight))]
        for rate, branch in zip((12, 24, 36), aspp.convs[1:4], strict=True):
            branches.append(normalised(branch[1], F.conv2d(x, branch[0].weight, padding=rate, dilation=rate)))
        pooled = normalised(aspp.convs[4][2], F.conv2d(x.mean((2, 3), keepdim=True), aspp.convs[4][1].weight))
        joined = torch.cat([*branches, pooled.expand(-1, -1, *x.shape[2:])], dim=1)
        projected = normalised(aspp.project[1], F.conv2d(joined, aspp.project[0].weight))
        logits = last(normalised(norm, F.conv2d(projected, conv.weight, padding=1)))
        expected = F.interpolate(logits, (48, 40), mode="bilinear")
        torch.testing.assert_close(model.eval()(IMAGES)["out"], expected, rtol=1e-3, atol=1e-4)
    assert shapes == [(2, 1024, 6, 5), (2, 2048, 6, 5), (2, 256, 6, 5)]


def test_parameter_counts():
    with torch.device("meta"):
        assert trained(build_deeplabv3()) == 39_633_986
        assert trained(build_deeplabv3(auxiliary=True)) == 41_994_308


def test_a_prediction_does_not_depend_on_the_batch_and_gradients_are_finite(model):
    with torch.no_grad():
        together, alone = model.eval()(IMAGES)["out"], model(IMAGES[1:])["out"]
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-4)
    outputs = model.train()(IMAGES)
    assert [tuple(logits.shape) for logits in outputs.values()] == [(2, 2, 48, 40)] * 2
    (outputs["out"].square().mean() + outputs["aux"].square().mean()).backward()
    assert_finite_gradients(model)


def test_another_state_dict_is_refused(resnet_state):
    wrong = {name: value for name, value in resnet_state.items() if name != "conv1.weight"}
    with pytest.raises(InputError, match=r"r\.pth: is no resnet50 state dict: 1 of 318 keys .* conv1\.weight"):
        load_deeplabv3(wrong, where="r.pth")
