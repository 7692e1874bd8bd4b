"""The features of HSNet and SSP against torchvision's ResNet-50."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.models import resnet50

from amsam_ray.errors import InputError
from amsam_ray.models.baselines.resnet import BottleneckFeatures, SspTrunk, load_resnet50
from tests.models.baselines.states import trained

IMAGES = torch.randn(2, 3, 72, 64, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def features(resnet_state):
    return BottleneckFeatures(load_resnet50(resnet_state))


@pytest.fixture(scope="module")
def trunk(resnet_state):
    return SspTrunk(load_resnet50(resnet_state, stride=8))


def torchvisions(state, stages, **options):
    """The output of each block of ``stages`` in torchvision's own forward."""
    with torch.device("meta"):
        resnet = resnet50(weights=None, **options)
    resnet.load_state_dict(state, assign=True)
    outputs = []
    for stage in stages:
        for block in getattr(resnet, stage):
            block.register_forward_hook(lambda _, __, output: outputs.append(output))
    with torch.no_grad():
        resnet.eval()(IMAGES)
    return outputs


def test_the_maps_are_the_bottlenecks_before_their_last_relu(features, resnet_state):
    maps = features(IMAGES)
    expected = torchvisions(resnet_state, ("layer2", "layer3", "layer4"))
    assert [tuple(found.shape[1:]) for found in maps] == [(512, 9, 8)] * 4 + [(1024, 5, 4)] * 6 + [(2048, 3, 2)] * 3
    for found, after_relu in zip(maps, expected, strict=True):
        torch.testing.assert_close(F.relu(found), after_relu)
        assert (found < 0).any()


def test_features_train_nothing_and_stay_in_evaluation_mode(features):
    assert trained(features) == 0
    assert not any(module.training for module in features.train().modules())


def test_the_trunk_is_layer_3_at_stride_8_before_its_last_relu(trunk, resnet_state):
    found = trunk(IMAGES)
    dilated = torchvisions(resnet_state, ("layer3",), replace_stride_with_dilation=[False, True, False])
    assert found.shape == (2, 1024, 9, 8)
    torch.testing.assert_close(F.relu(found), dilated[-1])
    assert (found < 0).any()


def test_the_trunk_trains_the_convolutions_of_layers_2_and_3_alone(trunk, resnet_state):
    assert trained(trunk) == 8_290_304
    names = {name.split(".")[0] for name, parameter in trunk.named_parameters() if parameter.requires_grad}
    assert names == {"layer2", "layer3"}
    trunk.train()(IMAGES)
    state = trunk.state_dict()
    for name in ("layer2.0.bn1.running_mean", "layer3.5.bn3.running_var"):
        torch.testing.assert_close(state[name], resnet_state[name])


def test_a_map_does_not_depend_on_the_batch(features, trunk):
    trunk.train()
    torch.testing.assert_close(trunk(IMAGES)[1:], trunk(IMAGES[1:]), rtol=1e-4, atol=1e-4)
    for together, alone in zip(features(IMAGES), features(IMAGES[1:]), strict=True):
        torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-4)


def test_loading_copies_and_needs_neither_classifier_nor_counters(resnet_state):
    state = {name: value for name, value in resnet_state.items() if not name.startswith("fc")}
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    resnet = load_resnet50(state)
    found = resnet.state_dict()
    assert {name for name in found if name not in state} == {
        name for name in found if name.endswith("num_batches_tracked")
    }
    for name, value in state.items():
        assert found[name].equal(value), name
        assert found[name].data_ptr() != value.data_ptr(), name
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in resnet.parameters())


def test_another_state_dict_is_refused_with_every_reason(resnet_state):
    wrong = {name: value for name, value in resnet_state.items() if not name.startswith("layer4.1.")}
    wrong["layer3.0.conv2.weight"] = torch.zeros(256, 128, 3, 3)
    wrong["bn1.bias"] = [0.0] * 64
    with pytest.raises(InputError) as refused:
        load_resnet50(wrong, where="r50.pth")
    assert [str(problem).split("; ")[0] for problem in refused.value.problems] == [
        "r50.pth: is no resnet50 state dict: 15 of 318 keys are missing, the first is layer4.1.conv1.weight",
        "r50.pth: is no resnet50 state dict: bn1.bias is a list, not a tensor",
        "r50.pth: is no resnet50 state dict: 1 key of another shape, the first is layer3.0.conv2.weight: "
        "(256, 128, 3, 3), not (256, 256, 3, 3)",
    ]
    assert "amsam-ray weights fetch resnet50" in str(refused.value)
