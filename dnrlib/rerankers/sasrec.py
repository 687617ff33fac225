"""SASRec: Self-Attentive Sequential Recommendation (Kang and McAuley, ICDM 2018)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.losses import bernoulli
from dnrlib.rerankers.base import ScoreInput
from dnrlib.rerankers.own_loss import OwnLoss


class Block(nn.Module):
    """Causal self-attention and feed-forward, normalised as the authors' code does it.

    Queries come from LayerNorm(s), keys and values from s itself; there is no output map, and
    each residual adds the *normalised* input.
    """

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.widen = nn.Linear(dim, dim)
        self.narrow = nn.Linear(dim, dim)
        self.norm_attention = nn.LayerNorm(dim, eps=1e-8)
        self.norm_feed_forward = nn.LayerNorm(dim, eps=1e-8)
        self.dropout = nn.Dropout(dropout)

    def attend(
        self,
        q: Float[Tensor, "lists steps dim"],
        s: Float[Tensor, "lists steps dim"],
        sees: Bool[Tensor, "lists steps steps"],
    ) -> Float[Tensor, "lists steps dim"]:
        """What each step takes from the steps that it sees."""
        query = self.query(q).unflatten(2, (self.heads, -1)).transpose(1, 2)
        kv = self.key_value(s).unflatten(2, (2, self.heads, -1))  # lists steps 2 heads d
        key, value = kv.permute(2, 0, 3, 1, 4)  # lists heads steps d
        dropped = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, sees[:, None], dropped)
        return mixed.transpose(1, 2).flatten(2)

    def forward(
        self, s: Float[Tensor, "lists steps dim"], sees: Bool[Tensor, "lists steps steps"]
    ) -> Float[Tensor, "lists steps dim"]:
        """q = LN(s), r = LN(q + attention), r + feed-forward(r)."""
        q = self.norm_attention(s)
        r = self.norm_feed_forward(q + self.attend(q, s, sees))
        return r + self.dropout(self.narrow(self.dropout(F.relu(self.widen(r)))))


def unseen(seen: Int[Tensor, "lists m"], items: int, count: int) -> Int[Tensor, "lists count"]:
    """Uniform draws from the items 1 … ``items`` that a list has not seen; 0 is no item.

    The free item of rank r is r plus the number of seen items that stand before it.
    """
    ordered = seen.long().sort(dim=1).values
    repeated = F.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0))
    beyond = 2 * items + seen.shape[1]
    ordered = ordered.masked_fill(repeated | (ordered == 0), beyond).sort(dim=1).values
    free_before = ordered - 1 - torch.arange(seen.shape[1], device=seen.device)
    free = items - (ordered < beyond).sum(dim=1, keepdim=True)
    r = (torch.rand(len(seen), count, device=seen.device) * free).long()
    return r + 1 + torch.searchsorted(free_before, r, right=True)


class SASRec(OwnLoss):
    """A causal transformer over the history, whose last state scores the candidates.

    The logit of candidate i is ⟨F_H, e_i⟩, with the last state F_H and the item table that the
    history is read by, too. No candidate sees another, and there is no user vector.

    Its loss is binary cross entropy at each step. At the last, what follows is the list: the mean
    over its candidates, and the only place where scores enter. At the earlier ones it is the
    next item of the history against one that the user has neither in history nor list: the sum of
    both terms, averaged over the steps of the batch as in the authors' code, times
    ``sequence_weight``.

    Ours differs in what a step's target is (the list has liked and other candidates) and in what
    is common to all rerankers here (optimiser, d); see the book's page.

    Args:
        users, items: how many there are; users are not read.
        n: candidates in a list.
        history: items of history.
        dim, blocks, heads, dropout: sizes; but for ``dim`` the authors' for films.
        sequence_weight: of the earlier steps' loss; 0 leaves it out.
        score_use: see `ScoreInput`; "none" is SASRec as published.

    Raises:
        ConfigError: a size is not positive, ``dim`` is not a multiple of ``heads``,
            ``sequence_weight`` is negative, or history and list may hold all items.
    """

    def __init__(
        self,
        users: int,
        items: int,
        n: int = 50,
        history: int = 20,
        *,
        dim: int = 128,
        blocks: int = 2,
        heads: int = 1,
        dropout: float = 0.2,
        sequence_weight: float = 1.0,
        score_use: str = "none",
    ):
        super().__init__()
        for name, size in {"dim": dim, "blocks": blocks, "heads": heads}.items():
            if size < 1:
                raise ConfigError(f"{name} = {size}: must be at least 1")
        if dim % heads:
            raise ConfigError(f"dim = {dim} is not a multiple of heads = {heads}")
        if sequence_weight < 0:
            raise ConfigError(f"sequence_weight = {sequence_weight}: must not be negative")
        if sequence_weight and items <= n + history:
            raise ConfigError(
                f"{items} items, of which {n + history} may be in history and list: none is sure "
                "to be left to contrast the next item with. Set sequence_weight = 0"
            )
        self.items, self.sequence_weight = items, sequence_weight
        self.item = nn.Embedding(items + 1, dim, padding_idx=0)
        self.position = nn.Parameter(torch.empty(history, dim))
        self.score_input = ScoreInput(score_use, dim, n)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim, eps=1e-8)
        nn.init.xavier_uniform_(self.item.weight)
        nn.init.xavier_uniform_(self.position)

    def states(self, history: Int[Tensor, "lists steps"]) -> Float[Tensor, "lists steps dim"]:
        """F_t for each step of the history, from the items up to it; padding is not seen."""
        real = history > 0
        causal = torch.ones(2 * history.shape[1:], dtype=torch.bool, device=history.device).tril()
        itself = torch.eye(history.shape[1], dtype=torch.bool, device=history.device)
        sees = causal & (real[:, None] | itself)  # a padded step has something to see: no NaN
        s = self.item(history) * self.item.embedding_dim**0.5 + self.position
        s = self.dropout(s) * real[..., None]
        for block in self.blocks:
            s = block(s, sees) * real[..., None]
        return self.norm(s)

    def encode(
        self, batch: CandidateLists
    ) -> tuple[Float[Tensor, "lists dim"], Float[Tensor, "lists n dim"]]:
        """The last state and the candidates' vectors."""
        return self.states(batch.history)[:, -1], self.item(batch.items)

    def score(
        self,
        state: tuple[Float[Tensor, "lists dim"], Float[Tensor, "lists n dim"]],
        scores: Float[Tensor, "lists n"],
    ) -> Float[Tensor, "lists n"]:
        """⟨F_H, e_i⟩, where e_i has the score in it if it is used."""
        last, e = state
        return (self.score_input(e, scores) @ last[..., None])[..., 0]

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """Binary cross entropy of the list after the last step, and of what follows the others."""
        states = self.states(batch.history)
        logits = self.score((states[:, -1], self.item(batch.items)), scores)
        loss = bernoulli(logits, batch.labels)
        if self.sequence_weight:
            loss = loss + self.sequence_weight * self.sequence_loss(batch, states)
        return loss

    def sequence_loss(
        self, batch: CandidateLists, states: Float[Tensor, "lists steps dim"]
    ) -> Float[Tensor, ""]:
        """-log σ(⟨F_t, e_next⟩) - log(1 - σ(⟨F_t, e_other⟩)), averaged over the steps."""
        follows = batch.history[:, 1:]
        seen = torch.cat([batch.history, batch.items], dim=1)
        others = unseen(seen, self.items, follows.shape[1])
        positive, negative = (
            (states[:, :-1] * self.item(item)).sum(dim=2) for item in (follows, others)
        )
        steps = batch.history[:, :-1] > 0
        both = F.softplus(-positive) + F.softplus(negative)
        return (both * steps).sum() / steps.sum().clamp(min=1)
