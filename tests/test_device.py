"""Choice of the device, autocast and hardware information."""

import pytest
import torch

from amsam_ray import device
from amsam_ray.device import autocast, hardware, has_fast_bf16, peak_memory, pick_device
from amsam_ray.errors import InputError

CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")


def test_an_argument_overrides_the_environment(monkeypatch):
    monkeypatch.setenv("AMSAM_DEVICE", "cpu")
    assert pick_device() == torch.device("cpu")
    monkeypatch.setenv("AMSAM_DEVICE", "meta")
    assert pick_device() == torch.device("meta")
    assert pick_device("cpu") == torch.device("cpu")


def test_an_unknown_device_is_refused_with_its_source(monkeypatch):
    with pytest.raises(InputError, match="device: 'abacus' is not a device"):
        pick_device("abacus")
    monkeypatch.setenv("AMSAM_DEVICE", "abacus")
    with pytest.raises(InputError, match="AMSAM_DEVICE: 'abacus'"):
        pick_device()


@CPU_ONLY
def test_cuda_is_refused_if_not_available():
    with pytest.raises(InputError, match="finds no CUDA device; use cpu"):
        pick_device("cuda")


def test_autocast_changes_only_bf16():
    left, cpu = torch.randn(2, 2), torch.device("cpu")
    with autocast(cpu, "bf16"):
        assert (left @ left).dtype == torch.bfloat16
    with autocast(cpu, "fp32"):
        assert (left @ left).dtype == torch.float32


def test_hardware_and_memory_are_reported():
    assert {"cpu", "cores", "memory"} <= set(hardware()) and all(hardware().values())
    assert peak_memory(torch.device("cpu")) > 10_000_000


@pytest.mark.parametrize(
    ("flags", "fast"), [("avx512f avx512_bf16", True), ("amx_tile amx_bf16", True), ("avx512f avx2", False)]
)
def test_bf16_is_fast_where_the_processor_has_instructions_for_it(tmp_path, monkeypatch, flags, fast):
    monkeypatch.setattr(device, "_CPU_INFO", tmp_path / "cpuinfo")
    assert not has_fast_bf16(torch.device("cpu"))  # an unknown processor
    (tmp_path / "cpuinfo").write_text(f"model name\t: Some CPU\nflags\t\t: fpu {flags} sse\n")
    assert has_fast_bf16(torch.device("cpu")) is fast
