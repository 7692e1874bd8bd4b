"""SAM-Adapter (Chen et al. 2023, arXiv 2304.09148): hints from high frequencies before every encoder block.

Each block has a light MLP over (projected patch embedding + patch embedding of the image's high-pass component); one
up-projection is shared by all blocks; the result is added to the block's input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amsam_ray.models.backbone import PATCH, Backbone
from amsam_ray.models.parts.encoder_tail import Contrast, EncoderTail


def high_pass(images: Tensor, ratio: float) -> Tensor:
    """Return the high-frequency component of images, as SAM-Adapter's code computes it.

    Args:
        images: (B, 3, S, S), normalised encoder inputs.
        ratio: share of the spectrum's area that is removed, a square around frequency 0; 0 keeps everything and 1
            removes everything.

    Returns:
        (B, 3, S, S), the absolute value of the real part of the inverse transform.
    """
    height, width = images.shape[-2:]
    half = int((height * width * ratio) ** 0.5 // 2)
    with torch.autocast(images.device.type, enabled=False):  # there are no complex bf16 numbers
        images = images if images.dtype == torch.float64 else images.float()
        spectrum = torch.fft.fftshift(torch.fft.fft2(images), dim=(-2, -1))
        keep = torch.ones(height, width, dtype=images.dtype, device=images.device)
        keep[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half] = 0
        return torch.fft.ifft2(torch.fft.ifftshift(spectrum * keep, dim=(-2, -1))).real.abs()


class HighPassTail(EncoderTail):
    """All encoder blocks with SAM-Adapter's hints.

    The shared up-projection starts at zero, so that training starts from SAM itself.

    Args:
        backbone: the frozen SAM.
        ratio: s, the reduction d -> d / s of the light MLPs (published: 32); at least one hidden unit remains.
        random: start as the published code, with a random up-projection and a zero bias of the patch embedding.
    """

    needs_highpass = True
    position: Tensor

    def __init__(self, backbone: Backbone, ratio: int, *, random: bool = False):
        super().__init__(backbone)
        hidden = max(backbone.width // ratio, 1)
        self.project = nn.Linear(backbone.width, hidden)
        self.patch_embed = nn.Conv2d(3, hidden, PATCH, stride=PATCH)
        self.light = nn.ModuleList(nn.Sequential(nn.Linear(hidden, hidden), nn.GELU()) for _ in self.blocks)
        self.up = nn.Linear(hidden, backbone.width)
        for layer in [self.project, self.up, *self.light.modules()]:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        nn.init.kaiming_normal_(self.patch_embed.weight, mode="fan_out", nonlinearity="relu")
        if random:
            assert self.patch_embed.bias is not None
            nn.init.zeros_(self.patch_embed.bias)
        else:
            nn.init.zeros_(self.up.weight)
        position = backbone.sam.image_encoder.pos_embed
        self.register_buffer("position", torch.zeros(1) if position is None else position.data)

    def forward(
        self, tokens: Tensor, highpass: Tensor | None = None, view_tokens: Tensor | None = None
    ) -> tuple[Tensor, Contrast]:
        """See ``EncoderTail.forward``. Raises ValueError without ``highpass``."""
        if highpass is None:
            raise ValueError("SAM-Adapter needs the high-pass component of the images; set ModelInputs.highpass")
        hint = self.project(tokens - self.position) + self.patch_embed(highpass).permute(0, 2, 3, 1)
        for light, block in zip(self.light, self.blocks, strict=True):
            tokens = self.run(block, tokens + self.up(light(hint)))
        return self.neck(tokens.permute(0, 3, 1, 2)), Contrast()
