"""Exercises of the chapter *Bring your own reranker*."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dnrlib.exercises.core import Exercise


def soft_rank(scores: Float[Tensor, " n"], temperature: float) -> Float[Tensor, " n"]:
    """Rank with a gradient, 0 for the best: how many others beat a candidate, each by a sigmoid.

    The general approximation of Qin, Liu and Li (2010).
    """
    beaten_by = ((scores[None] - scores[:, None]) / temperature).sigmoid()
    return beaten_by.sum(dim=1) - 0.5


def swap_weight(logits: Float[Tensor, " n"]) -> Float[Tensor, "n n"]:
    """How much DCG changes when a liked and a disliked candidate of the order swap places.

    With places from 1 in descending order of the logits: |1 / log2(1 + a) - 1 / log2(1 + b)|.
    """
    return _swapped(_discount(_places(logits)))


def _places(logits: Tensor) -> Tensor:
    return logits.argsort(descending=True).argsort() + 1.0


def _discount(place: Tensor) -> Tensor:
    return 1 / (1 + place).log2()


def _swapped(gain: Tensor) -> Tensor:
    return (gain[:, None] - gain[None]).abs()


EXERCISES: list[Exercise] = [
    Exercise(
        "soft_rank",
        soft_rank,
        {
            "far apart": (torch.tensor([0.1, 0.9, 0.5]), 0.01),
            "close": (torch.tensor([0.4, 0.5, 0.45, 0.1]), 0.2),
            "one candidate": (torch.tensor([0.3]), 0.1),
        },
        {
            "The candidate is compared with itself too, which adds one half: leave it out.": (
                lambda scores, temperature: soft_rank(scores, temperature) + 0.5
            ),
            "The best has rank 0: count those whose score is higher, not those whose is lower.": (
                lambda scores, temperature: soft_rank(-scores, temperature)
            ),
            "Divide the difference by the temperature; multiplied, a small one makes all equal.": (
                lambda scores, temperature: soft_rank(scores, 1 / temperature)
            ),
            "The temperature is missing.": lambda scores, temperature: soft_rank(scores, 1.0),
            "That is the rank itself, whose steps have no gradient.": (
                lambda scores, temperature: scores.argsort(descending=True).argsort()
            ),
        },
    ),
    Exercise(
        "swap_weight",
        swap_weight,
        {
            "in order": (torch.tensor([3.0, 1.0, 0.0, -2.0]),),
            "out of order": (torch.tensor([0.2, -1.0, 2.0, 0.7, -0.3]),),
            "two candidates": (torch.tensor([-1.0, 1.0]),),
        },
        {
            "argsort says which candidate stands in a place; needed is the place of a candidate, "
            "the argsort of that.": (
                lambda logits: _swapped(_discount(logits.argsort(descending=True) + 1.0))
            ),
            "The largest logit stands first: sort in descending order.": (
                lambda logits: swap_weight(-logits)
            ),
            "A weight is positive: take the absolute value.": (
                lambda logits: (
                    _discount(_places(logits))[:, None] - _discount(_places(logits))[None]
                )
            ),
            "Places count from 1: with 0, the first would have the gain 1 / log2(1), which is "
            "infinite.": lambda logits: _swapped(_discount(_places(logits) - 1)),
            "That is the difference of places: a swap at the top then counts no more than one at "
            "the bottom.": lambda logits: _swapped(_places(logits)),
            "The discount is logarithmic, 1 / log2(1 + place), not 1 / place.": (
                lambda logits: _swapped(1 / _places(logits))
            ),
        },
    ),
]
