"""HSNet and SSP as models of the training loop: they compare an image with labelled ones, their support.

In training every query has one support image. For predictions a model remembers what it needs of all K.

Suffixes: B queries, K support images, C channels, h the side of the square of logits, P the values of an image's maps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amsam_ray.config.params import MethodParams
from amsam_ray.models.baselines.hsnet import HSNet
from amsam_ray.models.baselines.ssp import Ssp, nearest
from amsam_ray.models.networks.maps import MAPS, ResNetMaps, SamMaps, unpack
from amsam_ray.models.trained_model import Auxiliary, FrozenEncoder, ModelInputs, ModelOutput, Support, TrainedModel

_EPS = 1e-3  # of a share of votes, which has no logit at 0 and 1
SUPPORT_WEIGHT = 0.2
"""Weight of SSP's loss on the support images (Fan et al. 2022, arXiv 2207.11549)."""


class HsNetModel(TrainedModel):
    """HSNet on the maps of a frozen network.

    It remembers the support's maps in bfloat16, since K of them can be hundreds of megabytes, and its masks.

    Args:
        method, params: the method's name, its hyperparameters and switches.
        net: fits the maps of ``maps``.
        maps: the frozen network.
        kept: the frozen network, if its weights are in no published file; its tensors belong to the state.
    """

    remembered = ("support_maps", "support_masks")
    largest_batch = 8

    def __init__(
        self,
        method: str,
        params: MethodParams,
        net: HSNet,
        maps: ResNetMaps | SamMaps,
        kept: nn.Module | None = None,
    ):
        super().__init__()
        self.method, self.params, self.net, self._maps = method, params, net, maps
        values = sum(channels * height * width for channels, height, width in maps.shapes)
        self.support_maps: Tensor
        self.support_masks: Tensor
        self.register_buffer("support_maps", torch.zeros(0, values, dtype=torch.bfloat16))
        self.register_buffer("support_masks", torch.zeros(0, maps.output_side, maps.output_side))
        self.frozen_net = kept
        self.lower = tuple(name for name, parameter in self.named_parameters() if parameter.requires_grad)
        self.kept = () if kept is None else tuple(f"frozen_net.{name}" for name in kept.state_dict())
        self.to(maps.device)

    @property
    def frozen(self) -> FrozenEncoder:
        """The network whose maps are compared."""
        return self._maps

    @property
    def cache_point(self) -> str:
        """Several maps."""
        return MAPS

    def forward(
        self, inputs: ModelInputs | Support, support: Support | None = None, truth: Support | None = None
    ) -> ModelOutput | dict[str, Tensor]:
        """Return logits; for a ``Support``, what is remembered of it.

        Args:
            inputs: the queries, or a support of K images.
            support: one image for each query; None compares all queries with the remembered support.
            truth: the queries with their true masks, which HSNet does not use.
        """
        if isinstance(inputs, Support):
            return {
                "support_maps": inputs.features.to(self.support_maps.dtype),
                "support_masks": inputs.masks.to(self.support_masks.dtype),
            }
        query = self._unpack(inputs.features)
        side = self._maps.output_side
        if support is not None:
            theirs = self._unpack(support.features)
            logits = self.net(query, theirs, support.masks[:, None].to(inputs.features.dtype))
            return ModelOutput(self.net.resize(logits, (side, side)))
        count = inputs.features.shape[0]
        remembered = self._unpack(self.support_maps.to(inputs.features.dtype))
        theirs = [maps[None].expand(count, *maps.shape) for maps in remembered]
        masks = self.support_masks[None, :, None].expand(count, -1, -1, -1, -1)
        share = self.net.votes(query, theirs, masks, (side, side))
        # The object is where the share is at least a half; the offset decides a tie of votes.
        logit = ((share + _EPS) / (1 - share + _EPS)).log() + _EPS
        return ModelOutput(torch.stack((torch.zeros_like(logit), logit), dim=1))

    def _unpack(self, packed_BP: Tensor) -> list[Tensor]:
        return unpack(packed_BP, self._maps.shapes)


class SspModel(TrainedModel):
    """SSP on images, with a trained ResNet-50, or on SAM's embeddings, with a trained projection.

    It remembers prototypes: the mean background of all support images, and ``params.prototypes`` of the object, each
    the mean of a part of the support images, one after the other. Of several, a position is compared with the nearest.

    Args:
        method, params: the method's name, its hyperparameters and switches.
        ssp: with its feature extractor.
        frozen: what the extractor reads: ``Pixels``, or SAM.
        channels: C of the extractor's features.
        point: the cache point of ``frozen``.
    """

    remembered = ("background", "foreground")

    def __init__(
        self, method: str, params: MethodParams, ssp: Ssp, frozen: FrozenEncoder, *, channels: int, point: str
    ):
        super().__init__()
        self.method, self.params, self.ssp = method, params, ssp
        self._frozen, self._point = frozen, point
        self.background: Tensor
        self.foreground: Tensor
        self.register_buffer("background", torch.zeros(0, channels))
        self.register_buffer("foreground", torch.zeros(0, channels))
        self.lower = tuple(name for name, parameter in self.named_parameters() if parameter.requires_grad)
        # All of the network that does not train is small: layer 1, and normalisations.
        self.kept = tuple(f"ssp.{name}" for name in self.ssp.state_dict() if f"ssp.{name}" not in self.lower)
        self.to(frozen.device)

    @property
    def frozen(self) -> FrozenEncoder:
        """What the extractor reads."""
        return self._frozen

    @property
    def cache_point(self) -> str:
        """SAM's embedding, or the image itself."""
        return self._point

    def forward(
        self, inputs: ModelInputs | Support, support: Support | None = None, truth: Support | None = None
    ) -> ModelOutput | dict[str, Tensor]:
        """Return logits; for a ``Support``, what is remembered of it. Arguments as ``HsNetModel.forward``.

        In training, also the queries with the prototypes of their own masks, and the support images with theirs.
        """
        if isinstance(inputs, Support):
            return self._prototypes(inputs)
        if support is None or truth is None:
            return ModelOutput(self._resize(self._predict(self.ssp.extract(inputs.features))))
        found = self.ssp(
            inputs.features,
            support.features[:, None],
            support.masks[:, None, None],
            truth.masks[:, None],
            support_valid=support.valid[:, None, None],
            query_valid=truth.valid[:, None],
        )
        output = ModelOutput(self._resize(found.query))
        output.auxiliary += [
            Auxiliary(self._resize(found.own), "query", 1.0),
            Auxiliary(self._resize(found.support.squeeze(1)), "support", SUPPORT_WEIGHT),
        ]
        return output

    def _predict(self, features_BChw: Tensor) -> Tensor:
        count = len(features_BChw)
        if len(self.foreground) > 1:
            foreground = nearest(features_BChw, self.foreground)
        else:
            foreground = self.foreground.expand(count, -1)
        return self.ssp.match(features_BChw, self.background.expand(count, -1), foreground)

    def _prototypes(self, support: Support) -> dict[str, Tensor]:
        means_K2C = self.ssp.means(self.ssp.extract(support.features), support.masks[:, None], support.valid[:, None])
        parts = means_K2C[:, 1].float().tensor_split(min(self.params.prototypes, len(means_K2C)))
        return {
            "background": means_K2C[:, 0].float().mean(dim=0, keepdim=True),
            "foreground": torch.stack([part.mean(dim=0) for part in parts]),
        }

    def _resize(self, logits: Tensor) -> Tensor:
        side = self._frozen.output_side
        return F.interpolate(logits, (side, side), mode="bilinear", align_corners=self.ssp.align_corners)
