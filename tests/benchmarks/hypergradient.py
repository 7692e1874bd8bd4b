"""What the hypergradient is worth: ``python -m tests.benchmarks.hypergradient [--out DIR] [--photos DIR] [--json]``.

``blo_sam`` and ``am_sam`` in their published settings with 8 shots and the shipped nano SAM, on the five procedural
families and, with ``--photos``, a folder of photographs. Each way to differentiate through W*(A) is trained with three
seeds for 80 steps (20 epochs over the four images of D1, one image a step) and scored on the test split.
"""

from __future__ import annotations

import sys

from amsam_ray.config.trial import TrainConfig
from tests.benchmarks.settings_grid import PHOTOS, Grid, main

GRID = Grid(
    name="hypergradient",
    datasets=("camouflage", "lesion", PHOTOS, "polyp", "shadow", "person"),
    methods=("blo_sam", "am_sam"),
    settings={
        "first_order": {"hypergradient": "first_order"},
        "unrolled, adamw, 1e-2": {"hypergradient": "unrolled", "ahead": "adamw", "reach": 1e-2},
        "unrolled, adamw, 1e-3": {"hypergradient": "unrolled", "ahead": "adamw", "reach": 1e-3},
        "unrolled, sgd, 1e-2": {"hypergradient": "unrolled", "ahead": "sgd", "reach": 1e-2},
        "unrolled, sgd, 1e-3": {"hypergradient": "unrolled", "ahead": "sgd", "reach": 1e-3},
        "exact, adamw": {"hypergradient": "exact", "ahead": "adamw"},
        "exact, sgd": {"hypergradient": "exact", "ahead": "sgd"},
        "unrolled, mixed, 1e-2": {"hypergradient": "unrolled", "ahead": "mixed", "reach": 1e-2},
    },
    train=TrainConfig(epochs=20, batch_size=1, eval_every=5),
)

if __name__ == "__main__":
    sys.exit(main(GRID, __doc__))
