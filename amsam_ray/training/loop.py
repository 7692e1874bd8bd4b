"""The one training loop, for every method and for one level or two.

With two levels (BLO-SAM, arXiv 2402.16338; AM-SAM eq. 6-8) each iteration first moves the prompt embedding A along
its hypergradient, with a batch of D1 for the step ahead and a fresh batch of D2 for the loss, then the weights W
along their gradient on the same batch of D1. With one level everything that trains is W, on D1 and D2 together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import functional_call

from amsam_ray import parallel
from amsam_ray.config.methods import protocol_of
from amsam_ray.config.trial import TrainConfig
from amsam_ray.device import autocast
from amsam_ray.inference.inputs import Batch, PreparedSet
from amsam_ray.inference.masks import Diverged
from amsam_ray.models.seeded import seeded
from amsam_ray.models.trained_model import ModelOutput, TrainedModel
from amsam_ray.training import population
from amsam_ray.training.batches import Stream, generator, joint_batch_size
from amsam_ray.training.bilevel import Loss
from amsam_ray.training.box_mix import draw_kinds, with_mixed_boxes
from amsam_ray.training.contrastive import contrast_loss, draw_tokens
from amsam_ray.training.episodes import draw_support
from amsam_ray.training.levels import Draw, Levels
from amsam_ray.training.losses import mask_loss
from amsam_ray.training.optim import FlatParams, cosine_rate, make_optimiser, poly_rate, step_rate
from amsam_ray.training.result import Status

Named = dict[str, Tensor]
Report = Callable[[int, float], bool]
OnEpoch = Callable[[int, int], None]


@dataclass(frozen=True)
class Roles:
    """The pictures that train each level, by index.

    Attributes:
        lower, upper: of the levels; ``upper`` is ignored with one level.
        shots: picture -> its shot, for pictures that are views of one; every other picture is its own.
    """

    lower: Sequence[int]
    upper: Sequence[int]
    shots: Mapping[int, int] = field(default_factory=dict)


class Trainer(Levels[Batch]):
    """Weights, optimisers and batches of one trial.

    Args:
        model: a newly built method; its parameters are read and never written.
        pictures: D1 and D2, prepared.
        roles: the pictures of each level.
        train: length, batch size and precision.
        seed: of the order of pictures, the tokens of the contrastive loss and the drawn boxes.

    Raises:
        InputError: the workers cannot share the batches evenly.
    """

    def __init__(self, model: TrainedModel, pictures: PreparedSet, roles: Roles, train: TrainConfig, seed: int):
        self._protocol = protocol_of(model.method, model.params)
        optimiser = make_optimiser(self._protocol.optimiser, model.params.weight_decay)
        super().__init__(model.params, train.precision, optimiser)
        self._model, self._pictures, self._train = model.eval(), pictures, train
        model.share_over_workers(parallel.mean)
        model.recompute(train.checkpointing == "on")
        parameters = dict(model.named_parameters())
        self._lower = FlatParams({name: parameters[name] for name in model.lower})
        self._upper = FlatParams({name: parameters[name] for name in model.upper})
        self.weights = self._lower.flatten(parameters)
        self.prompt = self._upper.flatten(parameters) if model.upper else self.weights.new_zeros(0)
        buffers = dict(model.named_buffers())
        self._statistics = {name: buffers[name].clone() for name in model.statistics}
        self._weights_state = self._optimiser.start(self.weights)
        self._prompt_state = self._optimiser.start(self.prompt)
        least = 2 if self._params.adaptors in ("sc", "mc") else 1
        size = joint_batch_size(train.batch_size, len(roles.lower), least=least, each=model.least_batch)
        self._d1 = Stream(roles.lower, size, generator(seed, 1))
        self._d2: Stream | None = None
        if model.upper:
            size = joint_batch_size(train.batch_size, len(roles.upper))
            self._d2 = Stream(roles.upper, size, generator(seed, 2))
        self._token_draws = generator(seed, 3)
        self._box_draws = generator(seed, 4)
        self._dropout_draws, self._support_draws = generator(seed, 5), generator(seed, 6)
        self._roles = roles
        # `steps` sets the length of the whole training; otherwise an epoch is one pass over the lower level's pictures.
        self._steps = -(-self._params.steps // train.epochs) if self._params.steps else self._d1.steps
        self._iteration, self._iterations = 0, train.epochs * self._steps

    @property
    def model(self) -> TrainedModel:
        """The model, with the values that it was built with."""
        return self._model

    @property
    def levels(self) -> tuple[FlatParams, FlatParams]:
        """Names and shapes of the values of the lower and of the upper level."""
        return self._lower, self._upper

    @property
    def trained(self) -> int:
        """Number of trained parameters of both levels."""
        return len(self._lower) + len(self._upper)

    @property
    def epochs_done(self) -> int:
        """Number of epochs trained so far."""
        return self._iteration // self._steps

    def named(self) -> Named:
        """Return the current values of all tensors that training sets, by name; they are never changed in place."""
        statistics = {name: parallel.mean(value.clone()) for name, value in self._statistics.items()}
        # Copies: a trial that trains with others has one row of their tensor, all of which a kept row would keep.
        return {**self._named(self.weights.clone(), self.prompt.clone()), **statistics}

    def epoch(self) -> dict[str, float]:
        """Train one epoch and return the curve's entry. An epoch is a pass over the lower level's pictures unless the
        parameter ``steps`` sets the length of the training.

        No value is read from the device before the last step, so that a GPU never waits for the host.

        Raises:
            Diverged: a loss was NaN or Inf.
        """
        losses: list[Tensor] = []
        upper_losses: list[Tensor] = []
        for _ in range(self._steps):
            draw = self.draw()
            together = population.current()
            loss, upper_loss = self.step(draw) if together is None else together.ask((self, draw))
            losses.append(loss)
            upper_losses += [] if upper_loss is None else [upper_loss]
            self._iteration += 1
        read = torch.stack(losses + upper_losses).tolist()
        if not all(map(math.isfinite, read)):
            raise Diverged("a loss is NaN or Inf")
        entry = {"loss": _mean(read[: len(losses)]), "lr": float(draw.rate)}
        if upper_losses:
            entry |= {"upper_loss": _mean(read[len(losses) :]), "lr_prompt": float(draw.rate_prompt)}
        return entry

    def draw(self) -> Draw[Batch]:
        """Draw the batches of the next step, and return them with its learning rates."""
        batch = self._batch(self._d1)
        tokens = self._draw_tokens(batch)
        upper = None if self._d2 is None else self._batch(self._d2)
        return Draw(batch, upper, tokens, self._rate(self._params.lr), self._rate(self._params.lr_prompt))

    def _lower_loss(self, batch: Batch, tokens: Tensor | None, precision: str) -> Loss:
        params, training = self._params, self._model.has_training_mode

        def loss(weights: Tensor, prompt: Tensor) -> Tensor:
            output = self._forward(weights, prompt, batch, precision, training=training)
            total = self._mask_loss(output, batch)
            if not (output.tokens or output.pooled):
                return total
            return total + contrast_loss(
                output.tokens,
                output.pooled,
                tau_token=params.tau_token,
                tau_sample=params.tau_sample,
                w_token=params.w_token,
                w_sample=params.w_sample,
                index=tokens,
            )

        return loss

    def _upper_loss(self, batch: Batch) -> Loss:
        batch = batch.without_views()

        def loss(weights: Tensor, prompt: Tensor) -> Tensor:
            output = self._forward(weights, prompt, batch, self.precision, training=False)
            return self._mask_loss(output, batch)

        return loss

    def loss_of(self, values: Named, batch: Batch, precision: str, *, alpha: Tensor, lambda_: Tensor) -> Tensor:
        """Return the loss on the masks of a batch for other values and hyperparameters than this trial's, a scalar.

        Args:
            values: all trained tensors, by name.
            batch: of B pictures.
            precision: of activations.
            alpha, lambda_: those of the calibration and of the loss, scalars.
        """
        output = self._output(values, batch, precision, training=False, alpha=alpha)
        return self._mask_loss(output, batch, lambda_)

    def _forward(self, weights: Tensor, prompt: Tensor, batch: Batch, precision: str, *, training: bool) -> ModelOutput:
        return self._output(self._named(weights, prompt), batch, precision, training=training)

    def _output(self, values: Named, batch: Batch, precision: str, *, training: bool, **given: Tensor) -> ModelOutput:
        if self._model.training != training:
            self._model.train(training)
        # A step in training mode changes the statistics in place: those given here, and not the model's own.
        values = {**values, **self._statistics}
        with autocast(batch.target.device, precision):
            output: ModelOutput = functional_call(self._model, values, batch.arguments, given, tie_weights=False)
        return output

    def _dropout(self, device: torch.device) -> AbstractContextManager[None]:
        """Return a context in which a model that draws random numbers draws this step's."""
        if not self._model.draws:
            return nullcontext()
        return seeded(int(torch.randint(2**31, (), generator=self._dropout_draws)) + parallel.rank(), device)

    def _mask_loss(self, output: ModelOutput, batch: Batch, lambda_: Tensor | None = None) -> Tensor:
        weight = self._params.lambda_ if lambda_ is None else lambda_
        total = self._loss_of(output.logits, batch.target, batch.valid, weight)
        for extra in output.auxiliary:
            of = batch if extra.of == "query" or batch.support is None else batch.support
            total = total + extra.weight * self._loss_of(extra.logits, of.target, of.valid, weight)
        return total

    def _loss_of(self, logits: Tensor, target: Tensor, valid: Tensor, lambda_: float | Tensor) -> Tensor:
        return mask_loss(
            self._params.loss,
            logits,
            target,
            valid,
            lambda_,
            over_batch=self._protocol.dice_over == "batch",
            resize=self._protocol.loss_resize,
        )

    def _named(self, weights: Tensor, prompt: Tensor) -> Named:
        return {**self._lower.unflatten(weights), **self._upper.unflatten(prompt)}

    def _batch(self, stream: Stream) -> Batch:
        joint = stream.next()
        batch = self._pictures.batch(parallel.my_share(joint))
        if self._model.needs_support:
            support = draw_support(joint, self._roles.lower, self._roles.shots, self._support_draws)
            return batch.with_support(self._pictures.batch(parallel.my_share(support)))
        if self._pictures.true_boxes is None or self._pictures.has_object is None:
            return batch
        mine = parallel.my_share(joint)
        places = parallel.my_share(list(range(len(joint))))
        kinds, noise = draw_kinds(len(joint), self._box_draws)
        size = self._model.image_size
        flags = self._pictures.has_object.tolist()
        true_boxes, has_object = self._pictures.true_boxes[mine], [flags[place] for place in mine]
        return with_mixed_boxes(batch, true_boxes, has_object, [kinds[place] for place in places], noise[places], size)

    def _draw_tokens(self, batch: Batch) -> Tensor | None:
        if self._params.adaptors not in ("tc", "mc"):
            return None
        grid = batch.inputs.features.shape[1:3]
        return draw_tokens(grid.numel(), self._params.contrast_tokens, self._token_draws)

    def _rate(self, base: float) -> float:
        protocol = self._protocol
        if protocol.schedule == "constant":
            return base
        if protocol.schedule == "cosine":
            return cosine_rate(base, self.epochs_done, self._train.epochs)
        if protocol.schedule == "step":
            return step_rate(base, self._iteration, self._iterations)
        share = round(self._params.warmup * self._iterations)
        ramp = share if protocol.warmup_steps is None else protocol.warmup_steps
        return poly_rate(base, self._iteration, self._iterations, ramp)


