"""Trials as a population against one after the other: ``python -m tests.benchmarks.population [--json]``.

Trials of AM-SAM with different values (seed, alpha, lambda, rank, rates) on the shipped nano SAM: 8 shots, one image a
step, first order, float32, one thread; at the 16 x 16 tokens of 256 px and at the 64 x 64 tokens of 1024 px. Image
embeddings and masks are random: speed does not depend on them. For each size of a population, the same configurations
train by themselves and as populations of that size, all epochs with their scores. ``speed_up`` is the ratio of the
processor seconds, ``largest_difference`` that between the weights that the two leave. ``auto`` is the size that
``resources.population: auto`` results in, from its own measurement of single steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from amsam_ray.config.methods import resolve_params
from amsam_ray.config.networks import BackboneConfig
from amsam_ray.config.trial import TrainConfig
from amsam_ray.inference.inputs import PreparedSet, low_res_target
from amsam_ray.models.adapted import build_method
from amsam_ray.models.backbone import Backbone, load_backbone
from amsam_ray.training import loop
from amsam_ray.training.evaluate import score_pictures
from amsam_ray.training.metrics import mean_scores
from amsam_ray.training.population_size import choose_size
from amsam_ray.training.together import train_together

SIZES = (1, 2, 4, 8)
TOKENS = (16, 64)
SHOTS = 8


def pictures_for(backbone: Backbone) -> PreparedSet:
    """Return random embeddings with a square object each."""
    side, draw = backbone.image_size, np.random.default_rng(0)
    truths = []
    for _ in range(SHOTS):
        truth = np.zeros((side, side), dtype=bool)
        top, left = draw.integers(0, side // 2, 2)
        truth[top : top + side // 3, left : left + side // 3] = True
        truths.append(truth)
    target = torch.stack([torch.from_numpy(low_res_target(truth, backbone.output_side)[0]) for truth in truths])
    flags = torch.ones(SHOTS, dtype=torch.bool)
    return PreparedSet(
        names=tuple(str(number) for number in range(SHOTS)),
        features=torch.randn(SHOTS, 128, backbone.grid, backbone.grid, generator=torch.Generator().manual_seed(0)),
        boxes=torch.tensor([[0.0, 0.0, side, side]]).repeat(SHOTS, 1),
        has_box=flags,
        detected=flags,
        target=target,
        valid=torch.ones_like(target),
        truths=tuple(truths),
    )


def trainer_of(number: int, backbone: Backbone, pictures: PreparedSet, epochs: int) -> loop.Trainer:
    """Return the trainer of configuration ``number``."""
    draw = np.random.default_rng(number)
    given = {
        "hypergradient": "first_order",
        "alpha": draw.uniform(0.1, 0.9),
        "lambda": draw.uniform(0.1, 0.9),
        "rank": int(draw.integers(1, 9)),
        "lr": 10 ** draw.uniform(-4, -2.5),
        "lr_prompt": 10 ** draw.uniform(-4, -2.5),
    }
    model = build_method("am_sam", resolve_params("am_sam", given), backbone, seed=number)
    half = SHOTS // 2
    roles = loop.Roles(range(half), range(half, SHOTS))
    return loop.Trainer(model, pictures, roles, TrainConfig(epochs=epochs, batch_size=1), number)


def train(number: int, backbone: Backbone, pictures: PreparedSet, epochs: int) -> torch.Tensor:
    """Train a configuration, score every epoch on D2, and return the weights of the last one."""
    trainer = trainer_of(number, backbone, pictures, epochs)
    judges = range(SHOTS // 2, SHOTS)

    def score(values: loop.Named) -> float:
        scores = score_pictures(trainer.model, pictures, judges, ["dice"], precision="fp32", values=values)
        return mean_scores(scores)["dice"]

    loop.run(trainer, TrainConfig(epochs=epochs), score=score, metric="dice", maximise=True)
    return trainer.weights


def _unless_failed(ends: Sequence[torch.Tensor | BaseException]) -> list[torch.Tensor]:
    found = []
    for end in ends:
        if isinstance(end, BaseException):
            raise end
        found.append(end)
    return found


def measure(tokens: int, repeats: int) -> dict[str, Any]:
    """Return the result of one image size."""
    epochs = max(1, 64 // tokens)
    backbone = load_backbone(BackboneConfig(arch="nano", image_size=16 * tokens))
    pictures = pictures_for(backbone)
    run = partial(train, backbone=backbone, pictures=pictures, epochs=epochs)
    run(0)
    rows = []
    for size in SIZES:
        trials = [partial(run, number) for number in range(size)]
        lone_s = together_s = float("inf")
        for _ in range(repeats):
            started = time.process_time()
            alone = [trial() for trial in trials]
            between = time.process_time()
            together = _unless_failed(train_together(trials))
            together_s = min(together_s, time.process_time() - between)
            lone_s = min(lone_s, between - started)
        rows.append(
            {
                "size": size,
                "lone_s": round(lone_s / size, 4),
                "together_s": round(together_s / size, 4),
                "speed_up": round(lone_s / together_s, 2),
                "largest_difference": max(float((a - b).abs().max()) for a, b in zip(alone, together, strict=True)),
            }
        )
    trainer = trainer_of(0, backbone, pictures, epochs)
    chosen, seconds = choose_size(trainer, trainer.draw())
    measured = {size: round(value, 4) for size, value in seconds.items()}
    return {"tokens": tokens, "rows": rows, "auto": chosen, "auto_step_s": measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS), help="side of the token grid")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="only the last line, one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = [measure(tokens, given.repeats) for tokens in given.tokens]
    if not given.json:
        print("tokens  size  lone s  together s  speed-up  largest difference")
        for one in found:
            for row in one["rows"]:
                print(
                    f"{one['tokens']:6}{row['size']:6}{row['lone_s']:8.2f}{row['together_s']:12.2f}"
                    f"{row['speed_up']:10.2f}{row['largest_difference']:20.1g}"
                )
            print(f"{one['tokens']} x {one['tokens']} tokens: auto gives {one['auto']} {one['auto_step_s']}")
    print(json.dumps({"sizes": found}))


if __name__ == "__main__":
    main()
