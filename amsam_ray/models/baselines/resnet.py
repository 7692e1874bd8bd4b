"""ResNet-50 as the feature extractor of HSNet and SSP (He et al. 2016, https://arxiv.org/abs/1512.03385).

The network is torchvision's. Both methods compare features by their cosine, and both therefore take a bottleneck's sum
before its last ReLU: after it all values are at least 0 and so is every cosine, which then separates worse, and
HSNet's clamp of negative cosines would do nothing.

Suffixes: B batch, C channels, H and W the image's size in pixels, h and w the size of a feature map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.resnet import Bottleneck, ResNet

from amsam_ray.lean_imports import on_meta_device
from amsam_ray.models.baselines.state import fitted_state


def build_resnet50(stride: Literal[8, 32] = 32) -> ResNet:
    """Build torchvision's ResNet-50 without its classifier, with random values from torch's global generator.

    Args:
        stride: pixels between the features of layer 4. For 8, layers 3 and 4 have dilated convolutions in place of
            their strides; the weights are the same.
    """
    dilate = stride == 8
    resnet = resnet50(weights=None, replace_stride_with_dilation=[False, dilate, dilate])
    del resnet.avgpool, resnet.fc
    return resnet


def load_resnet50(state: Mapping[str, Any], *, stride: Literal[8, 32] = 32, where: str = "") -> ResNet:
    """Build a ResNet-50 from torchvision's official state dict.

    Args:
        state: weights by official name; the classifier's (``fc``) are not needed. They are copied.
        stride: see ``build_resnet50``.
        where: the file that ``state`` comes from, for the error.

    Raises:
        InputError: a key is missing or a value has another shape; names the first of each.
    """
    # All values come from the state dict, so none are initialised: the meta device has no memory.
    with on_meta_device():
        resnet = build_resnet50(stride)
    resnet.load_state_dict(fitted_state(state, resnet.state_dict(), "resnet50", where), assign=True)
    return resnet


def sum_before_relu(block: Bottleneck, features_BCHW: Tensor) -> Tensor:
    """Run a bottleneck up to the sum of its two paths; torchvision's own forward is the ReLU of this."""
    x = block.relu(block.bn1(block.conv1(features_BCHW)))
    x = block.relu(block.bn2(block.conv2(x)))
    x = block.bn3(block.conv3(x))
    return x + (features_BCHW if block.downsample is None else block.downsample(features_BCHW))


class BottleneckFeatures(nn.Module):
    """HSNet's frozen features: every bottleneck of layers 2, 3 and 4 (Min et al. 2021, https://arxiv.org/abs/2104.01538).

    No parameter is trained, and batch normalisation always uses its running statistics, also after ``train()``.

    Args:
        resnet: a ResNet-50 of stride 32, which this module takes over.
    """

    def __init__(self, resnet: ResNet):
        super().__init__()
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> BottleneckFeatures:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """Return 13 maps B x C x h x w, shallow first, of images normalised with ImageNet's mean and deviation.

        4 of layer 2 (512 channels, stride 8), 6 of layer 3 (1024, stride 16), 3 of layer 4 (2048, stride 32).
        """
        x = self.layer1(self.stem(images_B3HW))
        maps = []
        for block in (*self.layer2, *self.layer3, *self.layer4):
            maps.append(sum_before_relu(block, x))
            x = maps[-1].relu()
        return maps


class SspTrunk(nn.Module):
    """SSP's features: ResNet-50 at stride 8 without layer 4 and without the last ReLU.

    From Fan et al. 2022 (https://arxiv.org/abs/2207.11549). The stem, layer 1 and all batch normalisations are frozen
    (also their statistics, also after ``train()``), so that 8,290,304 parameters are trained and an image's features do
    not depend on the batch.

    Args:
        resnet: a ResNet-50 of stride 8, which this module takes over.

    Attributes:
        channels: C of the features.
    """

    channels = 1024

    def __init__(self, resnet: ResNet):
        super().__init__()
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
        self.layer1, self.layer2, self.layer3 = resnet.layer1, resnet.layer2, resnet.layer3
        self.norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        for frozen in (self.stem, self.layer1, *self.norms):
            frozen.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> SspTrunk:
        """Set the mode of everything but the batch normalisations, which stay in evaluation mode."""
        super().train(mode)
        for norm in self.norms:
            norm.eval()
        return self

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return B x 1024 x h x w, h = ceil(H / 8), of images normalised with ImageNet's mean and deviation."""
        with torch.no_grad():
            x = self.layer1(self.stem(images_B3HW))
        x = self.layer2(x)
        *blocks, last = self.layer3
        for block in blocks:
            x = block(x)
        return sum_before_relu(last, x)