@dataclass
class LoopResult:
    """The result of a run of the loop.

    Attributes:
        curve: see ``TrialResult``.
        best_epoch: the epoch whose score was best, from 1; 0 if none was scored.
        best: the trained tensors at that epoch, by name.
        epochs_run: epochs completed.
        status: ``completed``, ``pruned`` by the report, or ``failed`` because a loss or a logit was NaN or Inf.
    """

    curve: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: Named = field(default_factory=dict)
    epochs_run: int = 0
    status: Status = "completed"


def run(
    trainer: Trainer,
    train: TrainConfig,
    *,
    score: Callable[[Named], float] | None,
    metric: str,
    maximise: bool,
    rungs: Collection[int] = (),
    report: Report | None = None,
    on_epoch: OnEpoch | None = None,
    stop_after: int = 0,
) -> LoopResult:
    """Train for ``train.epochs`` epochs and keep the best-scored weights.

    Args:
        trainer: before its first epoch.
        train: length, and epochs between scores. The first rung and the last epoch are always scored.
        score: the objective on the selection images for given values; None keeps the weights of the last epoch.
        metric: name of the objective in the curve.
        maximise: whether larger is better.
        rungs: epochs (from 1) at which ``report`` is asked.
        report: called with the epoch and the best score so far; True ends the run. In a data-parallel run every
            worker asks, and must get the same answer.
        on_epoch: called after every epoch with its number and the number of epochs.
        stop_after: ends the training after this epoch, with the learning rates of ``train.epochs``; 0: the last.
    """
    outcome, best = LoopResult(), math.nan
    last = stop_after or train.epochs
    for epoch in range(1, last + 1):
        due = epoch % train.eval_every == 0 or epoch == last
        due = due or (epoch in rungs and outcome.best_epoch == 0)
        try:
            outcome.curve.append({"epoch": epoch, **trainer.epoch()})
            value = score(trainer.named()) if due and score is not None else math.nan
        except Diverged:
            outcome.status = "failed"
            return outcome
        outcome.epochs_run = epoch
        if score is None and epoch == last:
            outcome.best_epoch, outcome.best = epoch, trainer.named()
        elif due and score is not None:
            outcome.curve[-1][f"val_{metric}"] = value
            if outcome.best_epoch == 0 or (value > best if maximise else value < best):
                best, outcome.best_epoch, outcome.best = value, epoch, trainer.named()
        if on_epoch is not None:
            on_epoch(epoch, last)
        if report is not None and epoch in rungs and report(epoch, best) and epoch < last:
            outcome.status = "pruned"
            return outcome
    return outcome


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
