"""Exercises of the chapter *A light generator*."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Beta

from dnrlib.exercises.core import Exercise

Pair = tuple[float, float]


def resampled(
    labels: Bool[Tensor, " n"],
    scores: Float[Tensor, " m"],
    known: Bool[Tensor, " m"],
    u: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """For each label the score in place floor(u m_z) of the m_z known ones with that label."""
    pools = {True: scores[known], False: scores[~known]}
    drawn = [
        pools[label][int(share * len(pools[label]))]
        for label, share in zip(labels.tolist(), u.tolist(), strict=True)
    ]
    return torch.stack(drawn)


def _of_all(
    labels: Bool[Tensor, " n"],
    scores: Float[Tensor, " m"],
    known: Bool[Tensor, " m"],
    u: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    return scores[(u * len(scores)).long()]


def _exchanged(
    labels: Bool[Tensor, " n"],
    scores: Float[Tensor, " m"],
    known: Bool[Tensor, " m"],
    u: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    return resampled(~labels, scores, known, u)


def naive_bayes(
    prior: Float[Tensor, " n"], x: Float[Tensor, " n"], liked: Pair, others: Pair
) -> Float[Tensor, " n"]:
    """log-odds of z = 1: those of the prior, plus log Beta(x; liked) - log Beta(x; others)."""
    gain = Beta(*liked).log_prob(x) - Beta(*others).log_prob(x)
    return prior.logit() + gain


def _without_prior(
    prior: Float[Tensor, " n"], x: Float[Tensor, " n"], liked: Pair, others: Pair
) -> Float[Tensor, " n"]:
    return Beta(*liked).log_prob(x) - Beta(*others).log_prob(x)


def _probability(
    prior: Float[Tensor, " n"], x: Float[Tensor, " n"], liked: Pair, others: Pair
) -> Float[Tensor, " n"]:
    return naive_bayes(prior, x, liked, others).sigmoid()


def _turned(
    prior: Float[Tensor, " n"], x: Float[Tensor, " n"], liked: Pair, others: Pair
) -> Float[Tensor, " n"]:
    return naive_bayes(prior, x, others, liked)


_LABELS = torch.tensor([True, False, False, True])
_SCORES = torch.tensor([0.9, 0.1, 0.7, 0.2, 0.3])
_KNOWN = torch.tensor([True, False, True, False, False])
_PRIOR = torch.tensor([0.1, 0.5, 0.9])
_X = torch.tensor([0.2, 0.5, 0.8])

EXERCISES: list[Exercise] = [
    Exercise(
        name="resampled",
        truth=resampled,
        cases={
            "four candidates": (_LABELS, _SCORES, _KNOWN, torch.tensor([0.0, 0.0, 0.99, 0.6])),
            "liked ones alone": (
                torch.tensor([True, True]), _SCORES, _KNOWN, torch.tensor([0.2, 0.7])
            ),
        },
        mistakes={
            "The label must decide from which scores is drawn": _of_all,
            "A liked candidate gets the score of a liked one, not of another": _exchanged,
        },
    ),
    Exercise(
        name="naive_bayes",
        truth=naive_bayes,
        cases={
            "scores that say something": (_PRIOR, _X, (2.0, 1.0), (1.0, 2.0)),
            "scores that say nothing": (_PRIOR, _X, (2.0, 3.0), (2.0, 3.0)),
        },
        mistakes={
            "What is known without the score is missing: add the prior's log-odds": _without_prior,
            "These are probabilities; the log-odds are asked for": _probability,
            "The ratio is turned: the liked law stands above": _turned,
        },
        tolerance=1e-5,
    ),
]  # fmt: skip
