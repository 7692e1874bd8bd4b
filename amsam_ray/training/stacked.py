"""The step of several trials as one: their values stacked, and their losses under ``torch.vmap``.

The step is that of ``Levels``, which a lone trial takes too; only its losses differ, and they are a trial's own loss as
a function of its values, mapped over the trials. Suffixes: M trials, P or Q values of a level.

A LoRA of a smaller rank is padded with zeros, which stay zero (see ``LoRA.RANK_AXES``).
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from amsam_ray import parallel
from amsam_ray.config.methods import protocol_of
from amsam_ray.config.populations import MAY_DIFFER, lone_reason
from amsam_ray.inference.inputs import Batch
from amsam_ray.models.adapted import AdaptedSam
from amsam_ray.models.parts.lora import LoRA
from amsam_ray.models.trained_model import ModelInputs, TrainedModel
from amsam_ray.training.bilevel import Loss
from amsam_ray.training.levels import Draw, Levels
from amsam_ray.training.loop import Trainer
from amsam_ray.training.optim import FlatParams, make_optimiser, split_states, stack_states

logger = logging.getLogger(__name__)

Step = tuple[Trainer, Draw[Batch]]
Losses = tuple[Tensor, Tensor | None]


def kind_of(trainer: Trainer) -> Hashable | None:
    """Return what trials must have in common to take their steps together; None: this one takes them by itself."""
    model = trainer.model
    if parallel.world_size() > 1 or not isinstance(model, AdaptedSam) or lone_reason(model.method):
        return None
    common = {key: value for key, value in model.params.as_dict().items() if key not in MAY_DIFFER}
    shapes = tuple(tuple(_without_ranks(model, level).items()) for level in trainer.levels)
    frozen = (model.frozen.fingerprint, model.image_size, str(trainer.weights.device))
    return (model.method, tuple(common.items()), trainer.precision, shapes, *frozen)


def _without_ranks(model: TrainedModel, level: FlatParams) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a level's values, with 0 for the rank of a LoRA."""
    axes = {
        f"{prefix}.{name}": axis
        for prefix, module in model.named_modules()
        if isinstance(module, LoRA)
        for name, axis in module.RANK_AXES.items()
    }
    return {
        name: tuple(0 if axes.get(name) == axis else length for axis, length in enumerate(shape))
        for name, shape in level.shapes.items()
    }


def same_frozen(one: TrainedModel, other: TrainedModel) -> bool:
    """Return whether the tensors that neither model trains are equal."""
    mine, theirs = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (one, other))
    trained = {*one.lower, *one.upper}
    return all(
        value.data_ptr() == theirs[name].data_ptr() or torch.equal(value, theirs[name])
        for name, value in mine.items()
        if name not in trained
    )


class JointSteps:
    """Answers the questions of a ``Population`` of trials: each asks for the losses of its next step.

    Trials of one kind take their steps together, any other by itself. Where a joint step fails, for lack of memory for
    instance, trials of this kind train one by one from then on. Nothing is kept of trials that took no part in the last
    step.
    """

    def __init__(self) -> None:
        self._kinds: dict[int, tuple[Hashable, TrainedModel]] = {}
        self._kind_of: dict[Trainer, int | None] = {}
        self._stacks: dict[Hashable, Stack] = {}
        self._failed: set[Hashable] = set()
        self._numbers = count()

    def __call__(self, steps: Sequence[Step]) -> list[Losses | Exception]:
        """Take the steps and return their losses, in their order."""
        self._kind_of = {trainer: self._number(trainer) for trainer, _ in steps}
        used = set(self._kind_of.values())
        self._kinds = {number: kind for number, kind in self._kinds.items() if number in used}
        groups: dict[Hashable, list[int]] = {}
        for place, (trainer, draw) in enumerate(steps):
            number = self._kind_of[trainer]
            alone = number is None or self._kinds[number][0] in self._failed
            groups.setdefault(place if alone else (number, *_sizes(draw)), []).append(place)
        self._stacks = {group: stack for group, stack in self._stacks.items() if len(groups.get(group, ())) > 1}
        answers: dict[int, Losses | Exception] = {}
        for group, places in groups.items():
            found = self._take(group, [steps[place] for place in places])
            answers |= dict(zip(places, found, strict=True))
        return [answers[place] for place in range(len(steps))]

    def _number(self, trainer: Trainer) -> int | None:
        """Return the number of a trainer's kind; None if it takes its steps by itself."""
        if trainer in self._kind_of:
            return self._kind_of[trainer]
        if (kind := kind_of(trainer)) is None:
            return None
        for number, (other, model) in self._kinds.items():
            if kind == other and same_frozen(trainer.model, model):
                return number
        number = next(self._numbers)
        self._kinds[number] = kind, trainer.model
        return number

    def _take(self, group: Hashable, steps: Sequence[Step]) -> list[Losses | Exception]:
        number = self._kind_of[steps[0][0]]
        if number is not None and len(steps) > 1:
            members = [trainer for trainer, _ in steps]
            try:
                if group not in self._stacks or self._stacks[group].members != members:
                    self._stacks[group] = Stack(members)
                return [*self._stacks[group].step_all([draw for _, draw in steps])]
            except Exception as error:
                logger.warning("%d trials train one by one from now on: %s", len(steps), error)
                self._failed.add(self._kinds[number][0])
                self._stacks.pop(group, None)
        return [_alone(trainer, draw) for trainer, draw in steps]


