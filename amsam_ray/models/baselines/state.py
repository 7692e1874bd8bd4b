"""The check of an official state dict before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from amsam_ray.errors import InputError, Problem, counted


def fitted_state(state: Mapping[str, Any], model: Mapping[str, Tensor], weights: str, where: str) -> dict[str, Tensor]:
    """Return the values of ``state`` that a model needs, in its order, as copies in the model's types.

    Step counters of batch normalisation (``num_batches_tracked``) may be missing, as in files saved before torch had
    them; they start at zero.

    Args:
        state: weights by official name.
        model: the model's own state, also of a model on the meta device; only its shapes and types are read. Further
            keys of ``state`` are ignored.
        weights: the name of the expected weights in ``amsam-ray weights fetch``.
        where: the file that ``state`` comes from, for the error; may be empty.

    Raises:
        InputError: keys are missing, or values have other shapes or are no numbers; one problem for each of these
            kinds, with the first key.
    """
    optional = {name for name in model if name.endswith("num_batches_tracked")}
    missing = [name for name in model if name not in state and name not in optional]
    present = [name for name in model if name in state]
    numbers = [name for name in present if isinstance(state[name], Tensor)]
    others = [name for name in present if not isinstance(state[name], Tensor)]
    reshaped = [name for name in numbers if state[name].shape != model[name].shape]
    remedy = f"fetch the official file with: amsam-ray weights fetch {weights}"
    faults = []
    if missing:
        faults.append(f"{len(missing)} of {counted(len(model), 'key')} are missing, the first is {missing[0]}")
    if others:
        faults.append(f"{others[0]} is a {type(state[others[0]]).__name__}, not a tensor")
    if reshaped:
        name = reshaped[0]
        found, needed = tuple(state[name].shape), tuple(model[name].shape)
        faults.append(f"{counted(len(reshaped), 'key')} of another shape, the first is {name}: {found}, not {needed}")
    if faults:
        raise InputError([Problem(where, f"is no {weights} state dict: {fault}; {remedy}") for fault in faults])
    return {
        name: state[name].detach().to(value.dtype, copy=True) if name in state else torch.zeros((), dtype=value.dtype)
        for name, value in model.items()
    }
