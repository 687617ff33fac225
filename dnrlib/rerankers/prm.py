"""PRM: Personalised Re-ranking for Recommendation (Pei et al., RecSys 2019)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.base import Reranker, ScoreInput


class EncoderLayer(nn.Module):
    """Transformer encoder layer, normalised after each residual (Vaswani et al., 2017).

    Dropout acts on the two residual branches only: inside the attention it costs a third of the
    speed on CPU.
    """

    def __init__(self, dim: int, heads: int, feed_forward: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.widen = nn.Linear(dim, feed_forward)
        self.narrow = nn.Linear(feed_forward, dim)
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def attend(self, x: Float[Tensor, "lists n dim"]) -> Float[Tensor, "lists n dim"]:
        """Self-attention over the candidates, no mask."""
        qkv = self.query_key_value(x).unflatten(2, (3, self.heads, -1))  # lists n 3 heads d
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # lists heads n d
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def forward(self, x: Float[Tensor, "lists n dim"]) -> Float[Tensor, "lists n dim"]:
        """LayerNorm(x + attention), then LayerNorm(x + feed-forward)."""
        x = self.norm_attention(x + self.dropout(self.attend(x)))
        return self.norm_feed_forward(x + self.dropout(self.narrow(F.relu(self.widen(x)))))


class PRM(Reranker):
    """A transformer over the candidate list.

    The paper joins each item's features with a vector ``pv`` from a click model that was trained
    beforehand and frozen; here an item, a user and a history embedding are trained with the
    rest, and multiplied as well as added, so that taste can meet item in one layer. The initial
    rank enters by ``score_use="rank"``, which is PRM as published; ``"none"`` sees no score at
    all.

    Args:
        users, items: how many there are.
        n: candidates in a list.
        history: items of history.
        dim, layers, heads, feed_forward, dropout: sizes; the defaults are the paper's of DNR.
        score_use: see `ScoreInput`.

    Raises:
        ConfigError: ``dim`` is not a multiple of ``heads``, or there is no layer.
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
        score_use: str = "rank",
    ):
        super().__init__()
        if dim % heads:
            raise ConfigError(f"dim = {dim} is not a multiple of heads = {heads}")
        if layers < 1:
            raise ConfigError(f"layers = {layers}: must be at least 1")
        self.item = nn.Embedding(items + 1, dim, padding_idx=0)
        self.user = nn.Embedding(users, dim)
        self.recency = nn.Parameter(torch.zeros(history))
        self.from_item = nn.Linear(dim, dim)
        self.from_request = nn.Linear(2 * dim, 2 * dim)
        self.score_input = ScoreInput(score_use, dim, n)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(
            *(EncoderLayer(dim, heads, feed_forward, dropout) for _ in range(layers))
        )
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1))
        nn.init.normal_(self.item.weight, std=dim**-0.5)
        nn.init.normal_(self.user.weight, std=dim**-0.5)

    def encode_request(self, batch: CandidateLists) -> Float[Tensor, "lists two_dim"]:
        """The user and the history, averaged with a learned weight for each step back.

        A new user's empty history is all padding, whose embedding is zero.
        """
        weight = self.recency.masked_fill(batch.history == 0, -1e9).softmax(dim=1)
        history = (weight[:, None] @ self.item(batch.history))[:, 0]
        return torch.cat([self.user(batch.users), history], dim=1)

    def encode(self, batch: CandidateLists) -> Float[Tensor, "lists n dim"]:
        """A vector for each candidate: W e + a + b ⊙ e, with a and b from the request."""
        item = self.item(batch.items)
        shift, gate = self.from_request(self.encode_request(batch))[:, None].chunk(2, dim=2)
        return self.from_item(item) + shift + gate * item

    def score(
        self, state: Float[Tensor, "lists n dim"], scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Logits of each candidate, every candidate seeing every other."""
        return self.head(self.layers(self.dropout(self.score_input(state, scores))))[..., 0]
