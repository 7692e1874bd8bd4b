"""The size of a lane, the number of lanes, and the requests to an autoscaler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from amsam_ray.config.space import ResourcesSection
from amsam_ray.errors import InputError
from amsam_ray.search.lane_size import GIB, LaneSize, lane_size
from amsam_ray.search.ray import capacity as capacity_module
from amsam_ray.search.ray.capacity import Addable, Capacity, NodeKind, addable_nodes

BIG = {"CPU": 16.0, "GPU": 4.0}
PLAIN = {"CPU": 2.0}


@pytest.mark.parametrize(
    ("size", "node", "fits"),
    [
        (LaneSize(1, 1, 0), PLAIN, 2),
        (LaneSize(1, 0.1, 0), {"CPU": 0.3}, 3),
        (LaneSize(2, 1, 0), {"CPU": 5.0}, 2),
        (LaneSize(1, 1, 1), BIG, 4),
        (LaneSize(1, 8, 1), BIG, 2),
        (LaneSize(1, 1, 0.25), BIG, 16),
        (LaneSize(1, 1, 0.3), BIG, 12),
        (LaneSize(1, 1, 0.4), BIG, 8),
        (LaneSize(4, 1, 1), BIG, 1),
        (LaneSize(3, 1, 1), BIG, 1),
        (LaneSize(8, 1, 1), BIG, 0),
        (LaneSize(1, 1, 1), PLAIN, 0),
        (LaneSize(1, 1, 0), {}, 0),
    ],
)
def test_number_of_lanes_that_fit_on_a_node(size: LaneSize, node: dict[str, float], fits: int) -> None:
    assert size.fits(node) == fits


@pytest.mark.parametrize(
    ("wanted", "nodes", "size"),
    [
        ({}, [PLAIN], LaneSize(1, 1, 0)),
        ({}, [PLAIN, BIG], LaneSize(1, 1, 1)),
        ({"gpus_per_lane": 0.5, "cpus_per_lane": 2}, [BIG], LaneSize(1, 2, 0.5)),
        ({"gpus_per_lane": 4, "cpus_per_lane": 8}, [BIG], LaneSize(4, 2, 1)),
        ({"gpus_per_lane": 0, "workers_per_lane": 2, "cpus_per_lane": 2}, [BIG], LaneSize(2, 1, 0)),
        ({"gpus_per_lane": 1, "workers_per_lane": 2}, [BIG], LaneSize(2, 0.5, 0.5)),
    ],
)
def test_size_of_a_lane(wanted: dict[str, Any], nodes: list[Mapping[str, float]], size: LaneSize) -> None:
    assert lane_size(ResourcesSection(**wanted), nodes) == size


def test_node_kinds_are_read_from_the_cluster_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray._private.state.state.get_cluster_config", lambda: None)
    assert addable_nodes(tmp_path / "none.yaml") == Addable()
    found = addable_nodes(Path(__file__).parents[2] / "clusters" / "gpu.yaml")
    assert found == Addable([NodeKind({"CPU": 8, "GPU": 1}, 8)] * 3, at_most=8)
    assert found.lanes(LaneSize(1, 4, 0.5)) == 16, "no more than max_workers, whatever their types"


def test_largest_types_of_node_are_counted_first() -> None:
    addable = Addable([NodeKind(PLAIN, 5), NodeKind(BIG, 2)], at_most=4)
    assert addable.lanes(LaneSize(1, 1, 0)) == 2 * 16 + 2 * 2
    assert addable.lanes(LaneSize(1, 1, 1)) == 2 * 4
    assert Addable().lanes(LaneSize(1, 1, 0)) == 0


def test_node_kinds_of_a_managed_platform_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [SimpleNamespace(resources={"CPU": 8, "GPU": 1}, max_count=n) for n in (3, -1)]
    published = SimpleNamespace(node_group_configs=groups)
    monkeypatch.setattr("ray._private.state.state.get_cluster_config", lambda: published)
    first, unbounded = addable_nodes(tmp_path / "none.yaml").kinds
    assert first == NodeKind({"CPU": 8, "GPU": 1}, 3) and unbounded.at_most > 1000


class FakeCluster:
    """The nodes and placement groups that ``capacity`` sees, and its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], kinds: list[NodeKind]):
        self.nodes, self.now = nodes, 100.0
        self.groups: list[list[dict[str, float]]] = []
        monkeypatch.setattr(capacity_module, "nodes_now", lambda: list(self.nodes))
        monkeypatch.setattr(capacity_module, "addable_nodes", lambda: Addable(kinds))
        monkeypatch.setattr(capacity_module, "placement_group", self.request)
        monkeypatch.setattr(capacity_module, "remove_placement_group", self.groups.remove)
        monkeypatch.setattr(capacity_module.time, "monotonic", lambda: self.now)

    def request(self, bundles: list[dict[str, float]], strategy: str) -> list[dict[str, float]]:
        assert strategy == "STRICT_PACK"
        self.groups.append(bundles)
        return bundles

    def later(self, capacity: Capacity, seconds: float = 3.0) -> int:
        self.now += seconds
        return capacity.lanes()


def test_lanes_follow_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(monkeypatch, [PLAIN, PLAIN], [])
    capacity = Capacity(ResourcesSection(lanes=3), remote=True)
    assert capacity.wanted == 3 and capacity.lanes() == 3
    cluster.nodes = [PLAIN]
    assert capacity.lanes() == 3, "nodes are looked at every few seconds only"
    assert cluster.later(capacity) == 2
    assert not cluster.groups, "without an autoscaler nothing is requested"


