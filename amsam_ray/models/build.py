"""Construction of the model of any method."""

from __future__ import annotations

import torch

from amsam_ray.config.methods import get_method
from amsam_ray.config.params import MethodParams
from amsam_ray.models.adapted import build_method
from amsam_ray.models.backbone import Backbone
from amsam_ray.models.recipe import NetworkRecipe
from amsam_ray.models.seeded import seeded
from amsam_ray.models.trained_model import TrainedModel


def build_model(
    method: str,
    params: MethodParams,
    backbone: Backbone | None,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    restored: bool = False,
) -> TrainedModel:
    """Build a new model of a method, of one that adapts SAM or of another network.

    Args:
        method: the name of a method.
        params: its hyperparameters and switches, e.g. from ``config.methods.resolve_params``.
        backbone: the frozen SAM; may be None where ``config.methods.uses_sam`` is False.
        seed: the seed of the initial values; the global random state is restored afterwards.
        device: where a method without ``backbone`` computes.
        restored: whether a state is loaded next, so that no published weights are needed for what it contains.

    Returns:
        The model, in training mode.

    Raises:
        InputError: the method is unknown, a value does not fit the backbone, or published weights are not here.
    """
    recipe = get_method(method).recipe
    if isinstance(recipe, NetworkRecipe):
        with seeded(seed):
            return recipe.build(method, params, backbone, torch.device(device), restored)
    assert backbone is not None, method
    return build_method(method, params, backbone, seed=seed)
