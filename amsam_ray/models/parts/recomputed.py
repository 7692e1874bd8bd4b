"""Gradient checkpointing of one block (Chen et al. 2016, arXiv 1604.06174)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, tokens: Tensor) -> Tensor:
    """Return ``block(tokens)`` and keep only ``tokens``: the backward pass computes the activations between again.

    The gradients are those of ``block(tokens)``, also through a second backward pass. ``block`` must be deterministic,
    as an encoder block without dropout is, and must not change its tensors.

    Args:
        block: a module of one input; a surrounding ``functional_call`` may have replaced its tensors.
        tokens: its input, of any shape.
    """
    # At the time of the backward pass a surrounding functional_call has put the module's own tensors back.
    tensors = {**dict(block.named_parameters()), **dict(block.named_buffers())}

    def run(given: Tensor) -> Tensor:
        out: Tensor = functional_call(block, tensors, (given,), tie_weights=False)
        return out

    # There is no random state to restore, and saving it would read values from the device.
    out: Tensor = checkpoint(run, tokens, use_reentrant=False, preserve_rng_state=False)
    return out
