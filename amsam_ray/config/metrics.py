"""The scores that can be reported or searched for, by name. Imports nothing slow.

How each is computed, and what an empty mask scores, is in `docs/data.md`; the code is
`amsam_ray.training.metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass

THRESHOLD = 0.5
"""A pixel belongs to the object where its foreground probability is above this."""


@dataclass(frozen=True)
class MetricInfo:
    """How a score is named, compared and shown.

    Attributes:
        name: its key in records, CSV columns and YAML.
        label: its name for people.
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
"""Every score by name, in the order in which tables show them."""
