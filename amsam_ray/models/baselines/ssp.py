"""SSP, "Self-Support Few-Shot Semantic Segmentation" (Fan et al. 2022, https://arxiv.org/abs/2207.11549).

A query's pixels are compared with the mean features of the support images' object and background. The pixels that
this first mask is sure of give prototypes of the query's own, with which the query is compared again.

Suffixes: B batch, K support images, C channels, H and W an image's size in pixels, h and w a feature map's, N = h w.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SCALE = 10.0
"""Factor of a cosine as a logit."""

ATTENTION_SCALE = 2.0
"""Factor of the cosines whose softmax weights the adaptive background prototype."""

THRESHOLDS = (0.6, 0.7)
"""Least probabilities of background and object for the query's own prototypes."""

AT_LEAST = 12
"""The most probable pixels that are used if no pixel is above the threshold."""


class SspOutput(NamedTuple):
    """Logits of background and object at the size of the feature map.

    The published loss is CE(``query``) + CE(``own``) + 0.2 CE(``support``), each resized bilinearly to its mask.

    Attributes:
        query: B x 2 x h x w, the prediction.
        own: B x 2 x h x w, the query with the prototypes of its true mask; None without that mask.
        support: B x K x 2 x h x w, each support image with the prototypes of its mask; None without the query's mask.
    """

    query: Tensor
    own: Tensor | None
    support: Tensor | None


def masked_means(
    features_BChw: Tensor, masks_B1HW: Tensor, valid_B1HW: Tensor | None = None, *, align_corners: bool
) -> Tensor:
    """Return the mean features of background and object, B x 2 x C; 0 for one that the image does not have.

    The mask in [0, 1] is resized bilinearly to the feature map and weights its positions. Padding, where
    ``valid_B1HW`` is 0, is neither background nor object.
    """
    masks = masks_B1HW.to(features_BChw.dtype)
    valid = torch.ones_like(masks) if valid_B1HW is None else valid_B1HW.to(masks.dtype)
    pair = torch.cat([(1 - masks) * valid, masks * valid], dim=1)
    size = features_BChw.shape[-2:]
    weights_B2N = F.interpolate(pair, size, mode="bilinear", align_corners=align_corners).flatten(2)
    sums = weights_B2N @ features_BChw.flatten(2).transpose(1, 2)
    return sums / (weights_B2N.sum(dim=2, keepdim=True) + 1e-5)


def compare(features_BChw: Tensor, background: Tensor, foreground: Tensor) -> Tensor:
    """Return the logits B x 2 x h x w, 10 times the cosines with the two prototypes.

    Args:
        features_BChw: the features to compare.
        background: the prototype of the background, B x C, or one of each position, B x C x h x w.
        foreground: the prototype of the object, likewise.
    """
    cosines = [
        F.cosine_similarity(features_BChw, prototype if prototype.ndim == 4 else prototype[..., None, None], dim=1)
        for prototype in (background, foreground)
    ]
    return SCALE * torch.stack(cosines, dim=1)


def confident(probability_BN: Tensor, threshold: float) -> Tensor:
    """Return which positions are above the threshold, B x N; for an image without any, its 12 most probable."""
    above = probability_BN > threshold
    best = probability_BN.topk(min(AT_LEAST, probability_BN.shape[1]), dim=1).indices
    highest = torch.zeros_like(above).scatter(1, best, True)
    return torch.where(above.any(dim=1, keepdim=True), above, highest)


