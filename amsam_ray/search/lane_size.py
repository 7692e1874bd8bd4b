"""The size of a lane, and how many lanes fit on a node. Uses no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from amsam_ray.config.space import ResourcesSection, SpaceFile
from amsam_ray.errors import counted
from amsam_ray.search.lane_memory import LaneMemory, lane_memory

GIB = 2**30
# The share of a lane's CPUs that its own process reserves: the least that Ray counts, but enough to place it on a node
# that can run trials, not on a small head node that offers no CPU.
LANE_CPUS = 0.0001
# What workers leave of their CPUs: Ray may place the processes of many lanes on one node, and its workers must fit too.
_LEFT = 0.01
REMEDY = "add memory, or set resources.memory_gib to what a lane takes"
_EPS = 1e-6

Resources = Mapping[str, float]
"""What a node offers, in Ray's names: ``CPU``, ``GPU``, and ``memory`` in bytes; without ``memory``: enough."""


@dataclass(frozen=True)
class LaneSize:
    """The resources of one lane; all its workers run on one node.

    Attributes:
        workers: data-parallel training workers.
        cpus, gpus: of each worker; gpus may be a fraction.
        memory: of each worker, in bytes, with its share of the lane's other processes; 0: nodes' memory is ignored.
    """

    workers: int
    cpus: float
    gpus: float
    memory: int = 0

    @property
    def worker_cpus(self) -> float:
        """CPUs to request for each worker: its own minus room for the processes of lanes."""
        return min(self.cpus * (1 - _LEFT), self.cpus - LANE_CPUS / self.workers)

    @property
    def total_gpus(self) -> float:
        """GPUs of the whole lane."""
        return self.workers * self.gpus

    @property
    def total_memory_gib(self) -> float:
        """Memory of the whole lane in GiB."""
        return self.workers * self.memory / GIB

    @property
    def bundle(self) -> dict[str, float]:
        """What each worker's process reserves, in Ray's names."""
        return _bundle(self.worker_cpus, self.gpus, self.memory)

    @property
    def request(self) -> dict[str, float]:
        """What a node must offer for each worker, the share of the lane's process included, in Ray's names."""
        return _bundle(self.cpus, self.gpus, self.memory)

    def fits(self, node: Resources) -> int:
        """Return how many such lanes fit on a node."""
        workers = int(node.get("CPU", 0.0) / self.cpus + _EPS)
        if self.gpus > 0:
            gpus = int(node.get("GPU", 0.0) + _EPS)
            # A fraction of a GPU must be on one GPU; whole GPUs are counted.
            per_gpu = int(1 / self.gpus + _EPS)
            workers = min(workers, gpus * per_gpu if self.gpus < 1 else int(gpus / self.gpus + _EPS))
        if self.memory and "memory" in node:
            workers = min(workers, int(node["memory"] / self.memory + _EPS))
        return workers // self.workers

    def fits_without_memory(self, node: Resources) -> int:
        """Return how many such lanes the node's CPUs and GPUs hold."""
        return replace(self, memory=0).fits(node)

    def lack_of_memory(self, node: Resources) -> str | None:
        """Return how a node's memory holds fewer lanes than its CPUs and GPUs, for ``REMEDY``; None if it does not."""
        lanes, others = self.fits(node), self.fits_without_memory(node)
        if lanes >= others:
            return None
        takes = counted(lanes, "lane") if lanes else "no lane"
        has = f"it offers {node['memory'] / GIB:.1f} GiB of memory, and a lane needs {self.total_memory_gib:.1f} GiB"
        return f"takes {takes} in place of {others}: {has}"


def _bundle(cpus: float, gpus: float, memory: int) -> dict[str, float]:
    return {"CPU": cpus} | ({"GPU": gpus} if gpus else {}) | ({"memory": memory} if memory else {})


def least_memory_gib(space: SpaceFile) -> float:
    """Return what a lane of the space needs at least in memory, in GiB, on whatever node it runs."""
    if space.resources.memory_gib != "auto":
        return space.resources.memory_gib
    estimate = lane_memory(space)
    return (min(estimate.on_cpu, estimate.on_gpu) + estimate.lane) / GIB


def lane_size(wanted: ResourcesSection, nodes: Sequence[Resources], estimate: LaneMemory | None = None) -> LaneSize:
    """Return the size of a lane on a cluster of such nodes.

    Args:
        wanted: the space file's section. Its ``cpus_per_lane``, ``gpus_per_lane`` and ``memory_gib`` are shared by the
            lane's workers.
        nodes: resources of one node of each kind.
        estimate: what ``memory_gib: auto`` means; None: nothing.
    """
    gpus = wanted.gpus_per_lane
    if gpus == "auto":
        gpus = 1.0 if any(node.get("GPU", 0.0) >= 1 for node in nodes) else 0.0
    workers = int(gpus) if gpus > 1 else wanted.workers_per_lane
    if wanted.memory_gib != "auto":
        memory = int(wanted.memory_gib * GIB / workers)
    elif estimate is None:
        memory = 0
    else:
        memory = estimate.of_worker(workers, on_gpu=gpus > 0)
    return LaneSize(workers, wanted.cpus_per_lane / workers, gpus / workers, memory)
