"""An adapted SAM: maps cached features and boxes to two-channel logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from amsam_ray.config.methods import encoder_fault, get_method
from amsam_ray.config.params import MethodParams
from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.models.backbone import Backbone
from amsam_ray.models.parts.calibration import MaskCalibration
from amsam_ray.models.parts.encoder_tail import Contrast
from amsam_ray.models.parts.head import TwoChannelDecoder
from amsam_ray.models.parts.prompt_embedding import PromptEmbedding
from amsam_ray.models.recipe import Recipe


@dataclass
class ModelInputs:
    """A batch of B prepared images.

    Attributes:
        features: the frozen encoder's output at the model's ``cache_point``: (B, C, G, G) embeddings or (B, G, G, d)
            tokens.
        boxes: (B, 4) float32, XYXY in pixels of the encoder's input; ignored where ``has_box`` is False.
        has_box: B flags; an image with False is decoded with the dense prompt alone. Plain values, because they decide
            which computation runs: a tensor would have to be read back from the device in every step.
        highpass: (B, 3, S, S), for models with ``needs_highpass``.
        view_features: like ``features``, of an augmented view of each image, for models with ``needs_views``.
    """

    features: Tensor
    boxes: Tensor
    has_box: tuple[bool, ...]
    highpass: Tensor | None = None
    view_features: Tensor | None = None

    def to(self, device: torch.device | str) -> ModelInputs:
        """Return the same batch on ``device``."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        moved: dict[str, Any] = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


