"""HSNet, "Hypercorrelation Squeeze for Few-Shot Segmentation" (Min et al. 2021, https://arxiv.org/abs/2104.01538).

The cosine of every query position with every support position, for several feature maps of a frozen network, forms
4-D maps. Centre-pivot 4-D convolutions squeeze their two support axes, 2-D convolutions turn the rest into a mask.

Suffixes: B batch, K support images, C channels, M maps of a branch, h and w a query map's size, s and t a support map's
size, H and W an image's size in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (16, 64, 128)
"""Output channels of the three convolutions of a branch."""


@dataclass(frozen=True)
class Branch:
    """One branch of the pyramid: the feature maps of one size.

    Attributes:
        maps: M, the number of feature maps.
        kernels: the side of each of the three convolutions' kernels, odd.
        strides: the stride of each convolution along the support axes.
    """

    maps: int
    kernels: tuple[int, int, int]
    strides: tuple[int, int, int]


RESNET50 = (Branch(4, (5, 5, 3), (4, 4, 2)), Branch(6, (5, 3, 3), (4, 2, 2)), Branch(3, (3, 3, 3), (2, 2, 2)))
"""The published branches for ``resnet.BottleneckFeatures``, finest first; 2,573,794 parameters with them."""


def branches_of_one_grid(maps: int, grid: int) -> tuple[Branch, Branch, Branch]:
    """Return three branches for feature maps that all have one size, such as a ViT's.

    An addition of this project: each branch is the published one for the nearest size (13, 25 or 50 positions at 400
    pixels), so that a support map shrinks to 2 x 2 for grids of 16, 32 and 64.

    Args:
        maps: the number of maps of each branch.
        grid: the longer side of a map.
    """
    finest, middle, coarsest = RESNET50
    published = coarsest if grid <= 16 else middle if grid <= 32 else finest
    return (Branch(maps, published.kernels, published.strides),) * 3


class CentrePivotConv4d(nn.Module):
    """A 4-D convolution restricted to the kernel's entries that share the centre of one of the two positions.

    It is the sum of two 2-D convolutions with a bias each: one over the query axes at the support positions that the
    stride keeps, one over the support axes.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: side of both kernels, odd; the borders are padded with zeros by half of it.
        stride: along both support axes; the query axes keep their size.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int):
        super().__init__()
        self.stride = stride
        self.query = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.support = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)

    def forward(self, x_BChwst: Tensor) -> Tensor:
        """Map B x inputs x h x w x s x t to B x outputs x h x w x ceil(s / stride) x ceil(t / stride)."""
        kept = x_BChwst[..., :: self.stride, :: self.stride].permute(0, 4, 5, 1, 2, 3)
        over_query = self.query(kept.flatten(0, 2)).unflatten(0, kept.shape[:3])
        every = x_BChwst.permute(0, 2, 3, 1, 4, 5)
        over_support = self.support(every.flatten(0, 2)).unflatten(0, every.shape[:3])
        return over_query.permute(0, 3, 4, 5, 1, 2) + over_support.permute(0, 3, 1, 2, 4, 5)


