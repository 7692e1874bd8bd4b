"""The schema of a space file: one model per section, one description per field."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from amsam_ray.config.datasets import AugmentConfig, DatasetConfig, SelectionConfig
from amsam_ray.config.networks import BackboneConfig, DetectorConfig

_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,47}$")
_KINDS = ("uniform", "loguniform", "int", "logint", "choice")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Distribution(_Section):
    """What one hyperparameter may be: a range, a choice or a constant, perhaps only under a condition.

    In YAML: ``alpha: {uniform: [0.5, 1]}``, ``lr: {loguniform: [1e-4, 1e-2]}``, ``rank: {int: [2, 16]}``,
    ``rank: {logint: [2, 64]}``, ``head: {choice: [cold, warm]}``, ``w_token: 0.1``,
    ``tau_token: {loguniform: [0.03, 1], when: {adaptors: [tc, mc]}}``.
    """

    kind: Literal["uniform", "loguniform", "int", "logint", "choice", "constant"]
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    when: dict[str, tuple[Any, ...]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, data: Any) -> Any:
        if isinstance(data, Distribution) or (isinstance(data, dict) and "kind" in data):
            return data
        if not isinstance(data, dict):
            if isinstance(data, list | tuple):
                raise ValueError("a list says not how to search it; write {choice: [...]}")
            return {"kind": "constant", "choices": (data,)}
        body = dict(data)
        when = body.pop("when", {})
        if not isinstance(when, dict):
            raise ValueError("`when` must map a key to the values under which this one is searched")
        when = {key: tuple(v) if isinstance(v, list | tuple) else (v,) for key, v in when.items()}
        if len(body) != 1 or next(iter(body)) not in _KINDS:
            raise ValueError(f"must be a constant or one of {{{', '.join(_KINDS)}}}: [...], perhaps with `when`")
        kind, value = next(iter(body.items()))
        if not isinstance(value, list | tuple):
            raise ValueError(f"{kind} needs a list")
        if kind == "choice":
            if not value:
                raise ValueError("choice is empty; name at least one value")
            return {"kind": kind, "choices": tuple(value), "when": when}
        return {"kind": kind, "when": when, **cls._range(kind, value)}

    @staticmethod
    def _range(kind: str, value: Any) -> dict[str, float]:
        if len(value) != 2 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
            hint = " (YAML reads 1e-4 as text; write 1.0e-4)" if any(isinstance(v, str) for v in value) else ""
            raise ValueError(f"{kind} needs two numbers, [low, high]{hint}")
        low, high = value
        if low > high:
            raise ValueError(f"low {low:g} is above high {high:g}; swap them")
        if kind.startswith("log") and low <= 0:
            raise ValueError(f"a log scale needs low > 0, not {low:g}")
        if kind.endswith("int") and any(v != int(v) for v in value):
            raise ValueError(f"{kind} needs whole numbers")
        return {"low": low, "high": high}

    @property
    def values(self) -> tuple[Any, ...]:
        """All values of a choice or constant; the two ends of a range."""
        return self.choices if self.kind in ("choice", "constant") else (self._cast(self.low), self._cast(self.high))

    @property
    def searched(self) -> bool:
        """False for a constant."""
        return self.kind != "constant"

    def _cast(self, value: Any) -> Any:
        return int(value) if self.kind.endswith("int") else float(value)


class MethodEntry(_Section):
    """A method, or a named variant of one with some of its keys fixed (an ablation's row)."""

    name: str = Field(description="a registered method (`amsam-ray methods list`)")
    label: str = Field("", description="its name in the leaderboard; empty: the method's name")
    params: dict[str, Any] = Field(default_factory=dict, description="keys fixed for this entry")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        data = {"name": data} if isinstance(data, str) else data
        if isinstance(data, dict) and not data.get("label"):
            data = {**data, "label": data.get("name", "")}
        return data

    @field_validator("label")
    @classmethod
    def _safe(cls, value: str) -> str:
        if not _NAME.match(value):
            raise ValueError("label must be lower-case letters, digits, _ or -, at most 48")
        return value


class TrainSection(_Section):
    """How every trial trains. ``levels`` and ``hypergradient`` replace a method's own where it has them."""

    epochs: int = Field(100, ge=1, le=100_000, description="passes over D1 (lower) and D2 (upper level)")
    batch_size: int = Field(1, ge=1, description="images per step; 1 as in AM-SAM")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of activations")
    eval_every: int = Field(1, ge=1, description="epochs between scores on the selection images")
    levels: Literal[1, 2] | None = Field(None, description="1 or 2; empty: the method's own")
    hypergradient: Literal["first_order", "unrolled", "exact"] | None = Field(
        None, description="empty: the method's own"
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="fixed views of the shots")


class SchedulerSection(_Section):
    """Early stopping inside a cell: asynchronous successive halving (Li et al. 2018, arXiv 1810.05934)."""

    name: Literal["asha", "none"] = Field("asha", description="none: every trial runs to its end")
    grace_epochs: int = Field(5, ge=1, description="no trial is stopped before this epoch; the first rung")
    reduction: float = Field(3, gt=1, description="of the trials at a rung, one in this many goes on")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data


class SearchSection(_Section):
    """What is searched within every cell, and how."""

    trials: int = Field(20, ge=1, le=1_000_000, description="trials per cell")
    sampler: Literal["tpe", "random", "grid", "cmaes", "gp"] = Field("tpe", description="Optuna's sampler")
    seed: int = Field(0, ge=0, description="of the sampler and of the trials")
    startup_trials: int = Field(8, ge=1, description="random trials of a cell before the sampler models it")
    retries: int = Field(2, ge=0, description="how often a trial is tried again after its lane died")
    timeout_s: float = Field(1800, gt=0, description="a trial that gives no sign of life for so long is ended")
    scheduler: SchedulerSection = Field(default_factory=SchedulerSection, description="early stopping")
    space: dict[str, Distribution] = Field(default_factory=dict, description="key: distribution, see below")
    first: tuple[dict[str, Any], ...] = Field(
        (), description="points tried first; each method's published setting always comes before them"
    )


class FinalsSection(_Section):
    """The best configurations of a cell, trained anew and scored on the test split."""

    top_k: int = Field(1, ge=1, description="how many configurations of each cell")
    seeds: int = Field(5, ge=1, description="how many fresh seeds each")


class ResourcesSection(_Section):
    """How many trials run at once and what each may use."""

    lanes: int | Literal["auto"] = Field("auto", description="trials at a time; auto: as many as the cluster fits")
    gpus_per_lane: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="a fraction shares a GPU, 2 or more trains data-parallel; auto: 1 where there are GPUs"
    )
    cpus_per_lane: float = Field(1, gt=0, description="CPU cores of one lane")
    workers_per_lane: int = Field(1, ge=1, description="data-parallel workers of one lane, on CPUs or GPUs")

    @field_validator("lanes")
    @classmethod
    def _some(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1, or auto")
        return value


class SpaceFile(_Section):
    """One sweep: every dataset with every number of shots and every method is a cell."""

    name: str = Field(description="name of the sweep: lower-case letters, digits, _ or -")
    datasets: tuple[DatasetConfig, ...] = Field(min_length=1, description="which labelled images")
    shots: tuple[Annotated[int, Field(ge=2)], ...] = Field(min_length=1, description="K, even; halves are D1 and D2")
    shot_seed: int = Field(0, ge=0, description="which K images are drawn")
    selection: SelectionConfig = Field(default_factory=SelectionConfig, description="where configurations are compared")
    methods: tuple[MethodEntry, ...] = Field(min_length=1, description="what to compare")
    backbone: BackboneConfig = Field(default_factory=BackboneConfig, description="the frozen SAM")
    detector: DetectorConfig = Field(default_factory=DetectorConfig, description="the frozen detector")
    train: TrainSection = Field(default_factory=TrainSection, description="how every trial trains")
    search: SearchSection = Field(default_factory=SearchSection, description="what is searched, and how")
    finals: FinalsSection = Field(default_factory=FinalsSection, description="the best, retrained and tested")
    resources: ResourcesSection = Field(default_factory=ResourcesSection, description="trials at a time")
    storage: str = Field("./results", description="a folder, or s3://bucket/prefix")
    objective: str = Field("auto", description="the metric that chooses; auto: each dataset's primary metric")

    @field_validator("name")
    @classmethod
    def _safe(cls, value: str) -> str:
        if not _NAME.match(value):
            raise ValueError("must be lower-case letters, digits, _ or -, at most 48, and begin with a letter or digit")
        return value

    @field_validator("datasets", "shots", "methods", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            shown = "[...]" if isinstance(value, dict) or value is None else f"[{value}]"
            raise ValueError(f"must be a list; write {shown}")
        if not value:
            raise ValueError("is empty; name at least one")
        return value

    @field_validator("shots")
    @classmethod
    def _even(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        odd = [k for k in value if k % 2]
        if odd:
            raise ValueError(f"{odd[0]} is odd; half of the shots train each level, so K must be even")
        if len(set(value)) != len(value):
            raise ValueError("names a number of shots twice")
        return value
