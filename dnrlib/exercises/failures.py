"""Exercises of *Deviations* and *What did not work*."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from dnrlib import expectations
from dnrlib.exercises.core import Exercise

Universes = Float[np.ndarray, " universes"]
Curve = Float[np.ndarray, " epochs"]
Ends = Float[np.ndarray, " expectations"]


def forked_gain(method: Universes, baseline: Universes) -> Float[np.ndarray, " 2"]:
    """The largest gain that one universe shows, and the mean gain of all."""
    gain = method - baseline
    return np.array([gain.max(), gain.mean()])


def forced_share(forced: Float[np.ndarray, " choices"], effect: Ends) -> float:
    """Share of the squared effects that belongs to forced choices; what is not measured is NaN."""
    squares = np.square(effect)
    return float(np.nansum(squares * forced) / np.nansum(squares))


def with_patience(validation: Curve, patience: int) -> Int[np.ndarray, " 2"]:
    """Epochs that are trained, and the epoch that is kept, counted from 1."""
    return np.array(expectations.with_patience(list(validation), patience))


def came_true(low: Ends, high: Ends, side: Ends) -> Float[np.ndarray, " expectations"]:
    """1 true, -1 false, 0 undecided, of intervals whose sign was expected to be ``side``."""
    return side * ((low > 0).astype(float) - (high < 0))


def _stopping(late: int) -> Callable[[Curve, int], Int[np.ndarray, " 2"]]:
    """Patience that runs out so many epochs too late."""
    return lambda validation, patience: with_patience(validation, patience + late)


def _last_kept(validation: Curve, patience: int) -> Int[np.ndarray, " 2"]:
    epochs, _ = with_patience(validation, patience)
    return np.array([epochs, epochs])


def _looks_ahead(validation: Curve, patience: int) -> Int[np.ndarray, " 2"]:
    epochs, _ = with_patience(validation, patience)
    return np.array([epochs, validation.argmax() + 1])


def _any_fall(validation: Curve, patience: int) -> Int[np.ndarray, " 2"]:
    """Counts epochs in a row that are worse than the one before."""
    falls = 0
    for epoch in range(1, len(validation)):
        falls = falls + 1 if validation[epoch] <= validation[epoch - 1] else 0
        if falls == patience:
            return np.array([epoch + 1, validation[: epoch + 1].argmax() + 1])
    return np.array([len(validation), validation.argmax() + 1])


EXERCISES = [
    Exercise(
        "forked_gain",
        forked_gain,
        {
            "three universes": (np.array([0.55, 0.86, 0.20]), np.array([0.90, 0.85, 0.17])),
            "a method that never gains": (np.array([0.3, 0.4]), np.array([0.5, 0.9])),
            "one universe": (np.array([0.7]), np.array([0.6])),
        },
        {
            "You let each method choose its own universe: a gain is of two results from the same "
            "one.": lambda method, baseline: np.array(
                [method.max() - baseline.max(), (method - baseline).mean()]
            ),
            "That is the method at its best against the baseline at its worst.": (
                lambda method, baseline: np.array(
                    [method.max() - baseline.min(), (method - baseline).mean()]
                )
            ),
            "That is the universe in which the method is highest, not the one in which it gains "
            "most.": lambda method, baseline: np.array(
                [(method - baseline)[method.argmax()], (method - baseline).mean()]
            ),
            "The order is the largest gain, then the mean.": (
                lambda method, baseline: forked_gain(method, baseline)[::-1]
            ),
            "The sign is wrong: a gain is method minus baseline.": (
                lambda method, baseline: forked_gain(baseline, method)
            ),
        },
    ),
    Exercise(
        "forced_share",
        forced_share,
        {
            "one forced": (np.array([1.0, 0.0, 0.0]), np.array([0.01, -0.03, 0.02])),
            "one not measured": (
                np.array([1.0, 1.0, 0.0, 0.0]),
                np.array([-0.04, np.nan, 0.02, 0.1]),
            ),
            "none forced": (np.array([0.0, 0.0]), np.array([0.1, -0.2])),
        },
        {
            "What is not measured is NaN: leave it out of both sums.": lambda forced, effect: float(
                (forced * effect**2).sum() / (effect**2).sum()
            ),
            "Effects have signs and would cancel: square them.": lambda forced, effect: (
                np.nansum(forced * effect) / np.nansum(effect)
            ),
            "Those are absolute values: asked for is the share of the squares.": (
                lambda forced, effect: np.nansum(forced * abs(effect)) / np.nansum(abs(effect))
            ),
            "That is the share of the others, those that were choices.": lambda forced, effect: (
                1 - forced_share(forced, effect)
            ),
            "That counts choices: weigh each by its squared effect.": lambda forced, effect: forced[
                ~np.isnan(effect)
            ].mean(),
        },
    ),
    Exercise(
        "with_patience",
        with_patience,
        {
            "a late second rise": (np.array([0.50, 0.52, 0.51, 0.51, 0.60]), 2),
            "more patience": (np.array([0.50, 0.52, 0.51, 0.51, 0.60]), 3),
            "up and down": (np.array([0.3, 0.5, 0.4, 0.45, 0.44, 0.6, 0.2]), 2),
            "never worse": (np.array([0.1, 0.2, 0.3]), 1),
            "a tie is no improvement": (np.array([0.4, 0.4, 0.5]), 1),
        },
        {
            "It stops too late by one: with patience 1 the first epoch that is no better ends "
            "it.": _stopping(1),
            "The epoch that is kept is the best one so far, not the last one.": _last_kept,
            "The best of all epochs was kept, but after stopping nobody sees the later ones.": (
                _looks_ahead
            ),
            "Epochs are compared with the best so far, not with the one before.": _any_fall,
            "Epochs count from 1.": lambda validation, patience: (
                with_patience(validation, patience) - 1
            ),
        },
    ),
    Exercise(
        "came_true",
        came_true,
        {
            "all three": (
                np.array([0.01, -0.03, -0.01]),
                np.array([0.02, -0.01, 0.02]),
                np.array([1.0, 1.0, 1.0]),
            ),
            "expected below": (
                np.array([0.01, -0.03, -0.01]),
                np.array([0.02, -0.01, 0.02]),
                np.array([-1.0, -1.0, -1.0]),
            ),
            "both sides": (np.array([0.4, -0.4]), np.array([0.5, -0.3]), np.array([-1.0, 1.0])),
        },
        {
            "The side is missing: below zero is true where that was expected.": (
                lambda low, high, side: came_true(low, high, np.ones_like(side))
            ),
            "An interval that holds zero decides nothing: 0, not -1.": lambda low, high, side: (
                np.where(came_true(low, high, side) > 0, 1.0, -1.0)
            ),
            "That is the side on which the middle of the interval lies: an interval that holds "
            "zero decides nothing.": lambda low, high, side: side * np.sign(low + high),
        },
    ),
]
