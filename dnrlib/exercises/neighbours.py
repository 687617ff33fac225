"""Exercises of the chapter *Neighbours*."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dnrlib.exercises.core import Exercise


def exchange_weights(gain: Float[Tensor, " m"]) -> Float[Tensor, "m m"]:
    """|(g_i - g_j) (d_i - d_j)| / Σ g_i d_i with d_i = 1 / log2(i + 1), i from 1."""
    discount = 1 / torch.arange(2, len(gain) + 2).log2()
    exchanged = (gain[:, None] - gain) * (discount[:, None] - discount)
    return exchanged.abs() / (gain * discount).sum()


def order_likelihood(logits: Float[Tensor, " n"], top: int) -> float:
    """-log of Plackett and Luce's probability of the first ``top`` places, logits in order."""
    return float(sum(logits[k:].logsumexp(dim=0) - logits[k] for k in range(top)))


def worst_step(gradient: Float[Tensor, " dim"], epsilon: float) -> Float[Tensor, " dim"]:
    """The step of length ``epsilon`` that raises a loss most, to first order."""
    return epsilon * gradient / gradient.norm()


def _discounts_from_zero(gain: Tensor) -> Tensor:
    discount = 1 / torch.arange(3, len(gain) + 3).log2()
    exchanged = (gain[:, None] - gain) * (discount[:, None] - discount)
    return exchanged.abs() / (gain * discount).sum()


def _gains_alone(gain: Tensor) -> Tensor:
    discount = 1 / torch.arange(2, len(gain) + 2).log2()
    return (gain[:, None] - gain).abs() / (gain * discount).sum()


def _unnormalised(gain: Tensor) -> Tensor:
    discount = 1 / torch.arange(2, len(gain) + 2).log2()
    return exchange_weights(gain) * (gain * discount).sum()


EXERCISES: list[Exercise] = [
    Exercise(
        name="exchange_weights",
        truth=exchange_weights,
        cases={
            "two candidates": (torch.tensor([0.9, 0.2]),),
            "equal gains": (torch.tensor([0.5, 0.5, 0.5]),),
            "five candidates": (torch.tensor([0.9, 0.7, 0.4, 0.3, 0.1]),),
        },
        mistakes={
            "The first place has the discount 1 / log2(2) = 1": _discounts_from_zero,
            "The places are missing: an exchange far down the list changes little": _gains_alone,
            "NDCG is normalised: divide by the DCG of the right order": _unnormalised,
        },
    ),
    Exercise(
        name="order_likelihood",
        truth=order_likelihood,
        cases={
            "one place": (torch.tensor([1.0, 0.0, -1.0]), 1),
            "two places": (torch.tensor([0.5, 2.0, -1.0, 0.3]), 2),
            "all places": (torch.tensor([0.5, 2.0, -1.0, 0.3]), 4),
        },
        mistakes={
            "What was placed before is still there: sum over what is left only": (
                lambda logits, top: float(top * logits.logsumexp(dim=0) - logits[:top].sum())
            ),
            "This is the coarse loss: the top do not compete with each other there": (
                lambda logits, top: float(
                    sum(
                        torch.cat([logits[k : k + 1], logits[top:]]).logsumexp(dim=0) - logits[k]
                        for k in range(top)
                    )
                )
            ),
            "The sign is turned: a loss is minus the logarithm": (
                lambda logits, top: -order_likelihood(logits, top)
            ),
            "The sum is over the places, not their mean": (
                lambda logits, top: order_likelihood(logits, top) / top
            ),
        },
    ),
    Exercise(
        name="worst_step",
        truth=worst_step,
        cases={
            "along an axis": (torch.tensor([0.0, 3.0]), 0.1),
            "two parts": (torch.tensor([3.0, -4.0]), 0.5),
            "a small gradient": (torch.tensor([1e-4, 2e-4, -2e-4]), 1.0),
        },
        mistakes={
            "Descent lowers the loss: the worst step goes up": (
                lambda gradient, epsilon: -worst_step(gradient, epsilon)
            ),
            "The step must have length epsilon, whatever the gradient's": (
                lambda gradient, epsilon: epsilon * gradient
            ),
            "This is the worst of a cube, the sign of each part; the ball has one radius": (
                lambda gradient, epsilon: epsilon * gradient.sign()
            ),
        },
    ),
]
