"""Prompts from masks, batched mask decoding, and the loss of the nano SAM's pretraining."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from tools.nano.augment import Framed
from tools.nano.feed import Batch
from tools.nano.scenes import GROUP, PART

BOX, BOX_POINT, POINT, NOTHING = range(4)
"""Kinds of prompts."""

SHARES = {BOX_POINT: 0.12, POINT: 0.12, NOTHING: 0.06}
"""Share of the prompts of each kind; the rest are boxes."""

FINENESS = 2
"""Upscaling of the decoder's masks for the loss, which is computed at half the image's resolution."""


@dataclass(frozen=True)
class Place:
    """Position of an image smaller than the model's input in the model's grid of tokens.

    Attributes:
        grid: side of the image in tokens.
        left, top: the image's first token in the model's grid.
    """

    grid: int
    left: int = 0
    top: int = 0

    def of(self, table: Tensor) -> Tensor:
        """Return the image's part of a table over the model's grid, 1 x C x G x G."""
        return table[:, :, self.top : self.top + self.grid, self.left : self.left + self.grid]

    def shift(self, coordinates: Tensor, patch: int) -> Tensor:
        """Convert pixels (..., X, Y) of the image to pixels of the model's input."""
        return coordinates + coordinates.new_tensor([self.left, self.top]) * patch


@dataclass(frozen=True)
class Targets:
    """N masks to predict, one prompt each.

    Attributes:
        image: N int64, which image of the batch each belongs to.
        mask: N x S x S bool. box: N x 4 float32 (XYXY pixels, jittered). point: N x 2 float32 (X, Y), inside.
        usable: N bool; masks that the window left almost nothing of are not.
    """

    image: Tensor
    mask: Tensor
    box: Tensor
    point: Tensor
    usable: Tensor


def draw_targets(batch: Batch, framed: Framed, per_image: int, jitter: float = 0.1) -> Targets:
    """Choose `per_image` masks of every image and draw their prompts; the first of them is the salient object.

    The targets of slot s are rows s * B to (s + 1) * B. A box's edges move by normal noise with a standard deviation
    of up to `jitter` times its width or height.
    """
    count, device = len(batch.image), batch.image.device
    weights = torch.full(batch.kinds.shape, 3.0, device=device)
    weights[batch.kinds == PART] = 0.7
    weights[batch.kinds == GROUP] = 2.0
    weights[batch.kinds == 0] = 0.0
    rows = torch.multinomial(weights, per_image, replacement=True).T.clone()
    rows[0] = 0
    index = torch.arange(count, device=device).repeat(per_image)
    table = batch.members[index, rows.flatten()]
    mask = torch.gather(table, 1, framed.parts[index].flatten(1)).view(-1, *framed.parts.shape[1:])
    area = mask.sum(dim=(1, 2))
    box = boxes_of(mask)
    side = (box[:, 2:] - box[:, :2]).repeat(1, 2)
    noise = torch.randn_like(box) * torch.rand(len(box), 1, device=device) * jitter
    limit = framed.extent[index].repeat(1, 2)
    box = torch.minimum((box + noise * side).clamp(min=0), limit)
    return Targets(index, mask, box, points_in(mask), area > 0.002 * mask[0].numel())


def boxes_of(mask: Tensor) -> Tensor:
    """Return the tight boxes of N x S x S bool masks: N x 4 float32, XYXY in pixels (right, bottom exclusive)."""
    size = mask.shape[-1]
    columns, rows = mask.any(dim=1).float(), mask.any(dim=2).float()
    rising = torch.arange(1, size + 1, device=mask.device)
    left, right = size - (columns * rising.flip(0)).amax(dim=1), (columns * rising).amax(dim=1)
    top, bottom = size - (rows * rising.flip(0)).amax(dim=1), (rows * rising).amax(dim=1)
    return torch.stack([left, top, right, bottom], dim=1)


