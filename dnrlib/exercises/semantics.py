"""Exercises of the chapter *Words about items*."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dnrlib.exercises.core import Exercise
from dnrlib.language_model import request_flops


def cosine_to_history(
    history: Float[Tensor, "history d"], candidates: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """Cosine of each candidate's text vector and the mean of the history's."""
    return F.cosine_similarity(candidates, history.mean(dim=0, keepdim=True), dim=1)


def language_model_flops(
    size: float, prompt: int, title: int, candidates: int
) -> Float[Tensor, " 2"]:
    """Operations of a request: the prompt read once, and read again with each candidate."""
    return torch.tensor(
        [request_flops(size, prompt, title, candidates, shared) for shared in (True, False)]
    )


def _mean_of_cosines(history: Tensor, candidates: Tensor) -> Tensor:
    return F.cosine_similarity(candidates[:, None], history[None], dim=2).mean(dim=1)


_HISTORY = torch.tensor([[1.0, 0.0, 0.5], [4.0, 2.0, 0.0]])
_CANDIDATES = torch.tensor([[2.0, 1.0, 0.1], [-1.0, 0.3, 0.2], [0.1, 0.4, 0.3]])

EXERCISES: list[Exercise] = [
    Exercise(
        name="cosine_to_history",
        truth=cosine_to_history,
        cases={
            "two films": (_HISTORY, _CANDIDATES),
            "one film": (_HISTORY[:1], _CANDIDATES),
            "a candidate of the history": (_HISTORY[:1], _HISTORY),
        },
        mistakes={
            "This is the inner product: a long vector wins whatever its direction": (
                lambda history, candidates: candidates @ history.mean(dim=0)
            ),
            "Take the mean of the history first and the cosine then": _mean_of_cosines,
            "A distance is small where texts are alike; the order is turned": (
                lambda history, candidates: 1 - cosine_to_history(history, candidates)
            ),
        },
    ),
    Exercise(
        name="language_model_flops",
        truth=language_model_flops,
        cases={
            "fifty candidates": (1e9, 100, 12, 50),
            "one candidate": (1e6, 40, 8, 1),
            "no prompt": (2e6, 0, 9, 20),
        },
        mistakes={
            "A multiplication and an addition for each parameter and token: two operations": (
                lambda *given: language_model_flops(*given) / 2
            ),
            "First the prompt that is read once, then the one that is read again": (
                lambda *given: language_model_flops(*given).flip(0)
            ),
            "The titles have tokens too, one title for each candidate": (
                lambda size, prompt, title, candidates: language_model_flops(
                    size, prompt, 0, candidates
                )
            ),
        },
    ),
]
