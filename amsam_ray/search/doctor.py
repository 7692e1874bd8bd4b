"""What ``amsam-ray doctor`` reports: one line per check, with the remedy. Uses no Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from amsam_ray.config.space import SpaceFile
from amsam_ray.errors import counted
from amsam_ray.search.lane_memory import lane_memory
from amsam_ray.search.lane_size import GIB, REMEDY, lane_size
from amsam_ray.search.lease import STALE_AFTER_S
from amsam_ray.search.node_facts import NodeFacts

Level = Literal["ok", "warning", "fault"]

_LITTLE_DISK, _NO_DISK, _LITTLE_MEMORY = 20.0, 2.0, 4.0  # GiB
_SKEW_S = 5.0
_SUBJECTS = {
    "storage": "the storage can be read and written",
    "data": "the data are there",
    "weights": "the weights are there",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: ``fault``: sweeps fail; ``warning``: they may.
        where: the node, or ``cluster``.
        what: what was found; of a warning or a fault, the remedy after a semicolon.
    """

    level: Level
    where: str
    what: str


@dataclass(frozen=True)
class NodeReport:
    """A node, and what it says about itself.

    Attributes:
        name: for the report.
        facts: None if it could not be asked.
        versions: of Python, this package, Ray and torch; asked first, so that a node with another version has them.
        error: why it could not be asked.
        skew_s: its clock minus the driver's, in seconds.
        resources: what it offers to Ray; None without a cluster.
        runs_trials: whether lanes may be placed on it.
    """

    name: str
    facts: NodeFacts | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    skew_s: float = 0.0
    resources: Mapping[str, float] | None = None
    runs_trials: bool = True


def diagnose(nodes: Sequence[NodeReport], driver: Mapping[str, str], space: SpaceFile | None) -> list[Finding]:
    """Return the findings on all nodes.

    Args:
        nodes: of the cluster, or this machine alone.
        driver: versions of the driver.
        space: the space file, for the GPUs that it wants; None: unknown.
    """
    found = [finding for node in nodes for finding in _findings(node, driver)]
    wanted = space.resources.gpus_per_lane if space is not None else "auto"
    if wanted != "auto" and wanted > 0 and not any(node.facts and node.facts.torch_gpus for node in nodes):
        what = f"the space file wants {wanted:g} GPU for a lane and no node has a GPU that torch can use"
        found.append(Finding("fault", "cluster", f"{what}; add a GPU node or set resources.gpus_per_lane to 0"))
    return found if space is None else [*found, *_lanes(nodes, space)]


def _lanes(nodes: Sequence[NodeReport], space: SpaceFile) -> Iterator[Finding]:
    """Yield how many lanes of the space each node holds, and where its memory holds fewer than its CPUs and GPUs."""
    offers = {node.name: _offer(node, node.facts) for node in nodes if node.facts is not None and node.runs_trials}
    size = lane_size(space.resources, list(offers.values()), lane_memory(space))
    none = not any(size.fits(offer) for offer in offers.values())
    for name, offer in offers.items():
        if lack := size.lack_of_memory(offer):
            yield Finding("fault" if none else "warning", name, f"{lack}; {REMEDY}")
        elif lanes := size.fits(offer):
            memory = f" and {size.total_memory_gib:.1f} GiB of memory" if size.memory else ""
            each = f"{size.workers * size.cpus:g} CPU, {size.total_gpus:g} GPU{memory}"
            yield Finding("ok", name, f"holds {counted(lanes, 'lane')} of {each}")


def _offer(node: NodeReport, facts: NodeFacts) -> Mapping[str, float]:
    if node.resources is not None:
        return node.resources
    return {"CPU": float(facts.cores), "GPU": float(facts.torch_gpus), "memory": facts.memory_gib * GIB}


