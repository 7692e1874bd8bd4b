"""The configuration of one trial: one frozen object with everything that its result depends on. Imports no torch."""

from __future__ import annotations

import json
from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from amsam_ray.config.added_fields import WithAddedFields
from amsam_ray.config.datasets import AugmentConfig, DatasetConfig, SelectionConfig
from amsam_ray.config.networks import BackboneConfig, DetectorConfig
from amsam_ray.config.params import MethodParams, OnOff
from amsam_ray.hashing import sha256_hex


class TrainConfig(WithAddedFields):
    """Length and precision of a trial's training; the defaults are AM-SAM's (arXiv 2410.09714)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    ADDED: ClassVar[frozenset[str]] = frozenset({"checkpointing"})

    epochs: int = Field(100, ge=1, description="passes over D1 (lower) and D2 (upper level)")
    batch_size: int = Field(1, ge=1, description="images per step; AM-SAM states no number")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of activations; weights and optimiser stay fp32")
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="fixed views of the shots")
    eval_every: int = Field(1, ge=1, description="epochs between scores on the selection images")
    checkpointing: OnOff = Field("off", description="compute activations of encoder blocks again in the backward pass")


class TrialConfig(WithAddedFields):
    """One configuration of one cell with one seed.

    Attributes:
        label: the cell's method label (a method, or a named variant of it).
        role: ``search`` trials never read a test image; ``final`` trials are scored on the test split.
        metric: the objective, one of ``amsam_ray.config.metrics.METRICS``.
        maximise: whether a larger ``metric`` is better.
        stop_epoch: of a final that retrains a cross-fitted configuration on all shots, the epoch after which it stops;
            0: the last one. The learning rates are those of ``train.epochs``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    ADDED: ClassVar[frozenset[str]] = frozenset({"stop_epoch"})

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
    stop_epoch: int = Field(0, ge=0)

    def canonical(self) -> str:
        """Return the canonical JSON: sorted keys, public names, no spaces."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":"))

    def fingerprint(self) -> str:
        """Return the SHA-256 of the canonical JSON, 64 hexadecimal digits."""
        return sha256_hex(self.canonical())
