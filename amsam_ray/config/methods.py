"""The registry of methods: what each one trains, which keys it has, and its published defaults.

A method is one entry here and one builder in ``amsam_ray.models.adapted``. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from amsam_ray.config.params import PARAMS, SWITCHES, MethodParams
from amsam_ray.errors import InputError, Problem


@dataclass(frozen=True)
class MethodSpec:
    """One way to adapt SAM.

    Attributes:
        name: as in YAML and leaderboards.
        title: the name in the literature.
        paper: where it is described.
        trains: what the lower level trains, in words.
        prompt: what the prompt encoder is given, in words.
        keys: hyperparameters and switches that may be set or searched for this method.
        defaults: the published values, where they differ from ``MethodParams``'.
        options: for a switch, the values this method allows; absent means all of them.
    """

    name: str
    title: str
    paper: str
    trains: str
    prompt: str
    keys: frozenset[str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def trainable(self) -> bool:
        """False for a zero-shot row: nothing to search, nothing random, one trial."""
        return "lr" in self.keys


METHODS: dict[str, MethodSpec] = {}

_OPTIMISER = frozenset({"lr", "weight_decay", "warmup"})
_MASK_LOSS = frozenset({"lambda", "loss", "head"})
_BILEVEL = frozenset({"lr_prompt", "hypergradient", "levels"})
_ADAPTORS = frozenset(
    {"adaptors", "adaptor_blocks", "adaptor_ratio", "tau_token", "tau_sample"}
    | {"w_token", "w_sample", "contrast_tokens"}
)
_CALIBRATION = frozenset({"calibration", "alpha"})


def register(spec: MethodSpec) -> MethodSpec:
    """Add a method. Raises ValueError for a name already taken or a key that no parameter has."""
    if spec.name in METHODS:
        raise ValueError(f"method {spec.name!r} is registered already")
    unknown = (spec.keys | set(spec.defaults) | set(spec.options)) - set(PARAMS)
    if unknown:
        raise ValueError(f"method {spec.name!r} names unknown parameters {sorted(unknown)}")
    METHODS[spec.name] = spec
    return spec


register(
    MethodSpec(
        name="sam",
        title="SAM, zero-shot",
        paper="Kirillov et al. 2023, arXiv 2304.02643",
        trains="nothing",
        prompt="detector box, or default",
        keys=frozenset({"detector"}),
        defaults={"detector": "on", "levels": 1, "head": "warm"},
    )
)
register(
    MethodSpec(
        name="samed",
        title="SAMed",
        paper="Zhang and Liu 2023, arXiv 2304.13785",
        trains="LoRA on q, v of the encoder's fused qkv (all blocks), mask decoder",
        prompt="learned default",
        keys=frozenset({"rank"}) | _OPTIMISER | _MASK_LOSS,
        # 250 of 18 600 iterations: 200 epochs of 2211 slices at batch 24
        defaults={"levels": 1, "head": "cold", "warmup": 0.0134},
    )
)
register(
    MethodSpec(
        name="med_sa",
        title="Medical SAM Adapter (space adapters)",
        paper="Wu et al. 2023, arXiv 2304.12620",
        trains="bottleneck adapters in encoder blocks and decoder",
        prompt="detector box, or default",
        keys=frozenset({"adaptor_ratio", "detector"}) | _OPTIMISER | _MASK_LOSS,
        defaults={"levels": 1, "detector": "on", "head": "warm", "lr": 1e-4, "weight_decay": 0.0},
    )
)
register(
    MethodSpec(
        name="sam_adapter",
        title="SAM-Adapter",
        paper="Chen et al. 2023, arXiv 2304.09148",
        trains="per-block light MLPs over patch embedding and high-pass component, shared up-projection, mask decoder",
        prompt="learned default",
        keys=frozenset({"freq_ratio", "adaptor_ratio"}) | _OPTIMISER | _MASK_LOSS,
        defaults={
            "levels": 1,
            "head": "warm",
            "loss": "bce_iou",
            "lr": 2e-4,
            "weight_decay": 0.0,
            "adaptor_ratio": 32,
        },
    )
)
register(
    MethodSpec(
        name="blo_sam",
        title="BLO-SAM",
        paper="Zhang et al. 2024, arXiv 2402.16338",
        trains="LoRA on q, v of the decoder's attentions, upscaling, hypernetworks, output tokens",
        prompt="learned dense prompt, upper level",
        keys=frozenset({"rank"}) | _OPTIMISER | _MASK_LOSS | _BILEVEL,
        defaults={"head": "cold"},
    )
)
register(
    MethodSpec(
        name="am_sam",
        title="AM-SAM",
        paper="Li et al. 2024, arXiv 2410.09714",
        trains="as BLO-SAM",
        prompt="detector box and learned prompt, upper level",
        keys=frozenset({"rank", "detector"}) | _OPTIMISER | _MASK_LOSS | _BILEVEL | _CALIBRATION,
        defaults={"detector": "on", "calibration": "sample", "head": "warm"},
    )
)
register(
    MethodSpec(
        name="mca_sam",
        title="MCA-SAM",
        paper="Zhou et al. 2024, arXiv 2408.05936",
        trains="token- and sample-level contrastive adaptors before encoder blocks, mask decoder",
        prompt="learned default",
        keys=_OPTIMISER | _MASK_LOSS | _ADAPTORS,
        defaults={
            "levels": 1,
            "head": "warm",
            "adaptors": "mc",
            "loss": "bce_iou",
            "lr": 2e-4,
            "weight_decay": 0.0,
        },
    )
)
register(
    MethodSpec(
        name="am_mca_sam",
        title="AM-SAM with multi-scale contrastive adaptors",
        paper="this project, from arXiv 2410.09714 and 2408.05936",
        trains="LoRA as AM-SAM, and contrastive adaptors before encoder blocks",
        prompt="detector box and learned prompt, upper level",
        keys=frozenset({"rank", "detector"}) | _OPTIMISER | _MASK_LOSS | _BILEVEL | _CALIBRATION | _ADAPTORS,
        defaults={"detector": "on", "calibration": "sample", "head": "warm", "adaptors": "mc"},
    )
)


def get_method(name: str) -> MethodSpec:
    """The entry of ``name``. Raises InputError that lists the known methods."""
    if name not in METHODS:
        raise InputError(Problem(name, f"is not a method; choose from {', '.join(METHODS)}"))
    return METHODS[name]


# A key that acts only while a switch has one of these values.
_ACTS_WHEN: dict[str, tuple[str, frozenset[Any]]] = {
    "alpha": ("calibration", frozenset({"batch", "sample", "learned"})),
    "lambda": ("loss", frozenset({"ce_dice"})),
    "lr_prompt": ("levels", frozenset({2})),
    "hypergradient": ("levels", frozenset({2})),
    "tau_token": ("adaptors", frozenset({"tc", "mc"})),
    "w_token": ("adaptors", frozenset({"tc", "mc"})),
    "contrast_tokens": ("adaptors", frozenset({"tc", "mc"})),
    "tau_sample": ("adaptors", frozenset({"sc", "mc"})),
    "w_sample": ("adaptors", frozenset({"sc", "mc"})),
    "adaptor_blocks": ("adaptors", frozenset({"tc", "sc", "mc"})),
}


def live_params(method: str, possible: Mapping[str, Collection[Any]] | None = None) -> frozenset[str]:
    """The keys that change what ``method`` does.

    A key whose switch is off (``alpha`` without calibration) is not live: searching it would measure noise.

    Args:
        method: a registered name.
        possible: for switches that are set or searched, all the values that they may take; the method's own
            value is assumed for the others.

    Returns:
        Public names of hyperparameters and switches.
    """
    spec = get_method(method)
    base = MethodParams(**spec.defaults).as_dict()
    live = set()
    for key in spec.keys:
        gate = _ACTS_WHEN.get(key)
        if gate is None or gate[1] & set((possible or {}).get(gate[0], {base[gate[0]]})):
            live.add(key)
    if {"adaptors"} <= spec.keys and set((possible or {}).get("adaptors", {base["adaptors"]})) == {"none"}:
        live.discard("adaptor_ratio")
    return frozenset(live)


def check_params(method: str, given: Mapping[str, Any], where: str = "") -> list[Problem]:
    """All that is wrong with ``given`` for ``method``: unknown keys, keys the method has not, values out of range."""
    spec = get_method(method)
    problems = []
    for key, value in given.items():
        place = f"{where}.{key}" if where else key
        if key not in PARAMS:
            problems.append(Problem(place, f"is not a parameter; known are {', '.join(sorted(PARAMS))}"))
        elif key not in spec.keys:
            problems.append(
                Problem(place, f"does not apply to {method}, which has {', '.join(sorted(spec.keys))}; remove it")
            )
        else:
            problems += [Problem(place, text) for text in _value_errors(spec, key, value)]
    return problems


def _value_errors(spec: MethodSpec, key: str, value: Any) -> list[str]:
    try:
        clean = MethodParams.model_validate({key: value}).as_dict()[key]
    except ValidationError:
        return [f"must be {PARAMS[key].allowed}, not {value!r}"]
    allowed = spec.options.get(key)
    if allowed is not None and clean not in allowed:
        return [f"must be one of {', '.join(map(str, allowed))} for {spec.name}, not {value!r}"]
    return []


def resolve_params(method: str, given: Mapping[str, Any]) -> MethodParams:
    """``given`` over the method's published defaults.

    Raises:
        InputError: naming every key that is unknown, does not belong to the method or is out of range.
    """
    problems = check_params(method, given)
    if problems:
        raise InputError(problems)
    return MethodParams.model_validate({**get_method(method).defaults, **given})


__all__ = [
    "METHODS",
    "SWITCHES",
    "MethodSpec",
    "check_params",
    "get_method",
    "live_params",
    "register",
    "resolve_params",
]
