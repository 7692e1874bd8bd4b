"""Schema of the record of a trial: one JSON file, written once. Imports no torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, model_validator

from amsam_ray.config.methods import pretrained_text
from amsam_ray.config.plain_values import PlainModel
from amsam_ray.config.trial import TrialConfig
from amsam_ray.data.definition import get_definition
from amsam_ray.hashing import file_sha256
from amsam_ray.records.environment import Environment
from amsam_ray.training.result import TrialResult

SCHEMA_VERSION: Final = 1

Label = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,79}$")]
# One class of a dataset is <dataset>.<class>.
DatasetLabel = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,79}(\.[a-z0-9][a-z0-9_]{0,31})?$")]
TrialId = Annotated[str, Field(pattern=r"^[a-z0-9_-]+(\.[a-z0-9_]+)?\.k[0-9]+\.[a-z0-9_-]+\.t[0-9]{4,}(\.f[0-9]+)?$")]

# Far above what training can give; what lies beyond them can only come from a damaged or a hostile file.
_MAX_NUMBER = 1e12
Number = Annotated[float, Field(ge=-_MAX_NUMBER, le=_MAX_NUMBER, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]
# Names of metrics, parameters and phases become columns of tables and attributes of the report's page.
Word = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,79}$")]
Scores = Annotated[dict[Word, Number | None], Field(max_length=100)]


def _named(row: dict[str, float | str | None]) -> dict[str, float | str | None]:
    if not isinstance(row.get("name"), str):
        raise ValueError("has no name")
    if text := next((key for key, value in row.items() if key != "name" and isinstance(value, str)), None):
        raise ValueError(f"{text[:100]!r} must be a number")
    return row


def _storable(config: dict[str, Any]) -> dict[str, Any]:
    json.dumps(config, allow_nan=False)  # raises ValueError for an infinite number
    return config


ImageScores = Annotated[
    dict[Word, Number | Annotated[str, Field(max_length=10_000)] | None], Field(max_length=100), AfterValidator(_named)
]


def _param(value: Any) -> Any:
    fits = value is None or isinstance(value, bool) or (isinstance(value, str) and len(value) <= 1_000)
    if not fits and not (isinstance(value, int | float) and abs(value) <= _MAX_NUMBER):
        raise ValueError("must be a text, a switch or a finite number")
    return value


ParamValue = Annotated[Any, AfterValidator(_param)]

_TRIAL = re.compile(r"^(?P<cell>.+)\.t(?P<number>[0-9]+)(?:\.f(?P<seed>[0-9]+))?$")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*@")
_SIGNED_QUERY = re.compile(r"(://[^\s?]*)\?\S*")


class OverlayRef(PlainModel):
    """A stored overlay of one test image; ``rank`` is its rank by the objective metric."""

    model_config = ConfigDict(frozen=True)

    rank: Literal["best", "median", "worst"]
    name: str
    score: Number | None
    key: str


class Record(PlainModel):
    """One finished trial.

    Scores are fractions or pixels (``amsam_ray.config.metrics``), never per cent; None stands for a score that is not
    a finite number. Keys are relative to the root of the storage.

    Attributes:
        trial, sweep, cell: ids; ``number`` and ``final_seed`` are the parts NNNN and S of the trial id.
        dataset, definition: the dataset's label in leaderboards, and the name of its definition.
        method, label: the registered method, and its name in leaderboards.
        attempt: 1, plus the number of earlier attempts that raised or whose lane died.
        config, config_sha256: the resolved configuration and its fingerprint.
        params: the method's hyperparameters and switches, part of ``config``; ``searched`` lists the varied ones.
        metric, maximise: the objective; ``primary`` is the dataset's primary metric.
        published: whether the configuration is the method's published setting, cut to what is searched.
        choice: of a final: 1 for the configuration that the search chose, 2, 3, ... for the runners-up, 0 for the
            published setting that is there for comparison alone; None for search trials and in older records.
        flat_after: of a final: number of search trials after which no two differed by more than noise, so that the
            search of the cell ended; None otherwise.
        val, val_images, best_epoch, epochs_run, rung_scores, curve, test, test_images, shots_sha256,
            backbone_fingerprint, detector_fingerprint, prompt_coverage, trained_params, timings, peak_memory_bytes:
            as in TrialResult.
        seconds: wall time; ``gpu_seconds`` is that times the GPUs (or shares of one) that the trial held.
        adapter, curve_file, overlays: keys of the other files of this trial.
        pretrained: what a method that is not SAM starts from; None for one that adapts SAM and in older records.
        adapter_sha256: SHA-256 of the adapter file, 64 hex digits; None without one and in older records.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = SCHEMA_VERSION
    trial: TrialId
    sweep: Label
    cell: str
    number: Count
    final_seed: Count | None = None
    dataset: DatasetLabel
    definition: str
    shots: Annotated[Count, Field(ge=1)]
    method: Annotated[str, Field(min_length=1, max_length=200)]
    label: Label
    backbone: str
    role: Literal["search", "final"]
    seed: Count
    shot_seed: Count
    status: Literal["completed", "pruned", "failed"]
    reason: str | None = None
    attempt: Count = 1

    config: Annotated[dict[str, Any], AfterValidator(_storable)]
    config_sha256: str
    params: Annotated[dict[Word, ParamValue], Field(max_length=200)]
    searched: Annotated[tuple[str, ...], Field(max_length=200)] = ()
    published: bool = False
    choice: Count | None = None
    flat_after: Count | None = None

    metric: Word
    maximise: bool
    primary: Word
    val: Scores = Field(default_factory=dict)
    val_images: list[ImageScores] = Field(default_factory=list)
    best_epoch: Count = 0
    epochs_run: Count = 0
    rung_scores: dict[Count, Number] = Field(default_factory=dict)
    curve: list[Scores] = Field(default_factory=list)
    test: Scores | None = None
    test_images: list[ImageScores] = Field(default_factory=list)

    shots_sha256: str = ""
    backbone_fingerprint: str = ""
    pretrained: Annotated[str, Field(max_length=200)] | None = None
    detector_fingerprint: str | None = None
    prompt_coverage: Number | None = None
    trained_params: Count = 0

    started: AwareDatetime
    finished: AwareDatetime
    seconds: Number
    timings: Annotated[dict[Word, Number], Field(max_length=50)] = Field(default_factory=dict)
    gpus: Number = 0.0
    gpu_seconds: Number = 0.0
    peak_memory_bytes: Count = 0

    adapter: str | None = None
    adapter_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    curve_file: str | None = None
    overlays: Annotated[tuple[OverlayRef, ...], Field(max_length=20)] = ()
    environment: Environment

    @model_validator(mode="after")
    def _ids_agree(self) -> Record:
        if self.cell != f"{self.dataset}.k{self.shots}.{self.label}" or not self.trial.startswith(f"{self.cell}.t"):
            raise ValueError("trial, cell, dataset, shots and label do not belong together")
        found = _TRIAL.match(self.trial)
        seed = None if self.final_seed is None else str(self.final_seed)
        if found is None or int(found["number"]) != self.number or found["seed"] != seed:
            raise ValueError("trial, number and final_seed do not belong together")
        if unknown := set(self.searched) - set(self.params):
            raise ValueError(f"searched names {min(unknown)[:100]!r}, which is not among params")
        return self

    @classmethod
    def build(
        cls,
        *,
        trial: str,
        sweep: str,
        config: TrialConfig,
        result: TrialResult,
        environment: Environment,
        started: float,
        finished: float,
        gpus: float = 0.0,
        attempt: int = 1,
        searched: Sequence[str] = (),
        rung_scores: Mapping[int, float] | None = None,
        published: bool = False,
        choice: int | None = None,
        flat_after: int | None = None,
    ) -> Record:
        """Return the record of ``result`` with the keys under which ``write_trial`` stores its files.

        Args:
            trial, sweep: ids.
            config, result, environment: what was run, with what result, and where.
            started, finished: seconds since the epoch.
            gpus: number of GPUs of the trial, possibly a fraction of one.
            attempt: 1, plus the number of earlier attempts that raised or whose lane died.
            searched: the hyperparameters that the search varied in this cell.
            rung_scores: epoch -> best score so far, as reported at the rungs.
            published, choice, flat_after: as the attributes.

        Raises:
            ValueError: ``trial`` is not a trial id, or does not belong to ``config``.
        """
        ids = _TRIAL.match(trial)
        if ids is None:
            raise ValueError(f"{trial!r} is not a trial id, <cell>.t<NNNN>[.f<S>]")
        folder = f"sweeps/{sweep}"
        final = config.role == "final"
        plain = without_secrets(config.model_dump(mode="json", by_alias=True))
        return cls(
            trial=trial,
            sweep=sweep,
            cell=ids["cell"],
            number=int(ids["number"]),
            final_seed=None if ids["seed"] is None else int(ids["seed"]),
            dataset=config.dataset.label,
            definition=get_definition(config.dataset.name).name,
            shots=config.shots,
            method=config.method,
            label=config.label,
            backbone=config.backbone.arch,
            role=config.role,
            seed=config.seed,
            shot_seed=config.shot_seed,
            status=result.status,
            reason=without_secrets(result.reason),
            attempt=attempt,
            config=plain,
            config_sha256=config.fingerprint(),
            params=without_secrets(config.params.as_dict()),
            searched=tuple(searched),
            published=published,
            choice=choice,
            flat_after=flat_after,
            metric=config.metric,
            maximise=config.maximise,
            primary=get_definition(config.dataset.name).primary_metric,
            val=_finite(result.val),
            val_images=[_finite(entry) for entry in result.val_images],
            best_epoch=result.best_epoch,
            epochs_run=result.epochs_run,
            rung_scores={epoch: s for epoch, s in (rung_scores or {}).items() if math.isfinite(s)},
            curve=[_finite(entry) for entry in result.curve],
            test=None if result.test is None else _finite(result.test),
            test_images=[_finite(entry) for entry in result.test_images],
            shots_sha256=result.shots_sha256,
            backbone_fingerprint=result.backbone_fingerprint,
            pretrained=pretrained_text(config.method, config.params, config.backbone.arch),
            detector_fingerprint=result.detector_fingerprint,
            prompt_coverage=result.prompt_coverage,
            trained_params=result.trained_params,
            started=datetime.fromtimestamp(started, UTC),
            finished=datetime.fromtimestamp(finished, UTC),
            seconds=round(finished - started, 3),
            timings={phase: round(seconds, 4) for phase, seconds in result.timings.items()},
            gpus=gpus,
            gpu_seconds=round((finished - started) * gpus, 3),
            peak_memory_bytes=result.peak_memory_bytes,
            adapter=f"{folder}/adapters/{trial}.safetensors" if result.adapter else None,
            adapter_sha256=file_sha256(result.adapter) if result.adapter else None,
            curve_file=f"{folder}/curves/{trial}.csv" if final and result.curve else None,
            overlays=tuple(
                OverlayRef(
                    rank=overlay.rank,
                    name=overlay.name,
                    score=overlay.score if math.isfinite(overlay.score) else None,
                    key=f"{folder}/overlays/{trial}.{overlay.rank}.png",
                )
                for overlay in result.overlays
            ),
            environment=environment,
        )

    @property
    def key(self) -> str:
        """Key of this record."""
        return record_key(self.sweep, self.trial)

    @property
    def score(self) -> float | None:
        """Value of the objective on the selection images."""
        return self.val.get(self.metric)

    def to_bytes(self) -> bytes:
        """Return canonical JSON in one line; equal records give equal bytes."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return text.encode() + b"\n"


def record_key(sweep: str, trial: str) -> str:
    """Return the key of a trial's record."""
    return f"sweeps/{sweep}/records/{trial}.json"


def without_secrets(value: Any) -> Any:
    """Return ``value`` without user names, passwords and signed queries in its URLs."""
    if isinstance(value, str):
        return _SIGNED_QUERY.sub(r"\1", _CREDENTIALS.sub("", value))
    if isinstance(value, Mapping):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return value


def _finite(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Replace NaN and infinities, which JSON does not have, by None."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
