"""How sure a mean score is, and whether one row of a leaderboard really beats another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from amsam_ray.hashing import sha256_hex
from amsam_ray.records.summary import Brief

DRAWS = 2000
CONFIDENCE = 0.95

Compute = Callable[[], list[float | None]]
Remember = Callable[[str, Compute], list[float | None]]


def compute_now(key: str, compute: Compute) -> list[float | None]:
    """A ``Remember`` that remembers nothing."""
    return compute()


def score_cube(finals: Sequence[Brief]) -> np.ndarray:
    """SxIxM float64: the scores of finals with different seeds on the same test images.

    Finals that were scored on other images than the first one are left out, so that a cube exists in any case.
    """
    same = [f for f in finals if (f.images, f.image_metrics) == (finals[0].images, finals[0].image_metrics)]
    return np.stack([final.image_scores for final in same])


def confidence_intervals(finals: Sequence[Brief], remember: Remember = compute_now) -> dict[str, tuple[float, float]]:
    """The 95 % bootstrap interval of the mean of every metric, over seeds and test images.

    Both the seeds and the images are drawn with replacement, 2,000 times (the percentile bootstrap of Efron 1979,
    over two crossed factors), from a generator with a fixed seed: equal records give equal intervals.

    Returns:
        metric -> (low, high), for the metrics that have scores.
    """
    if not finals or not finals[0].images:
        return {}
    cube = score_cube(finals)
    names = finals[0].image_metrics
    digest = sha256_hex(cube.tobytes() + repr(cube.shape).encode())
    flat = remember(f"interval {DRAWS} {CONFIDENCE} {digest}", lambda: _bootstrap(cube))
    return {
        name: (low, high)
        for name, low, high in zip(names, flat[::2], flat[1::2], strict=True)
        if low is not None and high is not None
    }


def _bootstrap(cube: np.ndarray) -> list[float | None]:
    seeds, images, metrics = cube.shape
    draws = np.random.default_rng(0)
    weight_of_seed = draws.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS)
    weight_of_image = draws.multinomial(images, np.full(images, 1 / images), size=DRAWS).astype(float)
    present = ~np.isnan(cube)
    total = _weighted(weight_of_seed, weight_of_image, np.where(present, cube, 0.0))
    count = _weighted(weight_of_seed, weight_of_image, present.astype(float))
    flat: list[float | None] = []
    for metric in range(metrics):
        drawn = count[:, metric] > 0
        if not drawn.any():
            flat += [None, None]
            continue
        means = total[drawn, metric] / count[drawn, metric]
        flat += [float(q) for q in np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])]
    return flat


def _weighted(weight_of_seed: np.ndarray, weight_of_image: np.ndarray, cube: np.ndarray) -> np.ndarray:
    """DxM: the sum of ``cube`` (SxIxM) under each draw's weights."""
    per_seed = np.einsum("di,sim->dsm", weight_of_image, cube, optimize=True)
    return np.einsum("ds,dsm->dm", weight_of_seed, per_seed)


def mean_per_image(finals: Sequence[Brief], metric: str) -> dict[str, float]:
    """Test image -> its score in ``metric``, the mean over seeds; images without a score are left out."""
    if not finals or metric not in finals[0].image_metrics:
        return {}
    scores = score_cube(finals)[:, :, finals[0].image_metrics.index(metric)]
    present = ~np.isnan(scores)
    counts = present.sum(axis=0)
    sums = np.where(present, scores, 0.0).sum(axis=0)
    return {name: float(s / n) for name, s, n in zip(finals[0].images, sums, counts, strict=True) if n}


def probability_of_no_gain(
    better: Mapping[str, float],
    other: Mapping[str, float],
    *,
    maximise: bool,
    remember: Remember = compute_now,
) -> float | None:
    """One-sided p-value of the Wilcoxon signed-rank test over the images that both were scored on.

    Small values say that ``better`` really beats ``other``. None if they share fewer than two images; 1 if no score
    differs.
    """
    difference = _differences(better, other) * (1 if maximise else -1)
    if len(difference) < 2:
        return None
    digest = sha256_hex(difference.tobytes())
    return remember(f"wilcoxon {digest}", lambda: [_wilcoxon(difference, "greater")])[0]


def paired_test(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """Two-sided p-value of the same test; small values say that the two differ."""
    difference = _differences(first, second)
    return _wilcoxon(difference, "two-sided") if len(difference) > 1 else None


def _differences(first: Mapping[str, float], second: Mapping[str, float]) -> np.ndarray:
    return np.array([first[name] - second[name] for name in sorted(first.keys() & second.keys())], dtype=float)


def _wilcoxon(difference: np.ndarray, alternative: str) -> float:
    if not difference.any():
        return 1.0
    from scipy.stats import wilcoxon  # most of a second to import, and needed for new results only

    return float(wilcoxon(difference, alternative=alternative).pvalue)
