"""Popularity: the order that everybody would be given."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, zeros

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.base import Reranker


class Popularity(Reranker):
    """Order the candidates by how often they were liked in the training lists.

    Neither the user nor the score is read. What was never liked ties at 0, and `dnrlib.metrics`
    ranks ties at random. There is nothing to train: `dnrlib.rerankers.build` lets it count, so
    that no weights have to be kept. The other sizes are taken and ignored.
    """

    likes: Float[Tensor, " items_plus_1"]

    def __init__(self, users: int, items: int, n: int, history: int):
        super().__init__()
        self.register_buffer("likes", zeros(items + 1))

    def learn_from(self, train: CandidateLists) -> None:
        """Count the likes of each item.

        Raises:
            ConfigError: there are no lists.
        """
        if not len(train):
            raise ConfigError("popularity counts likes in the training lists, and there are none")
        liked = train.items[train.labels]
        self.likes.copy_(liked.bincount(minlength=len(self.likes)))

    def score(
        self, state: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Likes of each candidate; a count, not a logit."""
        return self.likes[state.items.long()]
