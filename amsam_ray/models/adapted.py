"""One adapted SAM: cached features and boxes in, two-channel logits out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor, nn

from amsam_ray.config.methods import get_method
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
        features: at the model's ``cache_point``: (B, C, G, G) embeddings or (B, G, G, d) tokens.
        boxes: (B, 4) float32, XYXY in pixels of the encoder's input; anything where ``has_box`` is False.
        has_box: (B,) bool; False decodes that image with the dense prompt alone.
        highpass: (B, 3, S, S), for models with ``needs_highpass``.
        view_features: like ``features``, of an augmented view of each image, for models with ``needs_views``.
    """

    features: Tensor
    boxes: Tensor
    has_box: Tensor
    highpass: Tensor | None = None
    view_features: Tensor | None = None

    def to(self, device: torch.device | str) -> ModelInputs:
        """The same batch on ``device``."""
        tensors = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(self, **{name: t.to(device) for name, t in tensors.items() if t is not None})


@dataclass
class ModelOutput:
    """What one forward pass gives.

    Attributes:
        logits: (B, 2, 4G, 4G), background and foreground, calibrated.
        tokens: per token-level adaptor (X, Y), both (B, N, d); empty outside training.
        pooled: per sample-level adaptor (z, z_view), both (B, d); empty outside training.
    """

    logits: Tensor
    tokens: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    pooled: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class AdaptedSam(nn.Module):
    """A method on a backbone. Build it with :func:`build_method`.

    The frozen tensors are the backbone's own memory; what trains is a copy. Works under
    ``torch.func.functional_call`` with double backward. In training mode it also returns what contrastive losses
    compare; nothing else depends on the mode.

    Attributes:
        method, params: what it was built from.
        uses_boxes: whether boxes are looked at.
        lower: names of the parameters that the lower level trains; all of them if ``levels`` is 1.
        upper: names of the prompt embedding A if ``levels`` is 2, else empty.
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
        """The deepest frozen point, as ``backbone.encode_to`` names it."""
        return "embedding" if self.encoder is None else f"tokens@{self.encoder.first}"

    @property
    def needs_highpass(self) -> bool:
        """Whether inputs must carry ``highpass``."""
        return self.encoder is not None and self.encoder.needs_highpass

    @property
    def needs_views(self) -> bool:
        """Whether inputs in training must carry ``view_features``."""
        return self.encoder is not None and self.encoder.needs_views

    def forward(self, inputs: ModelInputs) -> ModelOutput:
        """Two-channel, calibrated logits of a batch, and in training what contrastive losses compare."""
        embedding, contrast = inputs.features, Contrast()
        if self.encoder is not None:
            embedding, contrast = self.encoder(inputs.features, inputs.highpass, inputs.view_features)
        logits = self.calibration(*self._decode(embedding, inputs.boxes, inputs.has_box))
        return ModelOutput(logits, contrast.tokens, contrast.pooled)

    def _decode(self, embedding: Tensor, boxes: Tensor, has_box: Tensor) -> tuple[Tensor, Tensor]:
        dense_pe, dense = self.prompt.dense_pe, self.prompt.dense()
        if not self.uses_boxes or not bool(has_box.any()):
            return self.decoder(embedding, dense_pe, None, dense)
        if bool(has_box.all()):
            return self.decoder(embedding, dense_pe, self.prompt.sparse(boxes), dense)
        # SAM's attention knows no mask for absent tokens: images with and without a box are decoded apart.
        with_box, without = has_box.nonzero()[:, 0], (~has_box).nonzero()[:, 0]
        sparse = self.prompt.sparse(boxes[with_box])
        first = self.decoder(embedding[with_box], dense_pe, sparse, dense)
        second = self.decoder(embedding[without], dense_pe, None, dense)
        back = torch.cat([with_box, without]).argsort()
        return torch.cat([first[0], second[0]])[back], torch.cat([first[1], second[1]])[back]

    def trainable_state(self) -> dict[str, Tensor]:
        """Copies of all trained parameters by name, of both levels: what a checkpoint holds."""
        parameters = dict(self.named_parameters())
        return {name: parameters[name].detach().clone() for name in self.lower + self.upper}

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Puts a :meth:`trainable_state` back.

        Raises:
            AmsamError: if the names or shapes are not this model's; names the first that differs.
        """
        parameters = dict(self.named_parameters())
        wanted = set(self.lower + self.upper)
        if wanted != set(state):
            name = sorted(wanted ^ set(state))[0]
            side = "lacks" if name in wanted else "has the unknown"
            raise AmsamError(f"the checkpoint {side} parameter {name}: it is of another method or setting")
        for name, value in state.items():
            if value.shape != parameters[name].shape:
                raise AmsamError(
                    f"parameter {name} has shape {tuple(value.shape)} in the checkpoint, "
                    f"{tuple(parameters[name].shape)} in the model: it is of another rank or backbone"
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
    """A fresh model of one method; cheap, since it shares the backbone's memory.

    Args:
        method: a registered name.
        params: its hyperparameters and switches, e.g. from ``methods.resolve_params``.
        backbone: the frozen SAM; not changed.
        seed: of the initial values; the global random state is left alone.

    Returns:
        The model on the backbone's device, in training mode.

    Raises:
        InputError: for an unknown method, or a value that does not fit the backbone (``rank``,
            ``adaptor_blocks``).
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        return AdaptedSam(method, params, backbone)
    finally:
        torch.set_rng_state(before)
