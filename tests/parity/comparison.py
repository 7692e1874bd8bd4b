"""Both sides of the comparison, with equal weights and equal batches, and the table of their differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amsam_ray.config.methods import resolve_params
from amsam_ray.config.trial import TrainConfig
from amsam_ray.inference.inputs import Batch, Needs, PreparedSet, low_res_target
from amsam_ray.models.adapted import AdaptedSam, build_method
from amsam_ray.models.trained_model import ModelInputs
from amsam_ray.training.bilevel import LowerStep, gradient, hypergradient
from amsam_ray.training.loop import Roles, Trainer
from tests.models.toy import SIZE, toy_backbone
from tests.parity import procedures
from tests.parity.procedures import Sample
from tests.parity.references import BloSam, MedSa, Reference, SamAdapter, Samed, bce_and_iou, bce_at_256, ce_and_dice

PICTURES, STEPS = 4, 10


@dataclass(frozen=True)
class Procedure:
    """A public procedure.

    Attributes:
        build: its model, from float32 SAM.
        loss: of logits and label.
        rate: the rate of step i of n.
        decay: AdamW's weight decay.
        base: the initial rate.
        levels: 2 if the prompt has a level of its own.
    """

    build: Callable[[Any], Reference]
    loss: procedures.Loss
    rate: Callable[[int, int], float]
    decay: float
    base: float
    levels: int = 1


def _poly(step: int, steps: int) -> float:
    return 5e-3 * (1 - step / steps) ** 0.9


def _cosine(step: int, steps: int) -> float:
    return 1e-7 + (2e-4 - 1e-7) * (1 + math.cos(math.pi * step / steps)) / 2


PROCEDURES = {
    "blo_sam": Procedure(lambda sam: BloSam(sam, 4), ce_and_dice, _poly, 0.1, 5e-3, levels=2),
    "samed": Procedure(lambda sam: Samed(sam, 4), ce_and_dice, lambda step, _: 5e-3 * (step + 1) / 250, 0.1, 5e-3),
    "sam_adapter": Procedure(lambda sam: SamAdapter(sam, 4, 0.25), bce_and_iou, _cosine, 0.01, 2e-4),
    "med_sa": Procedure(lambda sam: MedSa(sam, 4), bce_at_256, lambda *_: 1e-4, 0.0, 1e-4),
}
PARAMS: dict[str, dict[str, Any]] = {"sam_adapter": {"adaptor_ratio": 4}, "med_sa": {"detector": "off"}}
"""Settings of both sides that fit the small SAM; without a detector, as float32 positions of boxes hide the rest."""

FIRST_CORRECTIONS = "unrolled hypergradient, step 5, the public code's bias corrections (not rebuilt)"


@dataclass(frozen=True)
class DoubleSet(PreparedSet):
    """Prepared pictures in float64; ``drawn`` lists the batches in the order of their use."""

    drawn: list[list[int]] = field(default_factory=list)

    def batch(self, index: Sequence[int]) -> Batch:
        at = list(index)
        self.drawn.append(at)
        inputs = ModelInputs(
            features=self.features[at],
            boxes=self.boxes[at],
            has_box=tuple(self.has_box[at].tolist()),
            highpass=None if self.highpass is None else self.highpass[at],
        )
        return Batch(inputs, self.target[at], self.valid[at])


@cache
def _pictures() -> tuple[Tensor, tuple[np.ndarray, ...]]:
    """Return four square images with a bright rectangle each, and their masks."""
    draw = np.random.default_rng(3)
    images, truths = [], []
    for _ in range(PICTURES):
        top, left = draw.integers(4, SIZE // 2, 2)
        truth = np.zeros((SIZE, SIZE), dtype=bool)
        truth[top : top + draw.integers(10, 26), left : left + 16] = True
        images.append(draw.normal(0, 0.3, (3, SIZE, SIZE)) + 2.0 * truth)
        truths.append(truth)
    return torch.from_numpy(np.stack(images)), tuple(truths)


class Side:
    """This package's side of a method under one protocol.

    Args:
        method: which.
        protocol: ``published`` or ``default``.
    """

    def __init__(self, method: str, protocol: str):
        self.method, procedure = method, PROCEDURES[method]
        params = resolve_params(method, {"protocol": protocol, **PARAMS.get(method, {})})
        self.model = build_method(method, params, toy_backbone(), seed=0).double()
        images, truths = _pictures()
        side = Needs.of(self.model, training=True, precision="fp32", fallback="none").target_side or SIZE // 4
        masks = [low_res_target(truth, side) for truth in truths]
        encoder = procedure.build(toy_backbone().sam).encoder
        tokens = encoder.patch_embed(images) + encoder.pos_embed
        plain = Reference(toy_backbone().sam, None).embed(images)
        nothing = torch.zeros(PICTURES, dtype=torch.bool)
        self.pictures = DoubleSet(
            names=tuple("abcd"),
            features=plain if self.model.cache_point == "embedding" else tokens,
            boxes=torch.zeros(PICTURES, 4),
            has_box=nothing,
            detected=nothing,
            target=torch.stack([torch.from_numpy(target) for target, _ in masks]),
            valid=torch.stack([torch.from_numpy(valid) for _, valid in masks]),
            truths=truths,
            pixels=images,
        )
        self.pictures = replace(self.pictures, highpass=self.pictures.for_model(self.model).highpass)

    def trainer(self) -> Trainer:
        """Return a trainer of ten steps: all pictures a step, or two of each level."""
        two = PROCEDURES[self.method].levels == 2
        roles = Roles([0, 1], [2, 3]) if two else Roles(range(PICTURES), [])
        size = len(roles.lower)
        self.pictures.drawn.clear()
        return Trainer(self.model, self.pictures, roles, TrainConfig(epochs=STEPS, batch_size=size), 0)

    def sample(self, index: Sequence[int]) -> Sample:
        """Return a batch as the reference takes it, with the label of this side's resolution."""
        at = list(index)
        return Sample(_pictures()[0][at], self.pictures.target[at].long())


