"""The published ImageNet weights that a network starts from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from amsam_ray.errors import InputError, Problem
from amsam_ray.hashing import file_sha256
from amsam_ray.models.weights import find_published, get_weights


def imagenet_state(name: str) -> dict[str, Tensor]:
    """Return the state dict of a published ImageNet classifier.

    Args:
        name: in ``WEIGHTS``, ``resnet50`` or ``swin_t``.

    Raises:
        InputError: the file is not on this machine, or is not the published one.
    """
    weights = get_weights(name)
    path = find_published(name)
    found = file_sha256(path)
    if found != weights.sha256:
        what = (
            f"has SHA-256 {found} and {path.stat().st_size} bytes, expected {weights.size} bytes with "
            f"{weights.sha256}. Run `amsam-ray weights fetch {name}`."
        )
        raise InputError(Problem(str(path), what))
    return read_state(path)


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict that ``torch.save`` wrote. Raises InputError if it is something else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the restricted unpickler raises whatever its opcodes run into
        what = f"is not a readable state dict ({type(error).__name__}). Fetch it again."
        raise InputError(Problem(str(path), what)) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(Problem(str(path), "is not a plain state dict. Fetch it again."))
    return state
