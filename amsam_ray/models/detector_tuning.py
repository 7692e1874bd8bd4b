"""Tuning of the detector on the boxes of the shots, for images whose objects are not among its classes.

The tuned detector is frozen afterwards. Training minimises ultralytics' own detection loss on random views of the K
shots. Ultralytics' trainer is not used: it needs a dataset and a run folder on disk, downloads files to check mixed
precision and fonts, and sets seeds, threads and deterministic modes for the whole process, which other trials share.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from amsam_ray.config.networks import DetectorConfig
from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.hashing import file_sha256, sha256_hex
from amsam_ray.models.detector import Detector, build_network, load_detector, save_network
from amsam_ray.models.detector_file import OFFICIAL_SHA256
from amsam_ray.models.detector_networks import network_name
from amsam_ray.models.ultralytics_quiet import process_unchanged

_VERSION = 2  # part of the cache key; raise it with every change of the training below
# Pretrained weights forget less at the lower rate: on photographs of people, a tuned nano detector found 93-97 % of the
# boxes with it and 87-97 % with the higher one. A head for another number of classes starts at random values.
_LR, _LR_FRESH = 3e-4, 1e-3
_WEIGHT_DECAY = 5e-4
_BATCH = 8
_VIEWS_PER_EPOCH = 8  # the minimum; few shots have several views in an epoch
_CLIP_NORM = 10.0
_GREY = 114  # ultralytics' letterbox colour


@dataclass(frozen=True)
class TuningShot:
    """A labelled image to tune on.

    Attributes:
        image: HWC uint8 RGB.
        mask: HW bool; the target is the box around the whole mask, since one box prompts for the whole object.
        key: a text that identifies the content of both.
    """

    image: np.ndarray
    mask: np.ndarray
    key: str


def tune_detector(
    config: DetectorConfig,
    shots: Sequence[TuningShot],
    *,
    seed: int,
    cache_dir: Path,
    device: torch.device | str = "cpu",
    state_dir: Path | None = None,
) -> DetectorConfig:
    """Tune the configured detector for ``config.finetune_epochs`` epochs on some shots.

    The tuned detector has one class, ``object``; all weights whose shapes agree start from the configured detector.
    The same detector, shots, epochs and seed give the same file. It is kept in ``cache_dir`` under a name derived from
    them, and the processes of a node share it.

    Args:
        config: the detector to start from.
        shots: images with masks; an image with an empty mask is a negative example.
        seed: the seed of the random views.
        cache_dir: the folder of tuned detectors.
        device: the device to train on.
        state_dir: folder for ultralytics' settings.

    Returns:
        The configuration of the tuned detector: the same filters, and the new file as ``weights``.

    Raises:
        InputError: no detector or no epochs are configured, no shot has an object, the detector does not load, or its
            architecture is not known.
        AmsamError: training diverged.
    """
    problems = []
    if config.weights == "none" or config.finetune_epochs < 1:
        problems.append(
            Problem("detector", "there is nothing to tune. Set weights, and finetune_epochs to at least 1.")
        )
    if not any(shot.mask.any() for shot in shots):
        problems.append(Problem("shots", "no shot has an object, so there is no box to learn. Draw other shots."))
    if problems:
        raise InputError(problems)
    start = load_detector(config.model_copy(update={"classes": None}), device, state_dir=state_dir)
    assert start is not None
    network = _network(start)
    facts = [
        _VERSION,
        start.weights_sha256,
        start.image_size,
        config.finetune_epochs,
        seed,
        sorted(shot.key for shot in shots),
    ]
    key = sha256_hex(json.dumps(facts))
    path = cache_dir / f"detector-{key[:32]}.safetensors"
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            ordered = sorted(shots, key=lambda shot: shot.key)
            model, fresh = _one_class(start.model, network, torch.device(device))
            _train(model, fresh, ordered, start.image_size, config.finetune_epochs, seed, torch.device(device))
            part = path.with_suffix(f".{os.getpid()}.part")
            save_network(model.cpu(), part, start.image_size)
            part.replace(path)
    return config.model_copy(
        update={"weights": str(path), "classes": None, "finetune_epochs": 0, "sha256": file_sha256(path)}
    )


def _network(start: Detector) -> str | dict[str, Any]:
    """Return the architecture of a detector, for ``build_network``; raises InputError if it is not known."""
    description = dict(start.model.yaml)
    try:
        network_name(description)
    except InputError as error:
        for file, sha256 in OFFICIAL_SHA256.items():
            if start.weights_sha256 == sha256:
                return Path(file).stem
        what = f"the detector cannot be tuned: it {error.problems[0].what} Or set finetune_epochs: 0."
        raise InputError(Problem("detector.weights", what)) from None
    return description


def _one_class(start: Any, network: str | dict[str, Any], device: torch.device) -> tuple[Any, set[str]]:
    """Return a one-class network with all weights of ``start`` that fit, and the names of its new weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # seeds the layers of the head that depend on the number of classes
        model = build_network(network, ["object"])
    ours = model.state_dict()
    fitting = {
        name: tensor.float()
        for name, tensor in start.state_dict().items()
        if name in ours and ours[name].shape == tensor.shape
    }
    model.load_state_dict({**ours, **fitting})
    return model.to(device), ours.keys() - fitting.keys()


