"""The models of four public codes, built on segment_anything's own modules and on nothing of this package.

Each model takes images in float64, B x 3 x S x S, and returns the logits that its loss sees: B x 2 x h x h (BLO-SAM,
SAMed) or B x 1 x h x h (SAM-Adapter, Medical SAM Adapter). ``names`` maps the name of every parameter of this
package's model to the parameters that it corresponds to, stacked if there are several.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, Sam
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor, nn

Names = dict[str, tuple[Tensor, ...]]

_PER_LAYER = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
_ATTENTIONS = (
    *(f"layers.{layer}.{name}" for layer in (0, 1) for name in _PER_LAYER),
    "final_attn_token_to_image",
)


class Reference(nn.Module):
    """SAM without a prompt: the image embedding, the dense embedding of no mask, and the mask decoder.

    Args:
        sam: float32; a copy of it is used.
        outputs: number of mask tokens of the decoder minus one, as segment_anything counts; None keeps SAM's decoder.
    """

    def __init__(self, sam: Sam, outputs: int | None):
        super().__init__()
        with torch.no_grad():
            self.image_pe = sam.prompt_encoder.get_dense_pe().double()
        sam = copy.deepcopy(sam).double()
        self.encoder, self.decoder = sam.image_encoder, sam.mask_decoder
        self.no_mask = nn.Parameter(sam.prompt_encoder.no_mask_embed.weight.data)
        if outputs is not None:
            old, width = self.decoder, self.decoder.transformer_dim
            self.decoder = MaskDecoder(
                transformer_dim=width, transformer=old.transformer, num_multimask_outputs=outputs
            ).double()
            self.decoder.output_upscaling, self.decoder.iou_token = old.output_upscaling, old.iou_token
        self.requires_grad_(False)
        self.names: Names = {}

    def embed(self, images: Tensor) -> Tensor:
        """Return the image embedding, B x C x G x G."""
        embedding: Tensor = self.encoder(images)
        return embedding

    def masks(self, images: Tensor) -> Tensor:
        """Return all of the decoder's masks, one image at a time as in SAM, B x tokens x h x h."""
        embedding = self.embed(images)
        side, width = embedding.shape[-1], embedding.shape[1]
        dense = self.no_mask.reshape(1, width, 1, 1).expand(1, width, side, side)
        nothing = embedding.new_zeros(1, 0, width)
        rows = [self.decoder.predict_masks(one[None], self.image_pe, nothing, dense)[0] for one in embedding]
        return torch.cat(rows)

    def forward(self, images: Tensor) -> Tensor:
        return self.masks(images)

    def train_all(self, ours: str, module: nn.Module) -> None:
        """Train a module whose parameters have equal names in both."""
        for name, parameter in module.named_parameters():
            self.names[f"{ours}.{name}"] = (parameter.requires_grad_(True),)

    def train_outputs(self, *, cold: bool) -> None:
        """Train the decoder's tokens, upscaling and the hypernetworks that this package trains too."""
        self.names["decoder.iou_token"] = (self.decoder.iou_token.weight.requires_grad_(True),)
        self.names["decoder.head.tokens"] = (self.decoder.mask_tokens.weight.requires_grad_(True),)
        self.train_all("decoder.upscaling", self.decoder.output_upscaling)
        if cold:
            self.train_all("decoder.head.hypernetworks", self.decoder.output_hypernetworks_mlps)
        else:
            self.train_all("decoder.head.foreground", self.decoder.output_hypernetworks_mlps[0])

    def train_prompt(self) -> None:
        """Train the dense embedding of no mask."""
        self.names["prompt.no_mask_embed"] = (self.no_mask.requires_grad_(True),)


