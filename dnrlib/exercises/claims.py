"""Exercises of the page *Claims*."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from dnrlib.exercises.core import Exercise
from dnrlib.statistics import holm


def _holm(p: np.ndarray) -> np.ndarray:
    adjusted = holm(dict(enumerate(p)))
    return np.array([adjusted[place] for place in range(len(p))])


def _without_order(p: np.ndarray) -> np.ndarray:
    """Each multiplied by its own factor, with nothing carried on."""
    rank = np.argsort(np.argsort(p))
    return np.minimum(1, (len(p) - rank) * p)


def _uncut(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p)
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    return stepped[np.argsort(order)]


def _fewest(half: Callable[[int], float], difference: float) -> int:
    seeds = 2
    while half(seeds) > difference:
        seeds += 1
    return seeds


def _seeds_needed(spread: float, difference: float) -> int:
    return _fewest(lambda n: student.ppf(0.975, n - 1) * spread / n**0.5, difference)


def _normal_seeds(spread: float, difference: float) -> int:
    return _fewest(lambda n: norm.ppf(0.975) * spread / n**0.5, difference)


def _one_sided_seeds(spread: float, difference: float) -> int:
    return _fewest(lambda n: student.ppf(0.95, n - 1) * spread / n**0.5, difference)


def _whole_width_seeds(spread: float, difference: float) -> int:
    return _fewest(lambda n: 2 * student.ppf(0.975, n - 1) * spread / n**0.5, difference)


def _same(low: float, high: float, margin: float) -> int:
    if -margin < low and high < margin:
        return 1
    return -1 if low > margin or high < -margin else 0


def _not_significant(low: float, high: float, margin: float) -> int:
    return 1 if low <= 0 <= high else -1


def _by_the_mean(low: float, high: float, margin: float) -> int:
    return 1 if abs(low + high) / 2 < margin else -1


def _any_overlap(low: float, high: float, margin: float) -> int:
    return 1 if low < margin and high > -margin else -1


EXERCISES: list[Exercise] = [
    Exercise(
        "holm_adjusted",
        _holm,
        {
            "four p-values": (np.array([0.04, 0.01, 0.03, 0.005]),),
            "in order": (np.array([0.001, 0.02, 0.021]),),
            "large ones": (np.array([0.6, 0.7, 0.5, 0.01]),),
            "one alone": (np.array([0.04]),),
        },
        {
            "That is Bonferroni: the k-th smallest is multiplied by m - k + 1, not by m.": (
                lambda p: np.minimum(1, len(p) * p)
            ),
            "Nothing is carried on: an adjusted value is never below that of a smaller one.": (
                _without_order
            ),
            "A p-value is at most 1.": _uncut,
            "The values come back in order of size; give each its own place.": (
                lambda p: np.sort(_holm(p))
            ),
        },
    ),
    Exercise(
        "seeds_needed",
        _seeds_needed,
        {
            "a small spread": (0.1, 0.2),
            "as large as the difference": (0.2, 0.2),
            "three times as large": (0.6, 0.2),
            "much larger": (2.0, 0.5),
        },
        {
            "1.96 is the factor of very many seeds; of few it is Student's, with n - 1 degrees of "
            "freedom.": _normal_seeds,
            "That is one-sided: a two-sided interval leaves 2.5 % on each side.": _one_sided_seeds,
            "Half of the interval's width has to be below the difference, not all of it.": (
                _whole_width_seeds
            ),
        },
    ),
    Exercise(
        "told_same",
        _same,
        {
            "narrow, about zero": (-0.1, 0.1, 0.5),
            "narrow, off zero, inside": (0.1, 0.3, 0.5),
            "wide, about zero": (-2.0, 2.0, 0.5),
            "over the margin's end": (0.3, 0.9, 0.5),
            "beyond the margin": (0.6, 0.9, 0.5),
            "below it": (-1.9, -0.6, 0.5),
        },
        {
            "That calls the same what is not told apart from zero: a wide interval would pass, "
            "and few runs would prove anything.": _not_significant,
            "That looks at the mean alone. The whole interval must lie within the margin.": (
                _by_the_mean
            ),
            "Touching the margin is not lying within it.": _any_overlap,
        },
    ),
]