def _train(
    model: Any,
    fresh: set[str],
    shots: Sequence[TuningShot],
    size: int,
    epochs: int,
    seed: int,
    device: torch.device,
) -> None:
    """Train with AdamW and a cosine schedule; the batch statistics stay those of pretraining."""
    with process_unchanged():
        from ultralytics.cfg import get_cfg

        model.args = get_cfg()  # the loss reads its weights from here
    rng = np.random.default_rng(seed)
    trained = {name: p for name, p in model.named_parameters() if ".dfl." not in name}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    groups = [
        {"params": [p for name, p in trained.items() if name not in fresh], "lr": _LR},
        {"params": [p for name, p in trained.items() if name in fresh], "lr": _LR_FRESH},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY)
    rounds = max(1, math.ceil(_VIEWS_PER_EPOCH / len(shots)))
    steps = epochs * math.ceil(rounds * len(shots) / _BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: 0.5 * (1 + math.cos(math.pi * i / steps)))
    for epoch in range(epochs):
        order = np.concatenate([rng.permutation(len(shots)) for _ in range(rounds)])
        for first in range(0, len(order), _BATCH):
            views = [_view(shots[index], size, rng) for index in order[first : first + _BATCH]]
            loss = _loss(model, views, device)
            if not torch.isfinite(loss):
                raise AmsamError(f"tuning the detector diverged in epoch {epoch + 1}. Use fewer epochs.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained.values(), _CLIP_NORM)
            optimiser.step()
            schedule.step()
    model.eval().requires_grad_(False)
    model.criterion = None


def _loss(model: Any, views: Sequence[tuple[np.ndarray, np.ndarray | None]], device: torch.device) -> Tensor:
    """Return the sum of ultralytics' box, class and distribution losses, divided by the batch size."""
    images_BHWC = torch.from_numpy(np.stack([image for image, _ in views])).to(device)
    with_box = [(index, box) for index, (_, box) in enumerate(views) if box is not None]
    batch = {
        "img": images_BHWC.permute(0, 3, 1, 2).float() / 255,
        "batch_idx": torch.tensor([float(index) for index, _ in with_box], device=device),
        "cls": torch.zeros(len(with_box), 1, device=device),
        "bboxes": torch.tensor(np.array([box for _, box in with_box]).reshape(-1, 4), device=device).float(),
    }
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    loss, _ = model.loss(batch)
    return loss.sum() / len(views)


def _view(shot: TuningShot, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
    """Draw a random view of a shot, letterboxed.

    Returns:
        The image, size x size x 3 uint8, and the box around its mask as (centre x, centre y, width, height) in
        fractions of ``size``; None if the mask is out of view.
    """
    import cv2

    height, width = shot.mask.shape
    fit = size / max(height, width)
    zoom = fit * rng.uniform(0.6, 1.4)
    flip = rng.random() < 0.5
    centre_x, centre_y = size / 2 + rng.uniform(-0.15, 0.15, 2) * size
    matrix = np.array(
        [
            [-zoom if flip else zoom, 0, centre_x + (zoom if flip else -zoom) * width / 2],
            [0, zoom, centre_y - zoom * height / 2],
        ]
    )
    image = cv2.warpAffine(shot.image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=(_GREY,) * 3)
    mask = cv2.warpAffine(shot.mask.astype(np.uint8), matrix, (size, size), flags=cv2.INTER_NEAREST)
    gain, shift = rng.uniform(0.7, 1.3, 3), rng.uniform(-20, 20)
    image = np.clip(image * (0.5 + 0.5 * gain) + shift, 0, 255).astype(np.uint8)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return image, None
    left, right, upper, lower = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    box = np.array([(left + right) / 2, (upper + lower) / 2, right - left, lower - upper]) / size
    return image, box
