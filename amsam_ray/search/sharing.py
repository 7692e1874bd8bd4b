"""What flat cells do without: their remaining trials go to the cells whose configurations differ."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from amsam_ray.search.cell_state import CellState


def divide(amount: int, rooms: Sequence[int]) -> list[int]:
    """Return equal shares of ``amount``, none larger than its room; what some cannot take goes to the others.

    The remainder of an uneven division goes to the last of those with most room.
    """
    shares = [0] * len(rooms)
    for taken, index in enumerate(sorted(range(len(rooms)), key=lambda index: rooms[index])):
        shares[index] = min(rooms[index], amount // (len(rooms) - taken))
        amount -= shares[index]
    return shares


def share_trials(states: Sequence[CellState], deferred: Collection[str] = ()) -> bool:
    """Give the trials of flat cells to the others, once it is known which cells are flat.

    Until then the finals of the other cells wait, so that no cell retrains a choice that further trials may change.
    The shares follow from the records alone, so a continued sweep divides alike.

    Args:
        states: all cells of the sweep.
        deferred: ids of the cells that cannot run now; they neither give nor take.

    Returns:
        Whether the shares are final.
    """
    active = [state for state in states if state.cell.id not in deferred]
    known = all(state.decided for state in active)
    for state in active:
        state.waits, state.further = not known, 0
    if known:
        takers = [state for state in active if state.differs]
        shares = divide(sum(state.freed for state in active), [state.room for state in takers])
        for state, share in zip(takers, shares, strict=True):
            state.further = share
    return known
