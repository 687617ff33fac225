"""PRM: Personalised Re-ranking for Recommendation (Pei et al., RecSys 2019)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.base import Reranker, ScoreInput


class ListDropout(nn.Dropout):
    """Dropout that drops the same channels of all candidates of a list.

    Known as variational dropout from recurrent networks, where the mask is shared over time (Gal
    and Ghahramani, 2016). It needs an n-th of the random numbers, whose drawing otherwise takes
    a tenth of a training step on CPU.
    """

    def forward(self, x: Float[Tensor, "lists n dim"]) -> Float[Tensor, "lists n dim"]:
        """x with channels dropped and the others scaled up; x itself when not training."""
        if not self.training or self.p == 0:
            return x
        kept = torch.empty_like(x[:, :1]).bernoulli_(1 - self.p)
        return x * (kept / (1 - self.p))


class EncoderLayer(nn.Module):
    """Transformer encoder layer, normalised after each residual (Vaswani et al., 2017).

    Dropout acts on the two residual branches only, not inside the attention.
    """

    def __init__(self, dim: int, heads: int, feed_forward: int, dropout: nn.Module):
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.widen = nn.Linear(dim, feed_forward)
        self.narrow = nn.Linear(feed_forward, dim)
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.dropout = dropout

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
        shared_dropout: `ListDropout` rather than dropout of each number by itself.
        score_use: see `ScoreInput`.

    Raises:
        ConfigError: a size is not positive, or ``dim`` is not a multiple of ``heads``.
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
        score_use: str = "rank",
    ):
        super().__init__()
        sizes = {"dim": dim, "layers": layers, "heads": heads, "feed_forward": feed_forward}
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{name} = {size}: must be at least 1")
        if dim % heads:
            raise ConfigError(f"dim = {dim} is not a multiple of heads = {heads}")
        self.item = nn.Embedding(items + 1, dim, padding_idx=0)
        self.user = nn.Embedding(users, dim)
        self.recency = nn.Parameter(torch.zeros(history))
        self.from_request = nn.Linear(2 * dim, 2 * dim)
        self.score_input = ScoreInput(score_use, dim, n)
        self.dropout = ListDropout(dropout) if shared_dropout else nn.Dropout(dropout)
        self.layers = nn.Sequential(
            *(EncoderLayer(dim, heads, feed_forward, self.dropout) for _ in range(layers))
        )
        self.head = nn.Linear(dim, 1)
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
        """A vector for each candidate: e + a + b ⊙ e, with a and b from the request."""
        shift, gate = self.from_request(self.encode_request(batch))[:, None].chunk(2, dim=2)
        return torch.addcmul(shift, 1 + gate, self.item(batch.items))

    def score(
        self, state: Float[Tensor, "lists n dim"], scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Logits of each candidate, every candidate seeing every other."""
        return self.head(self.layers(self.dropout(self.score_input(state, scores))))[..., 0]
