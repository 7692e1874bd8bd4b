"""DeepLabV3 with a ResNet-50 backbone (Chen et al. 2017, https://arxiv.org/abs/1706.05587), torchvision's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchvision.models.segmentation import deeplabv3_resnet50
from torchvision.models.segmentation.deeplabv3 import DeepLabV3

from amsam_ray.models.baselines.state import fitted_state


def build_deeplabv3(*, classes: int = 2, auxiliary: bool = False) -> DeepLabV3:
    """Build the network with random values from torch's global generator; nothing is downloaded.

    It maps images B x 3 x H x W, normalised with ImageNet's mean and deviation, to a dict of logits
    B x classes x H x W: ``out``, and ``aux`` with the auxiliary head. In training mode a batch needs at least two
    images, because the pooled branch normalises one value of each channel per image.

    Args:
        classes: number of output channels, background first.
        auxiliary: add the head on layer 3 whose loss torchvision's recipe adds with weight 0.5 (2,360,322 parameters
            more than the 39,633,986 for two classes).
    """
    # Without weights_backbone=None torchvision downloads the backbone even if weights is None.
    return deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=classes, aux_loss=auxiliary)


def load_deeplabv3(
    state: Mapping[str, Any], *, classes: int = 2, auxiliary: bool = False, where: str = ""
) -> DeepLabV3:
    """Build the network with a backbone from torchvision's official ``resnet50`` state dict; the heads are random.

    Args:
        state: weights by official name; the classifier's (``fc``) are not needed. They are copied.
        classes: see ``build_deeplabv3``.
        auxiliary: see ``build_deeplabv3``.
        where: the file that ``state`` comes from, for the error.

    Raises:
        InputError: a key is missing or a value has another shape; names the first of each.
    """
    model = build_deeplabv3(classes=classes, auxiliary=auxiliary)
    model.backbone.load_state_dict(fitted_state(state, model.backbone.state_dict(), "resnet50", where))
    return model
