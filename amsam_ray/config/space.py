"""The schema of a space file: one model per section, one description per field."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from amsam_ray.config.added_fields import WithAddedFields
from amsam_ray.config.datasets import AugmentConfig, DatasetConfig, SelectionConfig
from amsam_ray.config.networks import BackboneConfig, DetectorConfig
from amsam_ray.config.params import OnOff
from amsam_ray.config.plain_values import plain_number

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")
_KINDS = ("uniform", "loguniform", "int", "logint", "choice")
_MAX_NUMBER = 1e9
_MAX_INT = 1_000_000
_MAX_CHOICES = 1_000
_MAX_WORD = 200
_MAX_LANES = 100_000
_GRACE_EPOCHS = 5
_MONTH_S = 30 * 24 * 3600


class _Section(WithAddedFields):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _scalar(value: Any) -> Any:
    """Accept what a hyperparameter can be: null, a boolean, a number of moderate size or a short text."""
    if isinstance(value, str):
        if len(value) > _MAX_WORD:
            raise ValueError(f"text is longer than {_MAX_WORD} characters; shorten it")
    elif isinstance(value, int | float):
        if not abs(value) <= _MAX_NUMBER:  # also refuses NaN
            raise ValueError(f"must be a number between -{_MAX_NUMBER:g} and {_MAX_NUMBER:g}; use a smaller one")
    elif value is not None:
        raise ValueError("must be a single value, not a list or a mapping; write one value")
    return value


def _scalars(values: Any, what: str) -> tuple[Any, ...]:
    if len(values) > _MAX_CHOICES:
        raise ValueError(f"{what} has {len(values):,} values; use at most {_MAX_CHOICES:,}")
    return tuple(_scalar(value) for value in values)


Scalar = Annotated[Any, BeforeValidator(_scalar)]


def _even(value: int) -> int:
    if value % 2:
        raise ValueError(f"{value} is odd; use an even number of shots, half for each level")
    return value


Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Shots = Annotated[int, BeforeValidator(plain_number), Field(ge=2, le=1_000_000), AfterValidator(_even)]


class Distribution(_Section):
    """The values that one hyperparameter may take: a range, a choice or a constant, possibly under a condition.

    In YAML: ``alpha: {uniform: [0.5, 1]}``, ``lr: {loguniform: [1.0e-4, 1.0e-2]}``, ``rank: {int: [2, 16]}``,
    ``rank: {logint: [2, 64]}``, ``head: {choice: [cold, warm]}``, ``w_token: 0.1``,
    ``tau_token: {loguniform: [0.03, 1], when: {adaptors: [tc, mc]}}``.

    A sweep stores a distribution with all fields of this class; that form is read as well, with the same checks.
    """

    kind: Literal["uniform", "loguniform", "int", "logint", "choice", "constant"]
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    when: dict[str, tuple[Any, ...]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, data: Any) -> Any:
        if isinstance(data, Distribution):
            return data
        if isinstance(data, list | tuple):
            raise ValueError("a list is ambiguous; write {choice: [...]}")
        if not isinstance(data, dict):
            return {"kind": "constant", "choices": (_scalar(data),)}
        body = _unstored(data) if "kind" in data else dict(data)
        when = cls._when(body.pop("when", {}))
        if "constant" in body and "kind" in data:
            return {"kind": "constant", "choices": _scalars(body["constant"], "constant"), "when": when}
        if len(body) != 1 or next(iter(body)) not in _KINDS:
            raise ValueError(f"must be a constant or one of {{{', '.join(_KINDS)}}}: [...], optionally with `when`")
        kind, value = next(iter(body.items()))
        if not isinstance(value, list | tuple):
            raise ValueError(f"{kind} needs a list; write {{{kind}: [...]}}")
        if kind == "choice":
            if not value:
                raise ValueError("choice is empty; give at least one value")
            return {"kind": kind, "choices": _scalars(value, kind), "when": when}
        return {"kind": kind, "when": when, **cls._range(kind, value)}

    @staticmethod
    def _when(given: Any) -> dict[str, tuple[Any, ...]]:
        if not isinstance(given, dict):
            raise ValueError("`when` must map a key to the values under which this key is searched; write {key: [...]}")
        values = {key: v if isinstance(v, list | tuple) else [v] for key, v in given.items()}
        return {key: _scalars(v, f"when.{key}") for key, v in values.items()}

    @staticmethod
    def _range(kind: str, value: Any) -> dict[str, float]:
        if len(value) != 2 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
            hint = " (YAML reads 1e-4 as text; write 1.0e-4)" if any(isinstance(v, str) for v in value) else ""
            raise ValueError(f"{kind} needs two numbers; write [low, high]{hint}")
        low, high = (_scalar(v) for v in value)
        if low > high:
            raise ValueError(f"low {low:g} is above high {high:g}; swap them")
        if kind.startswith("log") and low <= 0:
            raise ValueError(f"a log scale needs low > 0, not {low:g}; use a positive low")
        if kind.endswith("int"):
            if any(v != int(v) for v in (low, high)):
                raise ValueError(f"{kind} needs whole numbers; round them")
            if max(abs(low), abs(high)) > _MAX_INT:
                raise ValueError(f"{kind} needs numbers of at most {_MAX_INT:,}; narrow the range")
        return {"low": low, "high": high}

    @property
    def values(self) -> tuple[Any, ...]:
        """All values of a choice or constant, or the two ends of a range."""
        return self.choices if self.kind in ("choice", "constant") else (self._cast(self.low), self._cast(self.high))

    @property
    def searched(self) -> bool:
        """False for a constant."""
        return self.kind != "constant"

    def _cast(self, value: Any) -> Any:
        return int(value) if self.kind.endswith("int") else float(value)


def _unstored(data: dict[str, Any]) -> dict[str, Any]:
    """Return a stored distribution as a space file writes it. Raises ValueError unless all stored fields are there."""
    if set(data) != set(Distribution.model_fields):
        raise ValueError("`kind` is not a distribution; write {uniform: [low, high]}, {choice: [...]} or a constant")
    kind = str(data["kind"])
    if kind == "constant" and (not isinstance(data["choices"], list | tuple) or len(data["choices"]) != 1):
        raise ValueError("a constant has one value; write the value itself")
    inside = data["choices"] if kind in ("choice", "constant") else [data["low"], data["high"]]
    return {kind: inside, "when": data["when"]}


class MethodEntry(_Section):
    """A method, or a labelled variant of it with some keys fixed (a row of an ablation)."""

    name: str = Field(max_length=_MAX_WORD, description="a registered method (`amsam-ray methods list`)")
    label: str = Field(
        "", description="its name in leaderboards; empty: the method's name, and -published with that protocol"
    )
    params: dict[str, Scalar] = Field(default_factory=dict, description="keys fixed for this entry")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        data = {"name": data} if isinstance(data, str) else data
        if isinstance(data, dict) and data.get("label") in (None, ""):
            params = data.get("params")
            published = isinstance(params, dict) and params.get("protocol") == "published"
            # Another row than the method's own: one leaderboard may hold both.
            data = {**data, "label": f"{data.get('name', '')}{'-published' if published else ''}"}
        return data

    @field_validator("label")
    @classmethod
    def _safe(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("label is not valid; use at most 48 lower-case letters, digits, _ or -")
        return value


class TrainSection(_Section):
    """Training of every trial. ``levels``, ``hypergradient`` and ``ahead`` override a method's own values."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"ahead", "checkpointing"})

    epochs: int = Field(100, ge=1, le=100_000, description="passes over D1 (lower) and D2 (upper level)")
    batch_size: int = Field(1, ge=1, le=65_536, description="images per step; AM-SAM states no number")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of activations")
    eval_every: int = Field(1, ge=1, le=100_000, description="epochs between evaluations on the selection images")
    levels: Literal[1, 2] | None = Field(None, description="1 or 2; empty: the method's own")
    hypergradient: Literal["first_order", "unrolled", "exact"] | None = Field(
        None, description="empty: the method's own"
    )
    ahead: Literal["adamw", "sgd", "mixed"] | None = Field(
        None, description="rule of the step ahead, of `unrolled` and `exact`; empty: the method's own"
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="fixed views of the shots")
    checkpointing: OnOff = Field(
        "off", description="on: compute activations of encoder blocks again in the backward pass, for less memory"
    )


