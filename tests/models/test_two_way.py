"""Attention between tokens and image with folded projections, against segment_anything's own."""

import pytest
import torch
from segment_anything.modeling.transformer import Attention

from amsam_ray.models.parts.two_way import TokenAttention

WIDTH, TOKENS = 32, 7


def attentions():
    torch.manual_seed(0)
    theirs = Attention(WIDTH, num_heads=4, downsample_rate=2).double()
    return theirs, TokenAttention(theirs)


def values(count, seed, batch=3):
    return torch.randn(batch, count, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("queries", "keys"), [(TOKENS, 36), (36, TOKENS), (TOKENS, TOKENS), (TOKENS, 4), (4, TOKENS)])
def test_output_and_gradients_equal_sams(queries, keys):
    theirs, ours = attentions()
    given = values(queries, 1), values(keys, 2), values(keys, 3)

    def run(attention):
        leaves = [value.clone().requires_grad_() for value in given]
        out = attention(*leaves)
        return [out, *torch.autograd.grad(out.square().sum(), [*leaves, *theirs.parameters()])]

    torch.testing.assert_close(run(ours), run(theirs))


@pytest.mark.parametrize("queries", [36, TOKENS, 4])
def test_hidden_keys_change_nothing(queries):
    theirs, ours = attentions()
    q, k, v = values(queries, 1), values(TOKENS, 2), values(TOKENS, 3)
    hidden = torch.zeros(3, TOKENS, dtype=torch.bool)
    hidden[1, 5:] = True
    out = ours(q, k, v, hidden)
    whole = theirs(q, k, v)
    torch.testing.assert_close(out[[0, 2]], whole[[0, 2]])
    torch.testing.assert_close(out[1:2], theirs(q[1:2], k[1:2, :5], v[1:2, :5]))
    assert (out[1] - whole[1]).abs().max() > 1e-3
