"""Swin-Unet (Cao et al. 2021, arXiv 2105.05537)."""

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
    """Build the network; with ``imagenet`` its encoder and the decoder's blocks start from Swin-T."""
    from amsam_ray.models.baselines.swin_unet import SwinUnet, load_swin_unet
    from amsam_ray.models.networks.imagenet import imagenet_state
    from amsam_ray.models.networks.network import Network

    given = params.features == "imagenet" and not restored
    net = load_swin_unet(imagenet_state("swin_t")) if given else SwinUnet()
    return Network(method, params, net, device)


METHOD = MethodSpec(
    name="swin_unet",
    title="Swin-Unet",
    paper="Cao et al. 2021, arXiv 2105.05537",
    trains="the whole network",
    prompt="none",
    keys={**NETWORK, **PIXEL_LOSS, "warmup": ALWAYS, "image_size": ALWAYS},
    defaults={"levels": 1, "lr": 0.05, "weight_decay": 1e-4, "lambda": 0.6, "image_size": 224},
    recipe=NetworkRecipe(_build),
    training=Protocol(optimiser="sgd"),
    start=Start("Swin-T", "swin_t", size_step=32),
)
