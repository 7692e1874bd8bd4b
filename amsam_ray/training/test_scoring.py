"""Scores of a final on the test split, in pieces, so that memory does not grow with the split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from amsam_ray import parallel
from amsam_ray.config.metrics import THRESHOLD
from amsam_ray.data.dataset import Dataset
from amsam_ray.inference.feature_cache import NoCache
from amsam_ray.inference.inputs import Needs, PreparedSet, Preparer
from amsam_ray.inference.masks import foreground_logits, probability
from amsam_ray.inference.overlays import overlay, save_png
from amsam_ray.models.trained_model import TrainedModel
from amsam_ray.training.evaluate import score_pictures
from amsam_ray.training.lru_cache import LruCache
from amsam_ray.training.metrics import mean_scores
from amsam_ray.training.pictures import originals
from amsam_ray.training.result import Overlay, Rank

# Between the finals of a cell, small test splits stay in memory, and the last pieces of large ones.
_PIECES = LruCache(capacity=2**29, size_of=lambda prepared: prepared.nbytes)


@dataclass(frozen=True)
class FinalScores:
    """Scores on the test split.

    Attributes:
        means: means over images.
        images: per image ``name`` and its scores, in the split's order.
        overlays: of the best, median and worst image.
        detected: share of the images on which the detector found a box.
    """

    means: dict[str, float]
    images: list[dict[str, Any]]
    overlays: list[Overlay]
    detected: float


def score_test_split(
    model: TrainedModel,
    dataset: Dataset,
    preparer: Preparer,
    needs: Needs,
    *,
    identity: str,
    metrics: Sequence[str],
    objective: str,
    maximise: bool,
    folder: Path,
) -> FinalScores:
    """Score every test image at its original size; the workers of a data-parallel run share the images.

    Args:
        model: trained.
        dataset: opened with its test split.
        preparer, needs: prepare the images.
        identity: identifies the dataset within a process.
        metrics: names of ``METRICS``.
        objective, maximise: the ranking of images for the overlays.
        folder: the folder of the overlays, which rank 0 writes.
    """
    if not preparer.encoder.keeps_test_images:
        preparer = replace(preparer, cache=NoCache())
    mine = dataset.test[parallel.rank() :: parallel.world_size()]
    rows: list[dict[str, Any]] = []
    for piece in _pieces(dataset, identity, mine, preparer, needs):
        pictures = piece.for_model(model)
        scores = score_pictures(model, pictures, range(len(pictures)), metrics, precision=needs.precision)
        found = pictures.detected.tolist()
        rows += [
            {"name": name, "found": hit, "scores": score}
            for name, hit, score in zip(pictures.names, found, scores, strict=True)
        ]
    order = {name: place for place, name in enumerate(dataset.test)}
    rows = sorted(parallel.collect(rows), key=lambda row: order[row["name"]])
    overlays = []
    if parallel.rank() == 0:
        for rank, name, score in _ranked(rows, objective, maximise):
            path = folder / f"{rank}.png"
            _draw(model, dataset, preparer, needs, name, path)
            overlays.append(Overlay(rank, name, score, path))
    return FinalScores(
        means=mean_scores([row["scores"] for row in rows]),
        images=[{"name": row["name"], **row["scores"]} for row in rows],
        overlays=overlays,
        detected=sum(row["found"] for row in rows) / len(rows),
    )


def _pieces(
    dataset: Dataset, identity: str, names: Sequence[str], preparer: Preparer, needs: Needs
) -> Iterator[PreparedSet]:
    size = max(1, 32 * 256**2 // preparer.encoder.image_size**2)
    for start in range(0, len(names), size):
        part = tuple(names[start : start + size])
        key = (
            identity,
            part,
            needs,
            preparer.key,
            str(preparer.encoder.device),
        )
        yield _PIECES.get(key, partial(_prepare, dataset, part, preparer, needs))


def _prepare(dataset: Dataset, names: Sequence[str], preparer: Preparer, needs: Needs) -> PreparedSet:
    return preparer.prepare(originals(dataset, names, 0), needs)


def _ranked(rows: Sequence[dict[str, Any]], objective: str, maximise: bool) -> list[tuple[Rank, str, float]]:
    """Return the best, the median and the worst row: rank, name and score."""
    ranked = sorted(rows, key=lambda row: float(row["scores"][objective]), reverse=maximise)
    chosen: dict[Rank, dict[str, Any]] = {
        "best": ranked[0],
        "median": ranked[len(ranked) // 2],
        "worst": ranked[-1],
    }
    return [(rank, row["name"], row["scores"][objective]) for rank, row in chosen.items()]


def _draw(model: TrainedModel, dataset: Dataset, preparer: Preparer, needs: Needs, name: str, path: Path) -> None:
    pictures = _prepare(dataset, [name], preparer, needs).for_model(model)
    ((_, logits),) = foreground_logits(model, pictures, [0], precision=needs.precision)
    image, truth = dataset.image(name), pictures.truths[0]
    size = preparer.encoder.image_size
    prob = probability(logits, (truth.shape[0], truth.shape[1]), size)
    save_png(path, overlay(image, truth, prob > THRESHOLD, pictures.detected_box(0, size)))
