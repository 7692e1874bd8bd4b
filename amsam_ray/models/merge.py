"""Fold a trained model into plain SAM weights, which ``segment_anything`` itself loads.

LoRA folds into the projections. The warm head folds into SAM's single-mask hypernetwork: a softmax over (background,
foreground) is a sigmoid of their difference, both channels are output layers on the same hidden layers, and the
calibration multiplies each upscaled channel by a constant. A method with parts that SAM's architecture does not have
is refused.
"""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import Tensor, nn

from amsam_ray.errors import AmsamError
from amsam_ray.models.adapted import AdaptedSam
from amsam_ray.models.parts.head import WarmHead

_HYPERNETWORK = "mask_decoder.output_hypernetworks_mlps.0"


def _refuse(model: AdaptedSam) -> str | None:
    """Return the reason why ``model`` cannot be folded into plain SAM weights, or None if it can."""
    if model.encoder is not None and not model.encoder.foldable:
        return "its encoder has additional layers, and SAM's architecture has no place for them"
    if not isinstance(model.decoder.head, WarmHead):
        return (
            "its cold head has mask tokens and hypernetworks of its own, and SAM's decoder has exactly four tokens. "
            "Train it with head: warm."
        )
    return None


def _fold(prefix: str, module: nn.Module, state: dict[str, Tensor]) -> None:
    """Replace SAM's entries under ``prefix`` by the weights of ``module``, with parametrisations folded."""
    for name in state:
        if name.startswith(prefix):
            state[name] = attrgetter(name.removeprefix(prefix))(module).detach().clone()


@torch.no_grad()
def merged_state(model: AdaptedSam) -> dict[str, Tensor]:
    """Return SAM's state dict with ``model`` folded in.

    With it, ``SamPredictor.predict(box=..., multimask_output=False)`` returns the model's masks (without a box, the
    masks of the learned dense prompt). Calibration by ``batch`` is folded as for one image at a time. The three
    multimask outputs and the IoU predictions remain those of SAM; training does not change them.

    Args:
        model: a model whose parts all exist in SAM's architecture.

    Returns:
        All entries under the official names, fp32, for the backbone's image size.

    Raises:
        AmsamError: the method cannot be folded; states the reason.
    """
    reason = _refuse(model)
    if reason is not None:
        raise AmsamError(f"{model.method} cannot be merged into plain SAM weights: {reason}")
    state = {name: value.clone() for name, value in model.backbone.sam.state_dict().items()}
    if model.encoder is not None:
        for index, block in enumerate(model.encoder.blocks):
            _fold(f"image_encoder.blocks.{model.encoder.first + index}.", block, state)
    _fold("mask_decoder.transformer.", model.decoder.transformer, state)
    _fold("mask_decoder.output_upscaling.", model.decoder.upscaling, state)
    state["mask_decoder.iou_token.weight"] = model.decoder.iou_token.clone()
    _fold_head(model, state)
    state["prompt_encoder.no_mask_embed.weight"] = model.prompt.no_mask_embed.clone()
    if model.uses_boxes:
        for index, corner in zip((2, 3), model.prompt.corners, strict=True):
            state[f"prompt_encoder.point_embeddings.{index}.weight"] = corner[None].clone()
    return state


def _fold_head(model: AdaptedSam, state: dict[str, Tensor]) -> None:
    head = model.decoder.head
    assert isinstance(head, WarmHead)
    state["mask_decoder.mask_tokens.weight"] = head.tokens.clone()
    _fold(f"{_HYPERNETWORK}.", head.foreground, state)
    last = f"{_HYPERNETWORK}.layers.{len(head.foreground.layers) - 1}"
    factor = torch.as_tensor(model.calibration.channel_factor()).to(head.tokens)
    weight, bias = state[f"{last}.weight"], state[f"{last}.bias"]
    state[f"{last}.weight"] = (weight - head.background.weight) * factor.reshape(-1, 1)
    state[f"{last}.bias"] = (bias - head.background.bias) * factor
