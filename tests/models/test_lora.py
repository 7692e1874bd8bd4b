"""LoRA: the adapted projections, the identity at the start, and the refused ranks."""

import pytest
import torch
from torch import nn

from amsam_ray.errors import InputError
from amsam_ray.models.parts.lora import LoRA, add_decoder_lora, add_encoder_lora
from amsam_ray.models.parts.tensor_sharing import share
from tests.models.toy import WIDTH, toy_sam


def updates(module):
    return {name: part for name, part in module.named_modules() if isinstance(part, LoRA)}


def test_decoder_lora_adapts_q_and_v_of_every_attention():
    transformer = share(toy_sam().mask_decoder.transformer)
    add_decoder_lora(transformer, rank=2)
    attentions = [
        f"layers.{layer}.{attention}"
        for layer in range(2)
        for attention in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
    ] + ["final_attn_token_to_image"]
    wanted = {f"{a}.{p}.parametrizations.weight.0" for a in attentions for p in ("q_proj", "v_proj")}
    assert set(updates(transformer)) == wanted


def test_encoder_lora_changes_only_the_q_and_v_rows():
    sam = toy_sam()
    blocks = share(sam.image_encoder.blocks)
    add_encoder_lora(blocks, rank=2)
    assert len(updates(blocks)) == len(blocks)
    frozen = sam.image_encoder.blocks[0].attn.qkv.weight
    assert torch.equal(blocks[0].attn.qkv.weight, frozen)
    part = blocks[0].attn.qkv.parametrizations.weight[0]
    nn.init.normal_(part.up)
    q, k, v = (blocks[0].attn.qkv.weight - frozen).split(WIDTH)
    assert not k.any()
    torch.testing.assert_close(q, part.up[0] @ part.down[0])
    torch.testing.assert_close(v, part.up[1] @ part.down[1])
    assert torch.linalg.matrix_rank(q.detach(), atol=1e-5) == 2


def test_the_shared_original_is_not_changed():
    sam = toy_sam()
    before = {name: (value.clone(), value._version) for name, value in sam.named_parameters()}
    transformer = share(sam.mask_decoder.transformer)
    add_decoder_lora(transformer, rank=2)
    assert not updates(sam)
    for name, value in sam.named_parameters():
        assert torch.equal(value, before[name][0]) and value._version == before[name][1]
    layer = transformer.layers[0].self_attn.q_proj
    original = sam.mask_decoder.transformer.layers[0].self_attn.q_proj.weight
    assert layer.parametrizations.weight.original.data_ptr() == original.data_ptr()


@pytest.mark.parametrize("rank", [0, 17])
def test_a_rank_above_the_narrowest_projection_is_refused(rank):
    with pytest.raises(InputError, match=r"rank: must be an integer in \[1, 16\]"):
        add_decoder_lora(share(toy_sam().mask_decoder.transformer), rank=rank)
