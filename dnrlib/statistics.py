"""Bootstrap intervals for the mean of per-list metrics and for paired differences of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from scipy.stats import t as student

from dnrlib.errors import ConfigError

_DRAWS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile bootstrap interval.

    Attributes:
        mean: the mean over all lists (and seeds) that were kept.
        low: lower end of the interval.
        high: upper end of the interval.
        lists: how many lists were kept.
        dropped: how many lists were dropped because a value of theirs is NaN.
    """

    mean: float
    low: float
    high: float
    lists: int
    dropped: int

    def __format__(self, spec: str) -> str:
        """Mean and ends with three decimals, as in ``0.577 [0.570, 0.584]``; ``+`` for signs."""
        sign = "+" if spec == "+" else ""
        return f"{self.mean:{sign}.3f} [{self.low:{sign}.3f}, {self.high:{sign}.3f}]"


def paired_difference(
    a: Float[np.ndarray, ...],
    b: Float[np.ndarray, ...],
    clusters: Shaped[np.ndarray, ...] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of a - b on the same lists, positive where a is higher; see `mean_interval`.

    Args:
        a: [lists] or [seeds, lists], a metric of one system; the seeds are paired as well.
        b: the same of the other system.

    Raises:
        ConfigError: the shapes differ, or as in `mean_interval`.
    """
    if a.shape != b.shape:
        raise ConfigError(f"a and b must hold the same lists, got shapes {a.shape} and {b.shape}")
    return mean_interval(a - b, clusters, confidence, resamples, seed)


def mean_interval(
    values: Float[np.ndarray, ...],
    clusters: Shaped[np.ndarray, ...] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of per-list values with a percentile bootstrap interval.

    Whole clusters are drawn with replacement, or lists where no clusters are given. With several
    seeds, which share their lists, seeds and clusters are drawn independently of each other
    (Owen 2007, The pigeonhole bootstrap). Where the seeds' own variation dominates, few seeds
    give too narrow an interval: 95 % covers 78 % with 3 seeds, 85 % with 5 and 94 % with 10 in
    simulation.

    Args:
        values: [lists] or [seeds, lists]; a list with a NaN under any seed is dropped.
        clusters: [lists], what a list belongs to, such as its user.
        confidence: coverage aimed at, in (0, 1).
        resamples: number of bootstrap draws.

    Raises:
        ConfigError: a shape, `confidence` or `resamples` cannot be used, or no list is left.
    """
    _check(values, clusters, confidence, resamples)
    rows = np.atleast_2d(values).astype(np.float64)
    kept = ~np.isnan(rows).any(0)
    if not kept.any():
        raise ConfigError("values: no list is left, each has a NaN")
    rows, dropped = rows[:, kept], int((~kept).sum())
    groups = np.arange(rows.shape[1]) if clusters is None else clusters[kept]
    means = _resampled_means(rows, groups, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(rows.mean().item(), low.item(), high.item(), rows.shape[1], dropped)


def seed_difference(
    a: Float[np.ndarray, ...],
    b: Float[np.ndarray, ...],
    confidence: float = 0.95,
) -> Interval:
    """Mean of a - b with Student's interval over the seeds, each seed one observation.

    The lists are taken as they are: what the interval speaks of is training again on these lists.
    Unlike the bootstrap it keeps its coverage with few seeds, if their differences are about
    normal.

    Args:
        a, b: [seeds, lists], a metric of two systems on the same lists; the seeds are paired.

    Raises:
        ConfigError: the shapes differ, or there are fewer than two seeds.
    """
    if a.shape != b.shape or a.ndim != 2 or len(a) < 2:
        raise ConfigError(
            f"a and b must be [seeds, lists] of two seeds or more, got {a.shape} and {b.shape}"
        )
    kept = ~np.isnan(a - b).any(0)
    means = (a - b)[:, kept].mean(1)
    half = student.ppf((1 + confidence) / 2, len(means) - 1) * means.std(ddof=1) / len(means) ** 0.5
    mean = means.mean().item()
    return Interval(mean, mean - half, mean + half, int(kept.sum()), int((~kept).sum()))


def _check(
    values: np.ndarray, clusters: np.ndarray | None, confidence: float, resamples: int
) -> None:
    if values.ndim not in (1, 2):
        raise ConfigError(f"values must be [lists] or [seeds, lists], got shape {values.shape}")
    if clusters is not None and clusters.shape != values.shape[-1:]:
        raise ConfigError(
            f"clusters must name one cluster for each list, got shape {clusters.shape} "
            f"for values of shape {values.shape}"
        )
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, got {confidence}")
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1, got {resamples}")


def _resampled_means(
    values: Float[np.ndarray, "seeds lists"],
    groups: Shaped[np.ndarray, " lists"],
    resamples: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, " {resamples}"]:
    _, cluster, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(cluster, weights=row) for row in values])
    seeds, step = len(values), max(1, _DRAWS_AT_ONCE // len(sizes))
    means = np.empty(resamples)
    for start in range(0, resamples, step):
        rows = means[start : start + step]
        drawn = rng.integers(len(sizes), size=(len(rows), len(sizes)))
        weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(rows)) / seeds
        total = np.take_along_axis(weights @ sums, drawn, axis=1).sum(1)
        rows[:] = total / sizes[drawn].sum(1)
    return means
