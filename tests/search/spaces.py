"""Small spaces for tests of the search."""

from __future__ import annotations

from typing import Any

from amsam_ray.config.space import SpaceFile
from amsam_ray.config.space_file import parse_space
from amsam_ray.search.cells import Cell, make_cells

LR = {"loguniform": [1e-4, 1e-1]}
LAMBDA = {"uniform": [0.5, 1.0]}


def space(
    *,
    datasets: int = 1,
    shots: tuple[int, ...] = (4,),
    methods: tuple[Any, ...] = ("am_sam",),
    epochs: int = 20,
    finals: dict[str, Any] | None = None,
    resources: dict[str, Any] | None = None,
    selection: dict[str, Any] | None = None,
    objective: str = "auto",
    name: str = "tiny",
    **search: Any,
) -> SpaceFile:
    """Return a space over procedural images; other keyword arguments go to its ``search`` section."""
    families = ("lesion", "polyp", "camouflage", "shadow", "person")
    given = {"trials": 6, "sampler": "random", "scheduler": "none", "space": {"lr": LR, "lambda": LAMBDA}}
    return parse_space(
        {
            "name": name,
            "datasets": [
                {"name": "procedural", "label": f"{f}s", "options": {"family": f, "train": 16, "test": 4, "size": 64}}
                for f in families[:datasets]
            ],
            "shots": list(shots),
            "methods": list(methods),
            "selection": selection or {},
            "objective": objective,
            "train": {"epochs": epochs},
            "search": {**given, **search},
            "finals": finals or {"top_k": 1, "seeds": 2},
            "resources": resources or {"lanes": 2},
        }
    )


def one_cell(**given: Any) -> Cell:
    """Return the only cell of a space."""
    (cell,) = make_cells(space(**given))
    return cell
