"""The work of SAM's encoder, and the rates at which this processor multiplies matrices."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from amsam_ray.device import has_fast_bf16, has_onednn_linear
from amsam_ray.models.backbone import Backbone, build_sam, encode_to

_TOKENS, _WIDTH = 4096, 768  # those of ViT-B at 1024 px: its largest product widens them fourfold


def encoder_flops(arch: str, size: int) -> int:
    """Return the floating-point operations of one image's matrix products, convolutions and attention.

    A multiply-add counts as two. They are counted on tensors without values.
    """
    with torch.device("meta"):
        backbone = Backbone(build_sam(arch, size).eval().requires_grad_(False), arch, size, "")
        images = torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        encode_to(backbone, images, "embedding")
    return counter.get_total_flops()


def seconds_of(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall seconds and the processor seconds, all threads together, of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def cpu_matrix_rates(repeats: int = 5) -> dict[str, dict[str, float]]:
    """Return the rate of ViT-B's largest product by library and dtype, of the fastest of ``repeats`` calls.

    Returns:
        ``mkl_fp32``, and where the processor has them ``onednn_fp32`` and ``bf16`` -> ``gflop_per_s``, and
        ``gflop_per_cpu_s`` of one processor second.
    """
    torch.manual_seed(0)
    tokens, weight, bias = torch.randn(_TOKENS, _WIDTH), torch.randn(4 * _WIDTH, _WIDTH), torch.randn(4 * _WIDTH)
    cpu = torch.device("cpu")
    products: dict[str, Callable[[], Tensor]] = {"mkl_fp32": lambda: F.linear(tokens, weight, bias)}
    if has_onednn_linear(cpu):
        onednn = torch.ops.mkldnn._linear_pointwise
        products["onednn_fp32"] = lambda: onednn(tokens, weight, bias, "none", [], "")
    if has_fast_bf16(cpu):
        narrow = [one.bfloat16() for one in (tokens, weight, bias)]
        products["bf16"] = lambda: F.linear(*narrow)
    gflop = 2 * _TOKENS * _WIDTH * 4 * _WIDTH / 1e9
    rates = {}
    for name, product in products.items():
        wall, processor = (min(one) for one in zip(*(seconds_of(product) for _ in range(repeats)), strict=True))
        rates[name] = {"gflop_per_s": round(gflop / wall, 1), "gflop_per_cpu_s": round(gflop / processor, 1)}
    return rates
