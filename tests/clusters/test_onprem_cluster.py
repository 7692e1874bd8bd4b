"""`clusters/onprem.yaml` on three machines: a sweep that loses one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clusters.cluster_files import ONPREM, problems, read
from tests.clusters.machines import NETWORK, missing
from tests.clusters.sweeps import Cluster, bed, offline, ray_processes, until
from tests.conftest import use

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
HEAD, FIRST, SECOND = (f"{NETWORK}.{host}" for host in (4, 5, 6))


def test_sweep_on_three_machines_survives_the_loss_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := missing():
        pytest.skip(reason)
    config = offline(read(ONPREM))
    config["provider"] = {**config["provider"], "head_ip": HEAD, "worker_ips": [FIRST, SECOND]}
    # The machines share the cores of this one, which Ray would count three times.
    for role in ("head", "worker"):
        commands = config[f"{role}_start_ray_commands"]
        config[f"{role}_start_ray_commands"] = [
            line.replace("ray start", "ray start --num-cpus=1") for line in commands
        ]
    assert problems(config) == []
    with bed(tmp_path, (4, 5, 6)) as (lab, server):
        use(server, monkeypatch)
        cluster = Cluster.from_file(lab, config, HEAD, server, tmp_path)
        print(f"ray up: {cluster.up():.0f} s")
        print(f"all machines: {until(lambda: cluster.nodes() == [HEAD, FIRST, SECOND], 'workers'):.0f} s more")

        sweep = cluster.tune({"lanes": 3})
        print(f"a lane on each: {until(lambda: cluster.lanes() == [HEAD, FIRST, SECOND], 'lanes'):.0f} s")
        until(lambda: cluster.recorded() >= 2, "records")
        cluster.machine(SECOND).power_off()
        assert sweep.wait(300) == 0, (tmp_path / "tune.log").read_text()
        cluster.assert_complete()

        cluster.down()
        assert not ray_processes(cluster.machine(HEAD))
        print(f"worker gone: {until(lambda: not ray_processes(cluster.machine(FIRST)), 'the worker'):.0f} s")
