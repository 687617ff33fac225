"""Exercises of *Which protocol?* and *Where does the gain come from?*."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from dnrlib import studies
from dnrlib.exercises.core import Exercise

Values = Float[np.ndarray, " m"]
PerList = Float[np.ndarray, " lists"]
Cells = Float[np.ndarray, "settings values"]


def expected_shown_first(liked: int, shown: int, k: int) -> float:
    """{eq}`eq-shown-first` for one list."""
    return float(studies.shown_first(np.array([liked]), np.array([shown]), k)[0])


def mean_range(results: Cells) -> float:
    """{eq}`eq-range`."""
    return float(np.ptp(results, axis=1).mean())


def score_optimism(train_x: Values, train_z: Values, test_x: Values, test_z: Values) -> float:
    """{eq}`eq-optimism` from the scores and labels of candidates."""
    return _distance(train_x, train_z) - _distance(test_x, test_z)


def repair(
    dnr: PerList, concat: PerList, dnr_out: PerList, concat_out: PerList
) -> Float[np.ndarray, " 2"]:
    """Mean of {eq}`eq-repair` over lists, and its standard error from list to list."""
    difference = (dnr - concat) - (dnr_out - concat_out)
    return np.array([difference.mean(), difference.std(ddof=1) / len(difference) ** 0.5])


def _distance(x: Values, z: Values) -> float:
    return float(x[z == 1].mean() - x[z == 0].mean())


def _liked_only(train_x: Values, train_z: Values, test_x: Values, test_z: Values) -> float:
    return float(train_x[train_z == 1].mean() - test_x[test_z == 1].mean())


def _as_four_samples(*columns: PerList) -> Float[np.ndarray, " 2"]:
    error = sum(column.var(ddof=1) / len(column) for column in columns) ** 0.5
    return np.array([repair(*columns)[0], error])


def _without_root(*columns: PerList) -> Float[np.ndarray, " 2"]:
    return repair(*columns) * [1, len(columns[0]) ** 0.5]


def _uncut_ideal(liked: int, shown: int, k: int) -> float:
    discounts = 1 / np.log2(np.arange(k) + 2)
    return float(liked / shown * discounts[:shown].sum() / discounts.sum())


def _scores(seed: int, gap: float) -> tuple[Num[np.ndarray, " 12"], Num[np.ndarray, " 12"]]:
    random = np.random.default_rng(seed)
    z = np.arange(12) % 3 == 0
    return random.random(12) * (1 - gap) + gap * z, z.astype(float)


def _columns(seed: int, lists: int) -> tuple[PerList, ...]:
    random = np.random.default_rng(seed)
    difficulty = random.random(lists)
    return tuple(difficulty + 0.1 * random.random(lists) + shift for shift in (0.2, 0.1, 0.15, 0.0))


EXERCISES: list[Exercise] = [
    Exercise(
        "expected_shown_first",
        expected_shown_first,
        {
            "five of six liked": (5, 6, 6),
            "more shown than places": (4, 10, 6),
            "fewer shown than places": (1, 3, 6),
            "all liked": (2, 2, 6),
        },
        {
            "That is the share of liked among the shown: the ideal order has its places full "
            "first, and so a larger discount each.": lambda liked, shown, k: liked / shown,
            "The ideal order has only as many positives as were liked.": _uncut_ideal,
            "Only the shown candidates come first: behind them nothing is liked.": (
                lambda liked, shown, k: (
                    expected_shown_first(liked, max(shown, k), k) * max(shown, k) / shown
                )
            ),
        },
    ),
    Exercise(
        "mean_range",
        mean_range,
        {
            "the best value is not the same": (np.array([[0.7, 0.6], [0.1, 0.4]]),),
            "three values": (np.array([[0.2, 0.5, 0.3], [0.9, 0.4, 0.6], [0.1, 0.1, 0.2]]),),
            "one setting": (np.array([[0.3, 0.1, 0.2]]),),
        },
        {
            "Means first: a choice that helps here and harms there then seems to do nothing.": (
                lambda results: np.ptp(results.mean(axis=0))
            ),
            "That is the largest range: wanted is the mean over settings.": (
                lambda results: np.ptp(results, axis=1).max()
            ),
            "That is the range of all results: settings differ, whatever the choice.": np.ptp,
            "That is the spread over settings: take the range over the values.": (
                lambda results: np.ptp(results, axis=0).mean()
            ),
        },
    ),
    Exercise(
        "score_optimism",
        score_optimism,
        {
            "scores that remember": (*_scores(0, 0.6), *_scores(1, 0.2)),
            "scores that do not": (*_scores(2, 0.3), *_scores(3, 0.3)),
            "the same lists": (*_scores(4, 0.5), *_scores(4, 0.5)),
        },
        {
            "The sign is wrong: training less test.": lambda *given: -score_optimism(*given),
            "That looks at the liked candidates alone: if all scores are higher in training, the "
            "score tells no more there.": _liked_only,
            "That is the distance in the training lists: take that in the test lists off.": (
                lambda train_x, train_z, test_x, test_z: _distance(train_x, train_z)
            ),
        },
    ),
    Exercise(
        "repair",
        repair,
        {
            "forty lists": _columns(0, 40),
            "few lists": _columns(1, 5),
            "no gain at all": (*_columns(2, 8)[:2], *_columns(2, 8)[:2]),
        },
        {
            "The standard error is that of four samples of other lists: these are the same lists, "
            "so take the difference list by list first.": _as_four_samples,
            "That is the spread of a list: divide by the root of their number.": _without_root,
            "The sign is wrong: in-sample less crossfit.": lambda *columns: (
                repair(*columns) * [-1, 1]
            ),
            "That is the gain with in-sample scores: take the gain with crossfit scores off.": (
                lambda dnr, concat, dnr_out, concat_out: repair(dnr, concat, 0 * dnr, 0 * concat)
            ),
        },
    ),
]
