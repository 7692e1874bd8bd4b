"""Which type of node the autoscaler starts, asked through the function with which Ray itself asks."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from ray.autoscaler._private.constants import AUTOSCALER_UTILIZATION_SCORER_KEY
from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilityRecord, NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import get_nodes_for

from amsam_ray.search.ray.node_choice import prefer_available
from tests.clusters.cluster_files import GPU, read

LANE: dict[str, Any] = {"CPU": 4.0, "GPU": 0.5}


def started(lanes: int, **available: bool) -> dict[str, int]:
    """Return how many nodes of each type of `clusters/gpu.yaml` are started for so many lanes."""
    config = read(GPU)
    records = {name: NodeAvailabilityRecord(name, up, 0.0, None) for name, up in available.items()}
    score = partial(prefer_available, node_availability_summary=NodeAvailabilitySummary(records))
    most = config["max_workers"]
    nodes, _ = get_nodes_for(config["available_node_types"], {}, "head", most, [LANE] * lanes, score)
    return dict(nodes)


@pytest.mark.parametrize(
    ("available", "taken"),
    [
        ({}, "gpu_3_l4"),
        ({"gpu_3_l4": True}, "gpu_3_l4"),
        ({"gpu_3_l4": False}, "gpu_2_a10g"),
        ({"gpu_3_l4": False, "gpu_2_a10g": False}, "gpu_1_l40s"),
        ({"gpu_3_l4": False, "gpu_2_a10g": False, "gpu_1_l40s": False}, "gpu_3_l4"),
    ],
)
def test_type_that_could_not_be_started_comes_after_the_others(available: dict[str, bool], taken: str) -> None:
    assert started(3, **available) == {taken: 2}
    assert started(100, **available) == {taken: 8}


def test_cluster_file_names_the_function() -> None:
    named = f"{AUTOSCALER_UTILIZATION_SCORER_KEY}={prefer_available.__module__}.{prefer_available.__name__} "
    assert any(named in command for command in read(GPU)["head_start_ray_commands"])
