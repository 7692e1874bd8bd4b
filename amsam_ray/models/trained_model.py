"""What a trained model is to the training loop, to prediction and to adapter files: SAM with a method, or a network.

Legend: B images, S the side of the square input in pixels, h the side of the square of logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from amsam_ray.config.params import MethodParams
from amsam_ray.errors import AmsamError

PIXELS = "pixels"
"""The cache point of a model without a frozen part: the image itself."""


@dataclass
class ModelInputs:
    """A batch of B prepared images.

    Attributes:
        features: the frozen part's output at the model's ``cache_point``: (B, C, G, G) embeddings, (B, G, G, d)
            tokens, (B, 3, S, S) pixels, or (B, P) maps of several layers, one after the other.
        boxes: (B, 4) float32, XYXY in pixels of the encoder's input; ignored where ``has_box`` is False.
        has_box: B flags; an image with False is decoded with the dense prompt alone. Plain values where they are known,
            because a batch in which all or no images have a box needs no mask; a tensor for trials that train together
            and differ in them.
        highpass: (B, 3, S, S), for models with ``needs_highpass``.
        view_features: like ``features``, of an augmented view of each image, for models with ``needs_views``.
    """

    features: Tensor
    boxes: Tensor
    has_box: tuple[bool, ...] | Tensor
    highpass: Tensor | None = None
    view_features: Tensor | None = None

    def to(self, device: torch.device | str) -> ModelInputs:
        """Return the same batch on ``device``."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        moved: dict[str, Any] = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True)
class Support:
    """Labelled images that a few-shot model compares others with.

    Attributes:
        features: as in ``ModelInputs``, of M images.
        masks: (M, h, h) bool, their true masks.
        valid: (M, h, h) bool, False on SAM's padding.
    """

    features: Tensor
    masks: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Auxiliary:
    """A further prediction whose loss is added in training.

    Attributes:
        logits: (B, 2, h, h).
        of: whose masks it predicts, those of the ``query`` images or of their ``support``.
        weight: of its loss.
    """

    logits: Tensor
    of: Literal["query", "support"]
    weight: float


@dataclass
class ModelOutput:
    """The result of one forward pass.

    Attributes:
        logits: (B, 2, h, h); channel 0 is the background, channel 1 the foreground.
        tokens: (X, Y) of each token-level contrastive adaptor, both (B, N, d); empty outside training.
        pooled: (z, z_view) of each sample-level contrastive adaptor, both (B, d); empty outside training.
        auxiliary: further predictions with a loss of their own; empty outside training.
    """

    logits: Tensor
    tokens: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    pooled: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    auxiliary: list[Auxiliary] = field(default_factory=list)


class FrozenEncoder(Protocol):
    """The part of a model that never trains, whose output is computed once per image."""

    @property
    def fingerprint(self) -> str:
        """64 hex digits that identify its weights."""

    @property
    def image_size(self) -> int:
        """S, the side of the square input in pixels."""

    @property
    def output_side(self) -> int:
        """h, the side of the square of logits of the models on it, unless their loss has another."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def keeps_test_images(self) -> bool:
        """Whether the output for test images, which finals alone read, is stored on disk."""

    def encode(self, images: Tensor, point: str) -> Tensor:
        """Return the features of (B, 3, S, S) images, from ``preprocess.to_input``, at a cache point."""


class TrainedModel(nn.Module, ABC):
    """A model whose parameters, named tensors, the training loop trains.

    It supports ``torch.func.functional_call``. ``forward`` maps ``ModelInputs`` to ``ModelOutput``. That of a few-shot
    model maps a ``Support`` to the tensors that it remembers of it, by name; and in training it takes the queries, one
    support image for each, and the queries' true masks.

    Attributes:
        method, params: the name of the method and its hyperparameters and switches.
        lower: names of the parameters that the lower level trains; all trained parameters with one level.
        upper: names of the parameters of the upper level.
        statistics: names of the buffers that a step in training mode changes in place (batch normalisation).
        kept: names of frozen tensors that no published file holds, so that an adapter file must.
        remembered: names of the buffers that hold what a few-shot model keeps of its support, empty (0 rows) before.
        uses_boxes: True if box prompts are used.
        least_batch: the smallest number of images of a training step.
        largest_batch: the largest number of images of a prediction.
        draws: whether training mode draws random numbers (dropout).
    """

    method: str
    params: MethodParams
    lower: tuple[str, ...]
    upper: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    remembered: tuple[str, ...] = ()
    uses_boxes: bool = False
    least_batch: int = 1
    largest_batch: int = 128
    draws: bool = False

    @property
    @abstractmethod
    def frozen(self) -> FrozenEncoder:
        """The frozen part, whose output is the model's input."""

    @property
    @abstractmethod
    def cache_point(self) -> str:
        """The point up to which the model is frozen, as ``FrozenEncoder.encode`` names it."""

    @property
    def image_size(self) -> int:
        """S, the side of the square input in pixels."""
        return self.frozen.image_size

    @property
    def needs_highpass(self) -> bool:
        """True if the inputs must have ``highpass``."""
        return False

    @property
    def needs_views(self) -> bool:
        """True if the inputs must have ``view_features`` in training."""
        return False

    @property
    def needs_support(self) -> bool:
        """True for a few-shot model: it predicts by comparison with labelled images."""
        return bool(self.remembered)

    @property
    def has_training_mode(self) -> bool:
        """Whether the loss of the lower level needs training mode."""
        return True

    def share_over_workers(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Use ``mean``, over the workers of a data-parallel run, for means over the joint batch. Most have none."""

    def recompute(self, on: bool) -> None:
        """Recompute the activations of trained encoder blocks in the backward pass. Most models have no such block."""

    def trainable_state(self) -> dict[str, Tensor]:
        """Return copies of all tensors that training or the support has set, by name: the content of a checkpoint."""
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        names = [*self.lower, *self.upper, *self.statistics, *self.kept]
        names += [name for name in self.remembered if len(tensors[name])]
        return {name: tensors[name].detach().clone() for name in names}

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the result of :meth:`trainable_state`.

        Raises:
            AmsamError: the names or shapes differ from this model's; names the first difference.
        """
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        wanted = {*self.lower, *self.upper, *self.statistics, *self.kept}
        if any(name in state for name in self.remembered):
            wanted |= set(self.remembered)
        if wanted != set(state):
            name = sorted(wanted ^ set(state))[0]
            side = "lacks" if name in wanted else "has the unknown"
            raise AmsamError(
                f"the checkpoint {side} parameter {name}. It belongs to another method or setting; load the checkpoint "
                f"of a model with the same method and parameters."
            )
        for name, value in state.items():
            # The number of remembered rows depends on the shots.
            first = 1 if name in self.remembered else 0
            if value.ndim != tensors[name].ndim or value.shape[first:] != tensors[name].shape[first:]:
                raise AmsamError(
                    f"parameter {name} has shape {tuple(value.shape)} in the checkpoint, "
                    f"{tuple(tensors[name].shape)} in the model. It belongs to another rank or backbone; load the "
                    f"checkpoint of a model with the same rank and backbone."
                )
        with torch.no_grad():
            for name, value in state.items():
                if name in self.remembered:
                    self.remember({name: value})
                else:
                    tensors[name].copy_(value)

    def remember(self, summary: Mapping[str, Tensor]) -> None:
        """Keep what a forward pass over a ``Support`` returned, for predictions."""
        for name, value in summary.items():
            owner, _, buffer = name.rpartition(".")
            before = self.get_buffer(name)
            setattr(self.get_submodule(owner), buffer, value.detach().to(before.device, before.dtype))
