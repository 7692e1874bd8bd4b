"""Confidence intervals of mean scores, and tests of the differences between leaderboard rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from amsam_ray.hashing import sha256_hex
from amsam_ray.records.summary import RecordSummary

DRAWS = 2000
CONFIDENCE = 0.95

Compute = Callable[[], list[float | None]]
Remember = Callable[[str, Compute], list[float | None]]


def compute_now(key: str, compute: Compute) -> list[float | None]:
    """Return ``compute()``; a ``Remember`` without memory."""
    return compute()


def score_cube(finals: Sequence[RecordSummary]) -> np.ndarray:
    """Return the scores of finals with different seeds on the same test images, SxIxM float64.

    Finals that were scored on other images or metrics than the first one are left out.
    """
    same = [f for f in finals if (f.images, f.image_metrics) == (finals[0].images, finals[0].image_metrics)]
    return np.stack([final.image_scores for final in same])


def confidence_intervals(
    finals: Sequence[RecordSummary], remember: Remember = compute_now
) -> dict[str, tuple[float, float]]:
    """Return the 95 % bootstrap interval of the mean of every metric over seeds and test images.

    Seeds and images are both drawn with replacement, 2,000 times (the percentile bootstrap of Efron 1979 over two
    crossed factors), by a generator with a fixed seed, so equal records give equal intervals.

    Returns:
        Metric -> (low, high), for the metrics that have scores.
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
    """Return the sum of ``cube`` (SxIxM) under the weights of each draw, DxM."""
    per_seed = np.einsum("di,sim->dsm", weight_of_image, cube, optimize=True)
    return np.einsum("ds,dsm->dm", weight_of_seed, per_seed)


def paired_gain(
    chosen: Sequence[RecordSummary],
    baseline: Sequence[RecordSummary],
    metric: str,
    *,
    maximise: bool,
    remember: Remember = compute_now,
) -> tuple[float, float, float, float] | None:
    """Return how much better ``chosen`` is than ``baseline``: the mean gain, its 95 % interval and a p-value.

    A paired bootstrap: test images are drawn once for both, the seeds of either are drawn apart, 2,000 times, by a
    generator with a fixed seed.

    Args:
        chosen, baseline: finals of two configurations with different seeds on the same test images.
        metric: whose gain, positive where ``chosen`` is better.
        maximise: whether larger scores are better.
        remember: keeps the result between calls.

    Returns:
        (mean, low, high, p), p two-sided: twice the smaller share of draws on either side of zero, at least
        1 / ``DRAWS``. None without shared test images.
    """
    if not chosen or not baseline or metric not in chosen[0].image_metrics or metric not in baseline[0].image_metrics:
        return None
    if chosen[0].images != baseline[0].images or not chosen[0].images:
        return None
    ours, theirs = (score_cube(finals)[:, :, finals[0].image_metrics.index(metric)] for finals in (chosen, baseline))
    keep = ~(np.isnan(ours).any(axis=0) | np.isnan(theirs).any(axis=0))
    if not keep.any():
        return None
    sign = 1.0 if maximise else -1.0
    ours, theirs = sign * ours[:, keep], sign * theirs[:, keep]
    digest = sha256_hex(ours.tobytes() + theirs.tobytes() + repr((ours.shape, theirs.shape)).encode())
    found = remember(f"gain {DRAWS} {CONFIDENCE} {digest}", lambda: _bootstrap_gain(ours, theirs))
    mean, low, high, p = (float(value) for value in found if value is not None)
    return mean, low, high, p


def _bootstrap_gain(ours: np.ndarray, theirs: np.ndarray) -> list[float | None]:
    draws, images = np.random.default_rng(0), ours.shape[1]
    of_images = draws.multinomial(images, np.full(images, 1 / images), size=DRAWS) / images
    means = []
    for scores in (ours, theirs):
        seeds = scores.shape[0]
        of_seeds = draws.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS) / seeds
        means.append(np.einsum("ds,si,di->d", of_seeds, scores, of_images, optimize=True))
    gains = means[0] - means[1]
    low, high = np.quantile(gains, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    p = max(1 / DRAWS, min(1.0, 2 * float(min((gains <= 0).mean(), (gains >= 0).mean()))))
    return [float(ours.mean() - theirs.mean()), float(low), float(high), p]


def mean_per_image(finals: Sequence[RecordSummary], metric: str) -> dict[str, float]:
    """Return the mean over seeds of ``metric`` for each test image; images without a score are left out."""
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
    """Return the one-sided p-value of the Wilcoxon signed-rank test (Wilcoxon 1945) over the shared images.

    Small values mean that ``better`` is significantly better than ``other``.

    Args:
        better, other: image -> score.
        maximise: True if larger scores are better.
        remember: keeps the result between calls.

    Returns:
        p in [0, 1]; 1 if no score differs, None if there are fewer than two shared images.
    """
    difference = _differences(better, other) * (1 if maximise else -1)
    if len(difference) < 2:
        return None
    digest = sha256_hex(difference.tobytes())
    return remember(f"wilcoxon {digest}", lambda: [_wilcoxon(difference, "greater")])[0]


def paired_test(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """Return the two-sided p-value of the same test; small values mean that the two differ."""
    difference = _differences(first, second)
    return _wilcoxon(difference, "two-sided") if len(difference) > 1 else None


def _differences(first: Mapping[str, float], second: Mapping[str, float]) -> np.ndarray:
    return np.array([first[name] - second[name] for name in sorted(first.keys() & second.keys())], dtype=float)


def _wilcoxon(difference: np.ndarray, alternative: str) -> float:
    if not difference.any():
        return 1.0
    from scipy.stats import wilcoxon  # slow to import, and needed for new results only

    return float(wilcoxon(difference, alternative=alternative).pvalue)
