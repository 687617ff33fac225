"""Exercises of the chapter *An online test you can run*."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import chi2

from dnrlib.exercises.core import Exercise


def mismatch(counts: Int[np.ndarray, " arms"], shares: Float[np.ndarray, " arms"]) -> float:
    """p-value of the χ² test that the arms' users are as many as the shares say."""
    expected = counts.sum() * shares
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), len(counts) - 1))


def ratio_error(y: Float[np.ndarray, " users"], per: Float[np.ndarray, " users"]) -> float:
    """Standard error of Σ y / Σ per, with users drawn at random."""
    ratio = y.sum() / per.sum()
    return float((y - ratio * per).std(ddof=1) / per.mean() / len(y) ** 0.5)


def alarms(z: Float[np.ndarray, "tests looks"]) -> float:
    """Share of the tests that someone stops who stops at the first |z| above 1.96."""
    return float((np.abs(z) > 1.96).any(axis=1).mean())


def winners(
    estimates: Float[np.ndarray, " tests"], errors: Float[np.ndarray, " tests"], truth: float
) -> float:
    """How many times too large the significant estimates are, whatever their sign."""
    significant = np.abs(estimates / errors) > 1.96
    return float(np.abs(estimates[significant]).mean() / abs(truth))


def _as_requests(y: np.ndarray, per: np.ndarray) -> float:
    rate = y.sum() / per.sum()
    return float((rate * (1 - rate) / per.sum()) ** 0.5)


def _of_own_ratios(y: np.ndarray, per: np.ndarray) -> float:
    return float((y / per).std(ddof=1) / len(y) ** 0.5)


def _of_the_top(y: np.ndarray, per: np.ndarray) -> float:
    return float(y.std(ddof=1) / per.mean() / len(y) ** 0.5)


def _p(counts: np.ndarray, expected: np.ndarray, below: np.ndarray, freedom: int) -> float:
    return float(chi2.sf(((counts - expected) ** 2 / below).sum(), freedom))


_COUNTS = np.array([5020, 4880])
_HALVES = np.array([0.5, 0.5])
_THREE, _UNEQUAL = np.array([810, 95, 120]), np.array([0.8, 0.1, 0.1])
_LIKES = np.array([0.0, 3.0, 1.0, 0.0, 12.0, 2.0])
_REQUESTS = np.array([4.0, 9.0, 2.0, 6.0, 20.0, 7.0])
_Z = np.array([[0.3, -2.1, 1.0], [1.2, 1.9, 1.7], [0.1, 1.5, 2.4], [-0.4, 0.2, 2.0]])
_ESTIMATES = np.array([0.9, -1.4, 0.2, 1.1, 2.6])
_ERRORS = np.array([0.4, 0.5, 0.4, 0.6, 0.8])

EXERCISES: list[Exercise] = [
    Exercise(
        name="mismatch",
        truth=mismatch,
        cases={
            "two halves": (_COUNTS, _HALVES),
            "three arms": (_THREE, _UNEQUAL),
            "as many as should be": (np.array([800, 100, 100]), _UNEQUAL),
        },
        mistakes={
            "The arms need not be equal: expected are the users times the shares": (
                lambda counts, shares: mismatch(counts, np.full(len(counts), 1 / len(counts)))
            ),
            "One count follows from the others: there is one degree of freedom less than arms": (
                lambda counts, shares: _p(
                    counts, counts.sum() * shares, counts.sum() * shares, len(counts)
                )
            ),
            "Divide by what was expected, not by what was counted": (
                lambda counts, shares: _p(counts, counts.sum() * shares, counts, len(counts) - 1)
            ),
            "This is χ²; its p-value is how often chance alone gives as much or more": (
                lambda counts, shares: float(chi2.isf(mismatch(counts, shares), len(counts) - 1))
            ),
        },
    ),
    Exercise(
        name="ratio_error",
        truth=ratio_error,
        cases={
            "six users": (_LIKES, _REQUESTS),
            "three users": (_LIKES[:3], _REQUESTS[:3]),
            "all with the same rate but one": (_REQUESTS * 0.5 + np.eye(6)[0], _REQUESTS),
        },
        mistakes={
            "Requests of one user hang together: draw users, not requests": _as_requests,
            "This is for the mean of the users' own ratios, which counts a rare user as much as a "
            "frequent one": _of_own_ratios,
            "What is divided by varies as well: take ratio · per off first": _of_the_top,
            "This is the spread of a user; that of the ratio is smaller by the root of the users": (
                lambda y, per: ratio_error(y, per) * len(y) ** 0.5
            ),
        },
    ),
    Exercise(
        name="alarms",
        truth=alarms,
        cases={"four tests": (_Z,), "one look": (_Z[:, 2:],), "two looks": (_Z[:, :2],)},
        mistakes={
            "This is the share at the last look: an earlier alarm has stopped the test": (
                lambda z: float((np.abs(z[:, -1]) > 1.96).mean())
            ),
            "This is the share of looks, not of tests": (
                lambda z: float((np.abs(z) > 1.96).mean())
            ),
            "A fall is an alarm too: take the absolute value": (
                lambda z: float((z > 1.96).any(axis=1).mean())
            ),
        },
    ),
    Exercise(
        name="winners",
        truth=winners,
        cases={
            "five tests, truth 0.5": (_ESTIMATES, _ERRORS, 0.5),
            "a fall in truth": (-_ESTIMATES, _ERRORS, -0.5),
        },
        mistakes={
            "All tests are in it: keep the significant ones": (
                lambda estimates, errors, truth: float(np.abs(estimates).mean() / abs(truth))
            ),
            "Those with the wrong sign cancel others: take absolute values": (
                lambda estimates, errors, truth: float(
                    estimates[np.abs(estimates / errors) > 1.96].mean() / truth
                )
            ),
            "Significant is an estimate of more than 1.96 of its own errors": (
                lambda estimates, errors, truth: float(
                    np.abs(estimates[np.abs(estimates) > 1.96 * errors.mean()]).mean() / abs(truth)
                )
            ),
            "This is how much too large it is; divide by the truth to have how many times": (
                lambda estimates, errors, truth: (
                    (winners(estimates, errors, truth) - 1) * abs(truth)
                )
            ),
        },
    ),
]
