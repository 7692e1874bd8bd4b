"""The base of the models that are not SAM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amsam_ray.config.params import MethodParams
from amsam_ray.hashing import sha256_hex
from amsam_ray.models.trained_model import PIXELS, ModelInputs, ModelOutput, TrainedModel

_STATISTICS = (".running_mean", ".running_var")  # of batch normalisation


@dataclass(frozen=True)
class Pixels:
    """The frozen part of a network that trains from its first layer on: none, its input is the image.

    Attributes:
        image_size: S, the side of the square input in pixels.
        device: where the images go.
    """

    image_size: int
    device: torch.device

    @property
    def fingerprint(self) -> str:
        """The same for all sizes: it has no weights."""
        return sha256_hex("pixels")

    @property
    def output_side(self) -> int:
        """S: the networks predict at the size of their input."""
        return self.image_size

    @property
    def keeps_test_images(self) -> bool:
        """False: resizing an image again is faster than reading it."""
        return False

    def encode(self, images: Tensor, point: str) -> Tensor:
        """Return the images."""
        return images


class Network(TrainedModel):
    """A segmentation network on pixels that trains from its first layer on: DeepLabV3, SwinUnet.

    Args:
        method, params: the method's name, its hyperparameters and switches.
        net: maps (B, 3, S, S) images to (B, 2, S, S) logits, alone or as ``out`` of a dict, as torchvision's do.
        device: where it trains.
    """

    def __init__(self, method: str, params: MethodParams, net: nn.Module, device: torch.device):
        super().__init__()
        self.method, self.params, self.net = method, params, net.to(device)
        self._pixels = Pixels(params.image_size, device)
        self.lower = tuple(name for name, parameter in self.named_parameters() if parameter.requires_grad)
        drop_counters(self.net)
        self.statistics = tuple(name for name, _ in self.named_buffers() if name.endswith(_STATISTICS))
        # A pooled map has one value per channel and image, and its variance over one image is zero.
        self.least_batch = 2 if self.statistics else 1
        self.draws = any(is_random(module) for module in self.net.modules())

    @property
    def frozen(self) -> Pixels:
        """The images."""
        return self._pixels

    @property
    def cache_point(self) -> str:
        """``pixels``: nothing of the network is frozen."""
        return PIXELS

    def forward(self, inputs: ModelInputs) -> ModelOutput:
        """Return the logits of a batch."""
        found = self.net(inputs.features)
        return ModelOutput(found["out"] if isinstance(found, dict) else found)


def drop_counters(net: nn.Module) -> None:
    """Remove the step counters of batch normalisation: without effect, and no numbers that an adapter file can hold."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = None


def is_random(module: nn.Module) -> bool:
    """Return whether a module draws random numbers in training mode: dropout, and the drop path of Swin blocks."""
    share = getattr(module, "p", 0.0)
    return isinstance(share, float) and share > 0
