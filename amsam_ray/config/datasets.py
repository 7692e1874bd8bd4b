"""Which labelled images a sweep uses and how few of them. Imports nothing slow."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_LABEL = re.compile(r"^[a-z0-9][a-z0-9_-]{0,63}$")


def slug(text: str) -> str:
    """``text`` as a name that is safe in keys and file names: lower case, digits, ``_`` and ``-``."""
    return re.sub(r"[^a-z0-9_-]+", "_", text.lower()).strip("_-")[:64] or "dataset"


class DatasetConfig(BaseModel):
    """One dataset of a sweep."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="a known dataset (`amsam-ray data list`) or the path of a definition of your own")
    label: str = Field("", description="its name in leaderboards; empty: derived from name, family or folder")
    root: str | None = Field(None, description="its folder, or s3://bucket/prefix; empty: below $AMSAM_DATA")
    options: dict[str, Any] = Field(default_factory=dict, description="what the definition lets one choose")
    limit_test: int | None = Field(None, ge=1, description="score only the first N images of the test split")

    @model_validator(mode="before")
    @classmethod
    def _derive_label(cls, data: Any) -> Any:
        data = {"name": data} if isinstance(data, str) else data
        if isinstance(data, dict) and not data.get("label") and isinstance(data.get("name"), str):
            data = dict(data)
            options = data.get("options") or {}
            if data["name"] == "procedural" and isinstance(options, dict) and options.get("family"):
                data["label"] = slug(str(options["family"]))
            elif data["name"] == "folder" and data.get("root"):
                data["label"] = slug(PurePosixPath(str(data["root"]).rstrip("/")).name)
            else:
                data["label"] = slug(PurePosixPath(data["name"]).stem)
        return data

    @model_validator(mode="after")
    def _check_label(self) -> DatasetConfig:
        if not _LABEL.match(self.label):
            raise ValueError(f"label {self.label!r} must be lower-case letters, digits, _ or -, at most 64")
        return self


class SelectionConfig(BaseModel):
    """On which images configurations are compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["d2", "holdout"] = Field(
        "d2", description="d2: the papers' protocol; holdout: further labelled images that no level trains on"
    )
    images: int = Field(0, ge=0, description="how many further images, for holdout")

    @model_validator(mode="after")
    def _consistent(self) -> SelectionConfig:
        if self.mode == "holdout" and self.images < 1:
            raise ValueError("holdout needs images >= 1")
        if self.mode == "d2" and self.images:
            raise ValueError("images belongs to mode holdout; remove it or set mode: holdout")
        return self


class AugmentConfig(BaseModel):
    """Fixed views of every shot, computed once so that prepared inputs stay valid. ``views: 0`` is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    views: int = Field(0, ge=0, le=64, description="views of each shot besides the original")
    flip: bool = Field(True, description="mirror left-right with probability one half")
    scale: float = Field(0.2, ge=0, lt=1, description="zoom in [1 - scale, 1 + scale]")
    jitter: float = Field(0.2, ge=0, le=1, description="strength of brightness, contrast and saturation changes")
    greyscale: float = Field(0.1, ge=0, le=1, description="probability of a grey view")
    blur: float = Field(0.1, ge=0, le=1, description="probability of a Gaussian blur")
