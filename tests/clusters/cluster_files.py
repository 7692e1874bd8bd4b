"""The cluster files, and the checks of what `ray up` would only find out by starting machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.validate import ParamValidator

ROOT = Path(__file__).parents[2]
GPU, ONPREM, KUBERAY, ROLES = (ROOT / "clusters" / f"{name}.yaml" for name in ("gpu", "onprem", "kuberay", "aws-roles"))

# The keys that Ray 2.60 reads, which ignores all others: `provider_config` and `config["provider"]` in
# ray/autoscaler/_private/{aws,local}/*.py, updater.py and autoscaler.py.
_COMMON = {"type", "use_internal_ips", "use_external_head_ip", "disable_node_updaters", "disable_launch_config_check"}
PROVIDER_KEYS = {
    "aws": _COMMON
    | {"region", "availability_zone", "cache_stopped_nodes", "security_group", "key_pair", "aws_credentials"},
    "local": _COMMON | {"head_ip", "worker_ips", "external_head_ip", "coordinator_address"},
}
# `SubnetIds` is Ray's own; it becomes a `SubnetId` of the request.
_NOT_EC2 = {"SubnetIds"}


def read(path: Path) -> dict[str, Any]:
    """Return a cluster file as it is written."""
    return yaml.safe_load(path.read_text())


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """Return a cluster file's content with Ray's defaults filled in, as ``ray up`` uses it."""
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(config)


def problems(config: dict[str, Any]) -> list[str]:
    """Return what is wrong with a cluster file's content: by Ray's schema, and where that looks no closer."""
    return [*_refused_by_ray(config), *_unknown_to_the_provider(config), *_refused_by_ec2(config)]


def _refused_by_ray(config: dict[str, Any]) -> list[str]:
    import jsonschema
    from ray.autoscaler._private.util import validate_config

    try:
        validate_config(prepared(config))
    except (jsonschema.ValidationError, ValueError, KeyError) as error:
        return [str(error).splitlines()[0]]
    return []


def _unknown_to_the_provider(config: dict[str, Any]) -> list[str]:
    provider = config["provider"]
    known = PROVIDER_KEYS.get(provider["type"], set())
    return [f"provider.{key}: unknown to Ray's provider {provider['type']}" for key in sorted(set(provider) - known)]


def _refused_by_ec2(config: dict[str, Any]) -> list[str]:
    if config["provider"]["type"] != "aws":
        return []
    model = boto3.client("ec2", region_name=config["provider"]["region"]).meta.service_model
    shape = model.operation_model("RunInstances").input_shape
    found = []
    for name, kind in config.get("available_node_types", {}).items():
        request = {key: value for key, value in kind.get("node_config", {}).items() if key not in _NOT_EC2}
        report = ParamValidator().validate({**request, "MinCount": 1, "MaxCount": 1}, shape)
        found += [f"{name}: {line}" for line in report.generate_report().splitlines()]
        if request.get("InstanceType") not in shape.members["InstanceType"].enum:
            found.append(f"{name}: InstanceType: {request.get('InstanceType')} does not exist")
        market = request.get("InstanceMarketOptions", {}).get("MarketType", "spot")
        if market not in shape.members["InstanceMarketOptions"].members["MarketType"].enum:
            found.append(f"{name}: MarketType: {market} does not exist")
    return found
