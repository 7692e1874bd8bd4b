"""The forward pass of each method against its formulas, with random values in the trained parts."""

from __future__ import annotations

from typing import Any

import torch
from segment_anything.modeling import MaskDecoder, TwoWayTransformer
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import nn

from amsam_ray.config.methods import resolve_params
from amsam_ray.models.adapted import AdaptedSam, build_method
from amsam_ray.models.backbone import encode_to
from amsam_ray.models.parts.two_way import attend_block
from tests.models.toy import DEPTH, PROMPT, toy_backbone, toy_images, toy_inputs

BACKBONE = toy_backbone()
ENCODER = BACKBONE.sam.image_encoder


def randomised(method: str, **params: object) -> AdaptedSam:
    model = build_method(method, resolve_params(method, params), BACKBONE, seed=0)
    make = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=make), alpha=0.2)
    return model


def part(model: AdaptedSam, name: str) -> Any:
    return model.get_submodule(name)


def neck(tokens):
    return ENCODER.neck(tokens.permute(0, 3, 1, 2))


def test_cold_head_is_a_mask_decoder_with_two_outputs():
    """BLO-SAM builds SAM with num_multimask_outputs = 1, that is, with two tokens and two hypernetworks."""
    model = randomised("blo_sam")
    theirs = MaskDecoder(
        num_multimask_outputs=1,
        transformer_dim=PROMPT,
        transformer=TwoWayTransformer(depth=2, embedding_dim=PROMPT, num_heads=2, mlp_dim=48),
    )
    decoder = model.decoder
    theirs.transformer, theirs.output_upscaling = decoder.transformer, decoder.upscaling
    theirs.iou_token.weight, theirs.mask_tokens.weight = decoder.iou_token, decoder.head.tokens
    theirs.output_hypernetworks_mlps = part(model, "decoder.head.hypernetworks")
    inputs = toy_inputs(model)
    prompts = BACKBONE.sam.prompt_encoder
    dense = model.prompt.no_mask_embed.reshape(1, -1, 1, 1).expand(1, -1, 4, 4)
    empty = torch.empty(1, 0, PROMPT)
    masks = [
        theirs.predict_masks(feature[None], prompts.get_dense_pe(), empty, dense)[0] for feature in inputs.features
    ]
    torch.testing.assert_close(model(inputs).logits, torch.cat(masks))


def test_samed_adds_a_lora_update_to_q_and_v():
    model = randomised("samed")
    tokens = encode_to(BACKBONE, toy_images(2), "tokens@0")
    for index, block in enumerate(ENCODER.blocks):
        update = part(model, f"encoder.blocks.{index}.attn.qkv.parametrizations.weight.0")

        def add(module, args, out, update=update):
            q, k, v = out.chunk(3, dim=-1)
            q = q + args[0] @ update.down[0].T @ update.up[0].T
            return torch.cat([q, k, v + args[0] @ update.down[1].T @ update.up[1].T], dim=-1)

        hook = block.attn.qkv.register_forward_hook(add)
        tokens = block(tokens)
        hook.remove()
    ours, _ = part(model, "encoder")(toy_inputs(model).features)
    torch.testing.assert_close(ours, neck(tokens), rtol=1e-4, atol=1e-5)


def test_mc_adaptors_add_both_residuals_before_each_block():
    model = randomised("mca_sam")
    tokens = encode_to(BACKBONE, toy_images(2), "tokens@0")
    for index, block in enumerate(ENCODER.blocks):
        tc = part(model, f"encoder.token_adaptors.{index}")
        sc = part(model, f"encoder.sample_adaptors.{index}")
        tokens = block(tokens + tc(tokens) + sc(tokens))
    ours, _ = part(model, "encoder")(toy_inputs(model).features)
    torch.testing.assert_close(ours, neck(tokens))


def test_sam_adapter_adds_its_hint_before_each_block():
    model = randomised("sam_adapter", adaptor_ratio=4)
    inputs, encoder = toy_inputs(model), part(model, "encoder")
    patches = ENCODER.patch_embed(toy_images(2))
    tokens = patches + ENCODER.pos_embed
    hint = encoder.project(patches) + encoder.patch_embed(inputs.highpass).permute(0, 2, 3, 1)
    for index, block in enumerate(ENCODER.blocks):
        light = nn.functional.gelu(part(model, f"encoder.light.{index}.0")(hint))
        tokens = block(tokens + encoder.up(light))
    ours, _ = encoder(inputs.features, inputs.highpass)
    torch.testing.assert_close(ours, neck(tokens), rtol=1e-4, atol=1e-5)


def test_med_sa_encoder_blocks_follow_the_paper():
    model = randomised("med_sa")
    tokens = encode_to(BACKBONE, toy_images(2), "tokens@0")
    for index, block in enumerate(ENCODER.blocks):
        after = part(model, f"encoder.blocks.{index}.attn.adapter")
        beside = part(model, f"encoder.blocks.{index}.mlp.adapter")
        normed = block.norm1(tokens)
        if block.window_size:
            windows, padded = window_partition(normed, block.window_size)
            attended = window_unpartition(block.attn(windows), block.window_size, padded, normed.shape[1:3])
        else:
            attended = block.attn(normed)
        tokens = tokens + attended + after(attended)
        normed = block.norm2(tokens)
        tokens = tokens + block.mlp(normed) + 0.5 * beside(normed)
    assert len(ENCODER.blocks) == DEPTH
    ours, _ = part(model, "encoder")(toy_inputs(model).features)
    torch.testing.assert_close(ours, neck(tokens), rtol=1e-4, atol=1e-5)


def test_med_sa_decoder_blocks_follow_the_paper():
    model = randomised("med_sa")
    block = BACKBONE.sam.mask_decoder.transformer.layers[1]
    make = torch.Generator().manual_seed(0)
    queries, query_pe = torch.randn(2, 2, 5, PROMPT, generator=make)
    keys, key_pe = torch.randn(2, 2, 16, PROMPT, generator=make)
    ours = attend_block(part(model, "decoder.transformer.layers.1"), queries, keys, query_pe, key_pe, None)

    def adapter(name):
        return part(model, f"decoder.transformer.layers.1.{name}.adapter")

    queries = block.norm1(queries + block.self_attn(queries + query_pe, queries + query_pe, queries))
    attended = block.cross_attn_token_to_image(queries + query_pe, keys + key_pe, keys)
    queries = block.norm2(queries + attended + adapter("cross_attn_token_to_image")(attended))
    queries = block.norm3(queries + block.mlp(queries) + 0.5 * adapter("mlp")(queries))
    keys = keys + block.cross_attn_image_to_token(keys + key_pe, queries + query_pe, queries)
    keys = block.norm4(keys + adapter("norm4")(keys))
    torch.testing.assert_close(ours, (queries, keys), rtol=1e-4, atol=1e-5)
