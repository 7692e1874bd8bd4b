"""The placement groups of dead lanes, on a real Ray cluster of this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amsam_ray.search.lane_size import LaneSize
from amsam_ray.search.ray.cluster import connected

pytestmark = pytest.mark.timeout(600)
SIZE = LaneSize(1, 1, 0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    with connected(None, cpus=4) as scratch:
        yield scratch


def make_group(cpus: float):
    from ray.util.placement_group import placement_group

    group = placement_group([{"CPU": cpus}], strategy="STRICT_PACK")
    assert group.wait(30)
    return group


def state(group) -> str:
    from ray.util.placement_group import placement_group_table

    return str(placement_group_table(group)["state"])


def await_removal(group) -> None:
    deadline = time.monotonic() + 30
    while state(group) != "REMOVED":
        assert time.monotonic() < deadline, "the placement group still exists"
        time.sleep(0.05)


def test_group_of_a_dead_lane_is_removed_by_its_id(cluster: Path) -> None:
    from amsam_ray.search.ray.placement_groups import LanePlacementGroups

    dead, other = make_group(SIZE.worker_cpus), make_group(SIZE.worker_cpus)
    LanePlacementGroups(SIZE).remove(dead.id.hex())
    await_removal(dead)
    assert state(other) == "CREATED"
    LanePlacementGroups(SIZE).remove(other.id.hex())
    await_removal(other)


def test_only_unknown_groups_of_a_lanes_size_are_removed(cluster: Path) -> None:
    from amsam_ray.search.ray.placement_groups import LanePlacementGroups

    lost, alive, larger = make_group(SIZE.worker_cpus), make_group(SIZE.worker_cpus), make_group(1.5)
    groups = LanePlacementGroups(SIZE)
    groups.remove_others({alive.id.hex()})
    await_removal(lost)
    assert state(alive) == state(larger) == "CREATED"
    groups.remove_others({alive.id.hex()})  # groups that are already removed are passed over
    for group in (alive, larger):
        groups.remove(group.id.hex())
        await_removal(group)


def test_actor_whose_setup_fails_is_stated_by_its_exception(cluster: Path) -> None:
    import ray

    from amsam_ray.search.ray.tune_adapter import _cause

    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("the disk is full\nand has been for days")

        def step(self) -> None: ...

    with pytest.raises(ray.exceptions.ActorDiedError) as caught:
        actor: Any = ray.remote(num_cpus=0)(Broken)
        ray.get(actor.remote().step.remote())
    assert _cause(caught.value) == ("a lane cannot be set up: RuntimeError: the disk is full", "start")
