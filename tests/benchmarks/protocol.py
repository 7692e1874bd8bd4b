"""What the published protocols are worth: ``python -m tests.benchmarks.protocol [--out DIR] [--photos DIR] [--json]``.

Each method that has one is trained with ``protocol: published`` and with the default, with 8 shots, the shipped nano
SAM and three seeds, for 20 epochs of 4 images a step, and scored on the test split. The published warm-up of SAMed is
250 steps, which is longer than these trainings.
"""

from __future__ import annotations

import sys

from amsam_ray.config.trial import TrainConfig
from tests.benchmarks.settings_grid import PHOTOS, Grid, main

GRID = Grid(
    name="protocol",
    datasets=("lesion", "camouflage", PHOTOS),
    methods=("blo_sam", "samed", "sam_adapter", "med_sa"),
    settings={"default": {}, "published": {"protocol": "published"}},
    train=TrainConfig(epochs=20, batch_size=4, eval_every=5),
)

if __name__ == "__main__":
    sys.exit(main(GRID, __doc__))
