"""How many lanes fit on a node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from amsam_ray.config.space import ResourcesSection
from amsam_ray.search.ray.capacity import LaneSize, NodeKind, lane_size, node_kinds

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
def test_lanes_that_fit_on_a_node(size: LaneSize, node: dict[str, float], fits: int) -> None:
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
def test_the_size_of_a_lane(wanted: dict[str, Any], nodes: list[Mapping[str, float]], size: LaneSize) -> None:
    assert lane_size(ResourcesSection(**wanted), nodes) == size


def test_what_an_autoscaler_can_bring_is_read_from_the_clusters_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray._private.state.state.get_cluster_config", lambda: None)
    assert node_kinds(tmp_path / "none.yaml") == []
    assert node_kinds(Path(__file__).parents[2] / "clusters" / "gpu.yaml") == [NodeKind({"CPU": 8, "GPU": 1}, 8)]
