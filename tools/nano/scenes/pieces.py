"""The parts of a drawn object: coloured shapes, far to near."""

from __future__ import annotations

from dataclasses import dataclass

from tools.nano.scenes.materials import Material
from tools.nano.scenes.outlines import Shape


@dataclass(frozen=True)
class Piece:
    """One visible part of an object, in the object's own coordinates.

    Attributes:
        shape: polygons whose union it is.
        material: its surface.
        group: what a click on it may also mean: "top", "legs", "head", ... Pieces of one group form one mask.
        detail: drawn on top of a piece without being a part (eyes, buttons, patches).
    """

    shape: Shape
    material: Material
    group: str
    detail: bool = False
