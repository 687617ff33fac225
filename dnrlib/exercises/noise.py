"""Exercises of the chapter on the noise of real scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import ks_2samp, wasserstein_distance

from dnrlib.exercises.core import Exercise

Values = Float[np.ndarray, " m"]


def ks(a: Values, b: Values) -> float:
    """Largest distance between the two distribution functions, {eq}`eq-noise-ks`."""
    return float(ks_2samp(a, b).statistic)


def wasserstein(a: Values, b: Values) -> float:
    """Mean distance of the sorted values, which for samples of equal size is the integral."""
    return float(wasserstein_distance(a, b))


def pooled_wasserstein(given_0: float, given_1: float, share: float) -> float:
    """Pooled distance of scores in [0, 1] at a share of liked, {eq}`eq-noise-pooled-parts`."""
    return (1 - share) * given_0 + share * given_1


def _gap(a: Values, b: Values, points: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
    """F - G at some points."""
    return (a[:, None] <= points).mean(0) - (b[:, None] <= points).mean(0)


_SAMPLES: dict[str, tuple[Any, Any]] = {
    "equal samples": (np.array([0.1, 0.5, 0.9]), np.array([0.9, 0.1, 0.5])),
    "b moved up": (np.array([0.0, 0.2, 0.4, 0.6]), np.array([0.3, 0.9, 0.7, 0.5])),
    "b moved down": (np.array([0.8, 0.6, 0.7]), np.array([0.3, 0.1, 0.2])),
    "equal means": (np.array([0.4, 0.5, 0.6]), np.array([0.9, 0.5, 0.1])),
    "ties": (np.array([0.2, 0.2, 0.8, 0.8]), np.array([0.2, 0.5, 0.5, 0.8])),
}

EXERCISES = [
    Exercise(
        name="ks",
        truth=ks,
        cases=_SAMPLES,
        mistakes={
            "The largest of F - G itself was taken: where G lies above F it is the other way "
            "round, so take the absolute value first.": lambda a, b: _gap(
                a, b, np.concatenate([a, b])
            ).max(),
            "F and G were compared at the values of a only; they jump at those of b "
            "too.": lambda a, b: np.abs(_gap(a, b, a)).max(),
            "That is a mean over the points; the statistic is the largest.": lambda a, b: np.abs(
                _gap(a, b, np.concatenate([a, b]))
            ).mean(),
        },
    ),
    Exercise(
        name="wasserstein",
        truth=wasserstein,
        cases=_SAMPLES,
        mistakes={
            "The values were paired in the order in which they came; sort both "
            "first.": lambda a, b: np.abs(a - b).mean(),
            "That is the distance of the means, which other laws can share.": lambda a, b: abs(
                a.mean() - b.mean()
            ),
            "That is the sum over the pairs; divide by how many there are.": lambda a, b: np.abs(
                np.sort(a) - np.sort(b)
            ).sum(),
        },
    ),
    Exercise(
        name="pooled_wasserstein",
        truth=pooled_wasserstein,
        cases={
            "one in ten liked": (0.05, 0.45, 0.1),
            "none liked": (0.05, 0.45, 0.0),
            "half liked": (0.2, 0.0, 0.5),
            "nearly all liked": (0.3, 0.1, 0.9),
        },
        mistakes={
            "The weights have changed places: `share` is that of z = 1.": lambda w_0, w_1, share: (
                share * w_0 + (1 - share) * w_1
            ),
            "Both labels got the same weight.": lambda w_0, w_1, share: (w_0 + w_1) / 2,
            "That is the rule for KS; this distance adds both parts up.": lambda w_0, w_1, share: (
                max((1 - share) * w_0, share * w_1)
            ),
        },
    ),
]