@dataclass
class ModelOutput:
    """The result of one forward pass.

    Attributes:
        logits: (B, 2, 4G, 4G), calibrated; channel 0 is the background, channel 1 the foreground.
        tokens: (X, Y) of each token-level contrastive adaptor, both (B, N, d); empty outside training.
        pooled: (z, z_view) of each sample-level contrastive adaptor, both (B, d); empty outside training.
    """

    logits: Tensor
    tokens: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    pooled: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class AdaptedSam(nn.Module):
    """A method applied to a backbone. Build it with :func:`build_method`.

    The frozen tensors share the backbone's memory; the trained ones are copies. The model supports
    ``torch.func.functional_call`` with double backward. In training mode it also returns the inputs of the
    contrastive losses; nothing else depends on the mode.

    Attributes:
        method, params: the name of the method and its hyperparameters and switches.
        backbone: the frozen SAM.
        uses_boxes: True if box prompts are used.
        lower: names of the parameters that the lower level trains; all trained parameters if ``levels`` is 1.
        upper: names of the parameters of the prompt embedding A if ``levels`` is 2, else empty.
    """

    def __init__(self, method: str, params: MethodParams, backbone: Backbone):
        super().__init__()
        recipe = _recipe(method)
        self.method, self.params, self.backbone = method, params, backbone
        self.uses_boxes = params.detector == "on"
        self.encoder = None if recipe.encoder is None else recipe.encoder(backbone, params)
        self.prompt = PromptEmbedding(backbone.sam.prompt_encoder, boxes=self.uses_boxes)
        self.decoder = TwoChannelDecoder(backbone.sam.mask_decoder, params.head)
        recipe.decoder(self.decoder, params)
        self.calibration = MaskCalibration(params.calibration, params.alpha, self.decoder.channels)
        self.prompt.requires_grad_(recipe.learned_prompt)
        trained = [name for name, parameter in self.named_parameters() if parameter.requires_grad]
        prompts = [name for name in trained if name.startswith("prompt.") and params.levels == 2]
        self.lower = tuple(name for name in trained if name not in prompts)
        self.upper = tuple(prompts)
        self.to(backbone.device)

    @property
    def cache_point(self) -> str:
        """The deepest point up to which the encoder is frozen, as ``backbone.encode_to`` names it."""
        return "embedding" if self.encoder is None else f"tokens@{self.encoder.first}"

    @property
    def needs_highpass(self) -> bool:
        """True if the inputs must have ``highpass``."""
        return self.encoder is not None and self.encoder.needs_highpass

    @property
    def needs_views(self) -> bool:
        """True if the inputs must have ``view_features`` in training."""
        return self.encoder is not None and self.encoder.needs_views

    def forward(self, inputs: ModelInputs) -> ModelOutput:
        """Return the calibrated logits of a batch and, in training, the inputs of the contrastive losses."""
        embedding, contrast = inputs.features, Contrast()
        if self.encoder is not None:
            embedding, contrast = self.encoder(inputs.features, inputs.highpass, inputs.view_features)
        logits = self.calibration(*self._decode(embedding, inputs.boxes, inputs.has_box))
        return ModelOutput(logits, contrast.tokens, contrast.pooled)

    def _decode(self, embedding: Tensor, boxes: Tensor, has_box: tuple[bool, ...]) -> tuple[Tensor, Tensor]:
        dense_pe, dense = self.prompt.dense_pe, self.prompt.dense()
        if not self.uses_boxes or not any(has_box):
            return self.decoder(embedding, dense_pe, None, dense)
        if all(has_box):
            return self.decoder(embedding, dense_pe, self.prompt.sparse(boxes), dense)
        # SAM's attention has no mask for absent tokens, so images with and without a box are decoded separately.
        places = {flag: [place for place, has in enumerate(has_box) if has is flag] for flag in (True, False)}
        with_box, without = (torch.tensor(places[flag], device=boxes.device) for flag in (True, False))
        sparse = self.prompt.sparse(boxes[with_box])
        first = self.decoder(embedding[with_box], dense_pe, sparse, dense)
        second = self.decoder(embedding[without], dense_pe, None, dense)
        order = [*places[True], *places[False]]
        back = torch.tensor([order.index(place) for place in range(len(order))], device=boxes.device)
        return torch.cat([first[0], second[0]])[back], torch.cat([first[1], second[1]])[back]

    def trainable_state(self) -> dict[str, Tensor]:
        """Return copies of all trained parameters of both levels by name: the content of a checkpoint."""
        parameters = dict(self.named_parameters())
        return {name: parameters[name].detach().clone() for name in self.lower + self.upper}

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the result of :meth:`trainable_state`.

        Raises:
            AmsamError: the names or shapes differ from this model's; names the first difference.
        """
        parameters = dict(self.named_parameters())
        wanted = set(self.lower + self.upper)
        if wanted != set(state):
            name = sorted(wanted ^ set(state))[0]
            side = "lacks" if name in wanted else "has the unknown"
            raise AmsamError(
                f"the checkpoint {side} parameter {name}. It belongs to another method or setting; load the checkpoint "
                f"of a model with the same method and parameters."
            )
        for name, value in state.items():
            if value.shape != parameters[name].shape:
                raise AmsamError(
                    f"parameter {name} has shape {tuple(value.shape)} in the checkpoint, "
                    f"{tuple(parameters[name].shape)} in the model. It belongs to another rank or backbone; load the "
                    f"checkpoint of a model with the same rank and backbone."
                )
        with torch.no_grad():
            for name, value in state.items():
                parameters[name].copy_(value)


def _recipe(method: str) -> Recipe:
    recipe = get_method(method).recipe
    if not isinstance(recipe, Recipe):
        what = f"has a recipe of type {type(recipe).__name__}. Give its MethodSpec an amsam_ray.models.recipe.Recipe."
        raise InputError(Problem(method, what))
    return recipe


def build_method(method: str, params: MethodParams, backbone: Backbone, *, seed: int) -> AdaptedSam:
    """Build a new model of one method; cheap, since it shares the backbone's memory.

    Args:
        method: the name of a method.
        params: its hyperparameters and switches, e.g. from ``config.methods.resolve_params``.
        backbone: the frozen SAM; it is not changed.
        seed: the seed of the initial values; the global random state is restored afterwards.

    Returns:
        The model on the backbone's device, in training mode.

    Raises:
        InputError: the method is unknown, it or a value does not fit the backbone (``rank``, ``adaptor_blocks``).
    """
    if fault := encoder_fault(method, backbone.arch):
        raise InputError(Problem("backbone.arch", fault))
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        return AdaptedSam(method, params, backbone)
    finally:
        torch.set_rng_state(before)
