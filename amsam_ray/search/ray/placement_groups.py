"""Removes the placement groups of dead lanes.

Ray keeps a placement group until the whole job ends, even if the actor that created it is dead. Ray Train therefore
starts a process per run that watches the run's controller through Ray's dashboard; without a dashboard that process
sees nothing, and the dead lane's CPUs and GPUs stay reserved. The driver learns of every lane that dies and removes its
groups instead.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from amsam_ray.search.lane_size import LaneSize


class LanePlacementGroups:
    """The placement groups of this driver's lanes.

    Args:
        size: of a lane, which identifies its groups.
    """

    def __init__(self, size: LaneSize):
        self._bundle = size.bundle
        self._workers = size.workers

    def remove(self, group: str) -> None:
        """Remove the group with this id (hex), and everything that still runs in it."""
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))

    def remove_others(self, known: Collection[str]) -> None:
        """Remove every group of a lane's size that this driver's job created and that is not ``known``."""
        job = ray.get_runtime_context().get_job_id()
        for group, entry in placement_group_table().items():
            # The id of a placement group ends with that of its job.
            if group.endswith(job) and group not in known and entry["state"] != "REMOVED" and self._fits(entry):
                self.remove(group)

    def _fits(self, entry: dict[str, Any]) -> bool:
        bundles = list(entry["bundles"].values())
        return len(bundles) == self._workers and all(
            bundle.keys() == self._bundle.keys()
            and all(math.isclose(bundle[kind], amount, abs_tol=1e-4) for kind, amount in self._bundle.items())
            for bundle in bundles
        )
