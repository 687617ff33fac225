"""PRM that knows where each candidate stands in the list as it was given."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dnrlib.lists import CandidateLists
from dnrlib.rerankers.prm import PRM


class PlacedPRM(PRM):
    """`PRM` with a learned vector for the place 0 … n - 1 of a candidate in the tensor.

    A place is not a rank by score. In this book's lists the candidates are shuffled, and places
    say nothing. Where they are as public code has them, the shown ones first, a place says
    whether its candidate was shown, and as only a shown one can be liked, most of the feedback
    is read off. This model is here to measure that, and for nothing else.

    Args:
        users, items, n, history, dim, layers, heads, feed_forward, dropout, shared_dropout,
            score_use: see `PRM`.

    Raises:
        ConfigError: as `PRM` does.
    """

    def __init__(
        self,
        users: int,
        items: int,
        n: int = 50,
        history: int = 20,
        *,
        dim: int = 128,
        layers: int = 2,
        heads: int = 4,
        feed_forward: int = 128,
        dropout: float = 0.1,
        shared_dropout: bool = True,
        score_use: str = "concat",
    ):
        sizes: dict[str, Any] = {"dim": dim, "layers": layers, "heads": heads}
        sizes |= {"feed_forward": feed_forward, "dropout": dropout}
        sizes |= {"shared_dropout": shared_dropout, "score_use": score_use}
        super().__init__(users, items, n, history, **sizes)
        self.place = nn.Embedding(n, dim)
        nn.init.normal_(self.place.weight, std=dim**-0.5)

    def encode(self, batch: CandidateLists) -> Float[Tensor, "lists n dim"]:
        """A vector for each candidate, with that of its place added."""
        return super().encode(batch) + self.place.weight
