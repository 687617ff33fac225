"""Exercises of the chapter *Embeddings*."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dnrlib.exercises.core import Exercise


def silhouette_of(own: float, other: float) -> float:
    """Silhouette of a point from its mean distance to its own kind and to the other kind."""
    return (other - own) / max(own, other)


def probe_auc(scores: Float[Tensor, " n"], labels: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Share of the pairs of a positive and a negative that are in order; a tie counts one half."""
    difference = scores[labels][:, None] - scores[~labels]
    return ((difference > 0).double() + (difference == 0).double() / 2).mean()


def _pairs(scores: Tensor, labels: Tensor) -> Tensor:
    return scores[labels][:, None] - scores[~labels]


EXERCISES: list[Exercise] = [
    Exercise(
        name="silhouette_of",
        truth=silhouette_of,
        cases={
            "the own kind is nearer": (1.0, 4.0),
            "the other kind is nearer": (5.0, 2.0),
            "both are as near": (3.0, 3.0),
        },
        mistakes={
            "The sign is turned: it should be positive where the own kind is nearer": (
                lambda own, other: (own - other) / max(own, other)
            ),
            "Divide by the larger of the two distances; always by the other one, the value "
            "falls below -1 for a point that lies badly": lambda own, other: (other - own) / other,
            "Divide by the larger of the two distances; always by the own one, the value "
            "exceeds 1 for a point that lies well": lambda own, other: (other - own) / own,
            "Divide by the larger of the two distances, not by their sum": (
                lambda own, other: (other - own) / (own + other)
            ),
            "The difference still has the unit of a distance: divide by the larger of the two": (
                lambda own, other: other - own
            ),
        },
    ),
    Exercise(
        name="probe_auc",
        truth=probe_auc,
        cases={
            "in perfect order": (
                torch.tensor([3.0, 2.0, 1.0, 0.0]),
                torch.tensor([True, True, False, False]),
            ),
            "two of six pairs out of order": (
                torch.tensor([0.1, 0.9, 0.5, 0.3, 0.2]),
                torch.tensor([False, False, True, True, False]),
            ),
            "with ties": (
                torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]),
                torch.tensor([True, False, True, False, False]),
            ),
            "a constant score": (torch.zeros(5), torch.tensor([True, False, False, True, False])),
        },
        mistakes={
            "A tie is neither order: count it one half": (
                lambda scores, labels: (_pairs(scores, labels) > 0).double().mean()
            ),
            "A tie is not in order: count it one half, not one": (
                lambda scores, labels: (_pairs(scores, labels) >= 0).double().mean()
            ),
            "The pairs are turned: count those in which the positive has the higher score": (
                lambda scores, labels: 1 - probe_auc(scores, labels)
            ),
            "That is accuracy at a threshold of one half; the AUC has no threshold": (
                lambda scores, labels: ((scores > 0.5) == labels).double().mean()
            ),
        },
    ),
]
