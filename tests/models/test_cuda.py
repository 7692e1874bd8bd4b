"""Every method computes the same logits on a GPU and on the CPU."""

from __future__ import annotations

import pytest
import torch

from amsam_ray.config.methods import resolve_params
from amsam_ray.models.adapted import build_method
from amsam_ray.models.backbone import Backbone
from tests.models.toy import SAM_METHODS, SIZE, toy_backbone, toy_inputs, toy_sam

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.mark.parametrize("method", SAM_METHODS)
def test_gpu_equals_cpu(method):
    params = resolve_params(method, {})
    on_cpu = build_method(method, params, toy_backbone(), seed=0)
    there = Backbone(toy_sam().cuda(), "nano", SIZE, "0" * 64)
    on_gpu = build_method(method, params, there, seed=0)
    inputs = toy_inputs(on_cpu)
    inputs.has_box = (True, False)
    expected = on_cpu(inputs).logits
    with torch.backends.cudnn.flags(allow_tf32=False):
        logits = on_gpu(inputs.to("cuda")).logits
    assert logits.is_cuda
    torch.testing.assert_close(logits.cpu(), expected, rtol=1e-3, atol=1e-3)
    with torch.autocast("cuda", torch.bfloat16):
        assert on_gpu(inputs.to("cuda")).logits.isfinite().all()
