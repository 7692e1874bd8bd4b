"""Trials on a GPU. Run with `make test-cuda`."""

import pytest
import torch

from amsam_ray.training.trial import train_trial
from tests.training.toys import random_nano, small_trial

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("method", ["sam", "samed", "sam_adapter", "am_sam", "am_mca_sam"])
def test_a_gpu_trains_as_a_cpu_does(tmp_path, method):
    config = small_trial(random_nano(tmp_path), method, role="final", params={}, metric="mae", maximise=False)
    results = [
        train_trial(config, cache_dir=tmp_path / device, work_dir=tmp_path / device, device=device)
        for device in ("cpu", "cuda")
    ]
    for mine, theirs in zip(results[0].curve, results[1].curve, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=2e-2)
    assert results[1].peak_memory_bytes > 0
    assert results[1].status == "completed"


@pytest.mark.parametrize("hypergradient", ["first_order", "unrolled", "exact"])
def test_bf16_on_a_gpu_follows_fp32(tmp_path, hypergradient):
    losses = []
    for precision in ("fp32", "bf16"):
        config = small_trial(
            random_nano(tmp_path),
            "am_sam",
            params={"hypergradient": hypergradient},
            train={"precision": precision, "epochs": 3},
        )
        result = train_trial(config, cache_dir=tmp_path / "cache", work_dir=tmp_path, device="cuda")
        losses.append(result.curve[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
