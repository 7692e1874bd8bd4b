"""The cells of a space: one (dataset, shots, method) each, with its own search space and Optuna study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amsam_ray.config.classes import class_datasets
from amsam_ray.config.datasets import DatasetConfig, SelectionConfig
from amsam_ray.config.methods import METHODS, resolve_params
from amsam_ray.config.metrics import METRICS
from amsam_ray.config.params import on_off_word
from amsam_ray.config.space import Distribution, MethodEntry, SpaceFile
from amsam_ray.config.space_checks import live_space, switch_values
from amsam_ray.config.trial import TrainConfig, TrialConfig
from amsam_ray.data.definition import get_definition

Prior = Mapping[str, tuple[Mapping[str, Any], ...]]
"""Method -> points that an earlier sweep found, best first."""


@dataclass(frozen=True)
class Cell:
    """One combination of dataset, number of shots and method, which becomes one leaderboard row.

    Attributes:
        id: ``<dataset label>.k<shots>.<method label>``; the label of a class is ``<dataset>.<class>``.
        fixed: keys that the space file fixes for this cell, switches and constants alike.
        space: what is searched, in the file's order; empty for a method with nothing to search.
        first: points tried before the sampler is asked, the method's published setting first.
        metric, maximise: what the search optimises and which way.
    """

    id: str
    dataset: DatasetConfig
    shots: int
    entry: MethodEntry
    fixed: Mapping[str, Any]
    space: Mapping[str, Distribution]
    first: tuple[Mapping[str, Any], ...]
    metric: str
    maximise: bool
    source: SpaceFile

    @property
    def trials(self) -> int:
        """Number of search trials: one if nothing is searched."""
        return self.source.search.trials if self.space else 1

    @property
    def final_seeds(self) -> int:
        """Number of seeds of each final: one if nothing is random."""
        return self.source.finals.seeds if METHODS[self.entry.name].trainable else 1

    @property
    def published(self) -> Mapping[str, Any] | None:
        """The method's published setting, cut to what is searched; None if nothing is."""
        return self.first[0] if self.first else None

    def config(
        self,
        params: Mapping[str, Any],
        *,
        seed: int,
        role: str = "search",
        published: bool = False,
        stop_epoch: int = 0,
    ) -> TrialConfig:
        """Return the full configuration of one trial.

        Args:
            params: values for the searched keys that are live in this point.
            seed: seed of the trial's initialisation and of the order of its batches.
            role: ``search`` or ``final``.
            published: whether this is a final of the published setting, which follows the papers' protocol (the epoch
                chosen on D2) even where configurations are cross-fitted.
            stop_epoch: of a final of a cross-fitted configuration, the epoch after which it stops; 0: the last.

        Raises:
            InputError: a value is not valid for the method.
        """
        space = self.source
        return TrialConfig(
            dataset=self.dataset,
            shots=self.shots,
            shot_seed=space.shot_seed,
            selection=SelectionConfig() if published and space.selection.mode == "crossfit" else space.selection,
            method=self.entry.name,
            label=self.entry.label,
            params=resolve_params(self.entry.name, {**self.fixed, **params}),
            backbone=space.backbone,
            detector=space.detector,
            train=TrainConfig(
                epochs=space.train.epochs,
                batch_size=space.train.batch_size,
                precision=space.train.precision,
                eval_every=space.train.eval_every,
                augment=space.train.augment,
                checkpointing=space.train.checkpointing,
            ),
            seed=seed,
            role=role,
            metric=self.metric,
            maximise=self.maximise,
            stop_epoch=stop_epoch,
        )


def make_cells(space: SpaceFile, prior: Prior | None = None) -> list[Cell]:
    """Return all cells of a sweep, shots ascending so that the cheap ones come first; a class is a dataset.

    Args:
        space: the space file.
        prior: points of an earlier sweep, tried after the published setting and before those of the file.
    """
    return [
        _cell(space, dataset, shots, entry, (prior or {}).get(entry.name, ()))
        for shots in sorted(space.shots)
        for dataset in (one for dataset in space.datasets for one in class_datasets(dataset))
        for entry in space.methods
    ]


def _cell(
    space: SpaceFile, dataset: DatasetConfig, shots: int, entry: MethodEntry, prior: Sequence[Mapping[str, Any]]
) -> Cell:
    live = live_space(space, entry)
    metric = space.objective if space.objective != "auto" else get_definition(dataset.name).primary_metric
    fixed = {key: values[0] for key, values in switch_values(space, entry).items() if len(values) == 1}
    fixed |= {key: d.choices[0] for key, d in live.items() if not d.searched}
    fixed |= dict(entry.params)
    # A method without training has nothing random and one trial: its switches are set, not searched.
    trainable = METHODS[entry.name].trainable
    searched = {key: d for key, d in live.items() if d.searched and trainable}
    return Cell(
        id=f"{dataset.label}.k{shots}.{entry.label}",
        dataset=dataset,
        shots=shots,
        entry=entry,
        fixed=fixed,
        space=searched,
        first=_first_points(entry, searched, (*prior, *space.search.first)),
        metric=metric,
        maximise=METRICS[metric].maximise,
        source=space,
    )


def _first_points(
    entry: MethodEntry, searched: Mapping[str, Distribution], given: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], ...]:
    """Return the published setting, then the given points, cut to what this cell searches, without repeats."""
    published = resolve_params(entry.name, {}).as_dict()
    points: dict[tuple[Any, ...], dict[str, Any]] = {}
    for point in (published, *given):
        cut = {key: on_off_word(point.get(key, published[key])) for key in searched}
        if cut:
            points.setdefault(tuple(cut.values()), cut)
    return tuple(points.values())