def points_in(mask: Tensor) -> Tensor:
    """Draw one uniform pixel inside each of N x S x S bool masks: N x 2 float32, (X, Y)."""
    size = mask.shape[-1]
    chosen = (torch.rand(mask.shape, device=mask.device) * mask).flatten(1).argmax(dim=1)
    return torch.stack([chosen % size, chosen // size], dim=1).float()


def kinds_of(count: int, batch: int) -> Tensor:
    """Draw the kind of prompt of each of `count` targets; the first `batch` targets are the salient objects.

    No prompt at all can only mean the salient object, so that kind is taken from the first targets.
    """
    kinds = torch.full((count,), BOX)
    nothing = min(int(SHARES[NOTHING] * count), batch // 2)
    kinds[:nothing] = NOTHING
    end = count
    for kind in (BOX_POINT, POINT):
        start = end - int(SHARES[kind] * count)
        kinds[start:end] = kind
        end = start
    return kinds


def encode(sam: Sam, image: Tensor, place: Place) -> Tensor:
    """`ImageEncoderViT.forward` for an image (B x 3 x S x S, normalised) that fills a part of the model's grid."""
    encoder = sam.image_encoder
    position = place.of(encoder.pos_embed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    tokens = encoder.patch_embed(image) + position
    for block in encoder.blocks:
        tokens = block(tokens)
    return encoder.neck(tokens.permute(0, 3, 1, 2))


def decode(sam: Sam, features: Tensor, sparse: Tensor, dense: Tensor, place: Place) -> tuple[Tensor, Tensor]:
    """`MaskDecoder.predict_masks` for N (image, prompt) pairs at once; segment-anything's takes one image a call.

    Args:
        features: N x C x g x g. sparse: N x T x C. dense: N x C x g x g.

    Returns:
        Logits N x 4 x 4g x 4g (the first is the single-mask output) and predicted IoUs N x 4.
    """
    decoder = sam.mask_decoder
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([tokens[None].expand(len(features), -1, -1), sparse], dim=1)
    position = place.of(sam.prompt_encoder.get_dense_pe()).expand(len(features), -1, -1, -1)
    tokens, source = decoder.transformer(features + dense, position, tokens)
    source = source.transpose(1, 2).reshape(features.shape)
    upscaled = decoder.output_upscaling(source)
    outputs = [mlp(tokens[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)]
    logits = torch.einsum("nmc,nchw->nmhw", torch.stack(outputs, dim=1), upscaled)
    return logits, decoder.iou_prediction_head(tokens[:, 0])


def embed(
    sam: Sam, kind: int, targets: Targets, chosen: Tensor, place: Place, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return sparse and dense embeddings of the chosen targets' prompts, all of one kind."""
    patch = sam.image_encoder.img_size // sam.prompt_encoder.image_embedding_size[0]
    points = None
    if kind in (BOX_POINT, POINT):
        labels = torch.ones(len(chosen), 1, device=chosen.device)
        points = (place.shift(targets.point[chosen], patch)[:, None], labels)
    boxes = None
    if kind in (BOX, BOX_POINT):
        boxes = place.shift(targets.box[chosen].view(-1, 2, 2), patch).view(-1, 4)
    sparse, dense = sam.prompt_encoder(points, boxes, mask)
    if mask is None:
        dense = dense[:, :, : place.grid, : place.grid]  # one vector everywhere
    if kind == NOTHING:
        sparse, dense = sparse.expand(len(chosen), -1, -1), dense.expand(len(chosen), -1, -1, -1)
    return sparse, dense


def mask_loss(logits: Tensor, ious: Tensor, targets: Targets, chosen: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    """Return the loss of the four outputs, and the Dice of the single-mask output.

    Cross-entropy, averaged over the box grown by a fifth (a tenth of the weight outside of it), plus soft Dice, for
    the single-mask output and for the best of the other three; plus the squared error of the predicted IoUs.
    """
    size = targets.mask.shape[-1]
    logits = F.interpolate(logits.float(), scale_factor=FINENESS, mode="bilinear", align_corners=False)
    truth = F.avg_pool2d(targets.mask[chosen][:, None].float(), size // logits.shape[-1])
    weight = torch.ones_like(truth) if kind == NOTHING else _near(targets.box[chosen], size, logits.shape[-1])
    usable = targets.usable[chosen].float()
    entropy = F.binary_cross_entropy_with_logits(logits, truth.expand_as(logits), reduction="none")
    entropy = (entropy * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))
    probability = logits.sigmoid()
    overlap = (probability * truth).sum(dim=(2, 3))
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=(2, 3)) + truth.sum(dim=(2, 3)) + 1)
    each = entropy + dice
    with torch.no_grad():
        found, true = logits > 0, truth > 0.5
        both, either = (found & true).sum(dim=(2, 3)), (found | true).sum(dim=(2, 3))
        iou = both / either.clamp(min=1)
        score = 2 * iou[:, 0] / (1 + iou[:, 0])
    quality = (ious.float() - iou).square().mean(dim=1)
    loss = each[:, 0] + each[:, 1:].amin(dim=1) + quality
    return (loss * usable).sum() / usable.sum().clamp(min=1), (score * usable).sum() / usable.sum().clamp(min=1)


def _near(box: Tensor, size: int, target: int) -> Tensor:
    """Return N x 1 x target x target weights for boxes in images of `size` pixels: 1 in the grown box, else 0.1."""
    grow = 0.1 * (box[:, 2:] - box[:, :2])
    low, high = (box[:, :2] - grow) * (target / size), (box[:, 2:] + grow) * (target / size)
    steps = torch.arange(target, device=box.device) + 0.5
    x = (steps > low[:, :1]) & (steps < high[:, :1])
    y = (steps > low[:, 1:]) & (steps < high[:, 1:])
    return 0.1 + 0.9 * (x[:, None, None, :] & y[:, None, :, None]).float()
