"""Segmentation losses on the two-channel logits.

Legend: B images, H x W pixels of the decoder's low resolution, channel 0 background, 1 foreground.

Each loss is a mean over images of a loss per image. With one image a step that is what SAMed and BLO-SAM compute; with
more, every image weighs the same whatever its object's size, and the mean over the workers of a data-parallel run
equals the loss of the joint batch. SAMed's code takes one Dice over all pixels of the batch instead, which
``over_batch`` does. Pixels that are SAM's padding count in no loss: no score ever looks at them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from amsam_ray import parallel

POSITIVE_WEIGHT = 2.0
"""Weight of object pixels in Medical SAM Adapter's cross-entropy."""

_SMOOTH = 1e-5  # SAMed's constant: the Dice loss of an empty mask predicted as empty is 0


def cross_entropy(logits_B2HW: Tensor, target_BHW: Tensor, valid_BHW: Tensor) -> Tensor:
    """Return the softmax cross-entropy of each image, averaged over its valid pixels, B values."""
    per_pixel = F.cross_entropy(logits_B2HW, target_BHW.long(), reduction="none")
    valid = valid_BHW.to(per_pixel.dtype)
    return (per_pixel * valid).sum((1, 2)) / valid.sum((1, 2))


def soft_dice(logits_B2HW: Tensor, target_BHW: Tensor, valid_BHW: Tensor, *, over_batch: bool = False) -> Tensor:
    """Return the soft Dice loss with squared denominators, the mean of both channels, as DiceLoss of SAMed and BLO-SAM.

    1 - (2 sum(s t) + e) / (sum(s^2) + sum(t^2) + e), with s the softmax and t the one-hot target.

    Args:
        logits_B2HW, target_BHW, valid_BHW: as ``ce_dice``.
        over_batch: sum over all pixels of the joint batch instead of those of each image.

    Returns:
        B values in [0, 1], one value with ``over_batch``.
    """
    valid = valid_BHW.to(logits_B2HW.dtype)[:, None]
    score = logits_B2HW.softmax(1) * valid
    foreground = target_BHW.to(logits_B2HW.dtype)
    truth = torch.stack((1 - foreground, foreground), 1) * valid
    overlap = (score * truth).sum((2, 3))
    total = (score * score).sum((2, 3)) + truth.sum((2, 3))  # t is 0 or 1, so t^2 = t
    if over_batch:
        workers = parallel.world_size()
        overlap, total = (workers * parallel.mean(part.sum(0, keepdim=True)) for part in (overlap, total))
    return (1 - (2 * overlap + _SMOOTH) / (total + _SMOOTH)).mean(1)


def ce_dice(
    logits_B2HW: Tensor, target_BHW: Tensor, valid_BHW: Tensor, lambda_: float | Tensor, *, over_batch: bool = False
) -> Tensor:
    """Return AM-SAM's eq. 5, (1 - lambda) CE + lambda Dice, a scalar: the mean over images.

    Args:
        logits_B2HW: two-channel logits.
        target_BHW: 1 for the object, 0 for the rest.
        valid_BHW: True where the pixel belongs to the image, False where it is padding.
        lambda_: weight of Dice, in [0, 1].
        over_batch: take one Dice over the joint batch, as SAMed's code.
    """
    ce = cross_entropy(logits_B2HW, target_BHW, valid_BHW)
    dice = soft_dice(logits_B2HW, target_BHW, valid_BHW, over_batch=over_batch)
    return ((1 - lambda_) * ce + lambda_ * dice).mean()


def bce_iou(logits_B2HW: Tensor, target_BHW: Tensor, valid_BHW: Tensor) -> Tensor:
    """Return SAM-Adapter's loss (arXiv 2304.09148): binary cross-entropy plus soft IoU, a scalar.

    Its one logit is the difference of our two: sigmoid(fg - bg) = softmax(bg, fg)[fg]. The two terms have equal
    weight, as published. Arguments as ``ce_dice``.
    """
    logit = logits_B2HW[:, 1] - logits_B2HW[:, 0]
    truth = target_BHW.to(logit.dtype)
    valid = valid_BHW.to(logit.dtype)
    per_pixel = F.binary_cross_entropy_with_logits(logit, truth, reduction="none")
    bce = (per_pixel * valid).sum((1, 2)) / valid.sum((1, 2))
    score, truth = logit.sigmoid() * valid, truth * valid
    overlap = (score * truth).sum((1, 2))
    union = (score + truth).sum((1, 2)) - overlap
    return (bce + 1 - overlap / union.clamp_min(1e-6)).mean()


def weighted_bce(logits_B2HW: Tensor, target_BHW: Tensor, valid_BHW: Tensor) -> Tensor:
    """Return Medical SAM Adapter's loss (arXiv 2304.12620): binary cross-entropy with object pixels doubled, a scalar.

    Its one logit is the difference of our two. Arguments as ``ce_dice``.
    """
    logit = logits_B2HW[:, 1] - logits_B2HW[:, 0]
    weight = logit.new_tensor(POSITIVE_WEIGHT)
    truth = target_BHW.to(logit.dtype)
    per_pixel = F.binary_cross_entropy_with_logits(logit, truth, pos_weight=weight, reduction="none")
    valid = valid_BHW.to(logit.dtype)
    return ((per_pixel * valid).sum((1, 2)) / valid.sum((1, 2))).mean()


def mask_loss(
    kind: str,
    logits_B2HW: Tensor,
    target_BHW: Tensor,
    valid_BHW: Tensor,
    lambda_: float | Tensor,
    *,
    over_batch: bool = False,
    resize: str = "bilinear",
) -> Tensor:
    """Return the loss named ``kind`` at the resolution of the target, in float32 at least.

    Args:
        kind: ``ce_dice``, ``bce_iou`` or ``bce``; the latter two ignore ``lambda_`` and ``over_batch``.
        logits_B2HW: on the decoder's grid; resized if the target has another one.
        target_BHW, valid_BHW, lambda_, over_batch: as ``ce_dice``.
        resize: interpolation of the logits, ``bilinear`` or ``nearest``.
    """
    logits_B2HW = logits_B2HW.float() if logits_B2HW.dtype == torch.bfloat16 else logits_B2HW
    if logits_B2HW.shape[-2:] != target_BHW.shape[-2:]:
        logits_B2HW = F.interpolate(logits_B2HW, target_BHW.shape[-2:], mode=resize)
    if kind == "bce_iou":
        return bce_iou(logits_B2HW, target_BHW, valid_BHW)
    if kind == "bce":
        return weighted_bce(logits_B2HW, target_BHW, valid_BHW)
    return ce_dice(logits_B2HW, target_BHW, valid_BHW, lambda_, over_batch=over_batch)
