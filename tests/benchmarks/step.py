"""A training step against the literal procedure: ``python -m tests.benchmarks.step [--sizes 256 1024] [--json]``.

The literal step is BLO-SAM's as its paper and public code describe it, on segment_anything's own modules: the image
encoder runs in every pass, and the unrolled order copies the whole model for every point at which it needs a gradient.
The other is this package's trainer on prepared embeddings. Both have the weights of one SAM with ViT-B (random: speed
does not depend on them), the same two images and labels, batch size 1, float32. One step is one move of the prompt and
one of the weights.

``max_rel_diff`` is the largest relative difference between the losses and the hypergradients of the first step.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor

from amsam_ray.config.methods import resolve_params
from amsam_ray.config.trial import TrainConfig
from amsam_ray.inference.inputs import PreparedSet, low_res_target
from amsam_ray.models.adapted import build_method
from amsam_ray.models.backbone import Backbone, encode_to
from amsam_ray.training.bilevel import LowerStep, hypergradient
from amsam_ray.training.loop import Roles, Trainer
from tests.parity import procedures
from tests.parity.procedures import Sample
from tests.parity.references import BloSam, ce_and_dice

RANK, RATE, RATE_PROMPT, DECAY = 4, 5e-3, 1e-3, 0.1


def vit_b(size: int) -> Sam:
    """Return SAM with ViT-B for images of ``size`` pixels, with random weights."""
    torch.manual_seed(0)
    width, grid = 256, size // 16
    encoder = ImageEncoderViT(
        img_size=size, embed_dim=768, depth=12, num_heads=12, out_chans=width, use_rel_pos=True, qkv_bias=True,
        window_size=14, global_attn_indexes=(2, 5, 8, 11),
    )  # fmt: skip
    prompt = PromptEncoder(width, (grid, grid), (size, size), mask_in_chans=16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=width, num_heads=8, mlp_dim=2048)
    return (
        Sam(encoder, prompt, MaskDecoder(transformer_dim=width, transformer=transformer)).eval().requires_grad_(False)
    )


def build(sam: Sam, size: int, order: str) -> tuple[_Literal, _Ours]:
    """Return the arms for images of ``size`` pixels; ``order`` is ``first_order`` or ``unrolled``."""
    draw = np.random.default_rng(0)
    truths = [np.zeros((size, size), dtype=bool) for _ in range(2)]
    for truth in truths:
        top, left = draw.integers(0, size // 2, 2)
        truth[top : top + size // 3, left : left + size // 3] = True
    images = torch.from_numpy(draw.normal(0, 1, (2, 3, size, size)).astype(np.float32))
    targets = torch.stack([torch.from_numpy(low_res_target(truth, size // 4)[0]) for truth in truths])
    backbone = Backbone(sam, "vit_b", size, "0" * 64)
    params = {"hypergradient": order, "ahead": "mixed", "rank": RANK, "weight_decay": DECAY}
    model = build_method("blo_sam", resolve_params("blo_sam", params), backbone, seed=0)
    pictures = PreparedSet(
        names=("lower", "upper"),
        features=torch.cat([encode_to(backbone, image[None], model.cache_point) for image in images]),
        boxes=torch.zeros(2, 4),
        has_box=torch.zeros(2, dtype=torch.bool),
        detected=torch.zeros(2, dtype=torch.bool),
        target=targets,
        valid=torch.ones_like(targets),
        truths=tuple(truths),
    )
    trainer = Trainer(model, pictures, Roles([0], [1]), TrainConfig(epochs=100, batch_size=1), 0)
    reference = _reference(sam, trainer)
    lower, upper = (Sample(images[[place]], targets[[place]].long()) for place in (0, 1))
    return _Literal(reference, lower, upper, order), _Ours(trainer)


def _reference(sam: Sam, trainer: Trainer) -> BloSam:
    """Return the literal model with the weights of the trainer's."""
    reference = BloSam(sam, RANK).float()
    reference.image_pe = reference.image_pe.float()
    values = trainer.named()
    with torch.no_grad():
        for name, parts in reference.names.items():
            rows = values[name].unbind(0) if values[name].ndim > parts[0].ndim else (values[name],)
            for part, row in zip(parts, rows, strict=True):
                part.copy_(row.reshape(part.shape))
    return reference


class _Literal:
    """The literal procedure: the hypergradient, and a step of both levels."""

    def __init__(self, model: BloSam, lower: Sample, upper: Sample, order: str):
        self._model, self._lower, self._upper, self._order = model, lower, upper, order
        self._weights = torch.optim.AdamW(procedures.weights_of(model), lr=RATE, weight_decay=DECAY)
        self._prompt = torch.optim.AdamW([model.no_mask], lr=RATE_PROMPT, weight_decay=DECAY)

    def predict(self) -> Tensor:
        """Return the logits of one image."""
        return self._model(self._upper.images)

    def gradient(self) -> Tensor:
        if self._order == "unrolled":
            return procedures.unrolled(self._model, self._weights, ce_and_dice, self._lower, self._upper)
        return procedures.first_order(self._model, ce_and_dice, self._upper)

    def step(self) -> float:
        self._model.no_mask.grad = self.gradient()
        self._prompt.step()
        self._weights.zero_grad()
        loss = procedures.loss_of(self._model, ce_and_dice, self._lower)
        loss.backward()
        self._weights.step()
        return float(loss.detach())


class _Ours:
    """This package's trainer: the hypergradient, and a step of both levels."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self._lower, self._upper = (trainer._pictures.batch([place]) for place in (0, 1))

    def gradient(self) -> Tensor:
        trainer, params = self._trainer, self._trainer._params
        lower = trainer._lower_loss(self._lower, None, "fp32")
        ahead = LowerStep(lower, trainer._optimiser, trainer._weights_state, RATE, params.ahead)
        upper = trainer._upper_loss(self._upper)
        return hypergradient(params.hypergradient, ahead, upper, trainer.weights, trainer.prompt)[1]

    def step(self) -> float:
        self._trainer._move_prompt(self._lower, None, self._upper, RATE, RATE_PROMPT)
        return float(self._trainer._move_weights(self._lower, None, RATE))


def measure(size: int, order: str, repeats: int) -> dict[str, float | int | str]:
    """Return one row of the table: seconds of one step of each, the faster of two for the literal one."""
    literal, ours = build(vit_b(size), size, order)
    expected, gradient = literal.gradient(), ours.gradient()
    difference = float((gradient - expected.reshape(-1)).norm() / expected.norm())
    seconds: dict[object, float] = {}
    losses: dict[object, float] = {}
    for arm, count in ((literal, 2), (ours, repeats)):
        times = []
        for _ in range(count):
            started = time.perf_counter()
            loss = arm.step()
            times.append(time.perf_counter() - started)
            losses.setdefault(arm, loss)
        seconds[arm] = min(times)
    difference = max(difference, abs(losses[ours] / losses[literal] - 1))
    return {
        "size": size,
        "order": order,
        "literal_s": round(seconds[literal], 3),
        "ours_s": round(seconds[ours], 4),
        "ratio": round(seconds[literal] / seconds[ours], 1),
        "max_rel_diff": float(f"{difference:.2g}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--repeats", type=int, default=5, help="steps of this package; the fastest counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    rows = []
    for size in options.sizes:
        for order in ("first_order", "unrolled"):
            rows.append(measure(size, order, options.repeats))
            if not options.json:
                print(rows[-1], flush=True)
    print(json.dumps({"threads": torch.get_num_threads(), "rows": rows}))


if __name__ == "__main__":
    main()
