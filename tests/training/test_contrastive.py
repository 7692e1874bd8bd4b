"""MCA-SAM's contrastive losses against loops written from the formula."""

import math

import pytest
import torch

from amsam_ray.training import contrastive
from amsam_ray.training.contrastive import contrast_loss, draw_tokens, sample_loss, token_loss


def _rho(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def _from_formula(positive, negatives, tau):
    over = math.exp(positive / tau)
    return -math.log(over / (over + sum(math.exp(rho / tau) for rho in negatives)))


def _tokens(images=2, tokens=9, width=5):
    torch.manual_seed(0)
    x = torch.randn(images, tokens, width, dtype=torch.float64)
    return x, x + 0.3 * torch.randn_like(x)


@pytest.mark.parametrize("tau", [0.03, 0.1, 1.0])
def test_token_loss_is_the_formula(tau):
    x, y = _tokens()
    losses = [
        _from_formula(_rho(y[b, i], x[b, i]), [_rho(y[b, i], x[b, j]) for j in range(9) if j != i], tau)
        for b in range(2)
        for i in range(9)
    ]
    assert float(token_loss(x, y, tau)) == pytest.approx(sum(losses) / len(losses), rel=1e-9)


def test_token_loss_of_drawn_tokens_is_the_formula_over_them():
    x, y = _tokens()
    index = draw_tokens(9, 4, torch.Generator().manual_seed(1))
    assert index is not None and len(set(index.tolist())) == 4
    assert token_loss(x, y, 0.1, index) == token_loss(x[:, index], y[:, index], 0.1)
    assert draw_tokens(9, 9, torch.Generator()) is None


def test_chunks_change_neither_the_loss_nor_its_gradient(monkeypatch):
    x, y = _tokens(tokens=11)
    y.requires_grad_()
    whole = token_loss(x, y, 0.1)
    (expected,) = torch.autograd.grad(whole, y)
    monkeypatch.setattr(contrastive, "CHUNK", 4)
    chunked = token_loss(x, y, 0.1)
    (got,) = torch.autograd.grad(chunked, y)
    assert torch.allclose(whole, chunked, rtol=1e-12) and torch.allclose(expected, got, rtol=1e-9)


@pytest.mark.parametrize("tau", [0.03, 0.1, 1.0])
def test_sample_loss_is_the_formula(tau):
    torch.manual_seed(0)
    z = torch.randn(4, 6, dtype=torch.float64)
    view = z + 0.5 * torch.randn_like(z)
    losses = [_from_formula(_rho(z[i], view[i]), [_rho(z[i], z[j]) for j in range(4) if j != i], tau) for i in range(4)]
    assert float(sample_loss(z, view, tau)) == pytest.approx(sum(losses) / 4, rel=1e-9)


def test_one_image_has_no_negatives_so_its_sample_loss_and_gradient_are_zero():
    torch.manual_seed(0)
    z = torch.randn(1, 6, requires_grad=True)
    loss = sample_loss(z, torch.randn(1, 6), 0.03)
    (grad,) = torch.autograd.grad(loss, z)
    assert loss == 0 and not grad.any()


@pytest.mark.parametrize("tau", [0.03, 1e-3])
def test_losses_and_gradients_are_finite_at_low_temperatures(tau):
    torch.manual_seed(0)
    x = torch.randn(2, 64, 16)
    opposite = (-x).requires_grad_()  # worst case: the positive pair has the lowest possible similarity
    for loss in (token_loss(x, opposite, tau), sample_loss(opposite[:, 0], x[:, 0], tau)):
        (grad,) = torch.autograd.grad(loss, opposite)
        assert torch.isfinite(loss) and loss > 0
        assert torch.isfinite(grad).all() and grad.any()


def test_identity_adaptors_start_with_a_finite_token_loss():
    x, _ = _tokens()
    y = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(token_loss(x, y, 0.03), y)
    assert torch.isfinite(grad).all()


KNOBS = {"tau_token": 0.1, "tau_sample": 0.1, "w_token": 0.1, "w_sample": 0.1}


@pytest.mark.parametrize("knob", KNOBS)
def test_every_weight_and_temperature_changes_the_loss_and_its_gradient(knob):
    x, y = _tokens()
    y.requires_grad_()
    outcomes = []
    for value in (0.1, 0.2):
        settings = {**KNOBS, knob: value}
        loss = contrast_loss([(x, y)], [(y.mean(1), x.mean(1) + 1)], index=None, **settings)
        outcomes.append((float(loss.detach()), torch.autograd.grad(loss, y)[0]))
    assert outcomes[0][0] != pytest.approx(outcomes[1][0], rel=1e-3)
    assert not torch.allclose(outcomes[0][1], outcomes[1][1], rtol=1e-3)


def test_the_loss_is_the_mean_over_blocks_and_weights_of_zero_switch_it_off():
    x, y = _tokens()
    one = contrast_loss([(x, y)], [], index=None, **KNOBS)
    two = contrast_loss([(x, y), (x, y)], [], index=None, **KNOBS)
    assert torch.allclose(one, two)
    assert contrast_loss([(x, y)], [(x[:, 0], y[:, 0])], index=None, **{**KNOBS, "w_token": 0, "w_sample": 0}) == 0
