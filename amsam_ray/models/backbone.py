"""The frozen SAM: the shipped nano and the official checkpoints, at any multiple of 16 pixels."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from amsam_ray.errors import InputError, Problem
from amsam_ray.models.config import BackboneConfig
from amsam_ray.models.preprocess import PIXEL_MEAN, PIXEL_STD
from amsam_ray.models.weights import describe_expected, resolve_checkpoint

PATCH = 16


@dataclass(frozen=True)
class EncoderSize:
    """Numbers of one official encoder; ``global_blocks`` attend over the whole image, the others in windows."""

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]


OFFICIAL = {
    "vit_b": EncoderSize(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": EncoderSize(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": EncoderSize(1280, 32, 16, (7, 15, 23, 31)),
}


@dataclass(frozen=True)
class Backbone:
    """A frozen SAM in eval mode. Models share its tensors and never write into them.

    Attributes:
        sam: segment_anything's module.
        arch: ``nano``, ``vit_b``, ``vit_l`` or ``vit_h``.
        image_size: side S of the square input, in pixels.
        fingerprint: SHA-256 of the checkpoint file, 64 hex digits.
    """

    sam: Sam
    arch: str
    image_size: int
    fingerprint: str

    @property
    def grid(self) -> int:
        """Side of the token grid, S / 16."""
        return self.image_size // PATCH

    @property
    def depth(self) -> int:
        """Number of encoder blocks."""
        return len(self.sam.image_encoder.blocks)

    @property
    def width(self) -> int:
        """d, the width of the encoder's tokens."""
        return self.sam.image_encoder.patch_embed.proj.out_channels

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.sam.pixel_mean.device


def build_official_sam(arch: str, image_size: int) -> Sam:
    """``vit_b``, ``vit_l`` or ``vit_h`` with an input of ``image_size`` pixels, weights as initialised.

    ``segment_anything.build_sam`` does the same for 1024 pixels only.
    """
    size, grid, prompt_width = OFFICIAL[arch], image_size // PATCH, 256
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=image_size,
            patch_size=PATCH,
            embed_dim=size.width,
            depth=size.depth,
            num_heads=size.heads,
            mlp_ratio=4,
            out_chans=prompt_width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=14,
            global_attn_indexes=size.global_blocks,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=prompt_width,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=prompt_width,
            transformer=TwoWayTransformer(depth=2, embedding_dim=prompt_width, num_heads=8, mlp_dim=2048),
        ),
    )


def _build(arch: str, image_size: int) -> Sam:
    if arch != "nano":
        return build_official_sam(arch, image_size)
    from amsam_ray.models.nano import build_nano_sam

    return build_nano_sam(image_size)


