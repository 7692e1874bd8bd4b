"""The two contrastive losses of MCA-SAM (arXiv 2408.05936).

Legend: B images, K tokens, D channels, L adapted blocks. Similarities rho are cosines.

Both are -log(exp(rho+ / tau) / (exp(rho+ / tau) + sum_j exp(rho-_j / tau))), computed as a log-softmax, so that
they and their gradients are finite at low temperatures too.

Memory. All K^2 similarities of 64 x 64 tokens are 16.8 M per image and block. The training loop draws
``contrast_tokens`` tokens of each image anew at every step (1,024 by default: 1.05 M similarities), the same ones
in all blocks. All tokens can be used: above ``CHUNK`` rows the loss is computed in slices that are recomputed in the
backward pass, so that only one slice of K columns is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from amsam_ray.parallel import gather, rank

CHUNK = 1024  # rows of the similarity matrix in memory at once


def draw_tokens(tokens: int, wanted: int, generator: torch.Generator) -> Tensor | None:
    """Draw ``wanted`` of ``tokens`` token numbers without replacement; return None for all of them."""
    if wanted >= tokens:
        return None
    return torch.randperm(tokens, generator=generator)[:wanted]


def token_loss(x_BKD: Tensor, y_BKD: Tensor, tau: float, index: Tensor | None = None) -> Tensor:
    """Return the token-level loss of one block: each output token against the input tokens of the same image.

    For token i the positive pair is (y_i, x_i), the negatives are (y_i, x_j) for every other token j.

    Args:
        x_BKD: input tokens of the adaptor.
        y_BKD: output tokens of the adaptor.
        tau: temperature, positive.
        index: numbers of the tokens to use, 1-D; None for all.

    Returns:
        A scalar, the mean over tokens and images; 0 for a single token.
    """
    if index is not None:
        index = index.to(x_BKD.device)
        x_BKD, y_BKD = x_BKD[:, index], y_BKD[:, index]
    x_BKD = F.normalize(_at_least_float(x_BKD), dim=-1)
    y_BKD = F.normalize(_at_least_float(y_BKD), dim=-1)
    images, tokens, _ = x_BKD.shape
    if tokens <= CHUNK:
        return sum_rows(y_BKD, x_BKD, 0, tau) / (images * tokens)
    total = x_BKD.new_zeros(())
    for start in range(0, tokens, CHUNK):
        rows = y_BKD[:, start : start + CHUNK]
        total = total + checkpoint(sum_rows, rows, x_BKD, start, tau, use_reentrant=False)
    return total / (images * tokens)


def sum_rows(rows_BRD: Tensor, columns_BKD: Tensor, start: int, tau: float) -> Tensor:
    """Return the sum of the losses of R unit rows whose positives are the columns ``start`` to ``start + R``."""
    similar_BRK = rows_BRD @ columns_BKD.transpose(1, 2) / tau
    images, rows, columns = similar_BRK.shape
    target = torch.arange(start, start + rows, device=similar_BRK.device).repeat(images)
    return F.cross_entropy(similar_BRK.reshape(-1, columns), target, reduction="sum")


def sample_loss(z_BD: Tensor, view_BD: Tensor, tau: float) -> Tensor:
    """Return the sample-level loss of one block: each image against its augmented view and the other images.

    For image i the positive pair is (z_i, view_i), the negatives are (z_i, z_j) for every other image j of the
    batch. In a data-parallel run the negatives come from all workers, with gradient, and the mean over workers
    equals the loss of the joint batch.

    A batch of one image has no negatives: numerator and denominator are equal, and the loss and its gradient are
    exactly 0 for any weight and temperature. The training loop therefore uses at least two images per step for
    methods with this loss.

    Args:
        z_BD: pooled tokens of the images.
        view_BD: pooled tokens of an augmented view of each.
        tau: temperature, positive.

    Returns:
        A scalar, the mean over this worker's images.
    """
    z_BD = F.normalize(_at_least_float(z_BD), dim=-1)
    view_BD = F.normalize(_at_least_float(view_BD), dim=-1)
    images = z_BD.shape[0]
    everyone = gather(z_BD)
    positive = (z_BD * view_BD).sum(-1, keepdim=True) / tau
    others = z_BD @ everyone.T / tau
    mine = torch.arange(images, device=z_BD.device)
    itself = F.one_hot(mine + rank() * images, everyone.shape[0]).bool()
    scores = torch.cat((positive, others.masked_fill(itself, float("-inf"))), 1)
    return F.cross_entropy(scores, torch.zeros_like(mine))


def contrast_loss(
    tokens: Sequence[tuple[Tensor, Tensor]],
    pooled: Sequence[tuple[Tensor, Tensor]],
    *,
    tau_token: float,
    tau_sample: float,
    w_token: float,
    w_sample: float,
    index: Tensor | None,
) -> Tensor:
    """Return w_t mean_l CL_t + w_s mean_l CL_s, which MCA-SAM adds to the lower level's loss.

    The mean over blocks keeps a weight's meaning when ``adaptor_blocks`` changes.

    Args:
        tokens: (x, y) of every block with a token-level adaptor, each B x K x D.
        pooled: (z, view) of every block with a sample-level adaptor, each B x D.
        tau_token, tau_sample: temperatures.
        w_token, w_sample: weights.
        index: numbers of the tokens in the token-level loss; None for all.
    """
    total = torch.zeros((), device=(tokens or pooled)[0][0].device)
    if tokens and w_token:
        total = total + w_token * torch.stack([token_loss(x, y, tau_token, index) for x, y in tokens]).mean()
    if pooled and w_sample:
        total = total + w_sample * torch.stack([sample_loss(z, v, tau_sample) for z, v in pooled]).mean()
    return total


def _at_least_float(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
