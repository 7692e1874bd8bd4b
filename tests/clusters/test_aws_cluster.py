"""`clusters/gpu.yaml` on a copy of AWS: moto answers the requests; machines made of namespaces are the instances."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.cluster_files import GPU, ROLES, ROOT, problems, read
from tests.clusters.machines import NETWORK, Lab, missing
from tests.clusters.sweeps import Cluster, bed, offline, until
from tests.conftest import use
from tests.s3.moto import S3Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
# The addresses that moto gives to the first instances of the first subnet: the last is that of a replacement.
HEAD, FIRST, SECOND, THIRD = (f"{NETWORK}.{host}" for host in (4, 5, 6, 7))


class Account:
    """The AWS account: its roles and key pair, and its instances."""

    def __init__(self, server: S3Server, config: dict[str, Any], lab: Lab):
        region = config["provider"]["region"]
        self.ec2 = server.client("ec2", region)
        server.client("cloudformation", region).create_stack(
            StackName="amsam-ray",
            TemplateBody=ROLES.read_text(),
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": server.bucket}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        key = f"ray-autoscaler_{region}"
        self.ec2.import_key_pair(KeyName=key, PublicKeyMaterial=Path(f"{lab.laptop.key}.pub").read_bytes())
        shutil.copy(lab.laptop.key, lab.laptop.home / ".ssh" / f"{key}.pem")

    def instances(self) -> dict[str, dict[str, Any]]:
        """Return the instances that are up or starting, by address."""
        running = {"Name": "instance-state-name", "Values": ["pending", "running"]}
        answer = self.ec2.describe_instances(Filters=[running])
        return {i["PrivateIpAddress"]: i for group in answer["Reservations"] for i in group["Instances"]}

    def reclaim(self, ip: str) -> None:
        """End an instance, as AWS does with a spot machine that it needs."""
        self.ec2.terminate_instances(InstanceIds=[self.instances()[ip]["InstanceId"]])


def test_sweep_on_spot_machines_survives_the_loss_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := missing():
        pytest.skip(reason)
    config = offline(read(GPU))
    config["provider"] = {**config["provider"], "use_internal_ips": True}
    assert problems(config) == []
    # Without it, Ray would try to reach public addresses, which belong to strangers.
    assert config["provider"]["use_internal_ips"] is True
    settings = {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true", "NO_CAPACITY": "g6.2xlarge", "PYTHONPATH": str(ROOT)}
    with bed(tmp_path, (4, 5, 6, 7), settings, "tests.clusters.aws_server") as (lab, server):
        use(server, monkeypatch)
        account = Account(server, config, lab)
        cluster = Cluster.from_file(lab, config, HEAD, server, tmp_path)
        print(f"ray up: {cluster.up():.0f} s")
        assert [*account.instances()] == [HEAD]

        sweep = cluster.tune({"lanes": 2})
        print(f"a lane on both: {until(lambda: cluster.lanes() == [FIRST, SECOND], 'lanes'):.0f} s")
        instances = account.instances()
        # The type that is asked for first is not to be had, so the next one is taken.
        assert {i["InstanceType"] for ip, i in instances.items() if ip != HEAD} == {"g5.2xlarge"}
        # moto gives a profile to the first instance of a request only, and both workers may be of one.
        profiles = {i["IamInstanceProfile"]["Arn"] for i in instances.values() if "IamInstanceProfile" in i}
        assert sorted(arn.rpartition("/")[2] for arn in profiles) == ["amsam-ray-head", "amsam-ray-worker"]

        until(lambda: cluster.recorded() >= 2, "records")
        cluster.machine(SECOND).power_off()
        account.reclaim(SECOND)
        assert sweep.wait(300) == 0, (tmp_path / "tune.log").read_text()
        cluster.assert_complete()

        cluster.down()
        assert account.instances() == {}
