"""The two rankings that need no learning: the retriever's score, and the score reversed."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from dnrlib.rerankers.base import Reranker


class RetrieverScore(Reranker):
    """Keep the retriever's order. The sizes are taken and ignored, as nothing is learnt."""

    sign = 1.0

    def __init__(self, users: int, items: int, n: int, history: int):
        super().__init__()

    def score(self, state: Any, scores: Float[Tensor, "lists n"]) -> Float[Tensor, "lists n"]:
        """The scores themselves."""
        return self.sign * scores


class ReversedScore(RetrieverScore):
    """Turn the retriever's order around: a test of the protocol, not of a model."""

    sign = -1.0
