"""A training step of each network reads no value from the device: it runs on tensors that have no values."""

from __future__ import annotations

import pytest
import torch

from amsam_ray.models.baselines.deeplab import build_deeplabv3
from amsam_ray.models.baselines.hsnet import HSNet, branches_of_one_grid
from amsam_ray.models.baselines.resnet import BottleneckFeatures, SspTrunk, build_resnet50
from amsam_ray.models.baselines.ssp import FeatureProjection, Ssp
from amsam_ray.models.baselines.swin_unet import SwinUnet


def deeplabv3():
    return build_deeplabv3()(torch.zeros(2, 3, 64, 64))["out"]


def swin_unet():
    return SwinUnet()(torch.zeros(2, 3, 224, 224))


def hsnet_on_resnet50():
    maps = BottleneckFeatures(build_resnet50())(torch.zeros(2, 3, 400, 400))
    return HSNet()(maps, maps, torch.zeros(2, 1, 400, 400))


def hsnet_on_sam():
    net = HSNet(branches_of_one_grid(4, 64), align_corners=False)
    maps = [torch.zeros(1, 768, 64, 64) for _ in range(12)]
    return (
        net(maps, maps, torch.zeros(1, 1, 1024, 1024)).sum()
        + net.votes(maps, [image[:, None] for image in maps], torch.zeros(1, 1, 1, 1024, 1024), (256, 256)).sum()
    )


def ssp_on_resnet50():
    images, masks = torch.zeros(2, 2, 3, 473, 473), torch.zeros(2, 2, 1, 473, 473)
    logits = Ssp(SspTrunk(build_resnet50(stride=8)))(images[:, 0], images, masks, masks[:, 0])
    assert logits.query.shape == (2, 2, 60, 60)
    return logits.query + logits.own + logits.support[:, 0]


def ssp_on_sam():
    maps, masks = torch.zeros(2, 3, 256, 64, 64), torch.zeros(2, 3, 1, 1024, 1024)
    return Ssp(FeatureProjection(256), align_corners=False)(maps[:, 0], maps, masks, masks[:, 0]).query


@pytest.mark.parametrize("step", [deeplabv3, swin_unet, hsnet_on_resnet50, hsnet_on_sam, ssp_on_resnet50, ssp_on_sam])
def test_a_step_reads_no_value(step):
    with torch.device("meta"):
        step().sum().backward()
