"""Exercises of the chapter *A better objective*."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from dnrlib import theory
from dnrlib.exercises.core import Exercise


def model_posterior(p_x: Float[Tensor, " x"], q: Float[Tensor, "x z"]) -> Float[Tensor, "z x"]:
    """p_θ(x | z) ∝ p_x(x) q_θ(z | x): a row for each feedback."""
    joint = (p_x[:, None] * q).T
    return joint / joint.sum(1, keepdim=True)


def _likelihood(p_x: Float[Tensor, " x"], q: Float[Tensor, "x z"]) -> Float[Tensor, "z x"]:
    return q.T / q.T.sum(1, keepdim=True)


def _joint(p_x: Float[Tensor, " x"], q: Float[Tensor, "x z"]) -> Float[Tensor, "z x"]:
    return (p_x[:, None] * q).T


def _against(p_x: Float[Tensor, " x"], q: Float[Tensor, "x z"]) -> Float[Tensor, "z x"]:
    joint = (p_x[:, None] / q).T
    return joint / joint.sum(1, keepdim=True)


def evidence_bound(
    phi: Float[Tensor, "z x"], q: Float[Tensor, "x z"], p_x: Float[Tensor, " x"]
) -> Float[Tensor, " z"]:
    """L_z + L_x for each feedback."""
    return (phi * (phi / (p_x[:, None] * q).T).log()).sum(1)


def _game(
    phi: Float[Tensor, "z x"], q: Float[Tensor, "x z"], p_x: Float[Tensor, " x"]
) -> Float[Tensor, " z"]:
    return (phi * q.T.log()).sum(1) + theory.kl(phi, p_x)


def _reconstruction(
    phi: Float[Tensor, "z x"], q: Float[Tensor, "x z"], p_x: Float[Tensor, " x"]
) -> Float[Tensor, " z"]:
    return -(phi * q.T.log()).sum(1)


def _other_way(
    phi: Float[Tensor, "z x"], q: Float[Tensor, "x z"], p_x: Float[Tensor, " x"]
) -> Float[Tensor, " z"]:
    return -(phi * q.T.log()).sum(1) + theory.kl(p_x.expand_as(phi), phi)


_WORLD = theory.random_world(0)
_VECTORS, _FEEDBACKS = _WORLD.p_z_given_x.shape
_Q = theory.random_table(_VECTORS, _FEEDBACKS, 1)
_PHI = theory.random_table(_FEEDBACKS, _VECTORS, 2)
_BLIND = _WORLD.p_z.expand_as(_Q)

EXERCISES: list[Exercise] = [
    Exercise(
        name="model_posterior",
        truth=model_posterior,
        cases={
            "a random reranker": (_WORLD.p_x, _Q),
            "a perfect reranker": (_WORLD.p_x, _WORLD.p_z_given_x),
            "a reranker that ignores the score": (_WORLD.p_x, _BLIND),
        },
        mistakes={
            "How often a score occurs at all counts too: multiply by p_x": _likelihood,
            "Each row is a law and must sum to one": _joint,
            "This is the answer of the game, which divides by q; the posterior multiplies": (
                _against
            ),
        },
    ),
    Exercise(
        name="evidence_bound",
        truth=evidence_bound,
        cases={
            "a random generator": (_PHI, _Q, _WORLD.p_x),
            "the model's posterior": (model_posterior(_WORLD.p_x, _Q), _Q, _WORLD.p_x),
        },
        mistakes={
            "The sign of the first term is that of the game; a bound has minus the logarithm": (
                _game
            ),
            "The divergence from p_x is missing": _reconstruction,
            "The divergence is taken the other way round: the mean is over the generator": (
                _other_way
            ),
        },
    ),
]