@cache
def _randomised(method: str) -> dict[str, Tensor]:
    """Return values for the published model's parameters, with no part at zero."""
    model = Side(method, "published").model
    make = torch.Generator().manual_seed(1)
    values = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=make, dtype=torch.float64)
            values[name] = parameter.detach() + 0.1 * noise
    return values


def shared(method: str, protocol: str) -> tuple[Side, Reference]:
    """Return this package's model and the reference with equal weights.

    Parts of the default model that the reference does not have keep their start, at which they do nothing.
    """
    side, reference = Side(method, protocol), PROCEDURES[method].build(toy_backbone().sam)
    ours = dict(side.model.named_parameters())
    values = _randomised(method)
    with torch.no_grad():
        for name, value in values.items():
            if name in ours:
                ours[name].copy_(value)
        for name, parts in reference.names.items():
            rows = values[name].unbind(0) if len(parts) > 1 or values[name].ndim > parts[0].ndim else (values[name],)
            for part, row in zip(parts, rows, strict=True):
                part.copy_(row)
    return side, reference


def joined(reference: Reference, name: str, of: Callable[[Tensor], Tensor | None]) -> Tensor:
    """Return what ``of`` gives for a parameter of the reference, in this package's shape."""
    parts = [of(part) for part in reference.names[name]]
    filled = [torch.zeros_like(p) if v is None else v for p, v in zip(reference.names[name], parts, strict=True)]
    return torch.stack(filled) if ".parametrizations." in name else filled[0]


def gap(ours: Tensor, theirs: Tensor) -> float:
    """|ours - theirs| / |theirs|"""
    return float((ours - theirs).norm() / theirs.norm())


def _common(model: AdaptedSam, reference: Reference, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in reference.names]


def compare(method: str, protocol: str) -> dict[str, float]:
    """Return quantity -> relative difference between this package and the reference."""
    procedure = PROCEDURES[method]
    side, reference = shared(method, protocol)
    model, trainer = side.model, side.trainer()
    found: dict[str, float] = {}
    everything = list(range(PICTURES))
    logits = model(side.pictures.batch(everything).inputs).logits.detach()
    theirs = reference(_pictures()[0]).detach()
    one = theirs.shape[1] == 1
    found["logits"] = gap(logits[:, 1:] - logits[:, :1] if one else logits, theirs)

    published = Side(method, "published")  # the reference's labels have its own resolution
    for count in (1, PICTURES):
        lower = trainer._lower_loss(side.pictures.batch(everything[:count]), None, "fp32")
        loss, grad = gradient(lower, trainer.weights, trainer.prompt)
        value = procedures.loss_of(reference, procedure.loss, published.sample(everything[:count]))
        reference.zero_grad()
        value.backward()
        mine = trainer._lower.unflatten(grad)
        names = _common(model, reference, list(mine))
        their_grad = [joined(reference, name, lambda part: part.grad) for name in names]
        found[f"loss, batch {count}"] = abs(float(loss) / float(value.detach()) - 1)
        found[f"gradient, batch {count}"] = gap(_flat(mine[name] for name in names), _flat(their_grad))
    reference.zero_grad()
    if procedure.levels == 2:
        found |= _hypergradients(side, reference)
    found |= _ten_steps(method, protocol)
    return found


