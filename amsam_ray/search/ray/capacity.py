"""The size of a lane, and how many lanes fit on the present nodes and on those that an autoscaler can add."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
import yaml
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from amsam_ray.config.space import ResourcesSection
from amsam_ray.errors import InputError, Problem

_LOOK_EVERY_S = 2.0
_MAX_REQUESTS = 64
_EPS = 1e-6
# The share of a lane's CPUs that its own process reserves: almost none, but enough to place it on a node that can run
# trials, not on a small head node that offers no CPU.
LANE_CPUS = 0.001
# Processes that a lane starts, most of whose start is imports: on a machine with fewer cores, lanes that start together
# delay each other, and with them the first trial.
_LANE_PROCESSES = 4
_FIRST_TRIAL_S = 5.0  # how long the other lanes wait for the end of the first trial
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml").expanduser()
_UNBOUNDED = 1 << 20

Resources = Mapping[str, float]


@dataclass(frozen=True)
class LaneSize:
    """The resources of one lane; all its workers run on one node.

    Attributes:
        workers: data-parallel training workers.
        cpus, gpus: of each worker; gpus may be a fraction.
    """

    workers: int
    cpus: float
    gpus: float

    @property
    def worker_cpus(self) -> float:
        """CPUs to request for each worker: its own minus the share of the lane's process."""
        return self.cpus - LANE_CPUS / self.workers

    @property
    def total_gpus(self) -> float:
        """GPUs of the whole lane."""
        return self.workers * self.gpus

    def fits(self, node: Resources) -> int:
        """Return how many such lanes fit on a node."""
        by_cpu = int(node.get("CPU", 0.0) / self.cpus + _EPS)
        if self.gpus == 0:
            return by_cpu // self.workers
        gpus = int(node.get("GPU", 0.0) + _EPS)
        # A fraction of a GPU must be on one GPU; whole GPUs are counted.
        by_gpu = gpus * int(1 / self.gpus + _EPS) if self.gpus < 1 else int(gpus / self.gpus + _EPS)
        return min(by_cpu, by_gpu) // self.workers


def lane_size(wanted: ResourcesSection, nodes: list[Resources]) -> LaneSize:
    """Return the size of a lane on a cluster of such nodes.

    Args:
        wanted: the space file's section. Its ``cpus_per_lane`` and ``gpus_per_lane`` are shared by the lane's workers.
        nodes: resources of one node of each kind.
    """
    gpus = wanted.gpus_per_lane
    if gpus == "auto":
        gpus = 1.0 if any(node.get("GPU", 0.0) >= 1 for node in nodes) else 0.0
    workers = int(gpus) if gpus > 1 else wanted.workers_per_lane
    return LaneSize(workers, wanted.cpus_per_lane / workers, gpus / workers)


@dataclass(frozen=True)
class NodeKind:
    """A type of node that an autoscaler can add, and the maximum number of such nodes."""

    resources: Resources
    at_most: int


