from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.models.baselines.states import official_resnet50


@pytest.fixture(scope="package")
def resnet_state() -> dict[str, Tensor]:
    """A random official ResNet-50; no test writes to it."""
    return official_resnet50()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same initial values in every run."""
    torch.manual_seed(0)
