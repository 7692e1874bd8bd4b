"""DeepLabV3 with ResNet-50 (Chen et al. 2017, arXiv 1706.05587), torchvision's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amsam_ray.config.key_groups import ALWAYS, NETWORK, PIXEL_LOSS
from amsam_ray.config.methods import MethodSpec
from amsam_ray.config.params import MethodParams
from amsam_ray.config.protocol import Protocol
from amsam_ray.config.starts import Start
from amsam_ray.models.recipe import NetworkRecipe

if TYPE_CHECKING:
    import torch

    from amsam_ray.models.backbone import Backbone
    from amsam_ray.models.trained_model import TrainedModel


def _build(
    method: str, params: MethodParams, backbone: Backbone | None, device: torch.device, restored: bool
) -> TrainedModel:
    """Build the network; with ``imagenet`` its backbone starts from ResNet-50."""
    from amsam_ray.models.baselines.deeplab import build_deeplabv3, load_deeplabv3
    from amsam_ray.models.networks.imagenet import imagenet_state
    from amsam_ray.models.networks.network import Network

    given = params.features == "imagenet" and not restored
    net = load_deeplabv3(imagenet_state("resnet50")) if given else build_deeplabv3()
    return Network(method, params, net, device)


METHOD = MethodSpec(
    name="deeplabv3",
    title="DeepLabV3",
    paper="Chen et al. 2017, arXiv 1706.05587",
    trains="the whole network",
    prompt="none",
    keys={**NETWORK, **PIXEL_LOSS, "warmup": ALWAYS, "image_size": ALWAYS},
    defaults={"levels": 1, "lr": 0.01, "weight_decay": 1e-4, "lambda": 0.0, "image_size": 480},
    recipe=NetworkRecipe(_build),
    training=Protocol(optimiser="sgd"),
    start=Start("ResNet-50", "resnet50"),
)
