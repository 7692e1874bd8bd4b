"""The frozen encoder computes what segment-anything's own forward pass does, on every path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from amsam_ray.device import has_onednn_linear
from amsam_ray.models import frozen_vit
from amsam_ray.models.backbone import build_sam
from tests.models.toy import toy_images, toy_sam

CPU = torch.device("cpu")
PATHS = [
    pytest.param(True, marks=pytest.mark.skipif(not has_onednn_linear(CPU), reason="needs oneDNN"), id="onednn"),
    pytest.param(False, id="scaled_dot_product"),
]


@pytest.fixture(params=PATHS, autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_vit, "has_onednn_linear", lambda device: request.param)


def encoders() -> Iterator[tuple[str, ImageEncoderViT, Tensor]]:
    yield "windows, padded and whole, and positions", toy_sam().image_encoder, toy_images(3)
    yield "a larger grid", toy_sam(size=96).image_encoder, torch.randn(2, 3, 96, 96)
    yield "nano", build_sam("nano", 128).image_encoder, torch.randn(2, 3, 128, 128)


@pytest.mark.parametrize(("encoder", "images"), [pytest.param(*one[1:], id=one[0]) for one in encoders()])
@pytest.mark.parametrize("queries", [7, 512])
def test_equals_segment_anything(
    encoder: ImageEncoderViT, images: Tensor, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen_vit, "_QUERIES", queries)
    inputs: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda module, given: inputs.append(given[0])) for block in encoder.blocks]
    with torch.no_grad():
        expected = encoder(images)
    for hook in hooks:
        hook.remove()
    found = frozen_vit.encode(encoder, images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not found.requires_grad
    for mine, theirs in zip(frozen_vit.all_tokens(encoder, images), inputs, strict=False):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_equals_segment_anything_under_autocast() -> None:
    encoder, images = toy_sam().image_encoder, toy_images(2)
    with torch.no_grad():
        exact = encoder(images)
        with torch.autocast("cpu", torch.bfloat16):
            theirs, mine = encoder(images), frozen_vit.encode(encoder, images)
    assert mine.dtype == theirs.dtype

    def error(found: Tensor) -> float:
        return float((found.float() - exact).norm() / exact.norm())

    assert 0 < error(mine) < 1.5 * error(theirs) < 0.05


def test_another_activation_is_applied() -> None:
    encoder, images = toy_sam().image_encoder, toy_images(1)
    for block in encoder.blocks:
        block.mlp.act = nn.ReLU()
    with torch.no_grad():
        torch.testing.assert_close(frozen_vit.encode(encoder, images), encoder(images), rtol=1e-4, atol=1e-5)
