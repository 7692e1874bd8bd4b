"""Loading frozen SAMs: the official format, other image sizes, and the refusal of unsuitable files."""

from __future__ import annotations

import hashlib
import struct

import pytest
import torch
from safetensors.torch import save_file
from segment_anything import sam_model_registry

from amsam_ray.config.networks import BackboneConfig
from amsam_ray.errors import InputError
from amsam_ray.hashing import file_sha256
from amsam_ray.models.backbone import build_sam, encode_to, load_backbone
from amsam_ray.models.nano import build_nano_sam
from amsam_ray.models.weights import WEIGHTS, check_backbone
from tests.models.toy import toy_backbone, toy_images


@pytest.fixture(scope="module")
def vit_b(tmp_path_factory):
    """A randomly initialised ViT-B in the official format (375 MB), and its weights."""
    with torch.device("meta"):
        sam = sam_model_registry["vit_b"]()
    make = torch.Generator().manual_seed(0)
    state = {name: torch.rand(value.shape, generator=make) * 0.04 - 0.02 for name, value in sam.state_dict().items()}
    path = tmp_path_factory.mktemp("official") / "vit_b.pth"
    torch.save(state, path)
    return path, state


@pytest.fixture
def nano(tmp_path):
    path = tmp_path / "nano.safetensors"
    torch.manual_seed(0)
    save_file({name: value.half() for name, value in build_nano_sam().state_dict().items()}, path)
    return path


def config(path, **more):
    return BackboneConfig(arch=more.pop("arch", "nano"), checkpoint=str(path), **more)


def test_official_vit_b_at_1024_equals_the_file(vit_b):
    path, state = vit_b
    backbone = load_backbone(config(path, arch="vit_b"))
    assert (backbone.image_size, backbone.grid, backbone.depth, backbone.width) == (1024, 64, 12, 768)
    assert backbone.fingerprint == file_sha256(path)
    loaded = backbone.sam.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert not any(parameter.requires_grad for parameter in backbone.sam.parameters())
    assert not backbone.sam.training


