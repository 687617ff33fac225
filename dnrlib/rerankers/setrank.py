"""SetRank: a permutation-invariant ranking model (Pang et al., SIGIR 2020)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.attention_rank import attention_rank
from dnrlib.rerankers.base import ScoreInput
from dnrlib.rerankers.inputs import CandidateInput
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.rerankers.prm import ListDropout


class MAB(nn.Module):
    """Multi-head attention block: queries look at a set.

    As the authors' code has it: ReLU on the three projections, none after the heads, LayerNorm
    after each of the two residuals, a feed-forward of four times the width.
    """

    def __init__(self, dim: int, heads: int, dropout: nn.Module):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.norm_attention = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 4 * dim)
        self.narrow = nn.Linear(4 * dim, dim)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.dropout = dropout

    def attend(
        self, queries: Float[Tensor, "#lists m dim"], x: Float[Tensor, "lists n dim"]
    ) -> Float[Tensor, "lists m dim"]:
        """What each query reads of the set."""
        query = F.relu(self.query(queries)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key_value = F.relu(self.key_value(x)).unflatten(2, (2, self.heads, -1))
        key, value = key_value.permute(2, 0, 3, 1, 4)  # lists heads n d
        query = query.expand(x.shape[0], -1, -1, -1)  # lists heads m d
        mixed = F.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(1, 2).flatten(2)

    def forward(
        self, queries: Float[Tensor, "#lists m dim"], x: Float[Tensor, "lists n dim"]
    ) -> Float[Tensor, "lists m dim"]:
        """LayerNorm(B + rFF(B)) with B = LayerNorm(queries + attention)."""
        b = self.norm_attention(queries + self.dropout(self.attend(queries, x)))
        return self.norm_feed_forward(b + self.narrow(F.relu(self.widen(b))))


class MSAB(nn.Module):
    """MAB(X, X): every candidate looks at every candidate."""

    def __init__(self, dim: int, heads: int, dropout: nn.Module):
        super().__init__()
        self.block = MAB(dim, heads, dropout)

    def forward(self, x: Float[Tensor, "lists n dim"]) -> Float[Tensor, "lists n dim"]:
        """The candidates, each with what it read of the others."""
        return self.block(x, x)


class IMSAB(nn.Module):
    """MAB(X, MAB(I, X)): the candidates look at m learned points I, which looked at them.

    The cost grows with n m rather than n², and what goes from one candidate to another is squeezed
    through m vectors, however long the list is.
    """

    def __init__(self, dim: int, heads: int, induced: int, dropout: nn.Module):
        super().__init__()
        self.points = nn.Parameter(0.1 * torch.randn(1, induced, dim))
        self.gather = MAB(dim, heads, dropout)
        self.spread = MAB(dim, heads, dropout)

    def forward(self, x: Float[Tensor, "lists n dim"]) -> Float[Tensor, "lists n dim"]:
        """The candidates, each with what it read of the summary."""
        return self.spread(x, self.gather(self.points, x))


class SetRank(OwnLoss):
    """Attention blocks over the candidates as a set, trained by attention rank.

    The paper ranks documents by hand-made features; here the candidates' vectors are those of
    `CandidateInput`, as in all our list rerankers. Its ordinal embedding of the initial rank,
    which is optional there, is ``score_use="rank"``. Six blocks, width 256, 8 heads and no dropout
    in the authors' code; ours are scaled to what a step of the other rerankers costs.

    Args:
        users, items: how many there are.
        n: candidates in a list.
        history: items of history.
        dim, blocks, heads, dropout: sizes.
        induced: learned points of each block; 0 for blocks without (MSAB).
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
        blocks: int = 3,
        heads: int = 4,
        induced: int = 20,
        dropout: float = 0.1,
        score_use: str = "none",
    ):
        super().__init__()
        for name, size in {"dim": dim, "blocks": blocks, "heads": heads}.items():
            if size < 1:
                raise ConfigError(f"{name} = {size}: must be at least 1")
        if dim % heads:
            raise ConfigError(f"dim = {dim} is not a multiple of heads = {heads}")
        if induced < 0:
            raise ConfigError(f"induced = {induced}: must be at least 0, which is none")
        self.input = CandidateInput(users, items, history, dim)
        self.score_input = ScoreInput(score_use, dim, n)
        self.row_wise = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
        self.dropout = ListDropout(dropout)
        self.blocks = nn.Sequential(
            *(
                IMSAB(dim, heads, induced, self.dropout)
                if induced
                else MSAB(dim, heads, self.dropout)
                for _ in range(blocks)
            )
        )
        self.head = nn.Linear(dim, 1)

    def encode(self, batch: CandidateLists) -> Float[Tensor, "lists n dim"]:
        """A vector for each candidate, before the scores."""
        return self.input(batch)

    def score(
        self, state: Float[Tensor, "lists n dim"], scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Logits of each candidate; they move with the candidates."""
        x = self.dropout(self.row_wise(self.score_input(state, scores)))
        return self.head(self.blocks(x))[..., 0]

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """Attention rank of the logits against the feedback."""
        logits = self(batch, scores)
        return attention_rank(logits, batch.labels.to(logits.dtype))
