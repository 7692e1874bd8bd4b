"""How many lanes fit on the present nodes and on those that an autoscaler can add."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import yaml
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from amsam_ray.config.space import ResourcesSection
from amsam_ray.errors import InputError, Problem
from amsam_ray.search.lane_memory import LaneMemory
from amsam_ray.search.lane_size import REMEDY, LaneSize, Resources, lane_size

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0
_MAX_REQUESTS = 64
# Processes that a lane starts, most of whose start is imports: on a machine with fewer cores, lanes that start together
# delay each other, and with them the first trial.
_LANE_PROCESSES = 4
_FIRST_TRIAL_S = 5.0  # how long the other lanes wait for the end of the first trial
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml").expanduser()
_UNBOUNDED = 1 << 20


@dataclass(frozen=True)
class NodeKind:
    """A type of node that an autoscaler can add, and the maximum number of such nodes.

    Its memory is often not stated, and then taken to be enough.
    """

    resources: Resources
    at_most: int


def nodes_now() -> list[Resources]:
    """Return the resources of every node that is alive."""
    # What a node offers none of has no entry.
    return [{"memory": 0.0, **node["Resources"]} for node in ray.nodes() if node["Alive"]]


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
        memory: the estimate of what a lane holds in memory; None: only what the section asks for.
        tell: receives why a node's memory holds fewer lanes than its CPUs and GPUs, once per node.

    Raises:
        InputError: no node, present or addable, is large enough for one lane.
    """

    def __init__(
        self,
        wanted: ResourcesSection,
        *,
        remote: bool,
        memory: LaneMemory | None = None,
        tell: Callable[[str], None] = logger.warning,
    ):
        addable, nodes = addable_nodes() if remote else Addable(), nodes_now()
        self.size = lane_size(wanted, [kind.resources for kind in addable.kinds] + nodes, memory)
        self._tell, self._told = tell, set[str]()
        possible = max(sum(self.size.fits(node) for node in nodes), addable.lanes(self.size))
        if possible == 0:
            raise InputError(
                Problem("resources", _too_large(self.size, nodes + [kind.resources for kind in addable.kinds]))
            )
        self.wanted = possible if wanted.lanes == "auto" else wanted.lanes
        self._fill = wanted.lanes == "auto"
        few_cores = sum(node.get("CPU", 0.0) for node in nodes) < _LANE_PROCESSES * self.wanted
        self._alone_until = math.inf if few_cores and not remote else -math.inf
        self._ask = bool(addable.kinds)
        # An autoscaler takes a type that states no memory to have none, and would never add it.
        knows_memory = all("memory" in kind.resources for kind in addable.kinds)
        self._request_size = self.size if knows_memory else replace(self.size, memory=0)
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
            nodes = nodes_now()
            self._explain(nodes)
            fit = sum(self.size.fits(node) for node in nodes)
            if self._fill:
                self.wanted = max(self.wanted, fit)  # of nodes that have joined since
            self._lanes = min(self.wanted, fit)
            self._request(self.wanted - self._lanes if self._ask else 0)
        until, most = self._no_room
        lanes = min(self._lanes, most) if now < until else self._lanes
        return min(1, lanes) if now < self._alone_until else lanes

    def _explain(self, nodes: list[Resources]) -> None:
        """Tell why memory keeps lanes from a node, if it does and more lanes are wanted than there are."""
        if not self._fill and sum(self.size.fits(node) for node in nodes) >= self.wanted:
            return
        for line in lacks_of_memory(self.size, nodes):
            if line not in self._told:
                self._told.add(line)
                self._tell(f"{line}; {REMEDY}")

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
        bundle = self._request_size.request
        while len(self._requests) < min(missing, _MAX_REQUESTS):
            self._requests.append(placement_group([bundle] * self.size.workers, strategy="STRICT_PACK"))


def lacks_of_memory(size: LaneSize, nodes: Sequence[Resources]) -> Iterator[str]:
    """Yield, for each node whose memory holds fewer lanes than its CPUs and GPUs, its address and what it lacks."""
    for node in nodes:
        if lack := size.lack_of_memory(node):
            yield f"{_name(node)} {lack}"


def _name(node: Resources) -> str:
    """Return a node's address, which Ray gives as a resource to those that are up."""
    addresses = (key.removeprefix("node:") for key in node if key.startswith("node:") and "__" not in key)
    address = next(addresses, None)
    return "a node that can be added" if address is None else f"node {address}"


def _too_large(size: LaneSize, nodes: list[Resources]) -> str:
    if lacks := list(lacks_of_memory(size, nodes)):
        return f"no node has the memory of a lane: {', and '.join(lacks)}; {REMEDY}"
    cpus, gpus = (max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in ("CPU", "GPU"))
    return (
        f"a lane needs {size.workers * size.cpus:g} CPU and {size.total_gpus:g} GPU, more than any node has "
        f"(at most {cpus:g} CPU, {gpus:g} GPU); lower cpus_per_lane or gpus_per_lane"
    )
