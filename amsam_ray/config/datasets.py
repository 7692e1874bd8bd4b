"""Datasets, selection and augmentation as a user configures them. Imports nothing slow."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from amsam_ray.config.added_fields import WithAddedFields
from amsam_ray.config.plain_values import PlainModel
from amsam_ray.errors import printable

_LABEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
CLASS_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,31}")
"""Names of classes; a dataset of one class is labelled ``<dataset>.<class>``."""
_MAX_PATH = 4096
_MAX_PART = 255
_MIN_CROSSFIT_SHOTS = 4  # two folds of fewer shots leave a level without one


def slug(text: str) -> str:
    """Return ``text`` as a name that is safe in keys and file names: lower case, digits, ``_`` and ``-``."""
    return re.sub(r"[^a-z0-9_-]+", "_", text.lower()).strip("_-")[:64] or "dataset"


def path_fault(text: str) -> str | None:
    """Return why ``text`` cannot be a path on this machine, with the remedy; None if it can be one."""
    if not text.strip():
        return "is empty; give a path"
    if (found := next((c for c in text if c in "\t\n" or printable(c) != c), None)) is not None:
        return f"contains the character U+{ord(found):04X}; remove it"
    if len(text) > _MAX_PATH:
        return f"is longer than {_MAX_PATH:,} characters; shorten the path"
    if not text.startswith("s3://") and any(len(part.encode()) > _MAX_PART for part in text.split("/")):
        return f"has a part that is longer than {_MAX_PART} bytes, which no file system allows; shorten it"
    if text.startswith("~"):
        try:
            Path(text).expanduser()
        except RuntimeError:
            return f"{text.partition('/')[0]} is not a user of this machine; write the path out"
    return None


class DatasetConfig(PlainModel):
    """One dataset of a sweep."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        min_length=1, description="a known dataset (`amsam-ray data list`) or the path of your own definition"
    )
    label: str = Field("", description="its name in leaderboards; empty: derived from name, family or folder")
    root: str | None = Field(None, description="its folder, or s3://bucket/prefix; empty: below $AMSAM_DATA")
    options: dict[str, Any] = Field(default_factory=dict, description="the dataset's options, its classes among them")
    limit_test: int | None = Field(None, ge=1, le=10**9, description="score only the first N images of the test split")

    @model_validator(mode="before")
    @classmethod
    def _derive_label(cls, data: Any) -> Any:
        data = {"name": data} if isinstance(data, str) else data
        if isinstance(data, dict) and data.get("label") in (None, "") and isinstance(data.get("name"), str):
            data = dict(data)
            options = data.get("options") or {}
            if data["name"] == "procedural" and isinstance(options, dict) and options.get("family"):
                data["label"] = slug(str(options["family"]))
            elif data["name"] == "folder" and data.get("root"):
                data["label"] = slug(PurePosixPath(str(data["root"]).rstrip("/")).name)
            else:
                data["label"] = slug(PurePosixPath(data["name"]).stem)
            one = options.get("class") if isinstance(options, dict) else None
            if isinstance(one, str) and CLASS_NAME.fullmatch(one):
                data["label"] += f".{one}"
        return data

    @model_validator(mode="after")
    def _check_label(self) -> DatasetConfig:
        name, dot, one = self.label.partition(".")
        of_class = CLASS_NAME.fullmatch(one) and self.options.get("class") == one
        if not _LABEL.fullmatch(name) or (dot and not of_class):
            raise ValueError(
                f"label {self.label[:70]!r} is not valid; use at most 64 lower-case letters, digits, _ or -"
            )
        return self


class SelectionConfig(WithAddedFields):
    """The images on which configurations are compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    ADDED: ClassVar[frozenset[str]] = frozenset({"folds"})

    mode: Literal["d2", "holdout", "crossfit"] = Field(
        "d2",
        description="d2: the papers' protocol; holdout: additional labelled images used by neither level; "
        "crossfit: every shot is judged by a model that was not trained on it",
    )
    images: int = Field(0, ge=0, le=10**6, description="number of additional images, for holdout")
    folds: int = Field(0, ge=0, le=1000, description="number of folds, for crossfit; 0: 4")

    @model_validator(mode="after")
    def _consistent(self) -> SelectionConfig:
        if self.mode == "holdout" and self.images < 1:
            raise ValueError("mode holdout needs images; set images to at least 1")
        if self.mode != "holdout" and self.images:
            raise ValueError("images requires mode holdout; remove it or set mode: holdout")
        if self.mode != "crossfit" and self.folds:
            raise ValueError("folds requires mode crossfit; remove it or set mode: crossfit")
        if self.folds == 1:
            raise ValueError("folds must be at least 2: each fold holds shots out of its training")
        return self

    @property
    def fold_count(self) -> int:
        """Number of folds; 1 without cross-fitting."""
        return (self.folds or 4) if self.mode == "crossfit" else 1

    def shots_fault(self, shots: int) -> str | None:
        """Return why K shots cannot be divided into the folds, with the remedy; None if they can.

        Every fold must hold out a shot and keep one for each of two levels.

        Args:
            shots: K.
        """
        if self.mode != "crossfit":
            return None
        if shots < _MIN_CROSSFIT_SHOTS:
            what = f"{shots} shots are too few for selection mode crossfit"
            return f"{what}; use at least {_MIN_CROSSFIT_SHOTS} shots or another selection.mode"
        if self.fold_count > shots:
            what = f"{shots} shots cannot be divided into {self.fold_count} folds"
            return f"{what}; set selection.folds to at most {shots} or use more shots"
        # With K >= 4 and at least two folds, a fold keeps at least floor(K / 2) >= 2 shots.
        return None


class AugmentConfig(PlainModel):
    """Fixed views of every shot, computed once so that prepared inputs stay valid; ``views: 0`` for none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    views: int = Field(0, ge=0, le=64, description="views of each shot besides the original")
    flip: bool = Field(True, description="mirror left-right with probability one half")
    scale: float = Field(0.2, ge=0, lt=1, description="zoom in [1 - scale, 1 + scale]")
    jitter: float = Field(0.2, ge=0, le=1, description="strength of brightness, contrast and saturation changes")
    greyscale: float = Field(0.1, ge=0, le=1, description="probability of a grey view")
    blur: float = Field(0.1, ge=0, le=1, description="probability of a Gaussian blur")
