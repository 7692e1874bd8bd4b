"""The number of trained parameters: that of BLO-SAM's code, and those in the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from amsam_ray.config.methods import resolve_params
from amsam_ray.models.backbone import Backbone, build_sam
from amsam_ray.models.build import build_model
from amsam_ray.models.trained_model import TrainedModel
from tests.models.toy import SAM_METHODS

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def build(method: str, arch: str, **given: Any) -> TrainedModel:
    """Build a model; SAM is on the meta device, since only shapes are used."""
    with torch.device("meta"):
        backbone = Backbone(build_sam(arch, 256), arch, 256, "0" * 64)
    return build_model(method, resolve_params(method, given), backbone, seed=0)


def count(model: TrainedModel) -> int:
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return sum(sizes[name] for name in model.lower + model.upper)


def test_blo_sam_trains_as_many_parameters_as_its_code():
    """With rank 4, BLO-SAM's code marks 510,242; 132,098 of them are the IoU head, which no loss depends on."""
    model = build("blo_sam", "vit_b")
    iou_head = 2 * (256 * 256 + 256) + (256 * 2 + 2)
    assert count(model) + iou_head == 510_242
    updates = [p.numel() for name, p in model.named_parameters() if "parametrizations.weight.0" in name]
    assert sum(updates) == 23_552


@pytest.mark.parametrize("method", SAM_METHODS)
def test_the_counts_on_the_page_equal_those_of_the_models(method):
    row = next(line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{method}` |"))
    listed = re.findall(r"([\d,]+) / ([\d,]+) \|$", row)[0]
    assert [int(number.replace(",", "")) for number in listed] == [
        count(build(method, arch)) for arch in ("vit_b", "nano")
    ]


@pytest.mark.parametrize("method", ["deeplabv3", "swin_unet", "hsnet", "ssp"])
def test_the_counts_of_the_networks_on_the_page_equal_those_of_the_models(method):
    row = next(line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{method}` |"))
    own, nano = re.findall(r"([\d,]+) / ([\d,]+|-) \|$", row)[0]
    assert int(own.replace(",", "")) == count(build(method, "nano", features="random", image_size=224))
    if nano != "-":
        assert int(nano.replace(",", "")) == count(build(method, "nano", features="sam"))
