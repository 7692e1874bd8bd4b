"""MobileSAM: the published layout, embeddings, and what does not fit it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from segment_anything import SamPredictor

from amsam_ray.config.methods import METHODS, resolve_params
from amsam_ray.config.networks import BackboneConfig
from amsam_ray.config.space_file import load_space
from amsam_ray.errors import InputError
from amsam_ray.hashing import file_sha256
from amsam_ray.models.adapted import build_method
from amsam_ray.models.backbone import build_sam, encode_to, load_backbone
from amsam_ray.models.weights import WEIGHTS, check_backbone
from tests.models.mobile import random_mobile_sam

IN_ENCODER = {"samed", "med_sa", "sam_adapter", "mca_sam", "am_mca_sam"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_mobile_sam(tmp_path_factory.mktemp("mobile"))


def config(path: Path, size: int = 0, **more: str) -> BackboneConfig:
    return BackboneConfig(arch="mobile_sam", checkpoint=str(path), image_size=size, **more)


def test_the_layout_is_the_published_one(file: Path) -> None:
    """Names and shapes as in the public ``tiny_vit_sam.py``; the published file has 40,728,226 bytes."""
    state = torch.load(file, weights_only=True)
    encoder = {name.removeprefix("image_encoder."): value for name, value in state.items() if "image_enc" in name}
    assert {name: tuple(encoder[name].shape) for name in encoder if "num_batches" not in name}.items() >= {
        "patch_embed.seq.0.c.weight": (32, 3, 3, 3),
        "patch_embed.seq.2.bn.running_var": (64,),
        "layers.0.blocks.1.conv2.c.weight": (256, 1, 3, 3),
        "layers.0.downsample.conv3.c.weight": (128, 128, 1, 1),
        "layers.1.blocks.0.attn.attention_biases": (4, 49),
        "layers.2.blocks.5.attn.attention_biases": (5, 196),
        "layers.2.blocks.5.mlp.fc1.weight": (640, 160),
        "layers.3.blocks.1.local_conv.c.weight": (320, 1, 3, 3),
        "layers.3.blocks.1.attn.qkv.weight": (960, 320),
        "norm_head.weight": (320,),
        "head.weight": (1000, 320),
        "neck.0.weight": (256, 320, 1, 1),
        "neck.3.bias": (256,),
    }.items()
    assert not any("attention_bias_idxs" in name or name.endswith(".ab") for name in encoder)
    assert abs(file.stat().st_size - WEIGHTS["mobile_sam"].size) < 60_000  # containers differ a little


def test_a_file_is_loaded_as_it_is_without_an_effect_on_the_process(file: Path) -> None:
    before = torch.get_rng_state()
    backbone = load_backbone(config(file))
    assert torch.equal(torch.get_rng_state(), before) and torch.get_default_device() == torch.device("cpu")
    assert (backbone.image_size, backbone.grid, backbone.depth) == (1024, 64, 0)
    assert backbone.fingerprint == file_sha256(file) and not backbone.sam.training
    state, loaded = torch.load(file, weights_only=True), backbone.sam.state_dict()
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)
    assert not any(parameter.requires_grad for parameter in backbone.sam.parameters())
    width = backbone.sam.mask_decoder.transformer.final_attn_token_to_image.internal_dim
    assert BackboneConfig(arch="mobile_sam").decoder_attention_width == width


@pytest.mark.parametrize("size", [64, 208, 256])
def test_the_embedding_of_an_image_does_not_depend_on_its_batch(file: Path, size: int) -> None:
    """208 px has sides of 52, 26 and 13 cells, which the windows of 7 and 14 do not divide."""
    backbone = load_backbone(config(file, size))
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = encode_to(backbone, images, "embedding")
        assert together.shape == (3, 256, size // 16, size // 16)
        alone = torch.cat([encode_to(backbone, image[None], "embedding") for image in images])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
        assert (together[0] - together[1]).abs().mean() > 0.01
        images[1:] *= 100  # what batch statistics would carry over
        torch.testing.assert_close(encode_to(backbone, images, "embedding")[:1], alone[:1], rtol=1e-4, atol=1e-4)


def test_the_loaded_model_is_one_for_the_predictor_of_segment_anything(file: Path) -> None:
    """A model that is built and loaded by hand, as a user of an export does, gives the same embedding."""
    sam = build_sam("mobile_sam", 256)
    sam.load_state_dict(torch.load(file, weights_only=True))
    predictor = SamPredictor(sam.eval())
    image = torch.randint(0, 256, (3, 256, 256), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    predictor.set_torch_image(image[None].float(), (256, 256))
    backbone = load_backbone(config(file, 256))
    ours = encode_to(backbone, backbone.sam.preprocess(image[None].float()), "embedding")
    torch.testing.assert_close(predictor.features, ours)


def test_other_files_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a vit_b checkpoint: .*image_encoder\.pos_embed"):
        load_backbone(BackboneConfig(arch="vit_b", checkpoint=str(file), image_size=64))
    state = torch.load(file, weights_only=True)
    state["image_encoder.layers.1.blocks.0.attn.attention_biases"] = torch.zeros(4, 196)
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(
        InputError, match=r"attention_biases has shape \(4, 196\) instead of \(4, 49\).*weights fetch mo"
    ):
        load_backbone(config(tmp_path / "odd.pt"))
    torch.save({}, tmp_path / "mobile_sam.pt")
    with pytest.raises(InputError, match=f"expected SHA-256 {WEIGHTS['mobile_sam'].sha256}"):
        load_backbone(config(tmp_path / "mobile_sam.pt"))
    assert "40728226 bytes" in str(check_backbone(config(tmp_path / "mobile_sam.pt"))[0])


def test_methods_inside_the_encoder_refuse_it_and_the_others_run(file: Path) -> None:
    backbone = load_backbone(config(file, 64))
    assert {name for name, spec in METHODS.items() if spec.changes_encoder} >= IN_ENCODER
    for method, spec in METHODS.items():
        if spec.changes_encoder:
            with pytest.raises(InputError, match=f"{method} trains inside the blocks of SAM's ViT encoder"):
                build_method(method, resolve_params(method, {}), backbone, seed=0)
    for method in ("sam", "blo_sam", "am_sam"):
        assert build_method(method, resolve_params(method, {}), backbone, seed=0).cache_point == "embedding"


def test_a_space_file_names_every_method_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "name: small\n"
        "datasets: [{name: procedural, options: {family: lesion}}]\n"
        "shots: [4]\n"
        "methods:\n"
        "  - am_sam\n"
        "  - samed\n"
        "  - {name: mca_sam, params: {adaptor_blocks: last_2}}\n"
        "backbone: {arch: mobile_sam}\n"
        "search: {space: {rank: {choice: [4, 500]}}}\n"
    )
    with pytest.raises(InputError) as refused:
        load_space(path)
    told = [str(problem) for problem in refused.value.problems]
    for line, method in ((6, "samed"), (7, "mca_sam")):
        (fault,) = [text for text in told if f"{method} trains inside the blocks" in text]
        assert fault.startswith(f"space.yaml:{line} ") and "the encoder of mobile_sam is a TinyViT" in fault
        assert "adapts only the decoder (sam, blo_sam, am_sam" in fault
    (rank,) = [text for text in told if "rank is above" in text]
    assert "for am_sam on mobile_sam; use a rank of at most 128" in rank
    fitting = path.read_text().replace("  - samed\n", "").replace("[4, 500]", "[4, 8]")
    path.write_text(fitting.replace("{name: mca_sam, params: {adaptor_blocks: last_2}}", "blo_sam"))
    assert load_space(path).backbone.size == 1024
