"""One CUDA device, without Ray, in under eight minutes: ``python -m tests.benchmarks.gpu [--json]``.

Needs a checkout with ``PYTHONPATH`` set to it, and no downloads: ViT-B has random weights, which changes no speed.

- ``rates``: what the device reaches in matrix products and copies.
- ``encoder``: images per second of the frozen encoder, and the share of the matrix rate of its precision.
- ``steps``: milliseconds of a training step of every method, eager and compiled as one graph, and peak memory.
- ``lanes``: trials per hour of 1, 2 and 4 processes that share the device, each training nano trials.

``--device cpu --quick`` runs the same code in a reduced form, to prove that it runs; it reports no figure. Parts that
the time does not suffice for, and parts that fail, are listed with the reason.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.config.methods import METHODS, resolve_params
from amsam_ray.config.networks import DetectorConfig
from amsam_ray.config.trial import TrainConfig, TrialConfig
from amsam_ray.device import autocast, hardware, peak_memory, reset_peak_memory, synchronize
from amsam_ray.inference.inputs import PreparedSet, encoder_batch
from amsam_ray.models.adapted import AdaptedSam, build_method
from amsam_ray.models.backbone import Backbone, build_sam, encode_to
from amsam_ray.training.device_rates import DeviceRates, fastest, measure_rates
from amsam_ray.training.loop import Roles
from amsam_ray.training.step_cost import Stepper
from amsam_ray.training.trial import train_trial
from tests.benchmarks.encoder_work import encoder_flops

NO_FIGURES = "no CUDA device: the code ran on the CPU in a reduced form, and no figure is reported"
_BUDGET_S = 420.0  # no part begins after this
_barrier: Any = None  # of the lanes, in their processes


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        networks: architecture and image side of the encoders.
        step_network: those of the steps.
        methods: whose steps are timed.
        batch: images per step.
        backend: the compiler; ``eager`` captures the graph and runs it as it is.
        lanes: numbers of processes.
        window_s: seconds in which their trials are counted.
        trial: number of shots and epochs of a trial.
        precisions: of the encoder.
    """

    networks: tuple[tuple[str, int], ...] = (("nano", 256), ("vit_b", 256), ("vit_b", 1024))
    step_network: tuple[str, int] = ("vit_b", 256)
    methods: tuple[str, ...] = tuple(name for name, spec in METHODS.items() if spec.trainable)
    batch: int = 4
    backend: str = "inductor"
    lanes: tuple[int, ...] = (1, 2, 4)
    window_s: float = 20.0
    trial: tuple[int, int] = (8, 20)
    precisions: tuple[str, ...] = ("fp32", "bf16")


QUICK = Plan(
    networks=(("nano", 64),),
    step_network=("nano", 64),
    methods=("blo_sam", "samed"),
    batch=2,
    backend="eager",
    lanes=(1, 2),
    window_s=0.5,
    trial=(2, 1),
    precisions=("fp32",),
)


def backbone(arch: str, size: int, device: torch.device) -> Backbone:
    """Return a frozen SAM with random weights."""
    torch.manual_seed(0)
    sam = build_sam(arch, size).to(device).eval().requires_grad_(False)
    return Backbone(sam, arch, size, "0" * 64)


def encoder(arch: str, size: int, precision: str, device: torch.device, rates: DeviceRates) -> dict[str, Any]:
    """Measure the encoder in the batches that a sweep prepares; ``rates`` are those of the precision."""
    network = backbone(arch, size, device)
    images = torch.randn(encoder_batch(network), 3, size, size, device=device)

    def encode() -> Tensor:
        with autocast(device, precision):
            return encode_to(network, images, "embedding")

    reset_peak_memory(device)
    seconds = fastest(encode, device, repeats=3)
    return {
        "arch": arch,
        "size": size,
        "precision": precision,
        "batch": len(images),
        "images_per_s": round(len(images) / seconds, 2),
        "share_of_matrix_rate": round(encoder_flops(arch, size) * len(images) / seconds / rates.flops, 3),
        "peak_mib": peak_memory(device) >> 20,
    }


