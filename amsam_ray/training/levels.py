"""The values of both levels and the steps that move them, of one trial or of several at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from amsam_ray.config.params import MethodParams
from amsam_ray.training.bilevel import Loss, LowerStep, gradient, hypergradient
from amsam_ray.training.optim import Number, Optimiser

BatchT = TypeVar("BatchT")
"""A batch of one trial, or one of each of several."""


@dataclass(frozen=True)
class Draw(Generic[BatchT]):
    """What an iteration needs besides the values of the levels.

    Attributes:
        lower: batch of D1.
        upper: batch of D2; None with one level.
        tokens: token numbers of the contrastive loss; None for all, and without such a loss.
        rate, rate_prompt: learning rates of the levels.
    """

    lower: BatchT
    upper: BatchT | None
    tokens: Tensor | None
    rate: Number
    rate_prompt: Number


class Levels(ABC, Generic[BatchT]):
    """The values of both levels and the states of their optimisers.

    Args:
        params: how the levels are trained; of several trials, what they have in common.
        precision: of activations, ``fp32`` or ``bf16``.
        optimiser: of both levels.

    Attributes:
        precision: as given.
        weights: W, P values; of M trials, M x P.
        prompt: A, Q values; of M trials, M x Q; none with one level.
    """

    weights: Tensor
    prompt: Tensor
    _weights_state: Any
    _prompt_state: Any

    def __init__(self, params: MethodParams, precision: str, optimiser: Optimiser):
        self._params, self.precision, self._optimiser = params, precision, optimiser

    @property
    def states(self) -> tuple[Any, Any]:
        """States of the optimisers of the lower and of the upper level."""
        return self._weights_state, self._prompt_state

    @states.setter
    def states(self, states: tuple[Any, Any]) -> None:
        self._weights_state, self._prompt_state = states

    def step(self, draw: Draw[BatchT]) -> tuple[Tensor, Tensor | None]:
        """Move A, then W, and return the losses of the lower and of the upper level, a scalar or M values each."""
        upper = None
        if draw.upper is not None:
            upper = self._move_prompt(draw.lower, draw.tokens, draw.upper, draw.rate, draw.rate_prompt)
        return self._move_weights(draw.lower, draw.tokens, draw.rate), upper

    def _move_prompt(
        self, batch: BatchT, tokens: Tensor | None, upper_batch: BatchT, rate: Number, rate_prompt: Number
    ) -> Tensor:
        mode = self._params.hypergradient
        # The difference of two bf16 gradients that are a hundredth apart is rounding noise.
        precision = "fp32" if mode == "unrolled" else self.precision
        lower = self._lower_loss(batch, tokens, precision)
        step = LowerStep(lower, self._optimiser, self._weights_state, rate, self._params.ahead)
        upper = self._upper_loss(upper_batch)
        loss, grad = hypergradient(mode, step, upper, self.weights, self.prompt, reach=self._params.reach)
        self.prompt, self._prompt_state = self._optimiser.step(self.prompt, grad, self._prompt_state, rate_prompt)
        return loss

    def _move_weights(self, batch: BatchT, tokens: Tensor | None, rate: Number) -> Tensor:
        lower = self._lower_loss(batch, tokens, self.precision)
        with self._dropout(self.weights.device):
            loss, grad = gradient(lower, self.weights, self.prompt)
        self.weights, self._weights_state = self._optimiser.step(self.weights, grad, self._weights_state, rate)
        return loss

    @abstractmethod
    def _lower_loss(self, batch: BatchT, tokens: Tensor | None, precision: str) -> Loss:
        """Return the lower level's loss on a batch as a function of (W, A)."""

    @abstractmethod
    def _upper_loss(self, batch: BatchT) -> Loss:
        """Return the upper level's loss on a batch as a function of (W, A)."""

    def _dropout(self, device: torch.device) -> AbstractContextManager[None]:
        """Return a context in which a model that draws random numbers draws this step's."""
        return nullcontext()