class LowRank(nn.Module):
    """A linear layer plus B A x, added to some thirds of its output or, without ``thirds``, to all of it."""

    def __init__(self, layer: nn.Linear, rank: int, thirds: tuple[int, ...] = ()):
        super().__init__()
        self.layer, self.thirds = layer, thirds
        width = layer.out_features // (3 if thirds else 1)
        count = len(thirds) or 1
        self.a = nn.ModuleList(nn.Linear(layer.in_features, rank, bias=False).double() for _ in range(count))
        self.b = nn.ModuleList(nn.Linear(rank, width, bias=False).double() for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        if not self.thirds:
            return out + self.b[0](self.a[0](x))
        parts = list(out.chunk(3, dim=-1))
        for which, third in enumerate(self.thirds):
            parts[third] = parts[third] + self.b[which](self.a[which](x))
        return torch.cat(parts, dim=-1)

    def enter(self, ours: str, names: Names) -> None:
        """Enter the names of this package's update of the same layer."""
        update = f"{ours}.parametrizations.weight.0"
        names[f"{update}.down"] = tuple(part.get_parameter("weight") for part in self.a)
        names[f"{update}.up"] = tuple(part.get_parameter("weight") for part in self.b)


class BloSam(Reference):
    """LoRA on q and v of the decoder's seven attentions; new tokens and hypernetworks, two masks."""

    def __init__(self, sam: Sam, rank: int):
        super().__init__(sam, outputs=1)
        transformer = self.decoder.transformer
        for place in _ATTENTIONS:
            attention = transformer.get_submodule(place)
            for name in ("q_proj", "v_proj"):
                setattr(attention, name, LowRank(getattr(attention, name), rank))
                getattr(attention, name).enter(f"decoder.transformer.{place}.{name}", self.names)
        self.train_outputs(cold=True)
        self.train_prompt()


class Samed(Reference):
    """LoRA on q and v of every encoder block; new tokens and hypernetworks, two masks; the whole decoder trains."""

    def __init__(self, sam: Sam, rank: int):
        super().__init__(sam, outputs=1)
        for number, block in enumerate(self.encoder.blocks):
            block.attn.qkv = LowRank(block.attn.qkv, rank, thirds=(0, 2))
            block.attn.qkv.enter(f"encoder.blocks.{number}.attn.qkv", self.names)
        self.train_outputs(cold=True)
        self.train_all("decoder.transformer", self.decoder.transformer)
        self.train_prompt()


class SamAdapter(Reference):
    """Hints from the patch embedding and the image's high frequencies before every block; SAM's first mask.

    The public code reshapes the tokens of the hint in the wrong order, which is not repeated here.
    """

    def __init__(self, sam: Sam, ratio: int, share: float):
        super().__init__(sam, outputs=None)
        width = self.encoder.patch_embed.proj.out_channels
        hidden, self.share = max(width // ratio, 1), share
        self.embedding_generator = nn.Linear(width, hidden).double()
        self.shared_mlp = nn.Linear(hidden, width).double()
        self.hand_crafted = nn.Conv2d(3, hidden, 16, stride=16).double()
        self.light = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, hidden), nn.GELU()).double() for _ in self.encoder.blocks
        )
        self.train_all("encoder.project", self.embedding_generator)
        self.train_all("encoder.up", self.shared_mlp)
        self.train_all("encoder.patch_embed", self.hand_crafted)
        self.train_all("encoder.light", self.light)
        self.train_outputs(cold=False)
        self.train_all("decoder.transformer", self.decoder.transformer)
        for number in (1, 2, 3):
            self.train_all(f"decoder.head.unused.{number - 1}", self.decoder.output_hypernetworks_mlps[number])
        self.train_prompt()

    def embed(self, images: Tensor) -> Tensor:
        side = images.shape[-1]
        spectrum = torch.fft.fftshift(torch.fft.fft2(images, norm="forward"), dim=(-2, -1))
        half = int((side * side * self.share) ** 0.5 // 2)
        middle = slice(side // 2 - half, side // 2 + half)
        kept = torch.ones(side, side, dtype=images.dtype)
        kept[middle, middle] = 0
        shifted = torch.fft.ifftshift(spectrum * kept, dim=(-2, -1))
        edges = torch.fft.ifft2(shifted, norm="forward").real.abs()
        patches = self.encoder.patch_embed(images)
        hint = self.embedding_generator(patches) + self.hand_crafted(edges).permute(0, 2, 3, 1)
        x = patches + self.encoder.pos_embed
        for light, block in zip(self.light, self.encoder.blocks, strict=True):
            x = block(self.shared_mlp(light(hint)) + x)
        embedding: Tensor = self.encoder.neck(x.permute(0, 3, 1, 2))
        return embedding

    def forward(self, images: Tensor) -> Tensor:
        return self.masks(images)[:, :1]


class MedSa(Reference):
    """Two bottlenecks in every encoder block, windows padded before the normalisation; SAM's first mask."""

    def __init__(self, sam: Sam, ratio: int):
        super().__init__(sam, outputs=None)
        width = self.encoder.patch_embed.proj.out_channels
        hidden = max(width // ratio, 1)
        pairs = [[self._bottleneck(width, hidden) for _ in range(2)] for _ in self.encoder.blocks]
        self.space = nn.ModuleList(pair[0] for pair in pairs)
        self.beside = nn.ModuleList(pair[1] for pair in pairs)
        for number in range(len(pairs)):
            self.train_all(f"encoder.blocks.{number}.attn.adapter", self.space[number])
            self.train_all(f"encoder.blocks.{number}.mlp.adapter", self.beside[number])
        self.train_outputs(cold=False)
        self.train_all("decoder.transformer", self.decoder.transformer)

    @staticmethod
    def _bottleneck(width: int, hidden: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)).double()

    def embed(self, images: Tensor) -> Tensor:
        x = self.encoder.patch_embed(images) + self.encoder.pos_embed
        for block, space, beside in zip(self.encoder.blocks, self.space, self.beside, strict=True):
            inside, shape, window = x, x.shape[1:3], block.window_size
            if window > 0:
                inside, padded = window_partition(x, window)
            attended = block.attn(block.norm1(inside))
            attended = attended + space(attended)
            if window > 0:
                attended = window_unpartition(attended, window, padded, tuple(shape))
            x = x + attended
            normalised = block.norm2(x)
            x = x + block.mlp(normalised) + 0.5 * beside(normalised)
        embedding: Tensor = self.encoder.neck(x.permute(0, 3, 1, 2))
        return embedding

    def forward(self, images: Tensor) -> Tensor:
        return self.masks(images)[:, :1]


def ce_and_dice(logits: Tensor, label: Tensor, weight: float = 0.8) -> Tensor:
    """SAMed's and BLO-SAM's loss: cross-entropy, and a Dice of each class over the whole batch."""
    total = logits.new_zeros(())
    for channel, probability in enumerate(logits.softmax(1).unbind(1)):
        truth = (label == channel).to(logits.dtype)
        crossing = (probability * truth).sum()
        squares = (probability * probability).sum() + (truth * truth).sum()
        total = total + 1 - (2 * crossing + 1e-5) / (squares + 1e-5)
    return (1 - weight) * F.cross_entropy(logits, label) + weight * total / 2


def bce_and_iou(logits: Tensor, label: Tensor) -> Tensor:
    """SAM-Adapter's loss at the size of the label, which is that of the encoder's input."""
    logits = F.interpolate(logits, label.shape[-2:], mode="bilinear", align_corners=False)
    truth = label[:, None].to(logits.dtype)
    inside = logits.sigmoid()
    shared = (inside * truth).sum((2, 3))
    iou = shared / ((inside + truth).sum((2, 3)) - shared)
    return F.binary_cross_entropy_with_logits(logits, truth) + (1 - iou).mean()


def bce_at_256(logits: Tensor, label: Tensor) -> Tensor:
    """Medical SAM Adapter's loss: logits repeated to 256 x 256, object pixels counted twice."""
    logits = F.interpolate(logits, (256, 256))
    weight = torch.tensor([2.0], dtype=logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, label[:, None].to(logits.dtype), pos_weight=weight)
