"""The registry of methods, and the checks of a method's hyperparameters. Imports no torch.

Each method is one file: the built-in ones are in ``amsam_ray/models/methods``, and an installed package adds further
ones through the entry point group ``amsam_ray.methods``. ``docs/methods.md`` explains how to add a method.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import ValidationError

from amsam_ray.config.key_groups import Keys
from amsam_ray.config.networks import BackboneConfig
from amsam_ray.config.params import PARAMS, MethodParams
from amsam_ray.config.protocol import DEFAULT, Protocol
from amsam_ray.config.starts import Start
from amsam_ray.errors import InputError, Problem

ENTRY_POINTS = "amsam_ray.methods"
"""Entry point group of other packages' methods: each entry point loads to a ``MethodSpec``."""

# By name and not by import, since the configuration layer is below the models.
_BUILT_IN = "amsam_ray.models.methods"


@dataclass(frozen=True)
class MethodSpec:
    """One way to adapt SAM, or a network that SAM is compared with.

    Attributes:
        name: the name in YAML and on leaderboards.
        title: the name in the literature.
        paper: the publication that describes the method.
        trains: the parts that the lower level trains, in words.
        prompt: the input of the prompt encoder, in words.
        keys: the hyperparameters and switches that can be set or searched, each with the condition under which it
            acts.
        recipe: an ``amsam_ray.models.recipe.Recipe``, which builds the model; with ``start``, a ``NetworkRecipe``.
        defaults: the method's values where they differ from the defaults of ``MethodParams``; published ones where a
            paper or its code states them.
        rank_limit: maps a backbone to the largest LoRA rank; required if ``rank`` is one of the keys.
        published: what ``protocol: published`` selects; required if ``protocol`` is one of the keys.
        training: how the method trains otherwise.
        start: of a method that is not SAM, the weights that it starts from; None for one that adapts SAM.
        note: what a reader of the method's row must know besides, for its reference.
    """

    name: str
    title: str
    paper: str
    trains: str
    prompt: str
    keys: Keys
    recipe: object
    defaults: Mapping[str, Any] = field(default_factory=dict)
    rank_limit: Callable[[BackboneConfig], int] | None = None
    published: Protocol | None = None
    training: Protocol = DEFAULT
    start: Start | None = None
    note: str = ""

    @property
    def changes_encoder(self) -> bool:
        """True if the method changes blocks of the encoder's ViT: its recipe builds the end of the encoder."""
        return getattr(self.recipe, "encoder", None) is not None

    @property
    def trainable(self) -> bool:
        """False for a zero-shot method, which has nothing to search and nothing random: it runs one trial."""
        return "lr" in self.keys


@cache
def discover_methods() -> Mapping[str, MethodSpec]:
    """Return all methods of this installation by name: the built-in ones, then those of entry points.

    Raises:
        InputError: an entry point does not load or loads something else than a valid ``MethodSpec``, or two methods
            have the same name.
    """
    package = importlib.import_module(_BUILT_IN)
    order = list(package.PUBLISHED_ORDER)
    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    modules.sort(key=lambda name: (order.index(name) if name in order else len(order), name))
    found: dict[str, MethodSpec] = {}
    for name in modules:
        _add(importlib.import_module(f"{_BUILT_IN}.{name}").METHOD, f"{_BUILT_IN}.{name}", found)
    for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        where = f"entry point {point.name} ({point.value})"
        try:
            spec = point.load()
        except Exception as error:  # an import can raise anything
            what = f"does not load ({type(error).__name__}: {error}). Fix or uninstall the package that provides it."
            raise InputError(Problem(where, what)) from error
        _add(spec, where, found)
    return found


def _add(spec: object, where: str, found: dict[str, MethodSpec]) -> None:
    if not isinstance(spec, MethodSpec):
        what = f"is of type {type(spec).__name__}. Make it an amsam_ray.config.methods.MethodSpec."
        raise InputError(Problem(where, what))
    if problems := _spec_problems(spec):
        raise InputError([Problem(where, what) for what in problems])
    if spec.name in found:
        raise InputError(Problem(where, f"defines method {spec.name}, which already exists. Rename the method."))
    found[spec.name] = spec


def _spec_problems(spec: MethodSpec) -> list[str]:
    """Return what is wrong with a method's definition, each with the remedy."""
    switches = {condition.switch for condition in spec.keys.values() if condition is not None}
    fixed = set() if spec.published is None else set(spec.published.fixes)
    unknown = sorted((set(spec.keys) | set(spec.defaults) | switches | fixed) - set(PARAMS))
    if unknown:
        names = ", ".join(unknown)
        return [f"method {spec.name} has the unknown keys {names}. Use only {', '.join(sorted(PARAMS))}."]
    fixes = {} if spec.published is None else spec.published.fixes
    problems = [
        f"method {spec.name}: the default of {key} must be {PARAMS[key].allowed}, not {value!r}. Correct it."
        for key, value in (*spec.defaults.items(), *fixes.items())
        if not _is_valid(key, value)
    ]
    if ("protocol" in spec.keys) != (spec.published is not None):
        problems.append(f"method {spec.name} has only one of the key protocol and `published`. Set both or none.")
    if ("features" in spec.keys) != (spec.start is not None):
        problems.append(f"method {spec.name} has only one of the key features and `start`. Set both or none.")
    if "rank" in spec.keys and spec.rank_limit is None:
        problems.append(f"method {spec.name} has the key rank and no rank_limit. Set rank_limit.")
    return problems


