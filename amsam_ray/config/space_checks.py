"""Checks across the sections of a space file, which its schema cannot express. Reads no file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from amsam_ray.config.classes import class_datasets
from amsam_ray.config.datasets import path_fault
from amsam_ray.config.methods import METHODS, check_params, encoder_fault, fixed_by_protocol, live_params, max_rank
from amsam_ray.config.metrics import METRICS
from amsam_ray.config.params import LAST_K, PARAMS, SWITCHES, on_off_word
from amsam_ray.config.space import Distribution, MethodEntry, SpaceFile
from amsam_ray.config.yaml_loader import KeyPath

Code = Literal[
    "schema",
    "too-large",
    "duplicate-label",
    "unknown-method",
    "unknown-parameter",
    "unknown-metric",
    "parameter-value",
    "backbone-limit",
    "nothing-searched",
    "unused-parameter",
    "dead-parameter",
    "condition-unknown",
    "condition-order",
    "condition-value",
    "repeated-value",
    "empty-point",
    "first-not-searched",
    "fixed-by-protocol",
    "crossfit-shots",
    "stop-when-flat",
    "gpu-share",
    "class-filter",
    "path",
]

NEEDS_WHOLE_FILE: frozenset[Code] = frozenset(
    {"nothing-searched", "unused-parameter", "dead-parameter", "condition-unknown"}
)
"""Codes of findings that may be due to a part of the file that is missing or was refused."""

_MAX_CELLS = 10_000
_MAX_IMAGE_SIZE = 4_096
_MIN_GPU_SHARE = 0.01
_MAX_CLASS = 1_000_000
_FOLLOW_UPS: dict[Code, frozenset[Code]] = {
    "unknown-method": NEEDS_WHOLE_FILE,
    "unknown-parameter": NEEDS_WHOLE_FILE - {"unused-parameter"},
}
"""Code of a misspelt name -> codes of findings that may be due to it alone."""


@dataclass(frozen=True)
class SpaceFinding:
    """One problem of a space file.

    Attributes:
        code: the kind of problem; program logic reads this and never the message.
        path: the key, for example ``("search", "space", "alpha")``.
        message: what is wrong; the remedy.
    """

    code: Code
    path: KeyPath
    message: str


_TRAIN_SWITCHES = ("levels", "hypergradient", "ahead")
"""The keys of `train` that set a switch of every method that has it."""


def check_space(space: SpaceFile) -> list[SpaceFinding]:
    """Return all problems that involve more than one key, or the registries of methods and metrics."""
    findings = [
        *_size(space),
        *_duplicates(space),
        *_methods(space),
        *_distributions(space),
        *_protocols(space),
        *_first_points(space),
        *_checkpointing(space),
        *_crossfit(space),
        *_stop_when_flat(space),
        *_objective(space),
        *_resources(space),
        *_networks(space),
        *_paths(space),
    ]
    caused = {code for finding in findings for code in _FOLLOW_UPS.get(finding.code, ())}
    return [finding for finding in findings if finding.code not in caused]


def switch_values(space: SpaceFile, entry: MethodEntry) -> dict[str, tuple[Any, ...]]:
    """Return all values that each switch set or searched by the file may take for ``entry``."""
    possible: dict[str, tuple[Any, ...]] = {}
    for name in _TRAIN_SWITCHES:
        if (value := getattr(space.train, name)) is not None:
            possible[name] = (value,)
    for key, distribution in space.search.space.items():
        if key in SWITCHES:
            possible[key] = tuple(map(on_off_word, distribution.values))
    possible.update({k: (on_off_word(v),) for k, v in entry.params.items() if k in SWITCHES})
    fixed = fixed_by_protocol(entry.name, entry.params.get("protocol"))
    return {k: v for k, v in possible.items() if k in METHODS[entry.name].keys and k not in fixed}


def live_space(space: SpaceFile, entry: MethodEntry) -> dict[str, Distribution]:
    """Return the part of the space that acts on ``entry``: keys of its method that are live and not fixed by it.

    The entry fixes its ``params`` and, with ``protocol: published``, what that protocol fixes.
    """
    live = live_params(entry.name, switch_values(space, entry))
    fixed = {*entry.params, *fixed_by_protocol(entry.name, entry.params.get("protocol"))}
    return {k: d for k, d in space.search.space.items() if k in live and k not in fixed}


def _size(space: SpaceFile) -> Iterator[SpaceFinding]:
    cells = sum(len(class_datasets(dataset)) for dataset in space.datasets) * len(space.shots) * len(space.methods)
    if cells > _MAX_CELLS:
        what = f"makes {cells:,} cells (datasets x shots x methods); divide the sweep into ones of {_MAX_CELLS:,}"
        yield SpaceFinding("too-large", ("datasets",), what)


def _duplicates(space: SpaceFile) -> Iterator[SpaceFinding]:
    datasets = [{d.label, *(one.label for one in class_datasets(d))} for d in space.datasets]
    for section, labels in (("datasets", datasets), ("methods", [{m.label} for m in space.methods])):
        taken: set[str] = set()
        for index, names in enumerate(labels):
            if repeated := names & taken:
                what = f"label {min(repeated)} is taken by an earlier entry; give this entry another `label`"
                yield SpaceFinding("duplicate-label", (section, index), what)
            taken |= names


def _methods(space: SpaceFile) -> Iterator[SpaceFinding]:
    for index, entry in enumerate(space.methods):
        if entry.name not in METHODS:
            what = f"{entry.name} is not a method; choose from {', '.join(METHODS)}"
            yield SpaceFinding("unknown-method", ("methods", index), what)
            continue
        if fault := encoder_fault(entry.name, space.backbone.arch):
            yield SpaceFinding("backbone-limit", ("methods", index), fault)
        if space.backbone.arch == "mobile_sam" and "sam" in _features(space, entry):
            what = f"{entry.label} compares the blocks of a ViT, which mobile_sam has none of; set another `features`"
            yield SpaceFinding("backbone-limit", ("methods", index), what)
        for problem in check_params(entry.name, entry.params):
            yield SpaceFinding("parameter-value", ("methods", index, "params", problem.where), problem.what)
        for key, value in entry.params.items():
            yield from backbone_limits(space, entry.name, key, (value,), ("methods", index, "params", key))
        searched = space.search.space
        if METHODS[entry.name].trainable and searched and not live_space(space, entry):
            keys = ", ".join(sorted(live_params(entry.name, switch_values(space, entry))))
            fixed = [key for key in fixed_by_protocol(entry.name, entry.params.get("protocol")) if key in searched]
            because = f" (`protocol: published` fixes {', '.join(fixed)})" if fixed else ""
            what = f"nothing in search.space acts on {entry.label}{because}; search one of {keys}"
            yield SpaceFinding("nothing-searched", ("methods", index), what)


def _features(space: SpaceFile, entry: MethodEntry) -> Collection[Any]:
    """Return where the features of a network that is not SAM may come from; none for SAM."""
    if METHODS[entry.name].start is None:
        return ()
    return switch_values(space, entry).get("features", (METHODS[entry.name].defaults.get("features", "imagenet"),))


def backbone_limits(
    space: SpaceFile, method: str, key: str, values: tuple[Any, ...], path: KeyPath
) -> Iterator[SpaceFinding]:
    """Find values that are valid for the key and too large for the chosen backbone."""
    if encoder_fault(method, space.backbone.arch):
        return  # reported at the method
    if key == "rank":
        limit = max_rank(method, space.backbone)
        if limit is not None and any(isinstance(v, int | float) and v > limit for v in values):
            where = f"for {method} on {space.backbone.arch}"
            what = f"rank is above the projection's width {where}; use a rank of at most {limit}"
            yield SpaceFinding("backbone-limit", path, what)
    if key == "adaptor_blocks":
        for value in values:
            last = LAST_K.match(str(value))
            if last and int(last[1]) > space.backbone.depth:
                depth = space.backbone.depth
                what = f"{value} is more than the {depth} blocks of {space.backbone.arch}; use at most last_{depth}"
                yield SpaceFinding("backbone-limit", path, what)


def _distributions(space: SpaceFile) -> Iterator[SpaceFinding]:
    entries = [entry for entry in space.methods if entry.name in METHODS]
    used = {key for entry in entries for key in (*live_space(space, entry), *entry.params)}
    for key, distribution in space.search.space.items():
        path = ("search", "space", key)
        if key not in PARAMS:
            what = f"is not a parameter; choose from {', '.join(sorted(PARAMS))}"
            yield SpaceFinding("unknown-parameter", path, what)
            continue
        owner = next((entry.name for entry in entries if key in METHODS[entry.name].keys), None)
        if owner is None:
            what = "acts on none of the methods listed; remove it or add a method that uses it"
            yield SpaceFinding("unused-parameter", path, what)
            continue
        for problem in (p for value in distribution.values for p in check_params(owner, {key: value})):
            yield SpaceFinding("parameter-value", path, problem.what)
        yield from _kind(key, distribution)
        yield from _starts(space, key, distribution)
        for entry in entries:
            yield from backbone_limits(space, entry.name, key, distribution.values, path)
        if key not in used:
            what = "has no effect on any method as configured (its switch is off); remove it or set the switch"
            yield SpaceFinding("dead-parameter", path, what)
        yield from _conditions(space, key, distribution)


def _starts(space: SpaceFile, key: str, distribution: Distribution) -> Iterator[SpaceFinding]:
    """Find values that another method has and one of those that search the key has not."""
    path = ("search", "space", key)
    for entry in space.methods:
        start = METHODS[entry.name].start if entry.name in METHODS else None
        if start is None or key not in live_space(space, entry):
            continue
        for problem in (p for value in distribution.values for p in check_params(entry.name, {key: value})):
            yield SpaceFinding("parameter-value", path, f"{entry.label}: {problem.what}; or set it in the entry")
        if key == "image_size" and start.size_step > 1 and distribution.kind in ("int", "logint"):
            what = f"{entry.label} needs multiples of {start.size_step}; write {{choice: [...]}}"
            yield SpaceFinding("parameter-value", path, what)


def _protocols(space: SpaceFile) -> Iterator[SpaceFinding]:
    """Find a search over ``protocol``, which is a row's, not a trial's."""
    if "protocol" in space.search.space:
        what = "is not searched; write methods: [{name: METHOD, label: LABEL, params: {protocol: published}}] instead"
        yield SpaceFinding("fixed-by-protocol", ("search", "space", "protocol"), what)


def _kind(key: str, distribution: Distribution) -> Iterator[SpaceFinding]:
    """Find distributions whose ends are valid for the key, and what lies between them is not."""
    path = ("search", "space", key)
    if PARAMS[key].kind == "int" and distribution.kind in ("uniform", "loguniform"):
        kind = "int" if distribution.kind == "uniform" else "logint"
        yield SpaceFinding("parameter-value", path, f"takes whole numbers; write {{{kind}: [low, high]}}")
    if distribution.kind != "choice":
        return
    if PARAMS[key].kind in ("int", "float") and (text := [v for v in distribution.choices if isinstance(v, str)]):
        hint = " (YAML reads 1e-4 as text; write 1.0e-4)"
        what = f"takes numbers, and {text[0]!r} is text{hint}; write the number without quotes"
        yield SpaceFinding("parameter-value", path, what)
    words = [on_off_word(value) for value in distribution.choices]
    if repeated := next((word for i, word in enumerate(words) if word in words[:i]), None):
        yield SpaceFinding("repeated-value", path, f"holds {repeated!r} more than once; keep one")


def _conditions(space: SpaceFile, key: str, distribution: Distribution) -> Iterator[SpaceFinding]:
    path = ("search", "space", key, "when")
    order = list(space.search.space)
    for other, values in distribution.when.items():
        parent = space.search.space.get(other)
        if not values:
            what = f"names no value of {other}, so that {key} is never searched; give at least one value"
            yield SpaceFinding("condition-value", path, what)
        if parent is None:
            what = f"names {other}, which is not in search.space; add it or correct its spelling"
            yield SpaceFinding("condition-unknown", path, what)
        elif other == key or order.index(other) > order.index(key):
            what = f"names {other}, which must come before {key} in search.space; move it up"
            yield SpaceFinding("condition-order", path, what)
        elif parent.kind in ("choice", "constant"):
            known = {on_off_word(v) for v in parent.values}
            if missing := [v for v in values if on_off_word(v) not in known]:
                what = f"requires {other} = {missing[0]!r}, which is not one of its values; use one of its values"
                yield SpaceFinding("condition-value", path, what)


def _first_points(space: SpaceFile) -> Iterator[SpaceFinding]:
    names = dict.fromkeys(entry.name for entry in space.methods if entry.name in METHODS)
    owners = {key: name for name in reversed(names) for key in METHODS[name].keys}
    for index, point in enumerate(space.search.first):
        if not point:
            what = "is an empty point; give it a key, or remove it"
            yield SpaceFinding("empty-point", ("search", "first", index), what)
        for key, value in point.items():
            path = ("search", "first", index, key)
            if key not in space.search.space:
                what = "is not in search.space; add it there or remove it here"
                yield SpaceFinding("first-not-searched", path, what)
            elif key in owners:
                for problem in check_params(owners[key], {key: value}):
                    yield SpaceFinding("parameter-value", path, problem.what)


def _checkpointing(space: SpaceFile) -> Iterator[SpaceFinding]:
    known = [METHODS[entry.name] for entry in space.methods if entry.name in METHODS]
    if space.train.checkpointing == "on" and not any(spec.changes_encoder for spec in known):
        what = "acts on none of the methods listed, none of which trains inside the encoder; remove it"
        yield SpaceFinding("unused-parameter", ("train", "checkpointing"), what)


def _crossfit(space: SpaceFile) -> Iterator[SpaceFinding]:
    for index, shots in enumerate(space.shots):
        if fault := space.selection.shots_fault(shots):
            yield SpaceFinding("crossfit-shots", ("shots", index), fault)


def _stop_when_flat(space: SpaceFile) -> Iterator[SpaceFinding]:
    search, path = space.search, ("search", "stop_when_flat")
    if not search.stop_when_flat:
        return
    if space.selection.mode != "crossfit":
        what = "needs scores of single shots that train nothing; set selection: {mode: crossfit}, or remove the key"
        yield SpaceFinding("stop-when-flat", path, what)
    if search.trials <= search.startup_trials:
        what = f"compares the first startup_trials ({search.startup_trials}) trials of a cell, and cells have no more"
        what += f" than {search.trials}; raise `trials`, lower `startup_trials`, or remove the key"
        yield SpaceFinding("stop-when-flat", path, what)
    elif search.startup_trials < 2:
        what = "compares the first startup_trials trials of a cell, which is 1; use at least 2"
        yield SpaceFinding("stop-when-flat", ("search", "startup_trials"), what)


def _objective(space: SpaceFile) -> Iterator[SpaceFinding]:
    if space.objective != "auto" and space.objective not in METRICS:
        what = f"{space.objective} is not a metric; choose auto or one of {', '.join(METRICS)}"
        yield SpaceFinding("unknown-metric", ("objective",), what)


def _resources(space: SpaceFile) -> Iterator[SpaceFinding]:
    gpus, workers = space.resources.gpus_per_lane, space.resources.workers_per_lane
    if isinstance(gpus, float | int) and 0 < gpus < _MIN_GPU_SHARE:
        what = f"must be 0 or at least {_MIN_GPU_SHARE:g}, not {gpus:g}; use a larger share"
        yield SpaceFinding("gpu-share", ("resources", "gpus_per_lane"), what)
    if isinstance(gpus, float | int) and gpus > 1:
        if gpus != int(gpus):
            what = f"must be a whole number of GPUs above 1, not {gpus:g}; round it"
            yield SpaceFinding("gpu-share", ("resources", "gpus_per_lane"), what)
        elif workers not in (1, int(gpus)):
            what = f"does not match {int(gpus)} GPUs per lane; use {int(gpus)} (one worker per GPU) or remove the key"
            yield SpaceFinding("gpu-share", ("resources", "workers_per_lane"), what)


def _networks(space: SpaceFile) -> Iterator[SpaceFinding]:
    if space.backbone.image_size > _MAX_IMAGE_SIZE:
        what = f"must be at most {_MAX_IMAGE_SIZE:,}, not {space.backbone.image_size:,}; use a smaller size"
        yield SpaceFinding("backbone-limit", ("backbone", "image_size"), what)
    classes = space.detector.classes
    if classes is None:
        return
    if not classes:
        yield SpaceFinding("class-filter", ("detector", "classes"), "keeps no class; name one, or remove the key")
    for index, wanted in enumerate(classes):
        if isinstance(wanted, int) and not 0 <= wanted <= _MAX_CLASS:
            what = f"{wanted} is not the number of a class; use 0 or more, or its name"
            yield SpaceFinding("class-filter", ("detector", "classes", index), what)
        elif isinstance(wanted, str) and not wanted.strip():
            what = "is not the name of a class; write the name or the number"
            yield SpaceFinding("class-filter", ("detector", "classes", index), what)
    if len(set(classes)) != len(classes):
        yield SpaceFinding("class-filter", ("detector", "classes"), "names a class more than once; keep one")


def _paths(space: SpaceFile) -> Iterator[SpaceFinding]:
    """Find paths that no file can have on this machine. Records keep such paths, so models cannot refuse them."""
    paths: list[tuple[KeyPath, str | None]] = [(("storage",), space.storage)]
    for index, dataset in enumerate(space.datasets):
        paths += [(("datasets", index, "root"), dataset.root), (("datasets", index, "name"), dataset.name)]
    paths += [
        (("backbone", "checkpoint"), space.backbone.checkpoint),
        (("detector", "weights"), space.detector.weights),
    ]
    for path, value in paths:
        if value is not None and (fault := path_fault(value)):
            yield SpaceFinding("path", path, fault)
