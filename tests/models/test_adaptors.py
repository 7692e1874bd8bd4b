"""Encoder parts: contrastive adaptors, SAM-Adapter's high-pass hints, Medical SAM Adapter's bottlenecks."""

import pytest
import torch
from torch import nn

from amsam_ray.config.methods import resolve_params
from amsam_ray.errors import InputError
from amsam_ray.models.adapted import build_method
from amsam_ray.models.backbone import encode_to
from amsam_ray.models.parts.contrastive_adaptors import Bottleneck, first_adapted_block
from amsam_ray.models.parts.high_pass import high_pass
from tests.models.toy import DEPTH, WIDTH, toy_backbone, toy_images, toy_inputs

BACKBONE = toy_backbone()


def build(method, **params):
    return build_method(method, resolve_params(method, params), BACKBONE, seed=0)


@pytest.mark.parametrize(("blocks", "first"), [("all", 0), ("last_1", 11), ("last_12", 0)])
def test_first_adapted_block(blocks, first):
    assert first_adapted_block(blocks, 12) == first


def test_more_blocks_than_the_encoder_has_are_refused():
    with pytest.raises(InputError, match=r"adaptor_blocks: must be all or last_1 .. last_3"):
        build("mca_sam", adaptor_blocks="last_4")


@pytest.mark.parametrize(("kind", "tokens", "pooled"), [("tc", 2, 0), ("sc", 0, 2), ("mc", 2, 2)])
def test_each_adapted_block_returns_its_contrastive_inputs(kind, tokens, pooled):
    model = build("mca_sam", adaptors=kind, adaptor_blocks="last_2")
    for name, parameter in model.named_parameters():
        if "_adaptors" in name:
            nn.init.normal_(parameter, std=0.1)
    assert model.cache_point == f"tokens@{DEPTH - 2}" and model.needs_views == (kind != "tc")
    inputs = toy_inputs(model)
    out = model(inputs)
    assert (len(out.tokens), len(out.pooled)) == (tokens, pooled)
    for x, y in out.tokens:
        assert x.shape == y.shape == (2, BACKBONE.grid**2, WIDTH) and not torch.equal(x, y)
    for z, view in out.pooled:
        assert z.shape == view.shape == (2, WIDTH) and not torch.equal(z, view)
    if kind != "sc":
        torch.testing.assert_close(out.tokens[0][0], inputs.features.flatten(1, 2))
    model.eval()
    quiet = model(inputs)
    assert not quiet.tokens and not quiet.pooled
    torch.testing.assert_close(quiet.logits, out.logits)  # views do not change the masks


def test_an_identical_view_has_the_same_pooled_output():
    model = build("mca_sam", adaptors="sc")
    inputs = toy_inputs(model)
    inputs.view_features = inputs.features
    for z, view in model(inputs).pooled:
        torch.testing.assert_close(z, view)


def test_without_adaptors_the_whole_encoder_is_cached():
    model = build("am_mca_sam", adaptors="none")
    assert model.encoder is None and model.cache_point == "embedding" and not model.needs_views


def literal_high_pass(images, ratio):
    """The published code of SAM-Adapter, in its order of operations."""
    mask = torch.zeros(images.shape)
    w, h = images.shape[-2:]
    line = int((w * h * ratio) ** 0.5 // 2)
    mask[:, :, w // 2 - line : w // 2 + line, h // 2 - line : h // 2 + line] = 1
    shifted = torch.stack([torch.fft.fftshift(torch.fft.fft2(x, norm="forward")) for x in images.flatten(0, 1)])
    kept = shifted.view(images.shape) * (1 - mask)
    back = [torch.fft.ifft2(torch.fft.ifftshift(x), norm="forward").real for x in kept.flatten(0, 1)]
    return torch.stack(back).view(images.shape).abs()


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.7])
def test_high_pass_equals_the_published_steps(ratio):
    images = toy_images(2)
    torch.testing.assert_close(high_pass(images, ratio), literal_high_pass(images, ratio), rtol=1e-4, atol=1e-5)


def test_high_pass_of_everything_removed_is_zero():
    torch.testing.assert_close(high_pass(toy_images(1), 1.0), torch.zeros(1, 3, 64, 64), atol=1e-5, rtol=0)


def test_sam_adapter_requires_the_high_pass_component():
    model = build("sam_adapter")
    inputs = toy_inputs(model)
    inputs.highpass = None
    with pytest.raises(ValueError, match="high-pass"):
        model(inputs)


def test_sam_adapter_reads_the_patch_embedding_without_position():
    model = build("sam_adapter")
    seen = []
    model.encoder.project.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    model(toy_inputs(model))
    torch.testing.assert_close(seen[0], BACKBONE.sam.image_encoder.patch_embed(toy_images(2)))


def test_med_sa_has_two_bottlenecks_per_encoder_and_three_per_decoder_block():
    model = build("med_sa", adaptor_ratio=3)
    encoder = [m for m in model.encoder.modules() if isinstance(m, Bottleneck)]
    decoder = [m for m in model.decoder.modules() if isinstance(m, Bottleneck)]
    assert len(encoder) == 2 * DEPTH and len(decoder) == 3 * 2
    assert {m[0].weight.shape for m in encoder} == {(WIDTH // 3, WIDTH)}
    declared = [name for name in model.lower if "adapter" not in name]
    assert declared == ["decoder.head.background.weight", "decoder.head.background.bias"] and not model.upper


@pytest.mark.parametrize("point", ["tokens@0", "tokens@2"])
def test_the_encoder_tail_continues_from_the_cache_point(point):
    images = toy_images(2)
    model = build("mca_sam", adaptor_blocks="all" if point == "tokens@0" else "last_1")
    assert model.cache_point == point
    embedding, _ = model.encoder(encode_to(BACKBONE, images, point))
    torch.testing.assert_close(embedding, encode_to(BACKBONE, images, "embedding"))