class _Methods(Mapping[str, MethodSpec]):
    """The methods by name, in the order of lists and tables. The first access discovers them."""

    def __getitem__(self, name: str) -> MethodSpec:
        return discover_methods()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(discover_methods())

    def __len__(self) -> int:
        return len(discover_methods())


METHODS: Mapping[str, MethodSpec] = _Methods()


def get_method(name: str) -> MethodSpec:
    """Return the method called ``name``. Raises InputError that lists the known methods."""
    if name not in METHODS:
        raise InputError(Problem(name, f"is not a method; choose from {', '.join(METHODS)}"))
    return METHODS[name]


def live_params(method: str, possible: Mapping[str, Collection[Any]] | None = None) -> frozenset[str]:
    """Return the keys that change what ``method`` computes.

    A key whose switch is off (``alpha`` without calibration) is not live: a search over it would measure noise.

    Args:
        method: the name of a method.
        possible: for each switch that is set or searched, all values that it can take. Every other switch keeps the
            method's default.

    Returns:
        Public names of hyperparameters and switches.
    """
    spec = get_method(method)
    values = {key: {value} for key, value in MethodParams(**spec.defaults).as_dict().items()}
    if set((possible or {}).get("protocol", ())) == {"published"}:
        values |= {key: {value} for key, value in fixed_by_protocol(method, "published").items()}
    values |= {key: set(given) for key, given in (possible or {}).items()}

    def acts(key: str) -> bool:
        condition = spec.keys.get(key)
        return condition is None or (bool(condition.values & values[condition.switch]) and acts(condition.switch))

    return frozenset(key for key in spec.keys if acts(key))


def protocol_of(method: str, params: MethodParams) -> Protocol:
    """Return how ``method`` trains with ``params``."""
    spec = get_method(method)
    return spec.published if params.protocol == "published" and spec.published is not None else spec.training


def uses_sam(method: str, params: MethodParams) -> bool:
    """Return whether ``method`` needs the frozen SAM."""
    return get_method(method).start is None or params.features == "sam"


def pretrained_text(method: str, params: MethodParams, arch: str) -> str | None:
    """Return what a method that is not SAM starts from, for its row; None for one that adapts the SAM ``arch``."""
    start = get_method(method).start
    return None if start is None else start.describe(params.features, arch)


def fixed_by_protocol(method: str, protocol: Any) -> Mapping[str, Any]:
    """Return the keys that a value of ``protocol`` fixes for ``method``, with their values."""
    published = get_method(method).published
    return published.fixes if protocol == "published" and published is not None else {}


def max_rank(method: str, backbone: BackboneConfig) -> int | None:
    """Return the largest LoRA rank of ``method`` on ``backbone``; None if the method has no rank."""
    limit = get_method(method).rank_limit
    return None if limit is None else limit(backbone)


def encoder_fault(method: str, arch: str) -> str | None:
    """Return why ``method`` cannot run on a backbone without a ViT, and what to do; None if it can."""
    if arch != "mobile_sam" or not get_method(method).changes_encoder:
        return None
    suited = ", ".join(name for name, spec in METHODS.items() if not (spec.changes_encoder or spec.start))
    return (
        f"{method} trains inside the blocks of SAM's ViT encoder, and the encoder of {arch} is a TinyViT without them; "
        f"use another backbone, or a method that adapts only the decoder ({suited})"
    )


def check_params(method: str, given: Mapping[str, Any], where: str = "") -> list[Problem]:
    """Return all problems of ``given``: keys unknown, not of ``method`` or fixed by its protocol, wrong values."""
    spec = get_method(method)
    fixed = fixed_by_protocol(method, given.get("protocol"))
    problems = []
    for key, value in given.items():
        place = f"{where}.{key}" if where else key
        if key not in PARAMS:
            problems.append(Problem(place, f"is not a parameter; known are {', '.join(sorted(PARAMS))}"))
        elif key not in spec.keys:
            problems.append(
                Problem(place, f"does not apply to {method}, which has {', '.join(sorted(spec.keys))}; remove it")
            )
        elif not _is_valid(key, value):
            problems.append(Problem(place, f"must be {PARAMS[key].allowed}, not {value!r}"))
        elif spec.start is not None and (fault := _start_fault(spec.start, key, value)):
            problems.append(Problem(place, fault))
        elif key in fixed:
            reason = (
                f"is fixed to {fixed[key]} by `protocol: published` of {method}, which trains as the public code does"
            )
            problems.append(Problem(place, f"{reason}; remove it"))
    return problems


def _start_fault(start: Start, key: str, value: Any) -> str | None:
    if key == "features" and value not in start.choices:
        return f"must be {' | '.join(start.choices)}, not {value!r}"
    if key == "image_size" and value % start.size_step:
        nearest = max(1, round(value / start.size_step)) * start.size_step
        return f"must be a multiple of {start.size_step}, not {value}; use {nearest}"
    return None


def _is_valid(key: str, value: Any) -> bool:
    try:
        MethodParams.model_validate({key: value})
    except ValidationError:
        return False
    return True


def resolve_params(method: str, given: Mapping[str, Any]) -> MethodParams:
    """Return the method's defaults, overridden by what its protocol fixes and by ``given``.

    Raises:
        InputError: names every key that is unknown, does not belong to the method, is fixed by its protocol or is
            out of range.
    """
    problems = check_params(method, given)
    if problems:
        raise InputError(problems)
    fixed = fixed_by_protocol(method, given.get("protocol"))
    return MethodParams.model_validate({**get_method(method).defaults, **fixed, **given})
