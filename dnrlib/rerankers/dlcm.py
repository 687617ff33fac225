"""DLCM: Learning a Deep Listwise Context Model for Ranking Refinement (Ai et al., SIGIR 2018)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.attention_rank import attention_rank
from dnrlib.rerankers.base import ScoreInput
from dnrlib.rerankers.inputs import CandidateInput, initial_order
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.rerankers.prm import ListDropout
from dnrlib.rerankers.slates import take


class DLCM(OwnLoss):
    """A GRU reads the initial list from its end, then every candidate is compared with its state.

    The paper's input is the initial list: what it knows of the scores is their order, which is
    ``score_use="rank"``. An order has no gradient, so for the uses of the score as a number it
    enters the candidates' vectors besides; ``"none"`` reads the list by item number. The paper
    widens hand-made features by two ELU layers; our vectors are learned as they are.

    Args:
        users, items: how many there are.
        n: candidates in a list.
        history: items of history.
        dim: of the candidates' vectors and of the GRU's state.
        heads: local ranking functions that are averaged.
        dropout: of the candidates' vectors.
        score_use: see `ScoreInput`, and above for ``"rank"``.

    Raises:
        ConfigError: a size is not positive.
    """

    def __init__(
        self,
        users: int,
        items: int,
        n: int = 50,
        history: int = 20,
        *,
        dim: int = 128,
        heads: int = 3,
        dropout: float = 0.1,
        score_use: str = "rank",
    ):
        super().__init__()
        for name, size in {"dim": dim, "heads": heads}.items():
            if size < 1:
                raise ConfigError(f"{name} = {size}: must be at least 1")
        self.score_use = score_use
        self.input = CandidateInput(users, items, history, dim)
        self.score_input = ScoreInput("none" if score_use == "rank" else score_use, dim, n)
        self.dropout = ListDropout(dropout)
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.from_candidate = nn.Linear(dim, heads * dim, bias=False)
        self.from_list = nn.Linear(dim, heads * dim)
        self.v = nn.Parameter(torch.randn(heads, dim) / dim**0.5)
        self.head_weight = nn.Parameter(torch.ones(heads))

    def extra_repr(self) -> str:
        """Tell the orders apart in which the list may be read."""
        return self.score_use

    def encode(self, batch: CandidateLists) -> tuple[CandidateLists, Float[Tensor, "lists n dim"]]:
        """A vector for each candidate, and the items, by whose number a list may be read."""
        return batch, self.input(batch)

    def local_ranking(
        self, h: Float[Tensor, "lists n dim"], s: Float[Tensor, "lists dim"]
    ) -> Float[Tensor, "lists n"]:
        """1/A Σ_a w_a v_a · tanh(W_a h_t + U_a s + b_a), over A heads."""
        met = torch.tanh(self.from_candidate(h) + self.from_list(s)[:, None])  # lists n heads*dim
        by_head = (met.unflatten(2, self.v.shape) * self.v).sum(dim=3)  # lists n heads
        return by_head @ self.head_weight / len(self.v)

    def score(
        self,
        state: tuple[CandidateLists, Float[Tensor, "lists n dim"]],
        scores: Float[Tensor, "lists n"],
    ) -> Float[Tensor, "lists n"]:
        """Logits of each candidate; which stands where in the initial list decides."""
        batch, vectors = state
        x = self.dropout(self.score_input(vectors, scores))
        worst_first = initial_order(self.score_use, scores, batch.items).flip(1)
        h, _ = self.gru(take(x, worst_first))
        local = self.local_ranking(h, h[:, -1])
        return torch.zeros_like(local).scatter(1, worst_first, local)

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """Attention rank of the logits against the feedback."""
        logits = self(batch, scores)
        return attention_rank(logits, batch.labels.to(logits.dtype))
