"""Prepared pictures of a tiny SAM, and fast trials with a small untrained backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.config.methods import resolve_params
from amsam_ray.config.networks import BackboneConfig, DetectorConfig
from amsam_ray.config.trial import TrainConfig, TrialConfig
from amsam_ray.inference.inputs import PreparedSet, low_res_target
from amsam_ray.models.adapted import AdaptedSam, build_method
from amsam_ray.models.build import build_model
from amsam_ray.models.nano import build_nano_sam
from amsam_ray.models.trained_model import TrainedModel
from amsam_ray.training.loop import Roles, Trainer
from tests.models.toy import OFFLINE, SIZE, toy_backbone

ROLES = Roles(lower=[0, 1], upper=[2, 3])


def toy_model(method: str = "am_sam", **given: Any) -> AdaptedSam:
    return build_method(method, resolve_params(method, given), toy_backbone(), seed=0)


def toy_network(method: str, **given: Any) -> TrainedModel:
    """Return a method that is not SAM, on the features of the tiny SAM or with random weights."""
    params = resolve_params(method, {**OFFLINE.get(method, {}), **given})
    return build_model(method, params, toy_backbone(), seed=0)


def toy_set(model: TrainedModel, pictures: int = 4) -> PreparedSet:
    """Return pictures of one bright rectangle each, of three sizes, prepared for ``model``."""
    draw = np.random.default_rng(0)
    images, truths, boxes = [], [], []
    for number in range(pictures):
        height, width = [(64, 64), (48, 64), (64, 40)][number % 3]
        top, left = draw.integers(4, height // 2), draw.integers(4, width // 2)
        truth = np.zeros((height, width), dtype=bool)
        truth[top : top + 18, left : left + 16] = True
        image = torch.from_numpy(draw.normal(0, 0.3, (3, SIZE, SIZE)).astype(np.float32))
        image[:, :height, :width] += 2.0 * torch.from_numpy(truth)
        images.append(image)
        truths.append(truth)
        boxes.append(torch.tensor([left, top, left + 16, top + 18], dtype=torch.float32))
    stacked = torch.stack(images)
    masks = [low_res_target(truth, model.frozen.output_side) for truth in truths]
    return PreparedSet(
        names=tuple(f"picture-{number}" for number in range(pictures)),
        features=model.frozen.encode(stacked, model.cache_point),
        boxes=torch.stack(boxes),
        has_box=torch.ones(pictures, dtype=torch.bool),
        detected=torch.ones(pictures, dtype=torch.bool),
        target=torch.stack([torch.from_numpy(target) for target, _ in masks]),
        valid=torch.stack([torch.from_numpy(valid) for _, valid in masks]),
        truths=tuple(truths),
        pixels=stacked,
        view_features=model.frozen.encode(stacked * 0.9 + 0.1, model.cache_point) if model.needs_views else None,
        true_boxes=torch.stack(boxes) if model.params.box_training == "mix" else None,
        has_object=torch.ones(pictures, dtype=torch.bool) if model.params.box_training == "mix" else None,
    ).for_model(model)


def toy_trainer(method: str = "am_sam", **given: Any) -> Trainer:
    """Return a trainer before its first epoch; arguments as ``toy_training``."""
    return Trainer(*toy_training(method, **given))


def toy_training(
    method: str = "am_sam",
    *,
    epochs: int = 4,
    batch_size: int = 1,
    seed: int = 0,
    roles: Roles = ROLES,
    pictures: int = 4,
    checkpointing: str = "off",
    precision: str = "fp32",
    **given: Any,
) -> tuple[TrainedModel, PreparedSet, Roles, TrainConfig, int]:
    """Return the arguments of a trainer; ``given`` are values of the method's parameters."""
    model = toy_network(method, **given) if method in OFFLINE else toy_model(method, **given)
    train = TrainConfig(epochs=epochs, batch_size=batch_size, precision=precision, checkpointing=checkpointing)
    return model, toy_set(model, pictures), roles, train, seed


def random_nano(folder: Path) -> BackboneConfig:
    """Return the nano backbone with random weights, at 64 px."""
    path = folder / "random_nano.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(build_nano_sam().state_dict(), path)
    return BackboneConfig(arch="nano", checkpoint=str(path), image_size=64)


def small_trial(backbone: BackboneConfig, method: str = "am_sam", **changes: Any) -> TrialConfig:
    """Return a trial of two epochs on small procedural lesions. ``params`` and ``train`` may be given as dicts."""
    train = {"epochs": 2, **changes.pop("train", {})}
    params = resolve_params(method, {**OFFLINE.get(method, {}), **changes.pop("params", {})})
    options = {"family": "lesion", "size": 64, "train": 12, "test": 5, **changes.pop("options", {})}
    settings = {
        "dataset": DatasetConfig(name="procedural", options=options),
        "shots": 4,
        "method": method,
        "label": method,
        "backbone": backbone,
        "detector": DetectorConfig(weights="none"),
        **changes,
    }
    return TrialConfig(params=params, train=TrainConfig(**train), **settings)
