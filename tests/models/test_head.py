"""The batched two-channel decoder against segment_anything's own."""

import pytest
import torch

from amsam_ray.models.parts.head import TwoChannelDecoder
from amsam_ray.models.parts.prompt_embedding import PromptEmbedding
from amsam_ray.models.parts.upscaling import arrange
from tests.models.toy import PROMPT, SIZE, toy_sam

GRID = SIZE // 16
BOXES = torch.tensor([[8.0, 10.0, 50.0, 44.0], [20.0, 4.0, 60.0, 62.0], [1.0, 2.0, 30.0, 40.0]])


def embeddings(batch, seed=0):
    return torch.randn(batch, PROMPT, GRID, GRID, generator=torch.Generator().manual_seed(seed))


def sams_logits(sam, embedding, box):
    sparse, dense = sam.prompt_encoder(points=None, boxes=box, masks=None)
    low, _ = sam.mask_decoder(embedding[None], sam.prompt_encoder.get_dense_pe(), sparse, dense, False)
    return low[0, 0]


@pytest.mark.parametrize("boxes", [True, False])
def test_a_batch_with_a_warm_head_equals_sam_on_single_images(boxes):
    sam, features = toy_sam(), embeddings(3)
    prompt = PromptEmbedding(sam.prompt_encoder, boxes=True)
    decoder = TwoChannelDecoder(sam.mask_decoder, "warm")
    sparse = prompt.sparse(BOXES) if boxes else None
    upscaled, hyper = decoder(features, prompt.dense_pe, sparse, prompt.dense())
    logits = arrange(torch.einsum("bpc,bnc->bpn", upscaled, hyper), GRID, GRID)
    theirs = [sams_logits(sam, features[i], BOXES[i : i + 1] if boxes else None) for i in range(3)]
    torch.testing.assert_close(logits[:, 1], torch.stack(theirs))
    assert not logits[:, 0].any()  # softmax over (0, fg) is SAM's sigmoid(fg)


def test_images_without_a_box_do_not_see_the_tokens_of_their_batch():
    sam, features = toy_sam(), embeddings(3)
    prompt = PromptEmbedding(sam.prompt_encoder, boxes=True)
    decoder = TwoChannelDecoder(sam.mask_decoder, "warm")
    sparse = prompt.sparse(BOXES)
    sparse[1] = torch.nan  # what a box that nobody sees holds
    flags = torch.tensor([True, False, True])
    upscaled, hyper = decoder(features, prompt.dense_pe, sparse, prompt.dense(), flags)
    logits = arrange(torch.einsum("bpc,bnc->bpn", upscaled, hyper), GRID, GRID)
    theirs = [sams_logits(sam, features[i], BOXES[i : i + 1] if flags[i] else None) for i in range(3)]
    torch.testing.assert_close(logits[:, 1], torch.stack(theirs))


def test_box_tokens_equal_sams_with_and_without_autocast():
    sam = toy_sam()
    theirs, _ = sam.prompt_encoder(points=None, boxes=BOXES, masks=None)
    prompt = PromptEmbedding(sam.prompt_encoder, boxes=True)
    torch.testing.assert_close(prompt.sparse(BOXES), theirs)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(prompt.sparse(BOXES), theirs)


def test_a_cold_head_has_two_new_tokens_and_hypernetworks():
    sam = toy_sam()
    torch.manual_seed(0)
    decoder = TwoChannelDecoder(sam.mask_decoder, "cold")
    prompt = PromptEmbedding(sam.prompt_encoder, boxes=False)
    upscaled, hyper = decoder(embeddings(2), prompt.dense_pe, None, prompt.dense())
    assert upscaled.shape == (2, 16 * GRID**2, PROMPT // 8) and hyper.shape == (2, 2, PROMPT // 8)
    assert (hyper[:, 0] - hyper[:, 1]).abs().min() > 0
    assert decoder.head.tokens.shape == (2, PROMPT)
    assert all(parameter.requires_grad for parameter in decoder.head.parameters())