def resize_positions(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Position embeddings of a checkpoint for another image size, as SAMed and BLO-SAM do.

    The absolute embedding (1 x G x G x d) is resized bilinearly, the relative positions of the global blocks
    ((2G - 1) x d_head) linearly; windowed blocks keep theirs, since the window does not change.

    Args:
        state: weights by official name.
        shapes: the shapes that the model wants.

    Returns:
        ``state`` with those entries replaced whose name is a position embedding and whose shape differs.
    """
    resized = dict(state)
    for name, shape in shapes.items():
        value = state.get(name)
        if value is None or value.shape == shape:
            continue
        if name.endswith("pos_embed") and value.ndim == 4 and value.shape[3] == shape[3]:
            grid = F.interpolate(value.permute(0, 3, 1, 2).float(), shape[1:3], mode="bilinear")
            resized[name] = grid.permute(0, 2, 3, 1)
        elif "rel_pos" in name and value.ndim == 2 and value.shape[1] == shape[1]:
            resized[name] = F.interpolate(value.T[None].float(), shape[0], mode="linear")[0].T
    return resized


def _read_state(path: Path, arch: str) -> dict[str, Tensor]:
    expected = describe_expected(arch)
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        size = path.stat().st_size
        raise InputError(
            Problem(
                str(path),
                f"is not a readable SAM checkpoint ({size} bytes; {reason}). It is truncated or another kind of "
                f"file; {expected}",
            )
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(Problem(str(path), f"holds {type(state).__name__}, not a plain state dict; {expected}"))
    return state


def _check_fits(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], path: Path, arch: str) -> None:
    expected = describe_expected(arch)
    missing = [name for name in shapes if name not in state]
    if missing:
        raise InputError(
            Problem(
                str(path),
                f"is not a {arch} checkpoint: {len(missing)} of {len(shapes)} keys are missing, the first is "
                f"{missing[0]}; {expected}",
            )
        )
    for name, shape in shapes.items():
        if state[name].shape != shape:
            raise InputError(
                Problem(
                    str(path),
                    f"is not a {arch} checkpoint: {name} has shape {tuple(state[name].shape)} instead of "
                    f"{tuple(shape)}; {expected}",
                )
            )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_backbone(config: BackboneConfig, device: torch.device | str = "cpu") -> Backbone:
    """The frozen SAM that ``config`` names, on ``device``, fp32.

    A file under an official name must be the official file. Other files load if they have ``arch``'s keys and
    shapes (a SAM tuned elsewhere); ``config.sha256`` pins them.

    Raises:
        InputError: the file is missing, truncated, of another kind or architecture, or has another hash; says the
            SHA-256 and size that were expected, or the first missing key.
    """
    path, pinned = resolve_checkpoint(config)
    fingerprint = file_sha256(path)
    if pinned is not None and fingerprint != pinned:
        raise InputError(
            Problem(
                str(path),
                f"has SHA-256 {fingerprint} and {path.stat().st_size} bytes, expected SHA-256 {pinned}; "
                f"{describe_expected(config.arch)}",
            )
        )
    # On the meta device nothing is initialised that the checkpoint overwrites.
    with torch.device("meta"):
        sam = _build(config.arch, config.size)
    shapes = {name: value.shape for name, value in sam.state_dict().items()}
    state = resize_positions(_read_state(path, config.arch), shapes)
    _check_fits(state, shapes, path, config.arch)
    sam.load_state_dict({name: state[name].float() for name in shapes}, assign=True)
    sam.pixel_mean = torch.tensor(PIXEL_MEAN).view(3, 1, 1)
    sam.pixel_std = torch.tensor(PIXEL_STD).view(3, 1, 1)
    sam = sam.to(device).eval().requires_grad_(False)
    return Backbone(sam, config.arch, config.size, fingerprint)


@torch.no_grad()
def encode_to(backbone: Backbone, images: Tensor, point: str) -> Tensor:
    """Runs the frozen encoder as far as a model wants it cached.

    Args:
        backbone: the frozen SAM.
        images: (B, 3, S, S), as ``preprocess.to_input`` gives them.
        point: ``embedding`` for the encoder's output, or ``tokens@k`` for the input of block k (``tokens@0`` is
            patch embedding plus position).

    Returns:
        (B, C, G, G) for ``embedding``, (B, G, G, d) for ``tokens@k``.

    Raises:
        ValueError: for another ``point`` or a block that does not exist.
    """
    encoder = backbone.sam.image_encoder
    stop = backbone.depth
    if point != "embedding":
        name, _, number = point.partition("@")
        if name != "tokens" or not number.isdigit() or int(number) >= backbone.depth:
            raise ValueError(f"unknown cache point {point!r}: embedding, or tokens@0 .. @{backbone.depth - 1}")
        stop = int(number)
    tokens = encoder.patch_embed(images)
    if encoder.pos_embed is not None:
        tokens = tokens + encoder.pos_embed
    for block in encoder.blocks[:stop]:
        tokens = block(tokens)
    return encoder.neck(tokens.permute(0, 3, 1, 2)) if point == "embedding" else tokens