def _findings(node: NodeReport, driver: Mapping[str, str]) -> Iterator[Finding]:
    if node.versions:
        yield _versions(node, driver)
    if node.facts is None:
        if node.error:
            yield Finding("fault", node.name, node.error)
        return
    facts = node.facts
    yield _gpus(node, facts)
    if facts.memory_gib < _LITTLE_MEMORY:
        remedy = "end other programs, or run fewer lanes"
        yield Finding("warning", node.name, f"{facts.memory_gib:.1f} GiB of memory are available; {remedy}")
    else:
        yield Finding("ok", node.name, f"{facts.memory_gib:.1f} GiB of memory are available")
    disk = f"{facts.disk_gib:.1f} GiB are free at {facts.cache}"
    if facts.disk_gib < _LITTLE_DISK:
        level: Level = "fault" if facts.disk_gib < _NO_DISK else "warning"
        yield Finding(level, node.name, f"{disk}; free some space or set AMSAM_CACHE_DIR to a larger disk")
    else:
        yield Finding("ok", node.name, disk)
    if node.resources is not None:
        yield _clock(node)
    for subject, right in _SUBJECTS.items():
        if subject in facts.problems and (node.runs_trials or subject == "storage"):
            yield from _checked(node.name, subject, facts.problems[subject], right, facts.conditional)


def _versions(node: NodeReport, driver: Mapping[str, str]) -> Finding:
    told = ", ".join(f"{name} {version or 'missing'}" for name, version in node.versions.items())
    other = [name for name, version in driver.items() if node.versions.get(name) != version]
    if not other:
        return Finding("ok", node.name, told)
    differ = ", ".join(
        f"{name} {node.versions.get(name) or 'missing'} (the driver has {driver[name]})" for name in other
    )
    return Finding("fault", node.name, f"{differ}; install the driver's versions on this node and restart Ray there")


def _gpus(node: NodeReport, facts: NodeFacts) -> Finding:
    if not facts.gpus:
        runs = f"trials run on its {counted(facts.cores, 'CPU core')}" if node.runs_trials else "it runs no trials"
        return Finding("ok", node.name, f"no NVIDIA GPU; {runs}")
    told = ", ".join(f"{count} x {name}" for name, count in Counter(facts.gpus).items())
    told += f", driver {facts.driver}"
    if facts.torch_gpus < len(facts.gpus):
        remedy = "update the driver, or install a torch built for it"
        return Finding("fault", node.name, f"{told}; torch can use {facts.torch_gpus} of them: {remedy}")
    offered = (node.resources or {}).get("GPU", 0.0)
    if node.resources is not None and offered < len(facts.gpus):
        remedy = f"restart Ray there with --num-gpus={len(facts.gpus)}"
        return Finding("warning", node.name, f"{told}; Ray offers {offered:g} of them: {remedy}")
    return Finding("ok", node.name, told)


def _clock(node: NodeReport) -> Finding:
    if abs(node.skew_s) < _SKEW_S:
        return Finding("ok", node.name, f"its clock is within {_SKEW_S:g} s of the driver's")
    direction = "ahead of" if node.skew_s > 0 else "behind"
    level: Level = "fault" if abs(node.skew_s) > STALE_AFTER_S else "warning"
    what = f"its clock is {abs(node.skew_s):.0f} s {direction} the driver's; set the clocks, for example with chrony"
    return Finding(level, node.name, what)


def _checked(
    where: str, subject: str, problems: Iterable[str], right: str, conditional: bool | None
) -> Iterator[Finding]:
    problems = list(problems)
    yield from (Finding("fault", where, f"{subject}: {problem}") for problem in problems)
    if problems:
        return
    if subject == "storage" and conditional is False:
        what = "the storage ignores conditional writes, so it does not decide races between drivers"
        yield Finding("warning", where, f"{what}; start each sweep from one machine only, or use another server")
        return
    honoured = ", and honours conditional writes" if subject == "storage" else ""
    yield Finding("ok", where, f"{right}{honoured}")
