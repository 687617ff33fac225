"""What the rerankers that read the whole list begin with."""

from __future__ import annotations

from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from dnrlib.rerankers.base import initial_rank
from dnrlib.rerankers.prm import PRM


class CandidateInput(nn.Module):
    """A vector for each candidate from item, user and history: that of our `PRM`, by its code.

    With the same input everywhere, what differs between two list rerankers is what they do with
    the list. ``forward(batch)`` is [lists, n, dim] and reads no score.
    """

    def __init__(self, users: int, items: int, history: int, dim: int):
        super().__init__()
        own = PRM(users, items, 1, history, dim=dim, heads=1, score_use="none")
        self.item, self.user = own.item, own.user
        self.recency, self.from_request = own.recency, own.from_request

    encode_request: Any = PRM.encode_request
    forward: Any = PRM.encode


def initial_order(
    score_use: str, scores: Tensor, items: Int[Tensor, "lists n"]
) -> Int[Tensor, "lists n"]:
    """Indices of the candidates in the initial list, the best first: by score.

    A model that may not see the scores (``none``) gets them by item number: an arbitrary order,
    that does not depend on where a candidate stands in the tensor.
    """
    return items.argsort(dim=1) if score_use == "none" else initial_rank(scores).argsort(dim=1)