def prepared(model: AdaptedSam, count: int, device: torch.device) -> PreparedSet:
    """Return ``count`` random pictures with all inputs that any method needs."""
    network = model.backbone
    size, side = network.image_size, 4 * network.grid
    pixels = torch.randn(count, 3, size, size, device=device)
    features = encode_to(network, pixels, model.cache_point)
    target = torch.zeros(count, side, side, dtype=torch.bool, device=device)
    target[:, : side // 2, : side // 3] = True
    flags = torch.ones(count, dtype=torch.bool)
    return PreparedSet(
        names=tuple(map(str, range(count))),
        features=features,
        boxes=torch.tensor([[0.0, 0.0, size / 3, size / 2]], device=device).repeat(count, 1),
        has_box=flags,
        detected=flags,
        target=target,
        valid=torch.ones_like(target),
        truths=(np.zeros((size, size), dtype=bool),) * count,
        pixels=pixels if model.needs_highpass else None,
        view_features=features + 0.1 if model.needs_views else None,
    ).for_model(model)


def step(method: str, network: Backbone, plan: Plan) -> dict[str, Any]:
    """Measure a step of a method, eager and compiled."""
    device = network.device
    model = build_method(method, resolve_params(method, {}), network, seed=0)
    pictures = prepared(model, 2 * plan.batch, device)
    roles = Roles(range(plan.batch), range(plan.batch, 2 * plan.batch))
    train = TrainConfig(epochs=100, batch_size=plan.batch)
    reset_peak_memory(device)
    iteration = Stepper(model, pictures, roles, train, 0).iteration()
    eager = fastest(lambda: iteration()[0], device, repeats=10)
    found: dict[str, Any] = {"method": method, "eager_ms": round(eager * 1e3, 3), "peak_mib": peak_memory(device) >> 20}
    started = time.perf_counter()
    try:
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            compiled = torch.compile(
                Stepper(model, pictures, roles, train, 0).iteration(), fullgraph=True, backend=plan.backend
            )
            seconds = fastest(lambda: compiled()[0], device, repeats=10)
    finally:
        torch._dynamo.reset()
    found |= {"compiled_ms": round(seconds * 1e3, 3), "compile_s": round(time.perf_counter() - started, 1)}
    return found


def _share(barrier: Any) -> None:
    """Keep the barrier of the lanes in their process: it cannot be sent with a call."""
    global _barrier
    _barrier = barrier


def lane(plan: Plan, device: str, folder: Path, threads: int) -> tuple[int, float, int]:
    """Train trials in this process for ``window_s``, after one that is not counted.

    Returns:
        Their number, seconds, and the peak memory in bytes.
    """
    torch.set_num_threads(threads)
    shots, epochs = plan.trial
    config = TrialConfig(
        dataset=DatasetConfig(name="procedural", options={"family": "lesion", "train": 16, "test": 4}),
        shots=shots,
        method="blo_sam",
        label="blo_sam",
        params=resolve_params("blo_sam", {}),
        detector=DetectorConfig(weights="none"),
        train=TrainConfig(epochs=epochs, batch_size=min(4, shots // 2)),
    )
    run = partial(train_trial, cache_dir=folder / "cache", work_dir=folder / "work", device=device)
    try:
        run(config)
    except Exception:
        _barrier.abort()  # the others do not wait
        raise
    _barrier.wait(timeout=120)
    count, elapsed, memory, started = 0, 0.0, 0, time.perf_counter()
    while elapsed < plan.window_s:
        count += 1
        memory = run(config.model_copy(update={"seed": count})).peak_memory_bytes
        elapsed = time.perf_counter() - started
    return count, elapsed, memory


def lanes(count: int, plan: Plan, device: torch.device) -> dict[str, Any]:
    """Measure ``count`` processes that share the device."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // count)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(count, context, initializer=_share, initargs=(context.Barrier(count),)) as pool,
    ):
        runs = [pool.submit(lane, plan, str(device), Path(folder), threads) for _ in range(count)]
        rows = [run.result() for run in runs]
    return {
        "lanes": count,
        "trials_per_hour": round(sum(3600 * trials / seconds for trials, seconds, _ in rows)),
        "peak_mib_per_lane": max(memory for *_, memory in rows) >> 20,
    }


def measure(plan: Plan, device: torch.device, say: Callable[[str], None]) -> dict[str, Any]:
    """Run all parts; one that fails does not end the others."""
    started = time.perf_counter()
    found: dict[str, Any] = {"encoder": [], "steps": [], "lanes": [], "left_out": []}

    def part(kind: str, name: str, work: Callable[[], dict[str, Any]]) -> None:
        if time.perf_counter() - started > _BUDGET_S:
            found["left_out"].append(f"{kind} {name}: the time is up")
            return
        try:
            found[kind].append(work())
            say(f"{kind} {name}: {found[kind][-1]}")
        except Exception as error:  # the figures of the other parts are worth as much without it
            found["left_out"].append(f"{kind} {name}: {type(error).__name__}: {str(error)[:500]}")
            say(found["left_out"][-1])
        synchronize(device)
        if device.type == "cuda":
            torch.cuda.empty_cache()

    rates = {
        precision: measure_rates(device, torch.bfloat16 if precision == "bf16" else torch.float32)
        for precision in plan.precisions
    }
    found["rates"] = {name: {"flops_per_s": r.flops, "bytes_per_s": r.bytes} for name, r in rates.items()}
    for arch, size in plan.networks:
        for precision in plan.precisions:
            name = f"{arch} {size} {precision}"
            part("encoder", name, partial(encoder, arch, size, precision, device, rates[precision]))
    for count in plan.lanes:
        part("lanes", str(count), partial(lanes, count, plan, device))
    network = backbone(*plan.step_network, device)
    for method in plan.methods:
        part("steps", method, partial(step, method, network, plan))
    return {"seconds": round(time.perf_counter() - started, 1), **found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:<n>, or cpu with --quick")
    parser.add_argument("--quick", action="store_true", help="the smallest of everything, to prove that the code runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    device = torch.device(options.device)
    cuda = device.type == "cuda" and torch.cuda.is_available()
    if not cuda and not (device.type == "cpu" and options.quick):
        parser.error(f"--device {device} is no CUDA device of this machine; --device cpu --quick only proves the code")
    found = measure(QUICK if options.quick else Plan(), device, lambda line: None if options.json else print(line))
    if not cuda:
        ran = {kind: len(found[kind]) for kind in ("encoder", "steps", "lanes")}
        print(json.dumps({"note": NO_FIGURES, "ran": ran, "left_out": found["left_out"]}))
        return 1 if found["left_out"] else 0
    print(json.dumps({"hardware": hardware(), "torch": torch.__version__, **found}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