class SchedulerSection(_Section):
    """Early stopping inside a cell: asynchronous successive halving (Li et al. 2018, arXiv 1810.05934)."""

    name: Literal["asha", "none"] = Field("asha", description="none: every trial runs all epochs")
    grace_epochs: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="epoch of the first rung; no trial is stopped before it; "
        "empty: 5, or with crossfit the last epoch of the first half of the folds",
    )
    reduction: float = Field(3, gt=1, le=1_000, description="one in this many trials continues past each rung")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data


class SearchSection(_Section):
    """The search within every cell."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"margin", "prior", "stop_when_flat"})

    trials: int = Field(20, ge=1, le=1_000_000, description="trials per cell")
    sampler: Literal["tpe", "random", "grid", "cmaes", "gp"] = Field("tpe", description="Optuna's sampler")
    seed: Seed = Field(0, description="seed of the sampler and of the trials")
    startup_trials: int = Field(
        8, ge=1, le=1_000_000, description="random trials of a cell before the sampler uses its model"
    )
    retries: int = Field(2, ge=0, le=1_000, description="how often a trial is retried after it raised or its lane died")
    timeout_s: float = Field(
        1800, ge=1, le=_MONTH_S, description="a trial without a heartbeat for this many seconds is stopped"
    )
    scheduler: SchedulerSection = Field(default_factory=SchedulerSection, description="early stopping")
    space: dict[str, Distribution] = Field(
        default_factory=dict, max_length=100, description="key: distribution, see below"
    )
    first: tuple[dict[str, Scalar], ...] = Field(
        (), max_length=1_000, description="points tried first, after each method's published setting"
    )
    prior: str | None = Field(
        None,
        max_length=_MAX_WORD,
        description="id of an earlier sweep in the same storage, whose best points are tried before `first`",
    )
    margin: float = Field(
        0.0,
        ge=0,
        le=10,
        description="crossfit: standard errors by which a configuration must beat the published setting to replace it",
    )
    stop_when_flat: bool = Field(
        False,
        description="crossfit: end a cell whose first `startup_trials` trials differ by no more than noise",
    )


class FinalsSection(_Section):
    """The best configurations of a cell, retrained and scored on the test split."""

    top_k: int = Field(1, ge=1, le=1_000, description="number of configurations per cell")
    seeds: int = Field(5, ge=1, le=1_000, description="number of seeds per configuration")


class ResourcesSection(_Section):
    """How many trials run at once, the resources of each, and what nodes keep and share."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"memory_gib", "population", "prepared", "prepared_gib"})

    lanes: int | Literal["auto"] = Field("auto", description="trials at a time; auto: as many as the cluster fits")
    gpus_per_lane: Annotated[float, Field(ge=0, le=1_024)] | Literal["auto"] = Field(
        "auto", description="a fraction shares a GPU, 2 or more train data-parallel; auto: 1 if there are GPUs"
    )
    cpus_per_lane: float = Field(1, ge=0.01, le=4_096, description="CPU cores of one lane")
    workers_per_lane: int = Field(1, ge=1, le=1_024, description="data-parallel workers per lane, on CPUs or GPUs")
    memory_gib: Annotated[float, Field(ge=0, le=1_000_000)] | Literal["auto"] = Field(
        "auto", description="memory of one lane in GiB, its GPUs' not counted; auto: an estimate; 0: ignored"
    )
    prepared: Literal["auto", "storage", "node"] = Field(
        "auto", description="where prepared inputs are kept: `storage`: also there, for all nodes; auto: so in a bucket"
    )
    prepared_gib: float | None = Field(
        None, gt=0, le=1_000_000, description="largest size of a node's prepared inputs in GiB; empty: unlimited"
    )
    population: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        1, description="trials of a cell that a lane trains as one batched step; auto: measures which number is fastest"
    )

    def shares_prepared(self, storage: str) -> bool:
        """Return whether nodes share prepared inputs through ``storage`` (a URI).

        A folder is shared by choice only: for one node it would be a second copy on the same disk.
        """
        return self.prepared == "storage" or (self.prepared == "auto" and storage.startswith("s3://"))

    @field_validator("lanes")
    @classmethod
    def _some(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value <= _MAX_LANES:
            raise ValueError(f"must be 1 to {_MAX_LANES:,}, or auto; use auto to fill the cluster")
        return value


class SpaceFile(_Section):
    """One sweep. Every combination of dataset, number of shots and method is a cell."""

    name: str = Field(description="name of the sweep: lower-case letters, digits, _ or -")
    datasets: tuple[DatasetConfig, ...] = Field(min_length=1, max_length=1_000, description="labelled images")
    shots: tuple[Shots, ...] = Field(min_length=1, max_length=100, description="K, even; halves are D1 and D2")
    shot_seed: Seed = Field(0, description="seed of the draw of the K images")
    selection: SelectionConfig = Field(
        default_factory=SelectionConfig, description="images that compare configurations"
    )
    methods: tuple[MethodEntry, ...] = Field(min_length=1, max_length=1_000, description="methods to compare")
    backbone: BackboneConfig = Field(default_factory=BackboneConfig, description="the frozen SAM")
    detector: DetectorConfig = Field(default_factory=DetectorConfig, description="the frozen detector")
    train: TrainSection = Field(default_factory=TrainSection, description="training of every trial")
    search: SearchSection = Field(default_factory=SearchSection, description="the search within every cell")
    finals: FinalsSection = Field(default_factory=FinalsSection, description="retraining and test of the best")
    resources: ResourcesSection = Field(default_factory=ResourcesSection, description="resources of trials")
    storage: str = Field("./results", min_length=1, description="a folder, or s3://bucket/prefix")
    objective: str = Field(
        "auto", max_length=_MAX_WORD, description="metric to optimise; auto: each dataset's primary metric"
    )

    @field_validator("name")
    @classmethod
    def _safe(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("is not valid; use at most 48 lower-case letters, digits, _ or -, a letter or digit first")
        return value

    @field_validator("datasets", "shots", "methods", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            shown = "[...]" if isinstance(value, dict) or value is None else f"[{str(value)[:_MAX_WORD]}]"
            raise ValueError(f"must be a list; write {shown}")
        if not value:
            raise ValueError("is empty; give at least one item")
        return value

    @field_validator("shots")
    @classmethod
    def _different(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise ValueError("repeats a number of shots; give each number once")
        return value

    @model_validator(mode="after")
    def _first_rung(self) -> SpaceFile:
        scheduler = self.search.scheduler
        if scheduler.grace_epochs is None:
            # Written into the model, so that a file that names the default has the same hash as one that does not.
            epochs = self.train.epochs * math.ceil(self.selection.fold_count / 2)
            first = epochs if self.selection.mode == "crossfit" else _GRACE_EPOCHS
            resolved = scheduler.model_copy(update={"grace_epochs": first})
            object.__setattr__(self, "search", self.search.model_copy(update={"scheduler": resolved}))
        return self
