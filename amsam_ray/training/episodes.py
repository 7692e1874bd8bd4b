"""Episodes of few-shot models: a support image for every query image of a step.

An episode is drawn from the shots that train: the query is one of them, its support another, so that no image is ever
compared with itself or with a view of itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch


def draw_support(
    queries: Sequence[int], pictures: Sequence[int], shots: Mapping[int, int], draws: torch.Generator
) -> list[int]:
    """Return a picture of another shot for each query, drawn evenly.

    Args:
        queries: pictures of a step.
        pictures: all pictures that train.
        shots: picture -> its shot; a picture that is not named is its own.
        draws: source of randomness, on the CPU.

    Raises:
        ValueError: all pictures are of the query's shot.
    """
    support = []
    for query in queries:
        others = [place for place in pictures if shots.get(place, place) != shots.get(query, query)]
        if not others:
            raise ValueError("an episode needs pictures of two shots")
        support.append(others[int(torch.randint(len(others), (), generator=draws))])
    return support