def nodes_now() -> list[Resources]:
    """Return the resources of every node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@dataclass(frozen=True)
class Addable:
    """What an autoscaler can add.

    Attributes:
        kinds: the types of node; empty if there is no autoscaler.
        at_most: the maximum number of nodes of all types together.
    """

    kinds: Sequence[NodeKind] = ()
    at_most: int = _UNBOUNDED

    def lanes(self, size: LaneSize) -> int:
        """Return how many lanes fit on as many nodes as can be added, the types with the most lanes first."""
        lanes, left = 0, self.at_most
        for kind in sorted(self.kinds, key=lambda kind: size.fits(kind.resources), reverse=True):
            nodes = min(left, kind.at_most)
            lanes, left = lanes + nodes * size.fits(kind.resources), left - nodes
        return lanes


def addable_nodes(bootstrap: Path = BOOTSTRAP) -> Addable:
    """Return what the cluster's autoscaler can add.

    Args:
        bootstrap: where ``ray up`` stores the cluster file on the head node.
    """
    # Managed platforms publish this; Ray Train reads it likewise, as there is no public name for it.
    published = ray._private.state.state.get_cluster_config()
    if published is not None:
        groups = [(group.resources, group.max_count) for group in published.node_group_configs]
        return Addable([NodeKind(dict(resources), most if most >= 0 else _UNBOUNDED) for resources, most in groups])
    if not bootstrap.is_file():
        return Addable()
    config = yaml.safe_load(bootstrap.read_text())
    at_most = int(config.get("max_workers", 0))
    kinds = [
        NodeKind(kind.get("resources", {}), min(at_most, int(kind.get("max_workers", at_most))))
        for name, kind in config.get("available_node_types", {}).items()
        if name != config.get("head_node_type")
    ]
    return Addable(kinds, at_most)


class Capacity:
    """The number of lanes that there may be now, and the target.

    On a machine of its own with few cores there is one lane until its first trial has ended, or has run for a while.
    While fewer lanes fit than are wanted, placement groups for the missing ones wait in the cluster's queue. An
    autoscaler reads them as demand and adds nodes. They are removed when this driver ends.

    Args:
        wanted: the space file's section.
        remote: whether the cluster was not started by this process for itself.

    Raises:
        InputError: no node, present or addable, is large enough for one lane.
    """

    def __init__(self, wanted: ResourcesSection, *, remote: bool):
        addable, nodes = addable_nodes() if remote else Addable(), nodes_now()
        self.size = lane_size(wanted, [kind.resources for kind in addable.kinds] + nodes)
        possible = max(sum(self.size.fits(node) for node in nodes), addable.lanes(self.size))
        if possible == 0:
            raise InputError(Problem("resources", _too_large(self.size, nodes)))
        self.wanted = possible if wanted.lanes == "auto" else wanted.lanes
        few_cores = sum(node.get("CPU", 0.0) for node in nodes) < _LANE_PROCESSES * self.wanted
        self._alone_until = math.inf if few_cores and not remote else -math.inf
        self._ask = bool(addable.kinds)
        self._requests: list[PlacementGroup] = []
        self._looked, self._lanes = -math.inf, 0
        self._no_room = (-math.inf, 0)
        self._lock = threading.Lock()

    def lanes(self) -> int:
        """Return how many lanes there may be now."""
        with self._lock:
            return self._lanes_now(time.monotonic())

    def _lanes_now(self, now: float) -> int:
        if now - self._looked >= _LOOK_EVERY_S:
            self._looked = now
            self._lanes = min(self.wanted, sum(self.size.fits(node) for node in nodes_now()))
            self._request(self.wanted - self._lanes if self._ask else 0)
        until, most = self._no_room
        lanes = min(self._lanes, most) if now < until else self._lanes
        return min(1, lanes) if now < self._alone_until else lanes

    def trial_started(self) -> None:
        """Let the other lanes start soon."""
        self._alone_until = min(self._alone_until, time.monotonic() + _FIRST_TRIAL_S)

    def trial_ended(self) -> None:
        """Let the other lanes start."""
        self._alone_until = -math.inf

    def no_room(self, lanes: int) -> None:
        """Limit the lanes to ``lanes`` for a minute, after one found no room because others use the cluster."""
        self._no_room = (time.monotonic() + 60, max(1, lanes))

    def close(self) -> None:
        """Withdraw the requests for nodes. ``lanes`` then asks Ray no more, as the connection may be closed."""
        with self._lock:
            self._looked = math.inf
            self._request(0)

    def _request(self, missing: int) -> None:
        while len(self._requests) > max(0, min(missing, _MAX_REQUESTS)):
            remove_placement_group(self._requests.pop(0))
        bundle = {"CPU": self.size.cpus} | ({"GPU": self.size.gpus} if self.size.gpus else {})
        while len(self._requests) < min(missing, _MAX_REQUESTS):
            self._requests.append(placement_group([bundle] * self.size.workers, strategy="STRICT_PACK"))


def _too_large(size: LaneSize, nodes: list[Resources]) -> str:
    cpus, gpus = (max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in ("CPU", "GPU"))
    return (
        f"a lane needs {size.workers * size.cpus:g} CPU and {size.total_gpus:g} GPU, more than any node has "
        f"(at most {cpus:g} CPU, {gpus:g} GPU); lower cpus_per_lane or gpus_per_lane"
    )
