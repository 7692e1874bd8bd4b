"""Placement groups of lanes that are gone.

Ray keeps a placement group until the whole job ends, even if the actor that made it is dead. Ray Train therefore
starts a process per run that watches the run's controller through Ray's dashboard; without a dashboard it sees nothing,
and the dead lane's CPUs and GPUs are lost to the sweep. Here the driver, which hears of every lane that dies, takes
them back.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from amsam_ray.search.ray.capacity import LaneSize


class LaneGroups:
    """The placement groups of this driver's lanes.

    Args:
        size: of a lane, by which its groups are told from others.
    """

    def __init__(self, size: LaneSize):
        self._bundle = {"CPU": size.worker_cpus} | ({"GPU": size.gpus} if size.gpus else {})
        self._workers = size.workers

    def remove(self, group: str) -> None:
        """Remove the group with this id (hex), and what still runs in it."""
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))

    def remove_others(self, known: Collection[str]) -> None:
        """Remove every group of a lane's size that this driver's job has made and that is not ``known``."""
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
