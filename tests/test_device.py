"""The one place that knows the device."""

import pytest
import torch

from amsam_ray.device import autocast, hardware, peak_memory, pick_device
from amsam_ray.errors import InputError

CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")


def test_the_environment_chooses_and_an_argument_wins(monkeypatch):
    monkeypatch.setenv("AMSAM_DEVICE", "cpu")
    assert pick_device() == torch.device("cpu")
    monkeypatch.setenv("AMSAM_DEVICE", "meta")
    assert pick_device() == torch.device("meta")
    assert pick_device("cpu") == torch.device("cpu")


def test_an_unknown_device_is_refused_where_it_was_named(monkeypatch):
    with pytest.raises(InputError, match="device: 'abacus' is not a device"):
        pick_device("abacus")
    monkeypatch.setenv("AMSAM_DEVICE", "abacus")
    with pytest.raises(InputError, match="AMSAM_DEVICE: 'abacus'"):
        pick_device()


@CPU_ONLY
def test_cuda_where_there_is_none_is_refused():
    with pytest.raises(InputError, match="no CUDA device here"):
        pick_device("cuda")


def test_autocast_acts_in_bf16_alone():
    left, cpu = torch.randn(2, 2), torch.device("cpu")
    with autocast(cpu, "bf16"):
        assert (left @ left).dtype == torch.bfloat16
    with autocast(cpu, "fp32"):
        assert (left @ left).dtype == torch.float32


def test_hardware_and_memory_are_told():
    assert {"cpu", "cores", "memory"} <= set(hardware()) and all(hardware().values())
    assert peak_memory(torch.device("cpu")) > 10_000_000
