"""Copies of a module's structure that share its tensors: how a trial gets its own model in milliseconds."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def share(module: Module) -> Module:
    """A copy of ``module`` whose parameters and buffers use the same memory, all frozen.

    The copy has parameter objects of its own, so that replacing, parametrising or training one of them leaves
    ``module`` as it was; only the storage of what stays frozen is common. Nothing may write into it.
    """
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        # .data and not .detach(): the alias needs a version counter of its own.
        memo[id(parameter)] = nn.Parameter(parameter.data, requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.data
    return copy.deepcopy(module, memo)


def make_trainable(module: Module) -> Module:
    """Gives every parameter of a shared ``module`` memory of its own and lets it train. Returns ``module``."""
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)
    return module
