"""The work of SAM's encoder, and the rates at which this processor multiplies matrices."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
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


class Operations(TorchDispatchMode):
    """Counts the operations of what runs within that no implementation can avoid, by size.

    Attributes:
        products: (m, k, n) -> number of matrix products of m x k by k x n; a convolution is one, an attention two per
            image and head.
        others: (operation, shape, dtype) -> number of softmaxes, GELUs, norms and sums.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[tuple[int, int, int]] = Counter()
        self.others: Counter[tuple[str, tuple[int, ...], torch.dtype]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "_linear_pointwise":
            n, k = args[1].shape
            self.products[args[0].numel() // k, k, n] += 1
            if args[3] == "gelu":
                self._count("gelu", result)
        elif name == "bmm":
            batch, m, k = args[0].shape
            self.products[m, k, args[1].shape[2]] += batch
        elif name == "convolution":
            n = args[1].shape[0]
            self.products[result.numel() // n, args[1].numel() // n, n] += 1
        elif name.startswith("_scaled_dot_product"):
            (*many, queries, width), keys = args[0].shape, args[1].shape[-2]
            count = torch.Size(many).numel()
            self.products[queries, width, keys] += count
            self.products[queries, keys, width] += count
            self.others["softmax", (queries, keys), args[0].dtype] += count
        elif name == "native_layer_norm":
            self._count("norm", result[0])
        elif name in ("softmax", "_softmax"):
            self._count("softmax", result)
        elif name == "add" and isinstance(args[1], Tensor):
            self._count("add", result)
        return result

    def _count(self, name: str, result: Tensor) -> None:
        self.others[name, tuple(result.shape), result.dtype] += 1

    def product_seconds(self, dtype: torch.dtype) -> float:
        """Return the processor seconds of the products by themselves, each size by the fastest library."""
        total = 0.0
        for (m, k, n), count in self.products.items():
            tokens, weight = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
            calls = max(1, round(4e8 / (2 * m * k * n)))  # some milliseconds
            total += count * min(_repeated(partial(library, tokens, weight), calls) for library in _libraries())
        return total

    def other_seconds(self) -> float:
        """Return the processor seconds of the other operations by themselves, on tensors in the cache if they fit."""
        total = 0.0
        for (name, shape, dtype), count in self.others.items():
            x = torch.randn(shape).to(dtype)
            total += count * _repeated(partial(_OTHERS[name], x), max(1, round(1e6 / x.numel())))
        return total


_OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: torch.softmax(x, -1),
    "gelu": F.gelu,
    "norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "add": lambda x: x + x,
}


def _libraries() -> list[Callable[[Tensor, Tensor], Tensor]]:
    def onednn(tokens: Tensor, weight: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(tokens, weight, None, "none", [], "")
        return product

    return [F.linear, onednn] if has_onednn_linear(torch.device("cpu")) else [F.linear]


def _repeated(work: Callable[[], object], calls: int) -> float:
    def run() -> None:
        for _ in range(calls):
            work()

    work()
    return min(seconds_of(run)[1] for _ in range(2)) / calls
