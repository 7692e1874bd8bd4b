"""Whether a lane died with its node."""

from __future__ import annotations

import pytest
import ray

from amsam_ray.search.ray import lane_nodes
from amsam_ray.search.ray.lane_nodes import LaneNodes

UNAVAILABLE = ray.exceptions.ActorUnavailableError("away", None)


class Nodes:
    """The cluster's nodes as Ray reports them, and its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **alive: bool):
        self.alive, self.now = alive, 0.0
        monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": n, "Alive": up} for n, up in self.alive.items()])
        monkeypatch.setattr(lane_nodes.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(lane_nodes.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now > 10:
            self.alive.pop("worker", None)


def seen(*nodes: str) -> LaneNodes:
    lanes = LaneNodes()
    for node in nodes:
        lanes.seen("lane", node)
    return lanes


def test_lane_is_lost_with_any_of_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    Nodes(monkeypatch, head=True, worker=False)
    assert seen("head", "worker").lost("lane", RuntimeError())
    assert seen("head", "gone").lost("lane", None), "Ray forgets dead nodes after a while"
    assert not seen("head").lost("lane", RuntimeError())
    assert not seen().lost("lane", UNAVAILABLE)


def test_node_that_does_not_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch, head=True, worker=True)
    assert not seen("worker").lost("lane", RuntimeError()) and nodes.now == 0, "its process died, and Ray knows"
    assert not seen("head").lost("lane", UNAVAILABLE) and nodes.now == 20
    nodes = Nodes(monkeypatch, head=True, worker=True)
    assert seen("worker").lost("lane", UNAVAILABLE) and 10 < nodes.now < 11


def test_closed_lane_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    Nodes(monkeypatch, worker=False)
    lanes = seen("worker")
    lanes.forget("lane")
    assert not lanes.lost("lane", None)
