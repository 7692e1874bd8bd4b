"""SAM's mask decoder with a background and a foreground channel, for a batch of images.

SAMed and BLO-SAM train two mask outputs with a softmax over them. Their head is ``cold``: two new mask tokens with
new hypernetworks. The ``warm`` head is an addition of this project: the foreground is SAM's own single-mask output, and
the background starts at zero, so that before training softmax(0, fg) = sigmoid(fg) is SAM's own mask.

Suffixes: B batch, C prompt width, G image grid, T tokens, U upscaled channels (C / 8), N = 2 mask outputs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amsam_ray.models.parts.tensor_sharing import make_trainable, share
from amsam_ray.models.parts.two_way import attend_two_ways, take_over_attentions
from amsam_ray.models.parts.upscaling import upscale
from amsam_ray.models.sam_package import MLP, MaskDecoder


class WarmHead(nn.Module):
    """The head whose two channels both come from SAM's single-mask token.

    The background is a second, zero-initialised output layer on the hidden layers of that token's hypernetwork.
    A softmax depends only on the difference of its two logits, so both layers fold into SAM's single hypernetwork for
    export. A background with another token could not be folded.
    """

    def __init__(self, decoder: MaskDecoder):
        super().__init__()
        self.foreground = share(decoder.output_hypernetworks_mlps[0])
        last = self.foreground.layers[-1]
        self.background = nn.Linear(last.in_features, last.out_features)
        nn.init.zeros_(self.background.weight)
        nn.init.zeros_(self.background.bias)
        self.tokens = nn.Parameter(decoder.mask_tokens.weight.data, requires_grad=False)

    def forward(self, tokens_BTC: Tensor) -> Tensor:
        """Map the updated mask tokens to hypernetwork weights, B x 2 x U (background, foreground)."""
        *hidden_layers, last = self.foreground.layers
        hidden = tokens_BTC[:, 0]
        for layer in hidden_layers:
            hidden = F.relu(layer(hidden))
        return torch.stack([self.background(hidden), last(hidden)], dim=1)


class ColdHead(nn.Module):
    """The head with two new mask tokens (standard normal) and a new hypernetwork for each, as in BLO-SAM."""

    def __init__(self, decoder: MaskDecoder):
        super().__init__()
        width = decoder.transformer_dim
        self.tokens = nn.Parameter(torch.randn(2, width))
        self.hypernetworks = nn.ModuleList(MLP(width, width, width // 8, 3) for _ in range(2))

    def forward(self, tokens_BTC: Tensor) -> Tensor:
        """Map the updated mask tokens to hypernetwork weights, B x 2 x U (background, foreground)."""
        return torch.stack([net(tokens_BTC[:, i]) for i, net in enumerate(self.hypernetworks)], dim=1)


class TwoChannelDecoder(nn.Module):
    """SAM's two-way transformer and upscaling with a two-channel head, one prompt per image.

    ``segment_anything``'s ``MaskDecoder.predict_masks`` takes one image with many prompts; this decoder takes many
    images with one prompt each. It has no IoU head, since no term of the losses (AM-SAM eq. 5) depends on one.

    Args:
        decoder: SAM's decoder, whose memory is shared; it is not changed.
        head: ``cold`` or ``warm``.
    """

    def __init__(self, decoder: MaskDecoder, head: Literal["cold", "warm"]):
        super().__init__()
        self._original = (decoder,)  # in a tuple, so that it is no submodule
        self.transformer = take_over_attentions(share(decoder.transformer))
        self.upscaling = share(decoder.output_upscaling)
        self.iou_token = nn.Parameter(decoder.iou_token.weight.data, requires_grad=False)
        self.head: WarmHead | ColdHead = WarmHead(decoder) if head == "warm" else ColdHead(decoder)

    def train_output(self) -> None:
        """Train everything except the transformer: output tokens, upscaling and hypernetworks."""
        for part in (self.upscaling, self.head):
            make_trainable(part)
        self.iou_token.data = self.iou_token.data.clone()
        self.iou_token.requires_grad_(True)

    def train_with_one_channel(self, *, unused: bool) -> None:
        """Train the whole decoder as public code with one logit does: the background of the warm head stays zero.

        Args:
            unused: also train the hypernetworks of SAM's three other tokens. They have no gradient, so only the
                weight decay acts on them; the public code of SAM-Adapter trains them.
        """
        make_trainable(self)
        assert isinstance(self.head, WarmHead), "a cold head has two channels"
        self.head.background.requires_grad_(False)
        if unused:
            others = self._original[0].output_hypernetworks_mlps[1:]
            self.head.unused = nn.ModuleList(make_trainable(share(net)) for net in others)

    @property
    def channels(self) -> int:
        """U, the width of the upscaled embedding."""
        return self.iou_token.shape[1] // 8

    def forward(
        self,
        embedding_BCGG: Tensor,
        dense_pe_1CGG: Tensor,
        sparse_BTC: Tensor | None,
        dense_1C11: Tensor,
        prompted_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the two factors of the mask logits.

        Args:
            embedding_BCGG: the image embedding, the encoder's output.
            dense_pe_1CGG: SAM's positional encoding of the image grid.
            sparse_BTC: prompt tokens, or None for the dense prompt alone.
            dense_1C11: the dense prompt.
            prompted_B: bool, False for images that do not have the prompt tokens; None if all have them.

        Returns:
            The upscaled embedding of each position, B x 16 G * G x U, in the order of ``upscaling.arrange``, and the
            hypernetworks' output, B x 2 x U.
        """
        batch = len(embedding_BCGG)
        own = torch.cat([self.iou_token, self.head.tokens]).expand(batch, -1, -1)
        tokens, hidden_BT = own, None
        if sparse_BTC is not None:
            if prompted_B is not None:
                sparse_BTC = torch.where(prompted_B[:, None, None], sparse_BTC, 0.0)  # a box may hold any value
                absent = (~prompted_B)[:, None]
                hidden_BT = torch.cat(
                    [absent.new_zeros(1).expand(batch, own.shape[1]), absent.expand(-1, sparse_BTC.shape[1])], dim=1
                )
            tokens = torch.cat([own, sparse_BTC.to(own.dtype)], dim=1)
        image_BPC = embedding_BCGG.flatten(2).transpose(1, 2).contiguous() + dense_1C11.flatten(1)
        pe_1PC = dense_pe_1CGG.flatten(2).transpose(1, 2).contiguous()
        out_BTC, image_BPC = attend_two_ways(self.transformer, image_BPC, pe_1PC, tokens, hidden_BT)
        return upscale(self.upscaling, image_BPC), self.head(out_BTC[:, 1 : 1 + len(self.head.tokens)])
