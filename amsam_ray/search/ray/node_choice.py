"""The choice between types of node for Ray's autoscaler, on the head of a cluster with several types.

Ray's own choice (2.60) asks again and again for a type of which the cloud has no machine left. `clusters/gpu.yaml`
names ``prefer_available`` in the variable RAY_AUTOSCALER_UTILIZATION_SCORER, which the first version of the autoscaler
reads.
"""

from __future__ import annotations

from typing import Any

from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer


def prefer_available(
    node_resources: dict[str, Any],
    resources: list[dict[str, Any]],
    node_type: str,
    *,
    node_availability_summary: NodeAvailabilitySummary,
) -> Any:
    """Return the score of a type of node for what is missing; Ray starts the type with the largest one.

    A type that could not be started within the last half hour comes after all others. Between equal scores, Ray takes
    the alphabetically last name.

    Args:
        node_resources: of one node of this type.
        resources: of the processes that wait.
        node_type: its name.
        node_availability_summary: how the last start of a node of each type ended.

    Returns:
        A tuple, or None if nothing that waits fits on such a node.
    """
    score = _default_utilization_scorer(
        node_resources, resources, node_type, node_availability_summary=node_availability_summary
    )
    if score is None:
        return None
    record = node_availability_summary.node_availabilities.get(node_type)
    return (record is None or record.is_available, *score)
