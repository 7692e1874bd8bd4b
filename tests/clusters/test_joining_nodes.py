"""Lanes follow the memory of nodes, and a node that joins a running sweep gets its own: real Ray, on the loopback."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path

import pytest

from tests.search.driving import Driver, until
from tests.search.ray_head import RayHead, ray_head
from tests.search.spaces import space

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
_GIB = 2**30
_LIMIT_S = 60.0


def join(head: RayHead, cpus: int, memory_gib: float) -> None:
    """Start a node that offers so much."""
    head.join(f"--num-cpus={cpus}", f"--memory={int(memory_gib * _GIB)}")


def lanes(driver: Driver) -> dict[str, set[int]]:
    """Return the processes of the lanes that have started a trial, by node."""
    found: dict[str, set[int]] = defaultdict(set)
    for start in driver.starts():
        found[start["node"]].add(start["pid"])
    return found


def test_lanes_follow_memory_and_a_node_that_joins_gets_its_own(tmp_path: Path) -> None:
    resources = {"lanes": "auto", "memory_gib": 2}
    driver = Driver(tmp_path, space(trials=400, finals={"top_k": 1, "seeds": 1}, resources=resources), {"seconds": 0.5})
    variables = {
        "AMSAM_FAKE": json.dumps(driver.fake | {"log": str(driver.log)}),
        "AMSAM_CACHE_DIR": str(tmp_path / "cache"),
    }
    with ray_head(cpus=0, variables=variables) as head:
        join(head, cpus=4, memory_gib=3.5)
        join(head, cpus=4, memory_gib=1)
        driver.variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head.token}
        with driver.start("--address", head.address) as sweep:
            until(driver.starts, timeout=200)
            assert [len(pids) for pids in lanes(driver).values()] == [1], "memory for one lane, none, and a head"

            asked = time.time()
            join(head, cpus=1, memory_gib=8)
            joined = time.time()
            until(lambda: len(lanes(driver)) == 2 or sweep.poll() is not None, timeout=200)
            first, second = lanes(driver)
            began = min(start["at"] for start in driver.starts() if start["node"] == second)
            print(f"`ray start` {joined - asked:.1f} s; from there to the first trial {began - joined:.1f} s")
            assert began - joined < _LIMIT_S
            assert len(lanes(driver)[second]) == 1, "one CPU, although memory for four lanes"
            sweep.terminate()
            sweep.wait(120)
    assert [len(lanes(driver)[node]) for node in (first, second)] == [1, 1]
    assert "takes 1 lane in place of 4: it offers 3.5 GiB of memory, and a lane needs 2.0 GiB" in driver.logs()
    assert "takes no lane in place of 4: it offers 1.0 GiB of memory, and a lane needs 2.0 GiB" in driver.logs()
