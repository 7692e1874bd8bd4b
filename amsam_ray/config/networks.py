"""The frozen networks of a sweep: the SAM backbone and the detector. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator

from amsam_ray.config.plain_values import PlainModel

Arch = Literal["nano", "mobile_sam", "vit_b", "vit_l", "vit_h"]
_NATIVE_SIZE = {"nano": 256, "mobile_sam": 1024, "vit_b": 1024, "vit_l": 1024, "vit_h": 1024}
# The blocks of SAM's ViT. MobileSAM's TinyViT is built of four stages of different parts.
_DEPTH = {"nano": 6, "vit_b": 12, "vit_l": 24, "vit_h": 32}
_ENCODER_WIDTH = {"nano": 192, "vit_b": 768, "vit_l": 1024, "vit_h": 1280}
# Cross-attention in SAM's two-way transformer works at half of the prompt width.
_DECODER_ATTENTION_WIDTH = {"nano": 64, "mobile_sam": 128, "vit_b": 128, "vit_l": 128, "vit_h": 128}


def _class(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a name or a number of a class, not {str(value).lower()}")
    return value


ClassFilter = Annotated[int | str, BeforeValidator(_class)]


class BackboneConfig(PlainModel):
    """The frozen SAM."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arch: Arch = Field("nano", description="nano (shipped), mobile_sam, or an official SAM size")
    checkpoint: str | None = Field(
        None,
        description="path of the weights; empty: the shipped nano, or the official file fetched by `weights fetch`",
    )
    image_size: int = Field(
        0, ge=0, description="side of the square input in pixels, a multiple of 16; 0: the native size"
    )
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="refuse a checkpoint with another hash")

    @field_validator("image_size")
    @classmethod
    def _multiple_of_16(cls, value: int) -> int:
        if value % 16:
            raise ValueError(f"must be a multiple of 16, for instance {value // 16 * 16 or 16}")
        return value

    @property
    def depth(self) -> int:
        """Number of blocks in the encoder's ViT; 0 for ``mobile_sam``."""
        return _DEPTH.get(self.arch, 0)

    @property
    def encoder_width(self) -> int:
        """Width of the ViT's tokens: the smaller side of each q and v projection; 0 for ``mobile_sam``."""
        return _ENCODER_WIDTH.get(self.arch, 0)

    @property
    def decoder_attention_width(self) -> int:
        """Inner width of the decoder's cross-attentions: the smaller side of their q and v projections."""
        return _DECODER_ATTENTION_WIDTH[self.arch]

    @property
    def size(self) -> int:
        """Side of the square input in pixels."""
        return self.image_size or _NATIVE_SIZE[self.arch]


class DetectorConfig(PlainModel):
    """The frozen detector whose most confident box becomes the prompt (AM-SAM, "Automated Prompting")."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: str = Field("nano", description="nano (shipped), yolov8n.pt, the path of an ultralytics detector, or none")
    confidence: float = Field(0.25, ge=0, le=1, description="boxes below this confidence are ignored")
    classes: tuple[ClassFilter, ...] | None = Field(None, description="names or numbers of classes to keep; empty: all")
    fallback: Literal["full_image", "none"] = Field(
        "full_image",
        description="without a detection: a box around the image, or the learned dense prompt alone",
    )
    trust: bool = Field(False, description="load a .pt of unknown origin, which can run code")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="the hash that a .pt must have to be loaded")
    finetune_epochs: int = Field(
        0, ge=0, le=100_000, description="tune the detector on the shots' own boxes first, then freeze it"
    )