def _alone(trainer: Trainer, draw: Draw[Batch]) -> Losses | Exception:
    try:
        return trainer.step(draw)
    except Exception as error:  # of this trial, and none of the others'
        return error


def _sizes(draw: Draw[Batch]) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a draw's tensors."""
    batches = [draw.lower, *([] if draw.upper is None else [draw.upper])]
    return tuple(tuple(tensor.shape) for batch in batches for tensor in (batch.inputs.features, batch.target))


@dataclass(frozen=True)
class StackedBatch:
    """A batch of B pictures of each of M trials, every tensor M x B x ...

    Attributes:
        flags: whether each picture has a box: B flags if they are the same for all trials, else an M x B tensor.
    """

    features: Tensor
    boxes: Tensor
    target: Tensor
    valid: Tensor
    flags: tuple[bool, ...] | Tensor

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> StackedBatch:
        """Return the batches of the trials, which must have equal shapes, as one."""
        found = [batch.inputs for batch in batches]
        flags: tuple[bool, ...] | Tensor = found[0].has_box
        if any(inputs.has_box != flags for inputs in found):
            flags = torch.tensor([inputs.has_box for inputs in found]).to(found[0].boxes.device, non_blocking=True)
        return cls(
            torch.stack([inputs.features for inputs in found]),
            torch.stack([inputs.boxes for inputs in found]),
            torch.stack([batch.target for batch in batches]),
            torch.stack([batch.valid for batch in batches]),
            flags,
        )


