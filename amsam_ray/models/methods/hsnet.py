"""HSNet, hypercorrelation squeeze for few-shot segmentation (Min et al. 2021, arXiv 2104.01538)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amsam_ray.config.key_groups import NETWORK, OWN_INPUT, PIXEL_LOSS
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
    """Build the network on a frozen ResNet-50, from a file or random, or on SAM's blocks."""
    from amsam_ray.models.baselines.hsnet import HSNet, branches_of_one_grid
    from amsam_ray.models.baselines.resnet import BottleneckFeatures, build_resnet50, load_resnet50
    from amsam_ray.models.networks.few_shot import HsNetModel
    from amsam_ray.models.networks.imagenet import imagenet_state
    from amsam_ray.models.networks.maps import ResNetMaps, SamMaps, weights_fingerprint
    from amsam_ray.models.networks.network import drop_counters
    from amsam_ray.models.weights import get_weights

    if params.features == "sam":
        assert backbone is not None
        sam = SamMaps(backbone)
        branches = branches_of_one_grid(len(sam.blocks) // 3, sam.side)
        return HsNetModel(method, params, HSNet(branches, align_corners=False), sam)
    if params.features == "imagenet":
        frozen = BottleneckFeatures(load_resnet50(imagenet_state("resnet50"))).to(device)
        maps = ResNetMaps(frozen, params.image_size, get_weights("resnet50").sha256)
        return HsNetModel(method, params, HSNet(), maps)
    resnet = build_resnet50()
    drop_counters(resnet)
    frozen = BottleneckFeatures(resnet).to(device)
    return HsNetModel(
        method, params, HSNet(), ResNetMaps(frozen, params.image_size, weights_fingerprint(frozen)), frozen
    )


METHOD = MethodSpec(
    name="hsnet",
    title="HSNet",
    paper="Min et al. 2021, arXiv 2104.01538",
    trains="4-D and 2-D convolutions on correlations of frozen features",
    prompt="the other shots as support",
    keys={**NETWORK, **PIXEL_LOSS, **OWN_INPUT},
    defaults={"levels": 1, "lr": 1e-3, "weight_decay": 0.0, "lambda": 0.0, "image_size": 400},
    recipe=NetworkRecipe(_build),
    training=Protocol(optimiser="adam", schedule="constant"),
    start=Start("ResNet-50", "resnet50", ("imagenet", "sam", "random")),
    note="few-shot HSNet of Min et al. 2021, arXiv 2104.01538; AM-SAM's Table 1 cites Zhang et al. 2022",
)
