"""SSP, self-support few-shot segmentation (Fan et al. 2022, arXiv 2207.11549)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amsam_ray.config.key_groups import ALWAYS, NETWORK, OWN_INPUT, PIXEL_LOSS
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
    """Build SSP on a ResNet-50, from a file or random, or on SAM's embedding."""
    from amsam_ray.models.baselines.resnet import SspTrunk, build_resnet50, load_resnet50
    from amsam_ray.models.baselines.ssp import FeatureProjection, Ssp
    from amsam_ray.models.networks.few_shot import SspModel
    from amsam_ray.models.networks.imagenet import imagenet_state
    from amsam_ray.models.networks.network import Pixels, drop_counters
    from amsam_ray.models.trained_model import PIXELS

    if params.features == "sam":
        assert backbone is not None
        channels = backbone.sam.prompt_encoder.embed_dim
        on_sam = Ssp(FeatureProjection(channels), align_corners=False)
        return SspModel(method, params, on_sam, backbone, channels=channels, point="embedding")
    if params.features == "imagenet" and not restored:
        resnet = load_resnet50(imagenet_state("resnet50"), stride=8)
    else:
        resnet = build_resnet50(8)
    drop_counters(resnet)
    trunk = SspTrunk(resnet)
    pixels = Pixels(params.image_size, device)
    return SspModel(method, params, Ssp(trunk), pixels, channels=trunk.channels, point=PIXELS)


METHOD = MethodSpec(
    name="ssp",
    title="SSP",
    paper="Fan et al. 2022, arXiv 2207.11549",
    trains="layers 2 and 3 of the network; on SAM's embedding, a projection",
    prompt="the other shots as support",
    keys={**NETWORK, **PIXEL_LOSS, **OWN_INPUT, "prototypes": ALWAYS},
    defaults={"levels": 1, "lr": 1e-3, "weight_decay": 5e-4, "lambda": 0.0, "image_size": 473},
    recipe=NetworkRecipe(_build),
    training=Protocol(optimiser="sgd", schedule="step"),
    start=Start("ResNet-50", "resnet50", ("imagenet", "sam", "random")),
)
