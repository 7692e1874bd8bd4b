"""The result of a trial. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["completed", "pruned", "failed"]
Rank = Literal["best", "median", "worst"]


@dataclass(frozen=True)
class Overlay:
    """A small picture of one test image with the true and the predicted outline.

    Attributes:
        rank: ``best``, ``median`` or ``worst`` by the objective metric.
        name: the image's name in its dataset.
        score: value of the objective metric.
        path: a PNG in the trial's work folder.
    """

    rank: Rank
    name: str
    score: float
    path: Path


@dataclass(frozen=True)
class TrialResult:
    """The outcome of one trial.

    Attributes:
        status: ``completed``; ``pruned`` if the report at a rung returned True; ``failed`` if training diverged.
        reason: why it failed, for example ``diverged at epoch 7``.
        val: scores on the selection images at the best epoch, means over images; metrics as named in
            ``amsam_ray.config.metrics``, as fractions or pixels, not per cent. Empty if no epoch was scored.
        val_images: per selection image ``name`` and the objective, of a cross-fitted trial; empty otherwise.
        best_epoch: the epoch (from 1) whose weights were kept, of a cross-fitted trial the best of the average curve;
            0 if nothing was trained or no epoch was scored.
        epochs_run: epochs completed.
        curve: one entry per epoch: ``epoch``, ``loss`` (lower level, mean over the epoch's steps), ``upper_loss``
            with two levels, ``contrast`` (its share of ``loss``) with contrastive adaptors, ``lr`` and
            ``lr_prompt`` (of the epoch's last step), and ``val_<metric>`` where the epoch was scored.
        test: means over the test split, None unless the trial is a final.
        test_images: per test image ``name`` and its scores.
        overlays: the best, median and worst test image.
        shots_sha256: fingerprint of the draw of shots.
        backbone_fingerprint, detector_fingerprint: fingerprints of the frozen weights; None without a detector.
        prompt_coverage: share of the images, of the test split for a final and of the selection images otherwise,
            on which the detector found a box; None without a detector.
        trained_params: number of trained parameters of both levels.
        timings: seconds per phase: ``load``, ``prepare``, ``train``, ``select`` and, for a final, ``test``.
        peak_memory_bytes: peak memory of the device during the trial (of the process on a CPU).
        adapter: the adapter file in the work folder; None if nothing was trained or kept.
    """

    status: Status
    reason: str | None = None
    val: dict[str, float] = field(default_factory=dict)
    val_images: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    epochs_run: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    test: dict[str, float] | None = None
    test_images: list[dict[str, Any]] = field(default_factory=list)
    overlays: list[Overlay] = field(default_factory=list)
    shots_sha256: str = ""
    backbone_fingerprint: str = ""
    detector_fingerprint: str | None = None
    prompt_coverage: float | None = None
    trained_params: int = 0
    timings: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    adapter: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; paths become strings."""
        plain = asdict(self)
        plain["adapter"] = None if self.adapter is None else str(self.adapter)
        for overlay in plain["overlays"]:
            overlay["path"] = str(overlay["path"])
        return plain