def _squeeze(inputs: int, branch: Branch, widths: Sequence[int] = WIDTHS) -> nn.Sequential:
    """Three times a 4-D convolution, a normalisation of each sample in four groups of channels, and a ReLU."""
    layers: list[nn.Module] = []
    for width, kernel, stride in zip(widths, branch.kernels, branch.strides, strict=True):
        layers += [CentrePivotConv4d(inputs, width, kernel, stride), nn.GroupNorm(4, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers)


class HSNet(nn.Module):
    """The trained part of HSNet, on features of a frozen network. Its prediction is independent of the batch.

    Args:
        branches: the layout of the features, finest first.
        align_corners: how masks and maps are resized bilinearly. True, as published, for a convolutional network's
            maps, whose outer features lie on the image's border; False for a ViT's, whose features are centres of
            patches. The caller resizes the logits in the same way.
    """

    def __init__(self, branches: tuple[Branch, Branch, Branch] = RESNET50, *, align_corners: bool = True):
        super().__init__()
        self.maps = [branch.maps for branch in branches]
        self.align_corners = align_corners
        width = WIDTHS[-1]
        mixing = Branch(width, (3, 3, 3), (1, 1, 1))
        self.squeeze = nn.ModuleList(_squeeze(branch.maps, branch) for branch in branches)
        self.mix = nn.ModuleList(_squeeze(width, mixing, (width,) * 3) for _ in branches[1:])
        self.decode = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width // 2, 3, padding=1), nn.ReLU()
        )
        self.classify = nn.Sequential(
            nn.Conv2d(width // 2, width // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(width // 2, 2, 3, padding=1)
        )

    def resize(self, maps_BCHW: Tensor, size: Sequence[int]) -> Tensor:
        """Resize B x C x any size bilinearly to ``size`` (height, width)."""
        return F.interpolate(maps_BCHW, tuple(size), mode="bilinear", align_corners=self.align_corners)

    def correlations(self, query: Sequence[Tensor], support: Sequence[Tensor], masks_B1HW: Tensor) -> list[Tensor]:
        """Return each branch's hypercorrelation, B x M x h x w x s x t, in [0, 1].

        The support features are multiplied by the mask; a position that the mask leaves out correlates with nothing.
        """
        maps = []
        for ours, theirs in zip(query, support, strict=True):
            masked = theirs * self.resize(masks_B1HW.to(theirs.dtype), theirs.shape[-2:])
            q, s = F.normalize(ours.flatten(2), dim=1), F.normalize(masked.flatten(2), dim=1)
            cosine = (q.transpose(1, 2) @ s).clamp(min=0)
            maps.append(cosine.unflatten(2, theirs.shape[-2:]).unflatten(1, ours.shape[-2:]))
        return [torch.stack(group, dim=1) for group in _split(maps, self.maps)]

    def forward(self, query: Sequence[Tensor], support: Sequence[Tensor], masks_B1HW: Tensor) -> Tensor:
        """Return the logits of background and object with one support image.

        Args:
            query: the query images' feature maps, B x C x h x w each, shallow first, finest branch first. C may
                differ between maps; h x w only between branches.
            support: the support images' maps, B x C x s x t each, in the same order.
            masks_B1HW: the support images' masks in [0, 1], of any size.

        Returns:
            B x 2 x 2h x 2w for the finest maps' h x w. The caller resizes them to the image.
        """
        squeezed = [
            squeeze(maps)
            for squeeze, maps in zip(self.squeeze, self.correlations(query, support, masks_B1HW), strict=True)
        ]
        mixed = squeezed[-1]
        for finer, mix in zip(reversed(squeezed[:-1]), self.mix, strict=True):
            mixed = mix(self._to_query_size(mixed, finer.shape[2:4]) + finer)
        context = mixed.mean(dim=(4, 5))
        height, width = context.shape[-2:]
        return self.classify(self.resize(self.decode(context), (2 * height, 2 * width)))

    def _to_query_size(self, x_BChwst: Tensor, size: torch.Size) -> Tensor:
        """Resize the query axes to ``size``."""
        if x_BChwst.shape[2:4] == size:
            return x_BChwst
        per_support = x_BChwst.permute(0, 4, 5, 1, 2, 3)
        resized = self.resize(per_support.flatten(0, 2), size).unflatten(0, per_support.shape[:3])
        return resized.permute(0, 3, 4, 5, 1, 2)

    def votes(
        self, query: Sequence[Tensor], support: Sequence[Tensor], masks_BK1HW: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Return each pixel's votes with K support images, see ``share_of_votes``.

        Args:
            query: as for ``forward``.
            support: B x K x C x s x t each.
            masks_BK1HW: the support images' masks.
            size: height and width of the image.

        Returns:
            B x H x W, in [0, 1].
        """
        passes = [
            self.resize(self(query, [maps[:, k] for maps in support], masks_BK1HW[:, k]), size)
            for k in range(masks_BK1HW.shape[1])
        ]
        return share_of_votes(torch.stack(passes))


def share_of_votes(logits_KB2HW: Tensor) -> Tensor:
    """Return the passes that call a pixel object, divided by the most of any pixel of its image.

    Args:
        logits_KB2HW: logits of background and object of K passes with one support image each.

    Returns:
        B x H x W, in [0, 1]; object is a share of at least 0.5. All 0 if no pass finds an object.
    """
    votes = (logits_KB2HW[:, :, 1] > logits_KB2HW[:, :, 0]).sum(dim=0)
    return votes / votes.amax(dim=(1, 2), keepdim=True).clamp(min=1)


def _split(maps: list[Tensor], sizes: Sequence[int]) -> list[list[Tensor]]:
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    assert sum(sizes) == len(maps), f"the branches have {sum(sizes)} feature maps, not {len(maps)}"
    return [maps[start : start + size] for start, size in zip(starts, sizes, strict=True)]