def test_missing_lanes_are_requested_from_the_autoscaler(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"CPU": 8.0, "GPU": 1.0}
    cluster = FakeCluster(monkeypatch, [{"CPU": 0.0}], [NodeKind(gpu, 4)])
    capacity = Capacity(ResourcesSection(cpus_per_lane=4, gpus_per_lane=0.5), remote=True)
    assert capacity.wanted == 8 and capacity.lanes() == 0
    assert cluster.groups == [[{"CPU": 4.0, "GPU": 0.5}]] * 8
    cluster.nodes.append(gpu)
    assert cluster.later(capacity) == 2 and len(cluster.groups) == 6
    capacity.close()
    assert not cluster.groups
    assert cluster.later(capacity) == 2 and not cluster.groups, "a closed capacity asks Ray no more"


def test_requests_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(monkeypatch, [], [NodeKind(PLAIN, 1000)])
    capacity = Capacity(ResourcesSection(), remote=True)
    assert capacity.wanted == 2000 and capacity.lanes() == 0 and len(cluster.groups) == 64


def test_no_room_reduces_the_lanes_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(monkeypatch, [{"CPU": 4.0}], [])
    capacity = Capacity(ResourcesSection(), remote=True)
    assert capacity.lanes() == 4
    capacity.no_room(2)
    assert capacity.lanes() == 2
    capacity.no_room(0)
    assert capacity.lanes() == 1, "one lane is always tried"
    assert cluster.later(capacity, 61) == 4


@pytest.mark.parametrize(
    ("cores", "lanes", "remote", "at_first"),
    [(2, 2, False, 1), (4, 1, False, 1), (4, 2, False, 1), (8, 2, False, 2), (2, 2, True, 2)],
)
def test_on_few_cores_the_first_lane_starts_alone(
    monkeypatch: pytest.MonkeyPatch, cores: float, lanes: int, remote: bool, at_first: int
) -> None:
    cluster = FakeCluster(monkeypatch, [{"CPU": cores}], [])
    capacity = Capacity(ResourcesSection(lanes=lanes), remote=remote)
    assert capacity.lanes() == at_first and cluster.later(capacity, 60) == at_first
    capacity.trial_started()
    assert capacity.lanes() == at_first
    assert cluster.later(capacity, 6) == lanes, "a long first trial does not keep the others waiting"


def test_the_end_of_the_first_trial_lets_the_other_lanes_start(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCluster(monkeypatch, [{"CPU": 2.0}], [])
    capacity = Capacity(ResourcesSection(lanes=2), remote=False)
    capacity.trial_started()
    capacity.trial_ended()
    assert capacity.lanes() == 2


def test_lane_that_fits_on_no_node_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCluster(monkeypatch, [PLAIN], [])
    with pytest.raises(InputError, match=r"needs 8 CPU and 0 GPU.*at most 2 CPU, 0 GPU.*lower cpus_per_lane"):
        Capacity(ResourcesSection(cpus_per_lane=8), remote=False)


def test_lane_for_whose_memory_no_node_is_large_enough_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCluster(monkeypatch, [{"CPU": 2.0, "memory": 3 * GIB, "node:10.0.0.5": 1.0}], [])
    found = (
        r"node 10\.0\.0\.5 takes no lane in place of 2: it offers 3\.0 GiB of memory.*needs 4\.0 GiB; add memory, or"
    )
    with pytest.raises(InputError, match=found):
        Capacity(ResourcesSection(memory_gib=4), remote=False)
    assert Capacity(ResourcesSection(memory_gib=0), remote=False).wanted == 2


def test_why_memory_keeps_lanes_from_a_node_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    cluster = FakeCluster(monkeypatch, [{"CPU": 2.0, "memory": 9 * GIB}], [])
    capacity = Capacity(ResourcesSection(lanes=3, memory_gib=4), remote=True, tell=told.append)
    assert capacity.lanes() == 2 and not told
    cluster.nodes.append({"CPU": 8.0, "memory": 1 * GIB, "node:10.0.0.6": 1.0})
    assert cluster.later(capacity) == cluster.later(capacity) == 2
    (line,) = told
    assert line.startswith("node 10.0.0.6 takes no lane in place of 8: ") and "set resources.memory_gib" in line
    cluster.nodes.append({"CPU": 8.0, "memory": 5 * GIB, "node:10.0.0.7": 1.0})
    assert cluster.later(capacity) == 3
    assert len(told) == 1, "as many lanes as wanted: nothing is missing"


def test_nodes_that_join_add_to_as_many_lanes_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(monkeypatch, [PLAIN], [])
    capacity = Capacity(ResourcesSection(lanes="auto"), remote=True)
    assert capacity.lanes() == capacity.wanted == 2
    cluster.nodes.append({"CPU": 4.0})
    assert cluster.later(capacity) == capacity.wanted == 6


@pytest.mark.parametrize("stated", [True, False])
def test_requests_name_memory_where_the_types_of_node_state_it(monkeypatch: pytest.MonkeyPatch, stated: bool) -> None:
    kind = {"CPU": 8.0} | ({"memory": 17.0 * GIB} if stated else {})
    cluster = FakeCluster(monkeypatch, [], [NodeKind(kind, 1)])
    capacity = Capacity(ResourcesSection(memory_gib=8), remote=True)
    assert capacity.wanted == (2 if stated else 8) and capacity.lanes() == 0
    assert cluster.groups == [[{"CPU": 1, "memory": 8 * GIB} if stated else {"CPU": 1}]] * capacity.wanted
