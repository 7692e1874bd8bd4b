"""An adapted SAM: maps cached features and boxes to two-channel logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from amsam_ray.config.methods import encoder_fault, get_method
from amsam_ray.config.params import MethodParams
from amsam_ray.errors import InputError, Problem
from amsam_ray.models.backbone import Backbone
from amsam_ray.models.parts.calibration import MaskCalibration
from amsam_ray.models.parts.encoder_tail import Contrast
from amsam_ray.models.parts.head import TwoChannelDecoder
from amsam_ray.models.parts.prompt_embedding import PromptEmbedding
from amsam_ray.models.parts.upscaling import arrange
from amsam_ray.models.recipe import Recipe
from amsam_ray.models.seeded import seeded
from amsam_ray.models.trained_model import ModelInputs, ModelOutput, TrainedModel


class AdaptedSam(TrainedModel):
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
    def frozen(self) -> Backbone:
        """The frozen SAM."""
        return self.backbone

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

    @property
    def has_training_mode(self) -> bool:
        """True if the contrastive losses need their inputs."""
        return self.params.adaptors != "none"

    def share_over_workers(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Use ``mean`` for the calibration's mean over the batch."""
        self.calibration.over_workers = mean

    def recompute(self, on: bool) -> None:
        """Recompute the activations of the encoder's blocks in the backward pass."""
        if self.encoder is not None:
            self.encoder.checkpointing = on

    def forward(self, inputs: ModelInputs, alpha: Tensor | None = None) -> ModelOutput:
        """Return the calibrated logits of a batch and, in training, the inputs of the contrastive losses.

        Args:
            inputs: of B pictures.
            alpha: a scalar that replaces the ``alpha`` of ``params``, where the model runs with another trial's values.
        """
        embedding, contrast = inputs.features, Contrast()
        if self.encoder is not None:
            embedding, contrast = self.encoder(inputs.features, inputs.highpass, inputs.view_features)
        masks = self.calibration(*self._decode(embedding, inputs.boxes, inputs.has_box), alpha)
        return ModelOutput(arrange(masks, *embedding.shape[-2:]), contrast.tokens, contrast.pooled)

    def _decode(self, embedding: Tensor, boxes: Tensor, has_box: tuple[bool, ...] | Tensor) -> tuple[Tensor, Tensor]:
        dense_pe, dense = self.prompt.dense_pe, self.prompt.dense()
        if not self.uses_boxes or not (isinstance(has_box, Tensor) or any(has_box)):
            return self.decoder(embedding, dense_pe, None, dense)
        prompted: Tensor | None = None
        if isinstance(has_box, Tensor):
            prompted = has_box
        elif not all(has_box):
            prompted = torch.tensor(has_box, device=boxes.device)
        return self.decoder(embedding, dense_pe, self.prompt.sparse(boxes), dense, prompted)


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
    with seeded(seed):
        return AdaptedSam(method, params, backbone)
