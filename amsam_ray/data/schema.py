"""Schema of dataset definitions, which are YAML files and never classes. Imports no slow package.

The package's own definitions are in `amsam_ray/data/definitions`; `docs/data.md` shows how to write one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from amsam_ray.config.metrics import METRICS


def unsafe_path(text: str) -> str | None:
    """Return why ``text`` is not a safe path below a data root, None if it is safe."""
    path = PurePosixPath(text)
    if path.is_absolute() or "\\" in text:
        return f"{text!r} must be relative to the data root, with forward slashes"
    if ".." in path.parts:
        return f"{text!r} leaves the data root; choose a root that contains the whole dataset"
    return None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FolderPair(_Part):
    """Folders of the photographs and the masks of one split, below the data root."""

    images: str = Field(description="folder of the photographs; {option} is replaced by the option's value")
    masks: str = Field(description="folder of the masks")

    @field_validator("images", "masks")
    @classmethod
    def _below_the_root(cls, value: str) -> str:
        if reason := unsafe_path(value):
            raise ValueError(reason)
        return value


class Layout(_Part):
    """One arrangement of folders: a ``pool`` that a rule splits, or ``train`` and ``test`` as published."""

    pool: FolderPair | None = None
    train: FolderPair | None = None
    test: FolderPair | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Layout:
        if (self.pool is None) == (self.train is None) or (self.train is None) != (self.test is None):
            raise ValueError("a layout has either pool, or both train and test")
        return self

    def pairs(self) -> dict[str, FolderPair]:
        """Return the folder pairs by split: ``pool``, or ``train`` and ``test``."""
        parts = {"pool": self.pool, "train": self.train, "test": self.test}
        return {split: pair for split, pair in parts.items() if pair is not None}


class MaskRule(_Part):
    """How the file of a mask is found and read."""

    name: str = Field("{stem}", description="the mask's file name without suffix, for a photograph's {stem}")
    threshold: float = Field(0.5, gt=0, lt=1, description="object where the value exceeds this share of full scale")
    object: Literal["bright", "nonzero"] = Field(
        "bright", description="bright: object above the threshold; nonzero: every value but 0 is object"
    )
    other_size: Literal["nearest", "refuse"] = Field(
        "nearest", description="a mask of another size: resized to its photograph (nearest), or an error"
    )

    @field_validator("name")
    @classmethod
    def _has_stem(cls, value: str) -> str:
        if value.count("{stem}") != 1 or "/" in value:
            raise ValueError("must hold {stem} once and no slash, e.g. '{stem}_segmentation'")
        return value


class SplitRule(_Part):
    """How a pool is split; published train and test folders need no rule.

    ``test`` is a number of images (the last ones in natural order), a share below 1 (the first ones in the order of
    names hashed with a fixed key), a list of names, or the path of a text file of names below the root.
    """

    test: int | float | list[str] | str | None = None
    option: str | None = Field(None, description="the option that overrides `test`")


class OptionRule(_Part):
    """One setting of a dataset that users can choose under ``options``."""

    type: Literal["int", "str", "folder", "split", "classes", "values"]
    default: Any = None
    choices: list[Any] | None = None
    minimum: int | None = None
    maximum: int | None = None
    about: str


class Counts(_Part):
    """Numbers of images stated by the publisher."""

    train: int = Field(ge=0)
    test: int = Field(ge=0)


class Archive(_Part):
    """A file for download at a plain URL of the publisher."""

    url: str = Field(pattern=r"^https?://")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    strip: int = Field(0, ge=0, le=4, description="leading folders of the archive's paths to drop")


class DatasetDefinition(_Part):
    """One dataset: where its files are, how they pair, how it is split and how it is scored."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    title: str
    task: str
    source: Literal["files", "procedural"] = "files"
    layouts: list[Layout] = Field(default_factory=list, description="tried in turn; the first that exists is used")
    detect: bool = Field(False, description="find the folders by their names if no option states them")
    within: list[str] = Field(default_factory=lambda: [""], description="sub-folders of the root to look in")
    images: list[str] = Field(default_factory=lambda: ["*"], description="patterns of photograph file names")
    mask: MaskRule = MaskRule()
    split: SplitRule = SplitRule()
    options: dict[str, OptionRule] = Field(default_factory=dict)
    expected: Counts | None = Field(None, description="counts to check against")
    primary_metric: str = "dice"
    metrics: list[str] = Field(description="scores to report, the primary one first")
    citation: str
    obtain: str = Field(description="how to get the files, in a sentence")
    homepage: str | None = None
    licence: str | None = None
    fetch: list[Archive] = Field(default_factory=list, description="what `data fetch` downloads")

    @field_validator("within")
    @classmethod
    def _inside(cls, value: list[str]) -> list[str]:
        for folder in value:
            if reason := unsafe_path(folder):
                raise ValueError(reason)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> DatasetDefinition:
        unknown = [name for name in [*self.metrics, self.primary_metric] if name not in METRICS]
        if unknown:
            raise ValueError(f"unknown metrics {', '.join(unknown)}: choose from {', '.join(METRICS)}")
        if "dice_low_res" in self.metrics:
            raise ValueError("dice_low_res is reported for every dataset; leave it out of metrics")
        if self.primary_metric not in self.metrics:
            raise ValueError(f"metrics must hold the primary metric {self.primary_metric}")
        if (self.source == "files") != bool(self.layouts):
            raise ValueError("source files needs at least one layout, source procedural has none")
        if self.split.option is not None and self.split.option not in self.options:
            raise ValueError(f"split.option names {self.split.option!r}, which is not among the options")
        needed = ("images", "masks", "test_images", "test_masks", "test", "object")
        if self.detect and not set(needed) <= set(self.options):
            raise ValueError(f"detect needs the options {', '.join(needed)}; add them")
        pooled = any(layout.pool is not None for layout in self.layouts)
        if pooled and self.split.test is None and self.split.option is None:
            raise ValueError("a layout with a pool needs split.test")
        return self

    def mask_rule(self, options: Mapping[str, Any]) -> MaskRule:
        """Return how masks are read with these options: the option ``object`` of `detect` definitions applies."""
        return self.mask.model_copy(update={"object": options["object"]}) if self.detect else self.mask

    @property
    def maximise(self) -> bool:
        """True if a larger primary metric is better."""
        return METRICS[self.primary_metric].maximise
