"""Prompts of a batch: at most one box per image, and the learned dense prompt.

The prompt embedding A of BLO-SAM and AM-SAM (arXiv 2402.16338, 2410.09714) is ``no_mask_embed``, the vector that SAM
adds to every image token when no mask is given, and with box prompts also the two corner embeddings. Both start as
SAM's own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from amsam_ray.models.sam_package import PromptEncoder


class PromptEmbedding(nn.Module):
    """SAM's prompt encoder for boxes, differentiable in the prompt embedding A.

    Args:
        encoder: SAM's prompt encoder; it is not changed.
        boxes: True if box prompts are used.

    Attributes:
        no_mask_embed: (1, C), the dense prompt.
        corners: (2, C), added to the positional encodings of the top-left and bottom-right corners; absent
            without boxes.
    """

    frequencies: Tensor
    dense_pe: Tensor

    def __init__(self, encoder: PromptEncoder, boxes: bool):
        super().__init__()
        self.input_size = encoder.input_image_size  # (H, W)
        self.no_mask_embed = nn.Parameter(encoder.no_mask_embed.weight.data.clone(), requires_grad=False)
        self.uses_boxes = boxes
        if boxes:
            corners = torch.cat([encoder.point_embeddings[i].weight.data for i in (2, 3)])
            self.corners = nn.Parameter(corners, requires_grad=False)
        self.register_buffer("frequencies", encoder.pe_layer.positional_encoding_gaussian_matrix.data)
        with torch.no_grad():
            # The decoder reads it as tokens, whose channels lie together.
            dense_pe = encoder.get_dense_pe().to(self.frequencies.dtype, memory_format=torch.channels_last)
            self.register_buffer("dense_pe", dense_pe)

    def sparse(self, boxes: Tensor) -> Tensor:
        """Encode box prompts as tokens.

        Args:
            boxes: (B, 4), XYXY in pixels of the encoder's input.

        Returns:
            (B, 2, C), the embeddings of the top-left and bottom-right corners.
        """
        height, width = self.input_size
        # bf16 has 8 significant bits: at 1024 pixels a corner would move by several pixels.
        with torch.autocast(boxes.device.type, enabled=False):
            corners = boxes.to(self.frequencies.dtype).reshape(-1, 2, 2) + 0.5  # centre of the pixel
            corners = 2 * corners / corners.new_tensor([width, height]) - 1
            angles = 2 * math.pi * (corners @ self.frequencies)
            return torch.cat([angles.sin(), angles.cos()], dim=-1) + self.corners

    def dense(self) -> Tensor:
        """Return the dense prompt, (1, C, 1, 1), which is added to every image token."""
        return self.no_mask_embed.reshape(1, -1, 1, 1)
