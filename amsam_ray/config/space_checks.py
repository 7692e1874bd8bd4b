"""What a schema cannot say: checks across the sections of a space file. Reads no file and imports nothing slow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amsam_ray.config.methods import METHODS, check_params, live_params, max_rank
from amsam_ray.config.metrics import METRICS
from amsam_ray.config.params import LAST_K, PARAMS, SWITCHES, on_off_word
from amsam_ray.config.space import Distribution, MethodEntry, SpaceFile

Finding = tuple[tuple[str | int, ...], str]


def check_space(space: SpaceFile) -> list[Finding]:
    """All problems that need more than one key to see, as (key path, what is wrong and what to do)."""
    return [
        *_duplicates(space),
        *_methods(space),
        *_distributions(space),
        *_first_points(space),
        *_objective(space),
        *_resources(space),
    ]


def switch_values(space: SpaceFile, entry: MethodEntry) -> dict[str, tuple[Any, ...]]:
    """For every switch that the file sets or searches for ``entry``: all the values that it may take."""
    possible: dict[str, tuple[Any, ...]] = {}
    for name in ("levels", "hypergradient"):
        if (value := getattr(space.train, name)) is not None:
            possible[name] = (value,)
    for key, distribution in space.search.space.items():
        if key in SWITCHES:
            possible[key] = tuple(map(on_off_word, distribution.values))
    possible.update({k: (on_off_word(v),) for k, v in entry.params.items() if k in SWITCHES})
    return {k: v for k, v in possible.items() if k in METHODS[entry.name].keys}


def live_space(space: SpaceFile, entry: MethodEntry) -> dict[str, Distribution]:
    """The part of the space that acts on ``entry``: its method has the key, no fixed value hides it, it is live."""
    live = live_params(entry.name, switch_values(space, entry))
    return {k: d for k, d in space.search.space.items() if k in live and k not in entry.params}


def _duplicates(space: SpaceFile) -> Iterator[Finding]:
    for section, labels in (
        ("datasets", [d.label for d in space.datasets]),
        ("methods", [m.label for m in space.methods]),
    ):
        for index, label in enumerate(labels):
            if label in labels[:index]:
                yield (
                    (section, index),
                    f"label {label} is taken by an earlier entry; give this one a `label` of its own",
                )


def _methods(space: SpaceFile) -> Iterator[Finding]:
    for index, entry in enumerate(space.methods):
        if entry.name not in METHODS:
            yield ("methods", index), f"{entry.name} is not a method; choose from {', '.join(METHODS)}"
            continue
        for problem in check_params(entry.name, entry.params):
            yield ("methods", index, "params", problem.where), problem.what
        yield from (
            (("methods", index, "params", key), what)
            for key, value in entry.params.items()
            for what in _misfits(space, entry.name, key, (value,))
        )
        if METHODS[entry.name].trainable and space.search.space and not live_space(space, entry):
            yield (
                ("methods", index),
                f"nothing in search.space acts on {entry.label}; search one of "
                f"{', '.join(sorted(live_params(entry.name, switch_values(space, entry))))}",
            )


def _misfits(space: SpaceFile, method: str, key: str, values: tuple[Any, ...]) -> Iterator[str]:
    """Values that the key allows and the chosen backbone does not."""
    if key == "rank":
        limit = max_rank(method, space.backbone)
        if limit is not None and any(isinstance(v, int | float) and v > limit for v in values):
            yield f"rank is above the projection's width for {method} on {space.backbone.arch}; at most {limit}"
    if key == "adaptor_blocks":
        for value in values:
            last = LAST_K.match(str(value))
            if last and int(last[1]) > space.backbone.depth:
                yield f"{value} is more than the {space.backbone.depth} blocks of {space.backbone.arch}"


def _distributions(space: SpaceFile) -> Iterator[Finding]:
    entries = [entry for entry in space.methods if entry.name in METHODS]
    for key, distribution in space.search.space.items():
        path = ("search", "space", key)
        if key not in PARAMS:
            yield path, f"is not a parameter; known are {', '.join(sorted(PARAMS))}"
            continue
        owner = next((entry.name for entry in entries if key in METHODS[entry.name].keys), None)
        if owner is None:
            yield path, "acts on none of the methods named; remove it or name a method that has it"
            continue
        for problem in (p for value in distribution.values for p in check_params(owner, {key: value})):
            yield path, problem.what
        for entry in entries:
            for what in _misfits(space, entry.name, key, distribution.values):
                yield path, what
        if not any(key in live_space(space, entry) or key in entry.params for entry in entries):
            yield path, "has no effect on any method as configured (its switch is off); remove it or set the switch"
        yield from _conditions(space, key, distribution)


def _conditions(space: SpaceFile, key: str, distribution: Distribution) -> Iterator[Finding]:
    path = ("search", "space", key, "when")
    order = list(space.search.space)
    for other, values in distribution.when.items():
        parent = space.search.space.get(other)
        if parent is None:
            yield path, f"names {other}, which search.space does not hold; add it or mend its spelling"
        elif other == key or order.index(other) > order.index(key):
            yield path, f"names {other}, which must stand before {key} in search.space"
        elif parent.kind in ("choice", "constant"):
            known = {on_off_word(v) for v in parent.values}
            if missing := [v for v in values if on_off_word(v) not in known]:
                yield path, f"waits for {other} = {missing[0]!r}, which is not among its values"


def _first_points(space: SpaceFile) -> Iterator[Finding]:
    for index, point in enumerate(space.search.first):
        for key, value in point.items():
            path = ("search", "first", index, key)
            owners = [e.name for e in space.methods if e.name in METHODS and key in METHODS[e.name].keys]
            if key not in space.search.space:
                yield path, "is not in search.space; add it there or remove it here"
            elif owners:
                yield from ((path, problem.what) for problem in check_params(owners[0], {key: value}))


def _objective(space: SpaceFile) -> Iterator[Finding]:
    if space.objective != "auto" and space.objective not in METRICS:
        yield ("objective",), f"{space.objective} is not a metric; choose auto or one of {', '.join(METRICS)}"


def _resources(space: SpaceFile) -> Iterator[Finding]:
    gpus, workers = space.resources.gpus_per_lane, space.resources.workers_per_lane
    if isinstance(gpus, float | int) and gpus > 1:
        if gpus != int(gpus):
            yield ("resources", "gpus_per_lane"), f"above 1 must be a whole number of GPUs, not {gpus:g}"
        elif workers not in (1, int(gpus)):
            yield (
                ("resources", "workers_per_lane"),
                f"must be {int(gpus)}, one for each GPU of the lane; or leave it out",
            )
