"""All that one trial depends on, in one frozen object. Imports no torch."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from amsam_ray.config.datasets import AugmentConfig, DatasetConfig, SelectionConfig
from amsam_ray.config.networks import BackboneConfig, DetectorConfig
from amsam_ray.config.params import MethodParams
from amsam_ray.hashing import sha256_hex


class TrainConfig(BaseModel):
    """How long and how precisely a trial trains; the defaults are AM-SAM's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(100, ge=1, description="passes over D1 (lower) and D2 (upper level)")
    batch_size: int = Field(1, ge=1, description="images per step; 1 as in the papers")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of activations; weights and optimiser stay fp32")
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="fixed views of the shots")
    eval_every: int = Field(1, ge=1, description="epochs between scores on the selection images")


class TrialConfig(BaseModel):
    """One configuration of one cell with one seed.

    Attributes:
        label: the cell's method label (a method, or a named variant of one).
        role: ``search`` trials never see a test image; ``final`` ones are scored on the test split.
        metric: the score that chooses, one of ``amsam_ray.config.metrics.METRICS``.
        maximise: whether a larger ``metric`` is better.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: DatasetConfig
    shots: int = Field(ge=2)
    shot_seed: int = Field(0, ge=0)
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    method: str
    label: str
    params: MethodParams
    backbone: BackboneConfig = Field(default_factory=BackboneConfig)
    detector: DetectorConfig = Field(default_factory=DetectorConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    seed: int = Field(0, ge=0)
    role: Literal["search", "final"] = "search"
    metric: str = "dice"
    maximise: bool = True

    def canonical(self) -> str:
        """Canonical JSON: sorted keys, public names, no spaces."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":"))

    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, 64 hex digits."""
        return sha256_hex(self.canonical())