def self_support(features_BChw: Tensor, logits_B2hw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the query's own prototypes from a first prediction.

    Returns:
        SSBP and SSFP, B x C each: the mean features of the confident background and object; and ASBP, B x C x h x w:
        for each position, the mean of the confident background features weighted by softmax(2 cosine).
    """
    probability = logits_B2hw.softmax(dim=1).flatten(2)
    features_BNC = features_BChw.flatten(2).transpose(1, 2)
    sure = [confident(probability[:, index], threshold) for index, threshold in enumerate(THRESHOLDS)]
    weights_B2N = torch.stack(sure, dim=1).to(features_BNC.dtype)
    means = weights_B2N @ features_BNC / weights_B2N.sum(dim=2, keepdim=True)
    directions = F.normalize(features_BNC, dim=2)
    similarity = ATTENTION_SCALE * directions @ directions.transpose(1, 2)
    attention = similarity.masked_fill(~sure[0][:, None], -torch.inf).softmax(dim=2)
    adaptive = (attention @ features_BNC).transpose(1, 2).unflatten(2, features_BChw.shape[-2:])
    return means[:, 0], means[:, 1], adaptive


class FeatureProjection(nn.Module):
    """A trainable residual on frozen features: x + conv3x3(ReLU(conv1x1(x))). An addition of this project.

    SSP trains nothing but its feature extractor. On frozen features this module gives it something to train; the
    last convolution starts at zero, so that training starts from SSP on the features as they are.

    Args:
        channels: C of the features.
        hidden: channels between the convolutions; half of ``channels`` if not given.

    Attributes:
        channels: C of the features.
    """

    def __init__(self, channels: int, hidden: int | None = None):
        super().__init__()
        self.channels = channels
        hidden = max(channels // 2, 1) if hidden is None else hidden
        last = nn.Conv2d(hidden, channels, 3, padding=1, bias=False)
        nn.init.zeros_(last.weight)
        self.update = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), last)

    def forward(self, features_BChw: Tensor) -> Tensor:
        """Return features of the same shape."""
        return features_BChw + self.update(features_BChw)


class Ssp(nn.Module):
    """SSP on any feature extractor. Its prediction is independent of the batch if the extractor is.

    Args:
        extract: maps B x ... inputs to features B x C x h x w: ``resnet.SspTrunk`` for images, or
            ``FeatureProjection`` for the feature maps of a frozen network.
        align_corners: how masks are resized bilinearly. True, as published, for a convolutional network's maps,
            whose outer features lie on the image's border; False for a ViT's, whose features are centres of patches.
            The caller resizes the logits in the same way.
    """

    def __init__(self, extract: nn.Module, *, align_corners: bool = True):
        super().__init__()
        self.extract = extract
        self.align_corners = align_corners

    def forward(
        self,
        query: Tensor,
        support: Tensor,
        support_masks: Tensor,
        query_masks: Tensor | None = None,
        *,
        support_valid: Tensor | None = None,
        query_valid: Tensor | None = None,
    ) -> SspOutput:
        """Segment the query images.

        Args:
            query: B x ..., the extractor's inputs.
            support: B x K x ..., likewise.
            support_masks: B x K x 1 x H x W in [0, 1], of any size.
            query_masks: B x 1 x H x W in [0, 1], for the outputs that only the loss needs.
            support_valid, query_valid: as the masks, 0 on padding; None without padding.
        """
        shots = support.shape[:2]
        features = self.extract(query)
        theirs = self.extract(support.flatten(0, 1))
        means = self.means(theirs, support_masks.flatten(0, 1), _flat(support_valid))
        prototypes = means.unflatten(0, shots).mean(dim=1)
        logits = self.match(features, prototypes[:, 0], prototypes[:, 1])
        if query_masks is None:
            return SspOutput(logits, None, None)
        own = self.means(features, query_masks, query_valid)
        return SspOutput(
            logits,
            compare(features, own[:, 0], own[:, 1]),
            compare(theirs, means[:, 0], means[:, 1]).unflatten(0, shots),
        )

    def means(self, features_BChw: Tensor, masks_B1HW: Tensor, valid_B1HW: Tensor | None = None) -> Tensor:
        """Return the prototypes of labelled images' background and object, B x 2 x C, see ``masked_means``."""
        return masked_means(features_BChw, masks_B1HW, valid_B1HW, align_corners=self.align_corners)

    def match(self, features_BChw: Tensor, background: Tensor, foreground: Tensor) -> Tensor:
        """Compare with the support's prototypes, then with those mixed with the query's own (eq. 5 and 9).

        Args:
            features_BChw: the queries' features.
            background: B x C.
            foreground: B x C, or one prototype of each position, B x C x h x w.

        Returns:
            Logits of background and object, B x 2 x h x w.
        """
        first = compare(features_BChw, background, foreground)
        own_background, own_foreground, adaptive = self_support(features_BChw, first)
        mixed = 0.3 * own_background[..., None, None] + 0.7 * adaptive
        if foreground.ndim == 4:
            own_foreground = own_foreground[..., None, None]
        return compare(features_BChw, mixed, 0.5 * foreground + 0.5 * own_foreground)


def nearest(features_BChw: Tensor, prototypes_NC: Tensor) -> Tensor:
    """Return for each position the prototype with the largest cosine, B x C x h x w. An addition of this project."""
    directions = F.normalize(features_BChw, dim=1).flatten(2).transpose(1, 2)
    best_Bn = (directions @ F.normalize(prototypes_NC, dim=1).T).argmax(dim=2)
    return prototypes_NC[best_Bn].transpose(1, 2).unflatten(2, features_BChw.shape[-2:])


def _flat(valid: Tensor | None) -> Tensor | None:
    return None if valid is None else valid.flatten(0, 1)
