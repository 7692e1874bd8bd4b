"""Tells a lane that died with its node, which says nothing about the trial, from one that died alone."""

from __future__ import annotations

import time

import ray

# How long a node that is gone may count as alive: Ray asks a node for its health every 3 s and gives it 5 tries.
_NOTICED_S = 20.0
_LOOK_EVERY_S = 0.5


class LaneNodes:
    """The nodes of the lanes: a lane's own process and its training workers may be on different ones."""

    def __init__(self) -> None:
        self._nodes: dict[str, set[str]] = {}

    def seen(self, lane: str, node: str) -> None:
        """Note that a part of a lane runs on the node with this id (hex)."""
        self._nodes.setdefault(lane, set()).add(node)

    def forget(self, lane: str) -> None:
        """Forget a lane that closed."""
        self._nodes.pop(lane, None)

    def lost(self, lane: str, error: BaseException | None) -> bool:
        """Return whether a lane died because one of its nodes did, and forget it.

        If Ray knows only that an actor does not answer, this waits until Ray must have noticed the loss of a node.

        Args:
            error: what ended the lane.
        """
        nodes = self._nodes.pop(lane, set())
        unavailable = isinstance(error, ray.exceptions.ActorUnavailableError)
        until = time.monotonic() + (_NOTICED_S if unavailable else 0.0)
        while nodes:
            if not nodes <= {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(_LOOK_EVERY_S)
        return False
