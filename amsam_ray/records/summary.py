"""What leaderboards need of a record, without its curve: small enough to keep 100,000 of them at hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from amsam_ray.records.schema import Record, Scores


@dataclass(frozen=True)
class Brief:
    """A part of a ``Record``, under the same names.

    Attributes:
        images: names of the test images that were scored, in the record's order; empty for search trials.
        image_metrics: the metrics of the columns of ``image_scores``.
        image_scores: IxM float64, the score of each image in each metric, NaN where there is none.
    """

    key: str
    sweep: str
    trial: str
    number: int
    dataset: str
    definition: str
    shots: int
    label: str
    backbone: str
    role: str
    status: str
    metric: str
    maximise: bool
    primary: str
    score: float | None
    test: Scores | None
    params: dict[str, Any]
    method: str
    seconds: float
    gpu_seconds: float
    trained_params: int
    prompt_coverage: float | None
    adapter: str | None
    images: tuple[str, ...] = ()
    image_metrics: tuple[str, ...] = ()
    image_scores: np.ndarray = field(default_factory=lambda: np.empty((0, 0)), compare=False)

    @classmethod
    def of(cls, record: Record) -> Brief:
        """The brief of ``record``."""
        rows = record.test_images
        metrics = tuple(dict.fromkeys(name for row in rows for name in row if name != "name"))
        values = [[np.nan if (score := row.get(name)) is None else score for name in metrics] for row in rows]
        names = ("key", *(name for name in cls.__dataclass_fields__ if not name.startswith("image") and name != "key"))
        return cls(
            **{name: getattr(record, name) for name in names},
            images=tuple(str(row["name"]) for row in rows),
            image_metrics=metrics,
            image_scores=np.array(values, dtype=float).reshape(len(rows), len(metrics)),
        )

    def dump(self) -> tuple[str, bytes]:
        """This brief as a text and the bytes of its scores, for ``load``."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "image_scores"}
        return json.dumps(plain), self.image_scores.tobytes()

    @classmethod
    def load(cls, text: str, scores: bytes) -> Brief:
        """The inverse of ``dump``."""
        plain = json.loads(text)
        shape = (len(plain["images"]), len(plain["image_metrics"]))
        plain["images"], plain["image_metrics"] = tuple(plain["images"]), tuple(plain["image_metrics"])
        return cls(**plain, image_scores=np.frombuffer(scores, dtype=float).reshape(shape))


@dataclass(frozen=True)
class CellSummary:
    """All trials of one cell of one sweep.

    Attributes:
        trials: search trials recorded, of which ``pruned`` and ``failed`` ended so.
        seconds, gpu_seconds: summed over search trials and finals.
        best: the search trial with the best score on the selection images, of those that completed if any did; else
            of the pruned ones, else a failed one.
        finals: completed finals, by trial and seed.
    """

    sweep: str
    dataset: str
    shots: int
    label: str
    trials: int
    pruned: int
    failed: int
    seconds: float
    gpu_seconds: float
    best: Brief
    finals: tuple[Brief, ...]
