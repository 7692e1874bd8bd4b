"""Random values in the official formats of torchvision's weights, and what every network's test measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchvision.models import resnet50, swin_t
from torchvision.models.swin_transformer import SwinTransformerBlock


def official(build: Callable[..., nn.Module], seed: int) -> dict[str, Tensor]:
    """A state dict with the keys and shapes of torchvision's, so that activations keep about their size."""
    with torch.device("meta"):
        shapes = build(weights=None).state_dict()
    make, state = torch.Generator().manual_seed(seed), {}
    for name, value in shapes.items():
        if name.endswith("relative_position_index"):
            state[name] = SwinTransformerBlock(8, 1, [7, 7], [0, 0]).attn.relative_position_index
        elif not value.is_floating_point():
            state[name] = torch.zeros(value.shape, dtype=value.dtype)
        elif name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            state[name] = 0.5 + torch.rand(value.shape, generator=make)
        elif value.ndim > 1 and "table" not in name:
            state[name] = torch.randn(value.shape, generator=make) / value[0].numel() ** 0.5
        else:
            state[name] = 0.1 * torch.randn(value.shape, generator=make)
    return state


def official_resnet50() -> dict[str, Tensor]:
    return official(resnet50, seed=0)


def official_swin_t() -> dict[str, Tensor]:
    return official(swin_t, seed=1)


def trained(model: nn.Module) -> int:
    """The number of values that training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@contextmanager
def output_shapes(*modules: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """Collect the shape of each output of ``modules`` in the order of the calls."""
    shapes: list[tuple[int, ...]] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape))) for module in modules
    ]
    yield shapes
    for hook in hooks:
        hook.remove()


def assert_finite_gradients(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        else:
            assert parameter.grad is None, name
