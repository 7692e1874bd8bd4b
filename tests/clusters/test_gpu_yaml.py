"""The cluster file is one that Ray accepts and whose nodes EC2 would start."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.validate import ParamValidator

FILE = Path(__file__).parents[2] / "clusters" / "gpu.yaml"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The file as ``ray up`` reads it, with Ray's defaults filled in."""
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(yaml.safe_load(FILE.read_text()))


def test_ray_accepts_the_file(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import validate_config

    validate_config(config)
    broken = copy.deepcopy(config)
    broken["head_node_typ"] = broken.pop("head_node_type")
    with pytest.raises(Exception, match="head_node_typ"):
        validate_config(broken)


@pytest.mark.parametrize("kind", ["head", "gpu"])
def test_ec2_accepts_the_request_for_each_kind_of_node(config: dict[str, Any], kind: str) -> None:
    model = boto3.client("ec2", region_name=config["provider"]["region"]).meta.service_model
    shape = model.operation_model("RunInstances").input_shape
    request = {**config["available_node_types"][kind]["node_config"], "MinCount": 1, "MaxCount": 1}
    assert not ParamValidator().validate(request, shape).has_errors()
    assert ParamValidator().validate({**request, "InstanceTyp": "g5.xlarge"}, shape).has_errors()
    assert request["InstanceType"] in shape.members["InstanceType"].enum


def test_the_head_is_small_and_takes_no_lane(config: dict[str, Any]) -> None:
    head = config["available_node_types"]["head"]
    assert head["resources"] == {"CPU": 0} and head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]  # a reclaimed head would end the sweep
    assert any("--num-cpus=0" in command for command in config["head_start_ray_commands"])


def test_workers_are_spot_gpus_that_come_and_go(config: dict[str, Any]) -> None:
    gpu = config["available_node_types"]["gpu"]
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, config["max_workers"])
    assert gpu["resources"]["GPU"] == 1


def test_images_carry_the_ray_that_is_pinned(config: dict[str, Any]) -> None:
    constraints = (FILE.parents[1] / "constraints.txt").read_text().split()
    pinned = next(line for line in constraints if line.startswith("ray=="))
    for image in (config["docker"]["head_image"], config["docker"]["worker_image"]):
        assert image.partition(":")[2].startswith(pinned.removeprefix("ray==") + "-")
