"""Exercises of the chapter *Several kinds of feedback*."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dnrlib.exercises.core import Exercise


def mean_noise(
    behaviours: Bool[Tensor, "lists n b"], epsilon: Float[Tensor, "lists n"], lambda_c: float
) -> Float[Tensor, "lists n"]:
    """Synthetic scores: the mean of the kinds, and noise."""
    return (1 - lambda_c) * behaviours.float().mean(dim=2) + lambda_c * epsilon


def _any(behaviours: Tensor, epsilon: Tensor, lambda_c: float) -> Tensor:
    return (1 - lambda_c) * behaviours.any(dim=2).float() + lambda_c * epsilon


def _first(behaviours: Tensor, epsilon: Tensor, lambda_c: float) -> Tensor:
    return mean_noise(behaviours[:, :, :1], epsilon, lambda_c)


def _swapped(behaviours: Tensor, epsilon: Tensor, lambda_c: float) -> Tensor:
    return mean_noise(behaviours, epsilon, 1 - lambda_c)


def noise_matrix(
    with_noise: Float[Tensor, "b b lists"], without: Float[Tensor, "b lists"]
) -> Float[Tensor, "b b"]:
    """Mean gain by noise of the row's kind, of the column's ranking, over lists that define it."""
    return (with_noise - without[None]).nanmean(dim=2)


def _zeros(with_noise: Tensor, without: Tensor) -> Tensor:
    return (with_noise - without[None]).nan_to_num().mean(dim=2)


def _across(with_noise: Tensor, without: Tensor) -> Tensor:
    return (with_noise - without[:, None]).nanmean(dim=2)


def _turned(with_noise: Tensor, without: Tensor) -> Tensor:
    return noise_matrix(with_noise, without).T


_KINDS = torch.tensor([[[1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0]]], dtype=torch.bool)
_EPSILON = torch.tensor([[0.1, 0.9, 0.4, 0.7]])
_NAN = float("nan")
_WITH = torch.tensor([
    [[0.5, 0.6, 0.9], [0.4, _NAN, 0.8]],
    [[0.3, 0.2, 0.7], [0.6, _NAN, 0.2]],
])  # fmt: skip
_WITHOUT = torch.tensor([[0.4, 0.5, 0.7], [0.5, _NAN, 0.3]])

EXERCISES: list[Exercise] = [
    Exercise(
        name="mean_noise",
        truth=mean_noise,
        cases={
            "no noise": (_KINDS, _EPSILON, 0.0),
            "lambda_c 0.4": (_KINDS, _EPSILON, 0.4),
            "one kind": (_KINDS[:, :, :1], _EPSILON, 0.4),
        },
        mistakes={
            "The mean of the kinds has more levels than whether there is any of them": _any,
            "All kinds count, not the first alone": _first,
            "lambda_c is the share of the noise, 1 - lambda_c that of the feedback": _swapped,
        },
    ),
    Exercise(
        name="noise_matrix",
        truth=noise_matrix,
        cases={"two kinds": (_WITH, _WITHOUT), "as without": (_WITHOUT.expand(2, 2, 3), _WITHOUT)},
        mistakes={
            "A list that does not have the kind is to be left out, not counted as no gain": _zeros,
            "Each column is compared with the same kind without noise": _across,
            "Rows are the noise's kind, columns the kind that is ranked": _turned,
        },
    ),
]