def test_official_vit_b_at_256_has_resized_positions(vit_b):
    path, state = vit_b
    backbone = load_backbone(config(path, arch="vit_b", image_size=256))
    loaded = backbone.sam.state_dict()
    changed = {name for name in state if loaded[name].shape != state[name].shape}
    glob = {f"image_encoder.blocks.{i}.attn.rel_pos_{axis}" for i in (2, 5, 8, 11) for axis in "hw"}
    assert changed == glob | {"image_encoder.pos_embed"}
    # the formulas of SAMed
    pos = state["image_encoder.pos_embed"].permute(0, 3, 1, 2)
    pos = torch.nn.functional.interpolate(pos, (16, 16), mode="bilinear", align_corners=False)
    assert torch.equal(loaded["image_encoder.pos_embed"], pos.permute(0, 2, 3, 1))
    rel = state["image_encoder.blocks.2.attn.rel_pos_h"][None, None]
    rel = torch.nn.functional.interpolate(rel, (31, rel.shape[3]), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(loaded["image_encoder.blocks.2.attn.rel_pos_h"], rel)
    images = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    embedding = encode_to(backbone, images, "embedding")
    assert embedding.shape == (1, 256, 16, 16) and embedding.isfinite().all()


def test_a_vit_b_file_is_refused_as_vit_l(vit_b):
    with pytest.raises(InputError) as error:
        load_backbone(config(vit_b[0], arch="vit_l"))
    text = str(error.value)
    assert "image_encoder.blocks.12.norm1.weight" in text  # the first missing key
    assert WEIGHTS["vit_l"].sha256 in text and str(WEIGHTS["vit_l"].size) in text


@pytest.mark.parametrize("arch", ["nano", "vit_b", "vit_l", "vit_h"])
def test_the_sizes_in_the_configuration_equal_those_of_the_network(arch):
    with torch.device("meta"):
        sam = build_sam(arch, BackboneConfig(arch=arch).size)
    assert BackboneConfig(arch=arch).depth == len(sam.image_encoder.blocks)
    assert BackboneConfig(arch=arch).encoder_width == sam.image_encoder.patch_embed.proj.out_channels
    narrowest = sam.mask_decoder.transformer.final_attn_token_to_image.internal_dim
    assert BackboneConfig(arch=arch).decoder_attention_width == narrowest


def test_nano_loads_from_half_precision_at_its_own_and_other_sizes(nano):
    for size in (256, 128):
        backbone = load_backbone(config(nano, image_size=size))
        embedding = encode_to(backbone, torch.zeros(1, 3, size, size), "embedding")
        assert embedding.shape == (1, 128, size // 16, size // 16) and embedding.dtype == torch.float32


def test_the_same_weights_have_the_same_fingerprint(nano, tmp_path):
    twin = tmp_path / "twin.safetensors"
    twin.write_bytes(nano.read_bytes())
    assert load_backbone(config(nano)).fingerprint == load_backbone(config(twin)).fingerprint


def test_the_error_for_a_missing_file_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("AMSAM_WEIGHTS_DIR", str(tmp_path))
    for choice in (BackboneConfig(arch="vit_h"), config(tmp_path / "gone.pth", arch="vit_h")):
        with pytest.raises(InputError, match=r"does not exist.*amsam-ray weights fetch vit_h"):
            load_backbone(choice)
        assert "does not exist" in str(check_backbone(choice)[0])


def test_a_truncated_file_is_refused(nano):
    nano.write_bytes(nano.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"not a readable SAM checkpoint \(5000 bytes"):
        load_backbone(config(nano))


def test_a_truncated_official_format_is_refused(tmp_path):
    path = tmp_path / "cut.pth"
    torch.save({"weight": torch.zeros(5000)}, path)
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(InputError, match=rf"truncated.*{WEIGHTS['vit_b'].sha256}"):
        load_backbone(config(path, arch="vit_b"))


@pytest.mark.parametrize("content", [b"<html>404</html>", b"", struct.pack("<Q", 9)])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "page.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable SAM checkpoint"):
        load_backbone(config(path, arch="vit_b"))


def test_a_pickle_without_a_state_dict_is_refused(tmp_path):
    path = tmp_path / "list.pth"
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="holds list, not a plain state dict"):
        load_backbone(config(path, arch="vit_b"))


def test_code_in_a_pickle_is_not_run(tmp_path):
    path, trace = tmp_path / "evil.pth", tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(trace), "w"))

    torch.save({"weight": Evil()}, path)
    with pytest.raises(InputError, match="not a readable SAM checkpoint"):
        load_backbone(config(path, arch="vit_b"))
    assert not trace.exists()


def test_a_wrong_shape_is_named(nano, tmp_path):
    from safetensors.torch import load_file

    state = load_file(nano)
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 7)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match=r"mask_decoder.iou_token.weight has shape \(1, 7\) instead of \(1, 128\)"):
        load_backbone(config(tmp_path / "odd.safetensors"))


def test_a_file_with_another_hash_than_the_pinned_one_is_refused(nano):
    wanted = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(InputError, match=f"expected SHA-256 {wanted}"):
        load_backbone(config(nano, sha256=wanted))
    assert load_backbone(config(nano, sha256=file_sha256(nano))).fingerprint == file_sha256(nano)


def test_a_file_with_an_official_name_must_be_the_official_file(tmp_path):
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save({}, path)
    with pytest.raises(InputError, match=f"expected SHA-256 {WEIGHTS['vit_b'].sha256}"):
        load_backbone(config(path, arch="vit_b"))
    assert f"has {path.stat().st_size} bytes" in str(check_backbone(config(path, arch="vit_b"))[0])


@pytest.mark.parametrize("point", ["tokens@3", "tokens@x", "tokens", "neck"])
def test_an_unknown_cache_point_is_refused(point):
    with pytest.raises(ValueError, match="unknown cache point"):
        encode_to(toy_backbone(), toy_images(1), point)


def test_the_embedding_equals_sams():
    backbone, images = toy_backbone(), toy_images(2)
    torch.testing.assert_close(encode_to(backbone, images, "embedding"), backbone.sam.image_encoder(images))
    assert encode_to(backbone, images, "tokens@1").shape == (2, 4, 4, 24)