class Stack(Levels[StackedBatch]):
    """Trainers that take their steps together.

    Args:
        members: of one kind (see ``kind_of``), with equal frozen tensors.

    Attributes:
        members: as given.
    """

    def __init__(self, members: Sequence[Trainer]):
        self.members, self._leader = list(members), members[0]
        self._device = self._leader.weights.device
        params = [member.model.params for member in members]
        protocol = protocol_of(self._leader.model.method, params[0])
        optimiser = make_optimiser(protocol.optimiser, self._column([one.weight_decay for one in params]))
        super().__init__(params[0], self._leader.precision, optimiser)
        self._alpha = self._column([one.alpha for one in params])[:, 0]
        self._lambda = self._column([one.lambda_ for one in params])[:, 0]
        self._lower, self._upper = (
            _Padding(level, self._device) for level in zip(*(member.levels for member in members), strict=True)
        )

    def _column(self, numbers: Sequence[float]) -> Tensor:
        """Return a number of each trial, M x 1 float64."""
        return torch.tensor(numbers, dtype=torch.float64)[:, None].to(self._device, non_blocking=True)

    def step_all(self, draws: Sequence[Draw[Batch]]) -> list[Losses]:
        """Take a step of every member and return their losses. A member's values change only if all steps succeed."""
        members = self.members
        self.weights = self._lower.stack([m.weights for m in members])
        self.prompt = self._upper.stack([m.prompt for m in members])
        before = [m.states for m in members]
        self._weights_state = stack_states([w for w, _ in before], self._lower.stack, self._column)
        self._prompt_state = stack_states([p for _, p in before], self._upper.stack, self._column)
        uppers = [draw.upper for draw in draws if draw.upper is not None]
        lower, upper = self.step(
            Draw(
                StackedBatch.of([draw.lower for draw in draws]),
                StackedBatch.of(uppers) if uppers else None,
                None,
                self._column([float(draw.rate) for draw in draws]),
                self._column([float(draw.rate_prompt) for draw in draws]),
            )
        )
        moved = zip(
            members,
            self._lower.split(self.weights),
            self._upper.split(self.prompt),
            split_states(self._weights_state, [w for w, _ in before], self._lower.split, moved=True),
            split_states(self._prompt_state, [p for _, p in before], self._upper.split, moved=bool(uppers)),
            strict=True,
        )
        for member, weights, prompt, weights_state, prompt_state in moved:
            member.weights, member.prompt, member.states = weights, prompt, (weights_state, prompt_state)
        return [(lower[place], None if upper is None else upper[place]) for place in range(len(members))]

    def _lower_loss(self, batch: StackedBatch, tokens: Tensor | None, precision: str) -> Loss:
        flags = batch.flags if isinstance(batch.flags, Tensor) else None

        def one(weights: Tensor, prompt: Tensor, alpha: Tensor, lambda_: Tensor, *given: Tensor) -> Tensor:
            features, boxes, target, valid, *own = given
            values = {**self._lower.flat.unflatten(weights), **self._upper.flat.unflatten(prompt)}
            inputs = ModelInputs(features, boxes, own[0] if own else batch.flags)
            return self._leader.loss_of(values, Batch(inputs, target, valid), precision, alpha=alpha, lambda_=lambda_)

        def loss(weights: Tensor, prompt: Tensor) -> Tensor:
            tensors = [batch.features, batch.boxes, batch.target, batch.valid, *([] if flags is None else [flags])]
            losses: Tensor = torch.vmap(one)(weights, prompt, self._alpha, self._lambda, *tensors)
            return losses

        return loss

    def _upper_loss(self, batch: StackedBatch) -> Loss:
        return self._lower_loss(batch, None, self.precision)


class _Padding:
    """Vectors of one level of M trials as the rows of one tensor, with zeros where a trial's rank is smaller.

    Args:
        levels: names and shapes of each trial's values, with equal names.
        device: of the vectors.

    Attributes:
        flat: the largest shapes.
    """

    def __init__(self, levels: Sequence[FlatParams], device: torch.device):
        sizes: dict[str, torch.Size] = {
            name: torch.Size(map(max, zip(*(level.shapes[name] for level in levels), strict=True)))
            for name in levels[0].shapes
        }
        self.flat = FlatParams({name: torch.empty(size, device="meta") for name, size in sizes.items()})
        self._places = [self._places_of(level, device) for level in levels]

    def _places_of(self, level: FlatParams, device: torch.device) -> Tensor | None:
        """Return the places of a trial's values in a row; None if they fill it."""
        if level.shapes == self.flat.shapes:
            return None
        filled = []
        for name, size in self.flat.shapes.items():
            mask = torch.zeros(size, dtype=torch.bool)
            mask[tuple(slice(length) for length in level.shapes[name])] = True
            filled.append(mask.reshape(-1))
        return torch.cat(filled).nonzero()[:, 0].to(device)

    def stack(self, vectors: Sequence[Tensor]) -> Tensor:
        """Return the trials' vectors as rows."""
        rows = [
            vector if places is None else vector.new_zeros(len(self.flat)).index_copy(0, places, vector)
            for vector, places in zip(vectors, self._places, strict=True)
        ]
        return torch.stack(rows)

    def split(self, rows: Tensor) -> list[Tensor]:
        """Return the trials' vectors from their rows."""
        return [row if places is None else row[places] for row, places in zip(rows, self._places, strict=True)]
