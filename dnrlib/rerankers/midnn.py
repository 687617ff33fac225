"""miDNN: mutual influence aware ranking in e-commerce search (Zhuang et al., IJCAI 2018)."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.base import Reranker, ScoreInput
from dnrlib.rerankers.inputs import CandidateInput
from dnrlib.rerankers.prm import ListDropout


def global_features(f: Float[Tensor, "lists n dim"]) -> Float[Tensor, "lists n dim"]:
    """Where each feature lies in its list: (f - min) / (max - min), 0.5 if it is constant."""
    low, high = f.amin(dim=1, keepdim=True), f.amax(dim=1, keepdim=True)
    span = high - low
    return torch.where(span > 1e-6, (f - low) / span.clamp(min=1e-6), 0.5)


class MiDNN(Reranker):
    """A perceptron for each candidate, which knows of the list what its extremes are.

    The features are the coordinates of a candidate's vector, with the score in it where it is
    used; the paper's are prices, brands and the like. Of the paper we have the estimate of the
    probability without regard to the order, from which its value of a list, with all prices
    equal, is greatest in descending order: no beam search is needed.

    Args:
        users, items: how many there are.
        n: candidates in a list.
        history: items of history.
        dim: of the candidates' vectors: as many local features, and as many global ones.
        feed_forward: size of the first of the three hidden layers; each next one has half of it.
        dropout: after each hidden layer.
        score_use: see `ScoreInput`.

    Raises:
        ConfigError: ``dim`` is not positive or ``feed_forward`` too small to be halved twice.
    """

    def __init__(
        self,
        users: int,
        items: int,
        n: int = 50,
        history: int = 20,
        *,
        dim: int = 128,
        feed_forward: int = 512,
        dropout: float = 0.2,
        score_use: str = "none",
    ):
        super().__init__()
        for name, size, least in (("dim", dim, 1), ("feed_forward", feed_forward, 4)):
            if size < least:
                raise ConfigError(f"{name} = {size}: must be at least {least}")
        self.input = CandidateInput(users, items, history, dim)
        self.score_input = ScoreInput(score_use, dim, n)
        sizes = (2 * dim, feed_forward, feed_forward // 2, feed_forward // 4)
        self.layers = nn.Sequential(nn.LayerNorm(2 * dim))
        for inner, outer in pairwise(sizes):
            self.layers.extend([nn.Linear(inner, outer), nn.ReLU(), ListDropout(dropout)])
        self.head = nn.Linear(sizes[-1], 1)

    def encode(self, batch: CandidateLists) -> Float[Tensor, "lists n dim"]:
        """A vector for each candidate, before the scores."""
        return self.input(batch)

    def score(
        self, state: Float[Tensor, "lists n dim"], scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Logits of each candidate from its local and its global features."""
        f = self.score_input(state, scores)
        return self.head(self.layers(torch.cat([f, global_features(f)], dim=2)))[..., 0]
