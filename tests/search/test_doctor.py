"""``amsam-ray doctor``: a healthy machine and cluster, and each fault named with its remedy."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import amsam_ray
from amsam_ray.cli.main import cli
from amsam_ray.search.doctor import Finding, NodeReport, diagnose
from amsam_ray.search.lane_size import REMEDY
from amsam_ray.search.node_facts import NodeFacts
from tests.s3.moto import S3Server
from tests.search.driving import Driver, until
from tests.search.ray_head import RayHead, ray_head
from tests.search.spaces import space

VERSIONS = {"Python": "3.11.7", "amsam-ray": "1.0.0", "ray": "2.60.0", "torch": "2.11.0"}
FACTS = NodeFacts(VERSIONS, clock=0.0, cores=4, memory_gib=16.0, disk_gib=100.0, cache="/cache")
NODE = NodeReport("node a", FACTS, VERSIONS, resources={"CPU": 4.0})


def found(node: NodeReport, **resources: object) -> list[str]:
    """Return the warnings and faults on a node."""
    findings = diagnose([node], VERSIONS, space(resources=resources) if resources else None)
    return [f"{finding.level}: {finding.what}" for finding in findings if finding.level != "ok"]


def test_healthy_node_has_neither_warning_nor_fault() -> None:
    assert found(NODE) == []
    gpus = replace(FACTS, gpus=("NVIDIA A10G", "NVIDIA A10G"), driver="550.54", torch_gpus=2)
    node = replace(NODE, facts=gpus, resources={"CPU": 4.0, "GPU": 2.0})
    assert found(node, gpus_per_lane=1) == []
    assert Finding("ok", "node a", "2 x NVIDIA A10G, driver 550.54") in diagnose([node], VERSIONS, None)


@pytest.mark.parametrize(
    ("node", "level", "words"),
    [
        (replace(NODE, versions={**VERSIONS, "torch": "2.9.0"}), "fault", "torch 2.9.0 (the driver has 2.11.0)"),
        (replace(NODE, versions={**VERSIONS, "amsam-ray": ""}), "fault", "amsam-ray missing (the driver has 1.0.0)"),
        (replace(NODE, facts=None, error="does not answer; restart Ray there"), "fault", "does not answer"),
        (replace(NODE, facts=replace(FACTS, memory_gib=1.0)), "warning", "1.0 GiB of memory"),
        (replace(NODE, facts=replace(FACTS, disk_gib=9.0)), "warning", "9.0 GiB are free at /cache"),
        (replace(NODE, facts=replace(FACTS, disk_gib=0.1)), "fault", "free some space or set AMSAM_CACHE_DIR"),
        (replace(NODE, skew_s=-20.0), "warning", "its clock is 20 s behind the driver's; set the clocks"),
        (replace(NODE, skew_s=120.0), "fault", "120 s ahead of"),
        (replace(NODE, facts=replace(FACTS, gpus=("A10G",), driver="450")), "fault", "torch can use 0 of them"),
        (
            replace(NODE, facts=replace(FACTS, gpus=("A10G",), driver="550", torch_gpus=1)),
            "warning",
            "Ray offers 0 of them: restart Ray there with --num-gpus=1",
        ),
        (
            replace(NODE, facts=replace(FACTS, problems={"storage": []}, conditional=False)),
            "warning",
            "ignores conditional writes",
        ),
        (
            replace(NODE, facts=replace(FACTS, problems={"data": ["x does not exist; give it"]})),
            "fault",
            "data: x does",
        ),
    ],
)
def test_each_fault_is_named(node: NodeReport, level: str, words: str) -> None:
    (line,) = found(node)
    assert line.startswith(level) and words in line and ";" in line.replace(": ", "; ")


def test_gpus_that_the_space_file_wants_and_no_node_has() -> None:
    assert found(NODE, gpus_per_lane=1) == [
        "fault: the space file wants 1 GPU for a lane and no node has a GPU that torch can use; add a GPU node or set "
        "resources.gpus_per_lane to 0"
    ]


def test_nodes_whose_memory_holds_fewer_lanes_are_named() -> None:
    large, small = (
        replace(NODE, name=f"node {name}", resources={"CPU": 4.0, "memory": gib * 2.0**30})
        for name, gib in (("large", 9), ("small", 3))
    )
    told = diagnose([large, small], VERSIONS, space(resources={"memory_gib": 4}))
    lack = "takes no lane in place of 4: it offers 3.0 GiB of memory, and a lane needs 4.0 GiB"
    lines = {(finding.level, finding.where, finding.what.partition(";")[0]) for finding in told}
    assert ("warning", "node small", lack) in lines
    assert any(level == "warning" and what.startswith("takes 2 lanes in place of 4") for level, _, what in lines)
    assert Finding("fault", "node small", f"{lack}; {REMEDY}") in diagnose(
        [small], VERSIONS, space(resources={"memory_gib": 4})
    ), "no node holds a lane"
    held = diagnose([large], VERSIONS, space(resources={"memory_gib": 2}))
    assert Finding("ok", "node large", "holds 4 lanes of 1 CPU, 0 GPU and 2.0 GiB of memory") in held


def test_node_that_runs_no_trials_needs_no_data() -> None:
    facts = replace(FACTS, problems={"data": ["is missing; give it"], "weights": ["are missing; fetch them"]})
    assert found(replace(NODE, facts=facts, runs_trials=False)) == []


def test_this_machine(aws: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path))
    file, prefix = tmp_path / "space.yaml", uuid.uuid4().hex  # other tests use the bucket
    file.write_text(
        yaml.safe_dump(
            {
                "name": "mine",
                "datasets": [{"name": "folder", "root": str(tmp_path / "photos")}],
                "shots": [4],
                "methods": ["sam"],
                "backbone": {"arch": "vit_b", "checkpoint": str(tmp_path / "vit_b.pth")},
                "storage": f"s3://{aws.bucket}/{prefix}",
            }
        )
    )
    plain = CliRunner().invoke(cli, ["doctor", "--storage", f"s3://{aws.bucket}/{prefix}"])
    assert plain.exit_code == 0, plain.output
    assert f"amsam-ray {amsam_ray.__version__}" in plain.output and "honours conditional writes" in plain.output
    ill = CliRunner().invoke(cli, ["doctor", "--space", str(file), "--storage", "s3://no-such-bucket/x", "--json"])
    assert ill.exit_code == 1, ill.output
    faults = "\n".join(finding["what"] for finding in json.loads(ill.output) if finding["level"] == "fault")
    for words in ("storage: ", "no-such-bucket", "photos", "vit_b.pth"):
        assert words in faults
    assert "Contents" not in aws.client().list_objects_v2(Bucket=aws.bucket, Prefix=prefix), "a probe was left"


@pytest.fixture(scope="module")
def bed(moto: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """A head node whose environment has the credentials of an S3 server."""
    cache = tmp_path_factory.mktemp("cache")
    with ray_head(variables={**moto.env, "AMSAM_CACHE_DIR": str(cache)}) as head:
        yield head


def run(bed: RayHead, folder: Path, *arguments: str) -> tuple[int, str]:
    """Run ``amsam-ray doctor`` with the cluster's token and return its exit status and output."""
    done = subprocess.run(
        [sys.executable, "-m", "amsam_ray.cli.main", "doctor", *arguments],
        env=bed.environment,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_cluster_with_a_stopped_node_another_version_and_no_bucket(
    bed: RayHead, moto: S3Server, tmp_path: Path
) -> None:
    driver = Driver(tmp_path, space())
    file, bucket = str(driver.folder / "space.yaml"), f"s3://{moto.bucket}/results"
    right = ["--address", bed.address, "--storage", bucket, "--space", file]
    status, told = run(bed, tmp_path, *right)
    assert status == 0, told
    assert "1 node with Ray" in told and "token authentication is on" in told and "honours conditional" in told
    assert "fault" not in told and told.count("node ") >= 8
    # The same from a laptop, through the job server.
    status, told = run(bed, tmp_path, "--address", bed.url, "--storage", bucket, "--space", file)
    assert status == 0 and "token authentication is on" in told, told

    other = tmp_path / "other"
    shutil.copytree(Path(amsam_ray.__file__).parent, other / "amsam_ray", ignore=shutil.ignore_patterns("__pycache__"))
    init = other / "amsam_ray" / "__init__.py"
    init.write_text(init.read_text().replace(amsam_ray.__version__, "0.0.1"))
    node = bed.join("--num-cpus=1", f"--memory={300 << 20}")
    status, told = run(bed, tmp_path, *right)
    assert re.search(r"warning node \S+ \(\w+\): takes no lane in place of 1: it offers 0\.3 GiB of memory", told), told
    bed.join("--num-cpus=1", variables={"PYTHONPATH": os.pathsep.join([str(other), bed.environment["PYTHONPATH"]])})
    bed.stop_node(node)
    until(lambda: bed.states().count("ALIVE") == 2, timeout=120)

    status, told = run(bed, tmp_path, "--address", bed.address, "--storage", "s3://no-such-bucket/x", "--space", file)
    lines = told.splitlines()
    assert status == 1, told
    assert any(re.match(r"warning cluster: 1 node at \S+ stopped", line) for line in lines), told
    assert any(
        line.startswith("fault ") and f"amsam-ray 0.0.1 (the driver has {amsam_ray.__version__})" in line
        for line in lines
    ), told
    assert any(line.startswith("fault ") and "storage: " in line and "no-such-bucket" in line for line in lines), told
