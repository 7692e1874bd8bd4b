"""Feature maps of several layers of a frozen network, stored as one vector per image.

Suffixes: B images, C channels, h and w the size of a map, P the values of all maps of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_ray.errors import InputError, Problem
from amsam_ray.hashing import sha256_hex
from amsam_ray.models.backbone import Backbone
from amsam_ray.models.baselines.resnet import BottleneckFeatures
from amsam_ray.models.frozen_vit import all_tokens

MAPS = "maps"
"""The cache point of several maps."""

LARGEST_GRID = 32
"""Sides of SAM's maps above this are averaged down to it: all pairs of positions of a 64 x 64 grid are 17 million."""

Shapes = tuple[tuple[int, int, int], ...]


def pack(maps_BChw: Sequence[Tensor]) -> Tensor:
    """Return the maps one after the other, B x P."""
    return torch.cat([one.flatten(1) for one in maps_BChw], dim=1)


def unpack(packed_BP: Tensor, shapes: Shapes) -> list[Tensor]:
    """Return the maps that ``pack`` joined; ``shapes`` are their (C, h, w)."""
    parts = packed_BP.split([math.prod(shape) for shape in shapes], dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]


@dataclass(frozen=True)
class ResNetMaps:
    """The bottlenecks of a frozen ResNet-50's layers 2, 3 and 4, as HSNet compares them.

    Attributes:
        net: on its device.
        image_size: S, the side of the square input in pixels.
        fingerprint: 64 hex digits that identify the weights.
    """

    net: BottleneckFeatures
    image_size: int
    fingerprint: str

    @property
    def shapes(self) -> Shapes:
        """(C, h, w) of each map; every stride of 2 rounds up."""
        side = [math.ceil(self.image_size / stride) for stride in (8, 16, 32)]
        return tuple(
            (channels, side[place], side[place])
            for place, (channels, count) in enumerate(((512, 4), (1024, 6), (2048, 3)))
            for _ in range(count)
        )

    @property
    def output_side(self) -> int:
        """S, the size at which HSNet's loss is published."""
        return self.image_size

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.net.parameters()).device

    @property
    def keeps_test_images(self) -> bool:
        """False: at 400 px an image has 40 MB of maps."""
        return False

    def encode(self, images: Tensor, point: str) -> Tensor:
        """Return B x P."""
        return pack(self.net(images))


@dataclass(frozen=True)
class SamMaps:
    """The outputs of SAM's encoder blocks; all have one grid.

    Attributes:
        backbone: the frozen SAM.
        blocks: numbers of the blocks whose outputs are used, in groups of equal size: the branches of HSNet.
    """

    backbone: Backbone
    blocks: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not hasattr(self.backbone.sam.image_encoder, "blocks"):
            what = f"sam needs the encoder blocks of a ViT, which {self.backbone.arch} does not have; use another arch"
            raise InputError(Problem("features", what))
        depth = self.backbone.depth
        object.__setattr__(self, "blocks", tuple(range(depth % 3, depth)))

    @property
    def side(self) -> int:
        """Side of a map."""
        return min(self.backbone.grid, LARGEST_GRID)

    @property
    def shapes(self) -> Shapes:
        """(C, h, w) of each map."""
        return ((self.backbone.width, self.side, self.side),) * len(self.blocks)

    @property
    def fingerprint(self) -> str:
        """That of SAM."""
        return self.backbone.fingerprint

    @property
    def image_size(self) -> int:
        """SAM's S."""
        return self.backbone.image_size

    @property
    def output_side(self) -> int:
        """That of SAM's decoder."""
        return self.backbone.output_side

    @property
    def device(self) -> torch.device:
        """That of SAM."""
        return self.backbone.device

    @property
    def keeps_test_images(self) -> bool:
        """False for the official sizes, whose maps take tens of megabytes."""
        return self.backbone.arch == "nano"

    @torch.no_grad()
    def encode(self, images: Tensor, point: str) -> Tensor:
        """Return B x P, the maps averaged to at most ``LARGEST_GRID``."""
        maps = []
        for block, tokens in enumerate(all_tokens(self.backbone.sam.image_encoder, images), start=-1):
            if block in self.blocks:
                maps.append(F.adaptive_avg_pool2d(tokens.permute(0, 3, 1, 2), self.side))
        return pack(maps)


def weights_fingerprint(net: BottleneckFeatures) -> str:
    """Return the SHA-256 of a network's weights, for weights that are in no file."""
    return sha256_hex("/".join(sha256_hex(value.cpu().numpy().tobytes()) for value in net.state_dict().values()))
