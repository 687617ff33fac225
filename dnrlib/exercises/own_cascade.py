"""Exercises of the chapter *Your own cascade*."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from dnrlib.exercises.core import Exercise


def border_step(aucs: Float[np.ndarray, " lists"], border: int, width: int) -> float:
    """How far the score's AUC falls at the border between training and validation lists.

    Args:
        aucs: of each list, in order of time; NaN where a list does not define it.
        border: the number of training lists, which come first.
        width: how many lists before and after the border are compared.
    """
    before, after = aucs[border - width : border], aucs[border : border + width]
    return float(np.nanmean(before) - np.nanmean(after))


def needed_lists(
    lists: int, squared_error: float, by_seed: float, seeds: int, effect: float, z: float
) -> float:
    """Lists with which an effect would be found: {eq}`eq-own-cascade-needed`.

    Args:
        lists: how many there are.
        squared_error: of the mean over these lists and seeds.
        by_seed: variance between seeds alone.
        effect: what is to be found.
        z: sum of the two normal quantiles.
    """
    stays = by_seed / seeds
    return lists * (squared_error - stays) / ((effect / z) ** 2 - stays)


def unbiased_dcg(
    clicks: Float[np.ndarray, "lists n"],
    shown_at: Int[np.ndarray, "lists n"],
    examined: Float[np.ndarray, " n"],
    new_places: Int[np.ndarray, "lists n"],
) -> float:
    """DCG of a new order from clicks on an old one: {eq}`eq-own-cascade-ips`.

    Args:
        shown_at, new_places: place of each candidate in the old and in the new order, from 0.
        examined: probability that a user looks at a place.
    """
    weight = clicks / examined[shown_at]
    return float((weight / np.log2(new_places + 2)).sum(axis=1).mean())


_AUCS = np.array([0.9, 0.8, np.nan, 0.85, 0.9, 0.6, 0.5, np.nan, 0.7, 0.65])
_CLICKS = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
_OLD = np.array([[0, 1, 2], [2, 0, 1]])
_NEW = np.array([[2, 1, 0], [0, 2, 1]])
_SEEN = np.array([1.0, 0.5, 0.25])

EXERCISES: list[Exercise] = [
    Exercise(
        "border_step",
        border_step,
        {
            "a step": (_AUCS, 5, 3),
            "one list on each side": (_AUCS, 5, 1),
            "all that there is": (_AUCS, 5, 5),
        },
        {
            "A fall is positive: training minus validation.": (
                lambda aucs, border, width: -border_step(aucs, border, width)
            ),
            "Compare the lists next to the border, not the first ones of the log: tastes drift.": (
                lambda aucs, border, width: float(
                    np.nanmean(aucs[:width]) - np.nanmean(aucs[border : border + width])
                )
            ),
            "A list without an AUC is NaN: leave it out (np.nanmean).": (
                lambda aucs, border, width: float(
                    np.mean(aucs[border - width : border]) - np.mean(aucs[border : border + width])
                )
            ),
            "Only `width` lists on each side count.": (
                lambda aucs, border, width: float(
                    np.nanmean(aucs[:border]) - np.nanmean(aucs[border:])
                )
            ),
        },
    ),
    Exercise(
        "needed_lists",
        needed_lists,
        {
            "seeds agree": (500, 1e-4, 0.0, 3, 0.01, 3.3),
            "seeds differ": (500, 1e-4, 1e-5, 5, 0.02, 3.3),
            "one list in ten": (70, 4e-4, 2e-6, 2, 0.01, 2.8),
        },
        {
            "The seeds' part does not fall with the lists: take it off what the lists may leave.": (
                lambda lists, squared_error, by_seed, seeds, effect, z: (
                    lists * (squared_error - by_seed / seeds) / (effect / z) ** 2
                )
            ),
            "The seeds' part is in the squared error, too: only the rest falls with the lists.": (
                lambda lists, squared_error, by_seed, seeds, effect, z: (
                    lists * squared_error / ((effect / z) ** 2 - by_seed / seeds)
                )
            ),
            "That leaves the seeds out.": (
                lambda lists, squared_error, by_seed, seeds, effect, z: (
                    lists * squared_error / (effect / z) ** 2
                )
            ),
            "A mean over S seeds has a variance of one S-th: divide by the number of seeds.": (
                lambda lists, squared_error, by_seed, seeds, effect, z: (
                    lists * (squared_error - by_seed) / ((effect / z) ** 2 - by_seed)
                )
            ),
            "It is the squared error that falls as 1 / N: square the ratio of effect and z.": (
                lambda lists, squared_error, by_seed, seeds, effect, z: (
                    lists * (squared_error - by_seed / seeds) / (effect / z - by_seed / seeds)
                )
            ),
        },
    ),
    Exercise(
        "unbiased_dcg",
        unbiased_dcg,
        {
            "two lists": (_CLICKS, _OLD, _SEEN, _NEW),
            "the old order": (_CLICKS, _OLD, _SEEN, _OLD),
            "everything is seen": (_CLICKS, _OLD, np.ones(3), _NEW),
        },
        {
            "A click on a place that is seldom looked at counts more: divide by the probability.": (
                lambda clicks, shown_at, examined, new_places: float(
                    (clicks * examined[shown_at] / np.log2(new_places + 2)).sum(axis=1).mean()
                )
            ),
            "That counts clicks as they are: the places of the old order are in them.": (
                lambda clicks, shown_at, examined, new_places: unbiased_dcg(
                    clicks, shown_at, np.ones_like(examined), new_places
                )
            ),
            "A user looked at the place in the old order, not at the place in the new one.": (
                lambda clicks, shown_at, examined, new_places: unbiased_dcg(
                    clicks, new_places, examined, new_places
                )
            ),
            "The discount is that of the new order.": (
                lambda clicks, shown_at, examined, new_places: unbiased_dcg(
                    clicks, shown_at, examined, shown_at
                )
            ),
            "Places count from 0 here, and the first has the discount 1: log2(place + 2).": (
                lambda clicks, shown_at, examined, new_places: float(
                    (clicks / examined[shown_at] / np.log2(new_places + 1.5)).sum(axis=1).mean()
                )
            ),
            "It is the mean over lists, not their sum.": (
                lambda clicks, shown_at, examined, new_places: (
                    len(clicks) * unbiased_dcg(clicks, shown_at, examined, new_places)
                )
            ),
        },
    ),
]
