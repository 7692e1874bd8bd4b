"""The frozen SAM: the shipped nano, MobileSAM and SAM's checkpoints, at any image size that is a multiple of 16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from amsam_ray.config.networks import BackboneConfig
from amsam_ray.errors import InputError, Problem
from amsam_ray.hashing import file_sha256
from amsam_ray.lean_imports import on_meta_device
from amsam_ray.models import frozen_vit
from amsam_ray.models.mobile_sam import build_mobile_sam
from amsam_ray.models.nano import build_nano_sam
from amsam_ray.models.preprocess import PIXEL_MEAN, PIXEL_STD
from amsam_ray.models.sam_package import Sam, sam_model_registry
from amsam_ray.models.weights import describe_expected, resolve_checkpoint

PATCH = 16


@dataclass(frozen=True)
class Backbone:
    """A frozen SAM in evaluation mode. Models share its tensors and never write to them.

    Attributes:
        sam: segment_anything's module.
        arch: ``nano``, ``mobile_sam``, ``vit_b``, ``vit_l`` or ``vit_h``.
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
        """Number of blocks in the encoder's ViT; 0 for ``mobile_sam``."""
        return len(getattr(self.sam.image_encoder, "blocks", ()))

    @property
    def width(self) -> int:
        """d, the width of the ViT's tokens; not for ``mobile_sam``."""
        return self.sam.image_encoder.patch_embed.proj.out_channels

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.sam.mask_decoder.iou_token.weight.device

    @property
    def output_side(self) -> int:
        """Side of the decoder's square of logits, 4G."""
        return 4 * self.grid

    @property
    def keeps_test_images(self) -> bool:
        """True: an embedding is small, and the finals of all methods read it."""
        return True

    def encode(self, images: Tensor, point: str) -> Tensor:
        """Run the frozen encoder up to a cache point, see ``encode_to``."""
        return encode_to(self, images, point)


def build_sam(arch: str, image_size: int) -> Sam:
    """Build a SAM with initial weights for inputs of ``image_size`` pixels.

    Args:
        arch: ``nano``, ``mobile_sam``, or one of segment_anything's ``vit_b``, ``vit_l``, ``vit_h``.
        image_size: side of the square input in pixels, a multiple of 16; segment_anything alone builds only 1024.
    """
    if arch == "mobile_sam":
        return build_mobile_sam(image_size)
    sam = build_nano_sam() if arch == "nano" else sam_model_registry[arch]()
    encoder, prompts, grid = sam.image_encoder, sam.prompt_encoder, image_size // PATCH
    encoder.img_size = image_size
    encoder.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, encoder.pos_embed.shape[3]))
    for attention in (block.attn for block in encoder.blocks if block.window_size == 0):
        if attention.use_rel_pos:
            shape = (2 * grid - 1, attention.rel_pos_h.shape[1])
            attention.rel_pos_h, attention.rel_pos_w = (nn.Parameter(torch.zeros(shape)) for _ in range(2))
    prompts.image_embedding_size = (grid, grid)
    prompts.input_image_size = (image_size, image_size)
    prompts.mask_input_size = (4 * grid, 4 * grid)
    return sam


def resize_positions(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Resize the position embeddings of a checkpoint to another image size, as SAMed and BLO-SAM do.

    The absolute embedding (1 x G x G x d) is resized bilinearly, the relative positions of the global blocks
    ((2G - 1) x d_head) linearly; windowed blocks keep theirs, since the window does not change.

    Args:
        state: weights by official name.
        shapes: the shapes of the model by official name.

    Returns:
        A copy of ``state`` in which the position embeddings of another shape are resized.
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
    except Exception as error:  # the restricted unpickler raises whatever its opcodes run into
        size = path.stat().st_size
        raise InputError(
            Problem(
                str(path),
                f"is not a readable SAM checkpoint ({size} bytes). It is truncated, or it is another kind of file. "
                f"Fetch it again; {expected}",
            )
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            Problem(
                str(path),
                f"holds {type(state).__name__}, not a plain state dict. Save the state dict alone; {expected}",
            )
        )
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


def load_backbone(config: BackboneConfig, device: torch.device | str = "cpu") -> Backbone:
    """Load the frozen SAM that ``config`` names onto ``device``, fp32.

    A file with an official name must be the official file. Any other file loads if it has the keys and shapes of
    ``arch`` (a SAM tuned elsewhere); ``config.sha256`` pins it.

    Raises:
        InputError: the file is missing, truncated, of another kind or architecture, or has another hash; states the
            expected SHA-256 and size, or the first missing key.
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
    # The checkpoint overwrites all weights, so they are not initialised: the meta device has no memory.
    with on_meta_device():
        sam = build_sam(config.arch, config.size)
    wanted = sam.state_dict()
    shapes = {name: value.shape for name, value in wanted.items()}
    state = resize_positions(_read_state(path, config.arch), shapes)
    _check_fits(state, shapes, path, config.arch)
    sam.load_state_dict({name: state[name].to(value.dtype) for name, value in wanted.items()}, assign=True)
    sam.pixel_mean = torch.tensor(PIXEL_MEAN).view(3, 1, 1)
    sam.pixel_std = torch.tensor(PIXEL_STD).view(3, 1, 1)
    sam = sam.to(device).eval().requires_grad_(False)
    return Backbone(sam, config.arch, config.size, fingerprint)


@torch.no_grad()
def encode_to(backbone: Backbone, images: Tensor, point: str) -> Tensor:
    """Run the frozen encoder up to a cache point.

    Args:
        backbone: the frozen SAM.
        images: (B, 3, S, S), from ``preprocess.to_input``.
        point: ``embedding`` for the encoder's output, or ``tokens@k`` for the input of block k of a ViT (``tokens@0``
            is patch embedding plus position).

    Returns:
        (B, C, G, G) for ``embedding``, (B, G, G, d) for ``tokens@k``.

    Raises:
        ValueError: ``point`` is another word or names a block that does not exist.
    """
    encoder = backbone.sam.image_encoder
    if point == "embedding":
        embedding: Tensor = frozen_vit.encode(encoder, images) if backbone.depth else encoder(images)
        return embedding
    name, _, number = point.partition("@")
    if name != "tokens" or not number.isdigit() or int(number) >= backbone.depth:
        raise ValueError(f"unknown cache point {point!r}; use embedding or tokens@0 .. tokens@{backbone.depth - 1}")
    return next(islice(frozen_vit.all_tokens(encoder, images), int(number), None))
