"""Ask every node of a cluster about itself, by a short Ray task on each."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import ray
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from amsam_ray.errors import counted
from amsam_ray.search.doctor import Finding, NodeReport
from amsam_ray.search.node_facts import Request, examine
from amsam_ray.storage.base import StorageError
from amsam_ray.storage.open import open_storage

_ANSWER_S = 180.0  # a first task starts a process, which imports torch
_AUTHENTICATE = (
    "create a token with `ray get-auth-token --generate`, copy it to every node and set RAY_AUTH_MODE=token there"
)


Node = dict[str, Any]
Take = Callable[[NodeReport, Any], NodeReport]


def ask_nodes(request: Request, driver: dict[str, str]) -> tuple[list[NodeReport], list[Finding]]:
    """Ask all nodes that are alive.

    Args:
        request: what to look at.
        driver: versions of this process. A node with others is asked no further, as it may not understand.

    Returns:
        A report per node, and what concerns the cluster as a whole.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = {_name(node, alive): node for node in alive}
    offers = {name: {"memory": 0.0, **node["Resources"]} for name, node in nodes.items()}
    reports = [
        NodeReport(name, resources=offer, runs_trials=offer.get("CPU", 0.0) > 0) for name, offer in offers.items()
    ]
    reports = _ask(reports, nodes, _version_task(), take=lambda report, told: replace(report, versions=told))
    reports = [_with_clock(report, nodes) if report.versions else report for report in reports]
    same = [report for report in reports if report.versions == driver]
    with _shared(request) as asked:
        take: Take = lambda report, facts: replace(report, facts=facts)  # noqa: E731
        complete = {report.name: report for report in _ask(same, nodes, ray.remote(examine), asked, take=take)}
    return [complete.get(report.name, report) for report in reports], list(_of_cluster(alive))


def _name(node: Node, alive: list[Node]) -> str:
    """Return a node's address, with the beginning of its id where several nodes have one address."""
    address = node["NodeManagerAddress"]
    alone = sum(other["NodeManagerAddress"] == address for other in alive) == 1
    return f"node {address}" if alone else f"node {address} ({node['NodeID'][:6]})"


@contextlib.contextmanager
def _shared(request: Request) -> Iterator[Request]:
    """Write an object to the storage that every node must see, and delete it at the end."""
    if request.storage is None:
        yield request
        return
    key = f"doctor-{uuid.uuid4().hex}"
    storage = open_storage(request.storage, patient=False)
    try:
        storage.put(key, b"")
    except (StorageError, OSError):
        yield request  # the nodes report it
        return
    try:
        yield replace(request, shared_key=key)
    finally:
        with contextlib.suppress(StorageError, OSError):
            storage.delete(key)


def _of_cluster(alive: list[Node]) -> Iterator[Finding]:
    """Yield what concerns the cluster as a whole: nodes that have stopped, and authentication."""
    present = {node["NodeManagerAddress"] for node in alive}
    yield Finding("ok", "cluster", f"{counted(len(alive), 'node')} with Ray")
    stopped = [node for node in ray.nodes() if not node["Alive"]]
    for address in dict.fromkeys(node["NodeManagerAddress"] for node in stopped):
        count = sum(node["NodeManagerAddress"] == address for node in stopped)
        again = " (other nodes of this address run)" if address in present else ""
        what = f"{counted(count, 'node')} at {address} stopped{again}"
        yield Finding("warning", "cluster", f"{what}; unless it was reclaimed or idle, start Ray there again")
    if is_token_auth_enabled():
        yield Finding("ok", "cluster", "token authentication is on")
    else:
        what = "token authentication is off: who reaches the cluster's ports can run code on it"
        yield Finding("warning", "cluster", f"{what}; {_AUTHENTICATE}")


def _version_task() -> Any:
    """Return a task that travels by value, so that it also runs where the package is missing or of another version."""

    def ask() -> dict[str, str]:
        import importlib
        import platform
        from importlib import metadata

        found = {"Python": platform.python_version(), "amsam-ray": ""}
        with contextlib.suppress(ImportError):
            found["amsam-ray"] = importlib.import_module("amsam_ray").__version__
        for name in ("ray", "torch"):
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[name] = metadata.version(name)
        return found

    return ray.remote(ask)


def _with_clock(report: NodeReport, nodes: dict[str, Node]) -> NodeReport:
    """Return the report with the difference of the clocks, as far as it is certain: less the time of the answer."""

    def clock() -> float:
        import time

        return time.time()

    asked = time.time()
    report = _ask([report], nodes, ray.remote(clock), take=lambda known, told: replace(known, skew_s=told))[0]
    answered, told = time.time(), report.skew_s
    return replace(report, skew_s=0.0 if report.error else min(0.0, told - asked) + max(0.0, told - answered))


def _ask(
    reports: list[NodeReport], nodes: dict[str, Node], function: Any, *arguments: Any, take: Take
) -> list[NodeReport]:
    """Run a task on every node at once and return the reports with the answers, or with the reason for none."""
    tasks = []
    for report in reports:
        there = NodeAffinitySchedulingStrategy(nodes[report.name]["NodeID"], soft=False)
        tasks.append(function.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(*arguments))
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=_ANSWER_S)
    return [_answer(report, task, take) for report, task in zip(reports, tasks, strict=True)]


def _answer(report: NodeReport, task: Any, take: Take) -> NodeReport:
    try:
        return take(report, ray.get(task, timeout=1))
    except ray.exceptions.GetTimeoutError:
        why = f"does not answer within {_ANSWER_S:.0f} s; restart Ray there"
    except ray.exceptions.RayTaskError as error:
        why = f"cannot run a task of this package ({' '.join(str(error.cause).split())[:300]}); install it there again"
    except ray.exceptions.RayError as error:
        why = f"cannot run a task ({' '.join(str(error).split())[:300]}); restart Ray there"
    return replace(report, error=why)
