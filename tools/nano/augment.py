"""Augmentation of whole batches on the training device: framing, colour, blur, noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tools.nano.feed import Batch


@dataclass(frozen=True)
class Framed:
    """A batch in the form of the model's input.

    Attributes:
        image: B x 3 x S x S float32 in [0, 1]; zero outside of `valid`.
        parts: B x S x S int64 part numbers, 0 outside of `valid`.
        valid: B x 1 x S x S bool, the pixels that SAM's padding leaves to the picture (top left).
        extent: B x 2 float32, width and height of the valid area in pixels.
    """

    image: Tensor
    parts: Tensor
    valid: Tensor
    extent: Tensor


def frame(batch: Batch, size: int, generator: torch.Generator | None = None) -> Framed:
    """Cut a random window out of each scene, stretch it to the scene's aspect and pad it as SAM does.

    The longest side becomes `size` pixels and lies at the top left (SAM's ResizeLongestSide and padding). Windows
    take 55 to 100 % of the scene, are moved, mirrored and turned a little.
    """
    device, count = batch.image.device, len(batch.image)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, device=device, generator=generator) * (high - low) + low

    def normal(scale: float) -> Tensor:
        return torch.randn(count, device=device, generator=generator) * scale

    share = torch.where(uniform(0, 1) < 0.35, torch.ones(count, device=device), uniform(0.55, 1.0))
    across, down = (share * normal(0.06).exp()).clamp(max=1.0), (share * normal(0.06).exp()).clamp(max=1.0)
    aspect = batch.aspect * across / down * normal(0.08).exp()
    extent = torch.stack([aspect.clamp(max=1.0), (1 / aspect).clamp(max=1.0)], dim=1) * size
    extent = extent.round().clamp(min=32.0)

    mirror = torch.where(uniform(0, 1) < 0.5, 1.0, -1.0)
    angle = normal(0.06)
    cosine, sine = angle.cos(), angle.sin()
    # Output pixel centres in [-1, 1] over the valid area, then into the scene's own [-1, 1].
    steps = torch.arange(size, device=device) + 0.5
    x = steps[None, None, :] / extent[:, 0, None, None] * 2 - 1
    y = steps[None, :, None] / extent[:, 1, None, None] * 2 - 1
    valid = (x < 1) & (y < 1)
    x, y = x * (across * mirror)[:, None, None], y * down[:, None, None]
    slack_x, slack_y = (1 - across) * (uniform(0, 1) * 2 - 1), (1 - down) * (uniform(0, 1) * 2 - 1)
    cosine, sine = cosine[:, None, None], sine[:, None, None]
    grid = torch.stack(
        [x * cosine - y * sine + slack_x[:, None, None], x * sine + y * cosine + slack_y[:, None, None]], dim=-1
    )
    image = batch.image.permute(0, 3, 1, 2).float().div_(255)
    if 2 * size <= image.shape[-1]:
        image = F.avg_pool2d(image, 2)
    image = F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    parts = F.grid_sample(
        batch.parts[:, None].float(), grid, mode="nearest", padding_mode="reflection", align_corners=False
    )
    valid = valid[:, None]
    return Framed(image * valid, (parts[:, 0] * valid[:, 0]).long(), valid, extent)


def recolour(framed: Framed, generator: torch.Generator | None = None) -> Tensor:
    """Change saturation, exposure, contrast, cast and gamma, blur and add noise: B x 3 x S x S in [0, 1].

    Saturation is drawn down to none, since painted scenes are gaudier than photographs.
    """
    image, device = framed.image, framed.image.device
    count = len(image)

    def uniform(low: float, high: float) -> Tensor:
        return (torch.rand(count, device=device, generator=generator) * (high - low) + low)[:, None, None, None]

    def normal(scale: float, channels: int = 1) -> Tensor:
        return torch.randn(count, channels, device=device, generator=generator)[:, :, None, None] * scale

    grey = image.mean(dim=1, keepdim=True)
    image = grey + (image - grey) * torch.where(uniform(0, 1) < 0.08, 0.0 * grey[:, :, :1, :1], uniform(0.2, 1.25))
    image = image * normal(0.07, 3).exp()
    middle = image.mean(dim=(1, 2, 3), keepdim=True)
    image = (middle + (image - middle) * normal(0.22).exp() + normal(0.06)).clamp(1e-4, 1)
    image = image ** normal(0.22).exp()
    soft = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    image = image + (soft - image) * torch.where(uniform(0, 1) < 0.5, 0 * uniform(0, 1), uniform(-0.7, 1.0))
    if torch.rand((), generator=generator, device=device) < 0.5:
        image = _refilter(image, generator)
    level = torch.where(uniform(0, 1) < 0.5, 0 * uniform(0, 1), uniform(0, 0.05))
    image = image + level * torch.randn(image.shape, device=device, generator=generator)
    return image.clamp(0, 1) * framed.valid


def _refilter(image: Tensor, generator: torch.Generator | None) -> Tensor:
    """Pass half of a batch through one random 3 x 3 filter that mixes colours, preserving mean and contrast.

    Random convolutions change texture but not shape (Xu et al. 2021, https://arxiv.org/abs/2007.13003), which is what
    painted textures should be worth to the model.
    """
    count = len(image) // 2
    part = image[:count]
    kernel = torch.randn((3, 3, 3, 3), device=image.device, generator=generator) / 27**0.5
    filtered = F.conv2d(F.pad(part, (1, 1, 1, 1), mode="replicate"), kernel)
    spread, middle = part.std(dim=(1, 2, 3), keepdim=True), part.mean(dim=(1, 2, 3), keepdim=True)
    filtered = filtered - filtered.mean(dim=(1, 2, 3), keepdim=True)
    filtered = filtered / (filtered.std(dim=(1, 2, 3), keepdim=True) + 1e-4) * spread + middle
    share = torch.rand((count, 1, 1, 1), device=image.device, generator=generator)
    return torch.cat([part + share * (filtered - part), image[count:]])
