"""The cluster files are accepted by what reads them, and a typo in any part of them is found."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import amsam_ray
from tests.clusters import kuberay
from tests.clusters.cluster_files import GPU, KUBERAY, ONPREM, ROLES, ROOT, prepared, problems, read

Document = dict[str, Any]
FILES = [GPU, ONPREM, KUBERAY]


def renamed(place: Document, key: str) -> None:
    """Misspell a key: its last letter is lost."""
    place[key[:-1]] = place.pop(key)


@pytest.fixture(scope="module")
def manifests() -> dict[str, Document]:
    """The documents of the Kubernetes file by kind."""
    return {document["kind"]: document for document in yaml.safe_load_all(KUBERAY.read_text())}


@pytest.mark.parametrize("path", [GPU, ONPREM], ids=lambda path: path.name)
def test_file_is_accepted(path: Path) -> None:
    assert problems(read(path)) == []


@pytest.mark.parametrize(
    ("path", "plant", "found"),
    [
        (GPU, lambda c: renamed(c, "head_node_type"), "head_node_typ"),
        (GPU, lambda c: renamed(c, "idle_timeout_minutes"), "idle_timeout_minute"),
        (GPU, lambda c: renamed(c["auth"], "ssh_user"), "ssh_use"),
        (GPU, lambda c: renamed(c["provider"], "cache_stopped_nodes"), "cache_stopped_node:"),
        (GPU, lambda c: renamed(c["available_node_types"]["gpu_3_l4"], "max_workers"), "max_worker"),
        (GPU, lambda c: renamed(c["available_node_types"]["head"]["node_config"], "ImageId"), "ImageI"),
        (GPU, lambda c: renamed(disk(c), "VolumeSize"), "VolumeSiz"),
        (GPU, lambda c: disk(c).update(VolumeSize="200 GB"), "VolumeSize"),
        (GPU, lambda c: worker(c).update(InstanceType="g6.3xlarge"), "g6.3xlarge does not exist"),
        (GPU, lambda c: worker(c)["InstanceMarketOptions"].update(MarketType="sopt"), "sopt does not exist"),
        (GPU, lambda c: worker(c).update(IamInstanceProfile="amsam-ray-worker"), "IamInstanceProfile"),
        (ONPREM, lambda c: renamed(c, "setup_commands"), "setup_command"),
        (ONPREM, lambda c: c["provider"].update(external_head="10.0.0.1"), "external_head:"),
        (ONPREM, lambda c: renamed(c["auth"], "ssh_private_key"), "ssh_private_ke"),
        (ONPREM, lambda c: c["provider"].update(worker_ips="192.168.1.11"), "is not of type 'array'"),
    ],
)
def test_typo_in_a_cluster_file_is_found(path: Path, plant: Callable[[Document], object], found: str) -> None:
    config = copy.deepcopy(read(path))
    plant(config)
    assert found in "\n".join(problems(config))


def worker(config: Document) -> Document:
    return config["available_node_types"]["gpu_3_l4"]["node_config"]


def disk(config: Document) -> Document:
    return worker(config)["BlockDeviceMappings"][0]["Ebs"]


def test_manifests_are_accepted(manifests: dict[str, Document]) -> None:
    assert [*manifests] == ["ServiceAccount", "ConfigMap", "RayCluster", "RayJob"]
    assert [problem for manifest in manifests.values() for problem in kuberay.problems(manifest)] == []


@pytest.mark.parametrize(
    ("kind", "place", "key"),
    [
        ("RayCluster", [], "kind"),
        ("RayCluster", ["metadata"], "name"),
        ("RayCluster", ["spec"], "headGroupSpec"),
        ("RayCluster", ["spec"], "authOptions"),
        ("RayCluster", ["spec", "headGroupSpec", "template", "spec"], "containers"),
        ("RayCluster", ["spec", "workerGroupSpecs", 0], "groupName"),
        ("RayCluster", ["spec", "workerGroupSpecs", 0], "maxReplicas"),
        ("RayCluster", ["spec", "workerGroupSpecs", 0, "template", "spec", "containers", 0], "image"),
        ("RayJob", ["spec"], "entrypoint"),
        ("RayJob", ["spec"], "shutdownAfterJobFinishes"),
        ("RayJob", ["spec", "rayClusterSpec", "autoscalerOptions"], "idleTimeoutSeconds"),
        ("ConfigMap", [], "data"),
    ],
)
def test_typo_in_a_manifest_is_found(manifests: dict[str, Document], kind: str, place: list[Any], key: str) -> None:
    broken = copy.deepcopy(manifests[kind])
    target: Any = broken
    for step in place:
        target = target[step]
    renamed(target, key)
    assert any(key[:-1] in problem or key in problem for problem in kuberay.problems(broken))


def test_roles_template_creates_the_profiles_of_the_machines() -> None:
    profiles = set(re.findall(r"InstanceProfileName: (\S+)", ROLES.read_text()))
    kinds = read(GPU)["available_node_types"].values()
    assert profiles == {kind["node_config"]["IamInstanceProfile"]["Name"] for kind in kinds}


@pytest.mark.cluster
def test_roles_template_is_accepted_by_cloudformations_linter(tmp_path: Path) -> None:
    lint = [sys.executable, "-c", "from cfnlint.runner import main; main()"]
    assert subprocess.run([*lint, ROLES], capture_output=True, text=True).returncode == 0
    broken = tmp_path / "roles.yaml"
    broken.write_text(ROLES.read_text().replace("RoleName", "RoleNam"))
    assert "RoleNam" in subprocess.run([*lint, broken], capture_output=True, text=True).stdout


def test_head_is_small_and_on_demand_and_takes_no_lane(manifests: dict[str, Document]) -> None:
    config = read(GPU)
    head = config["available_node_types"]["head"]
    assert head["resources"] == {"CPU": 0} and head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]  # a reclaimed head would end the sweep
    assert any("--num-cpus=0" in command for command in config["head_start_ray_commands"])
    assert manifests["RayCluster"]["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_workers_are_spot_gpus_that_come_and_go_and_have_alternatives() -> None:
    config = prepared(read(GPU))
    workers = [kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]]
    assert len({kind["node_config"]["InstanceType"] for kind in workers}) == len(workers) > 1
    for kind in workers:
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert (kind["min_workers"], kind["max_workers"]) == (0, config["max_workers"])
        assert kind["resources"]["GPU"] == 1


def test_both_kubernetes_clusters_and_what_the_driver_is_told_of_them_agree(manifests: dict[str, Document]) -> None:
    spec = manifests["RayCluster"]["spec"]
    assert manifests["RayJob"]["spec"]["rayClusterSpec"] == spec
    told = yaml.safe_load(manifests["ConfigMap"]["data"]["ray_bootstrap_config.yaml"])
    assert told["max_workers"] == sum(group["maxReplicas"] for group in spec["workerGroupSpecs"])
    for group in spec["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        kind = told["available_node_types"][group["groupName"]]
        assert kind["resources"] == {"CPU": int(limits["cpu"]), "GPU": int(limits["nvidia.com/gpu"])}
        assert kind["max_workers"] == group["maxReplicas"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_token_is_required_and_the_dashboard_is_not_open(path: Path) -> None:
    text = path.read_text()
    if path == KUBERAY:
        assert text.count("authOptions: {mode: token}") == text.count("serviceType: ClusterIP") == 2
        return
    config = read(path)
    assert any(local == "~/.ray/auth_token" for local in config["file_mounts"].values())
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    assert any("--dashboard-host=127.0.0.1" in command for command in config["head_start_ray_commands"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_first_lines_say_how_to_use_it_what_it_costs_and_how_to_stop_it(path: Path) -> None:
    lines = path.read_text().splitlines()
    header = lines[: next(n for n, line in enumerate(lines) if not line.startswith("#"))]
    assert [line.split()[1] for line in header if re.match(r"# [A-Z]\w+ {2,}", line)] == [
        "Use",
        "Watch",
        "Cost",
        "Stop",
    ]


def test_ray_and_this_package_are_the_pinned_releases() -> None:
    constraints = (ROOT / "constraints.txt").read_text().split()
    ray = next(line for line in constraints if line.startswith("ray==")).removeprefix("ray==")
    assert f"rayproject/ray:{ray}-" in (ROOT / "clusters" / "Dockerfile").read_text()
    assert KUBERAY.read_text().count(f"rayVersion: {ray}\n") == 2
    for path in (GPU, ONPREM, ROOT / "clusters" / "Dockerfile"):
        assert set(re.findall(r"amsam-ray==([\d.]+)", path.read_text())) == {amsam_ray.__version__}
    assert set(re.findall(r"amsam-ray:([\d.]+)", KUBERAY.read_text())) == {amsam_ray.__version__}
