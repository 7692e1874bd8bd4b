"""Names and properties of the metrics that can be reported or optimised. Imports nothing slow.

`docs/data.md` defines each metric and its value for empty masks; `amsam_ray.training.metrics` computes them.
"""

from __future__ import annotations

from dataclasses import dataclass

THRESHOLD = 0.5
"""Foreground probability above which a pixel belongs to the object."""


@dataclass(frozen=True)
class MetricInfo:
    """Name, direction and units of one metric.

    Attributes:
        name: its key in records, CSV columns and YAML.
        label: its name in tables.
        maximise: whether larger is better.
        percent: whether tables show it times 100; records hold the plain fraction either way.
    """

    name: str
    label: str
    maximise: bool
    percent: bool


_ALL = (
    MetricInfo("dice", "Dice", maximise=True, percent=True),
    MetricInfo("iou", "IoU", maximise=True, percent=True),
    MetricInfo("mdice", "mDice", maximise=True, percent=True),
    MetricInfo("miou", "mIoU", maximise=True, percent=True),
    MetricInfo("mae", "MAE", maximise=False, percent=False),
    MetricInfo("ber", "BER", maximise=False, percent=True),
    MetricInfo("s_measure", "S-measure", maximise=True, percent=False),
    MetricInfo("e_measure_mean", "E-measure (mean)", maximise=True, percent=False),
    MetricInfo("e_measure_max", "E-measure (max)", maximise=True, percent=False),
    MetricInfo("e_measure_adaptive", "E-measure (adaptive)", maximise=True, percent=False),
    MetricInfo("weighted_f", "weighted F-measure", maximise=True, percent=False),
    MetricInfo("hd95", "HD95 (px)", maximise=False, percent=False),
    MetricInfo("dice_low_res", "Dice (low resolution)", maximise=True, percent=True),
)

METRICS: dict[str, MetricInfo] = {info.name: info for info in _ALL}
"""All metrics by name, in the order of the tables' columns."""
