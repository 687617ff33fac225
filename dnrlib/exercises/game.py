"""Exercises of the chapter *The adversarial game*."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dnrlib.exercises.core import Exercise


def best_response(
    p_x: Float[Tensor, " x"], q_z: Float[Tensor, " x"], weight: float
) -> Float[Tensor, " x"]:
    """The law p that minimises weight · E_p log q_z + KL(p ‖ p_x): ∝ p_x q_z^-weight."""
    tilted = p_x * q_z**-weight
    return tilted / tilted.sum()


def gaussian_kl(mean_p: float, var_p: float, mean_q: float, var_q: float) -> float:
    """KL( N(mean_p, var_p) ‖ N(mean_q, var_q) ) in nats."""
    return 0.5 * (math.log(var_q / var_p) + (var_p + (mean_p - mean_q) ** 2) / var_q - 1)


def _without_reference(p_x: Tensor, q_z: Tensor, weight: float) -> Tensor:
    return best_response(torch.ones_like(p_x), q_z, weight)


EXERCISES: list[Exercise] = [
    Exercise(
        name="best_response",
        truth=best_response,
        cases={
            "two levels": (torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]), 1.0),
            "an uneven p_x": (torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.5, 0.9]), 1.0),
            "twice the weight": (torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.5, 0.9]), 2.0),
            "weight 0": (torch.tensor([0.7, 0.3]), torch.tensor([0.1, 0.8]), 0.0),
        },
        mistakes={
            "The sign is turned: this is where the reranker reads the feedback best": (
                lambda p_x, q_z, weight: best_response(p_x, q_z, -weight)
            ),
            "A law sums to one: divide by the sum": lambda p_x, q_z, weight: p_x * q_z**-weight,
            "The weight is missing; it is the power of q_z": (
                lambda p_x, q_z, weight: best_response(p_x, q_z, 1.0)
            ),
            "p_x is missing: KL(p ‖ p_x) pulls towards p_x, not towards the even law": (
                _without_reference
            ),
            "q_z enters by its logarithm in the objective, so by a power in the law": (
                lambda p_x, q_z, weight: (
                    (p_x * (-weight * q_z).exp()) / (p_x * (-weight * q_z).exp()).sum()
                )
            ),
        },
    ),
    Exercise(
        name="gaussian_kl",
        truth=gaussian_kl,
        cases={
            "the same law": (0.5, 0.04, 0.5, 0.04),
            "another mean": (0.2, 0.04, 0.5, 0.04),
            "p is narrower": (0.5, 0.01, 0.5, 0.04),
            "p is wider": (0.3, 0.09, 0.5, 0.04),
        },
        mistakes={
            "This is KL(q ‖ p); the mean is over p": (
                lambda mean_p, var_p, mean_q, var_q: gaussian_kl(mean_q, var_q, mean_p, var_p)
            ),
            "The half stands before all of it": (
                lambda mean_p, var_p, mean_q, var_q: 2 * gaussian_kl(mean_p, var_p, mean_q, var_q)
            ),
            "These are variances: do not square them again": (
                lambda mean_p, var_p, mean_q, var_q: gaussian_kl(mean_p, var_p**2, mean_q, var_q**2)
            ),
            "The logarithm is of var_q / var_p": (
                lambda mean_p, var_p, mean_q, var_q: (
                    gaussian_kl(mean_p, var_p, mean_q, var_q) + math.log(var_p / var_q)
                )
            ),
            "It should be 0 for the same law: subtract 1 inside the bracket": (
                lambda mean_p, var_p, mean_q, var_q: gaussian_kl(mean_p, var_p, mean_q, var_q) + 0.5
            ),
        },
    ),
]