def _flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _optimisers(procedure: Procedure, reference: Reference) -> tuple[torch.optim.AdamW, torch.optim.AdamW | None]:
    """Return those of the weights and of the prompt; with one level the prompt is among the weights."""
    weights = procedures.weights_of(reference)
    prompt = [part for name, parts in reference.names.items() if name.startswith("prompt.") for part in parts]
    if procedure.levels == 1:
        return torch.optim.AdamW([*weights, *prompt], lr=procedure.base, weight_decay=procedure.decay), None
    lower = torch.optim.AdamW(weights, lr=procedure.base, weight_decay=procedure.decay)
    return lower, torch.optim.AdamW(prompt, lr=1e-3, weight_decay=procedure.decay)


def _hypergradients(side: Side, reference: Reference) -> dict[str, float]:
    """Compare the prompt's gradients at the start and after some steps of the lower level."""
    procedure = PROCEDURES[side.method]
    found: dict[str, float] = {}
    trainer, params = side.trainer(), side.model.params
    optimiser, _ = _optimisers(procedure, reference)
    lower = trainer._lower_loss(side.pictures.batch([0, 1]), None, "fp32")
    upper = trainer._upper_loss(side.pictures.batch([2, 3]))
    for step in range(6):
        if step in (0, 5):
            ahead = LowerStep(lower, trainer._optimiser, trainer._weights_state, procedure.base, params.ahead)
            for mode in ("first_order", "unrolled"):
                _, ours = hypergradient(mode, ahead, upper, trainer.weights, trainer.prompt, reach=params.reach)
                if mode == "first_order":
                    theirs = procedures.first_order(reference, procedure.loss, side.sample([2, 3]))
                else:
                    batches = side.sample([0, 1]), side.sample([2, 3])
                    theirs = procedures.unrolled(reference, optimiser, procedure.loss, *batches)
                    if step:
                        accident = procedures.unrolled(
                            reference, optimiser, procedure.loss, *batches, first_corrections=True
                        )
                        found[FIRST_CORRECTIONS] = gap(ours, accident.reshape(-1))
                found[f"{mode} hypergradient, step {step}"] = gap(ours, theirs.reshape(-1))
        trainer._move_weights(side.pictures.batch([0, 1]), None, procedure.base)
        optimiser.zero_grad()
        procedures.loss_of(reference, procedure.loss, side.sample([0, 1])).backward()
        reference.no_mask.grad = None
        optimiser.step()
    return found


def _ten_steps(method: str, protocol: str) -> dict[str, float]:
    """Train both for ten steps on the same batches; return the difference of the ways that the weights went."""
    procedure = PROCEDURES[method]
    (side, reference), published = shared(method, protocol), Side(method, "published")
    trainer = side.trainer()
    start, before = trainer.named(), {}
    names = _common(side.model, reference, list(start))
    for name in names:
        before[name] = joined(reference, name, lambda part: part.detach().clone())
    for _ in range(STEPS):
        trainer.epoch()
    lower, upper = _optimisers(procedure, reference)
    drawn = iter(side.pictures.drawn)
    for step in range(STEPS):
        rate = procedure.rate(step, STEPS)
        procedures.set_rate(lower, rate)
        batch = published.sample(next(drawn))
        if upper is not None:
            procedures.set_rate(upper, 1e-3 * rate / procedure.base)
            upper_batch = published.sample(next(drawn))
            moved = procedures.unrolled(reference, lower, procedure.loss, batch, upper_batch)
            reference.no_mask.grad = moved
            upper.step()
        lower.zero_grad()
        reference.zero_grad()
        procedures.loss_of(reference, procedure.loss, batch).backward()
        if upper is not None:
            reference.no_mask.grad = None
        lower.step()
    end = trainer.named()
    ours = _flat(end[name] - start[name] for name in names)
    theirs = _flat(joined(reference, name, lambda part: part.detach()) - before[name] for name in names)
    return {"way of the weights, ten steps": gap(ours, theirs)}
