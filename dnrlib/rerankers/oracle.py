"""The oracle: a bound, no model."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from dnrlib.lists import CandidateLists
from dnrlib.rerankers.score import RetrieverScore


class Oracle(RetrieverScore):
    """A bound: the best order there is, made by reading the feedback that is to be predicted.

    It stands in tables to say how much a protocol leaves to be gained. It cannot serve, as there
    is no feedback then: exporting it is refused. Within the liked and within the others the
    order is random.
    """

    def score(
        self, state: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """1 for the liked candidates, 0 for the others."""
        return state.labels.to(scores.dtype)
