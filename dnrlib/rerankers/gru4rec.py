"""GRU4Rec: Session-based Recommendations with Recurrent Neural Networks (Hidasi et al., ICLR 2016).

Loss and sampling are those of the second paper (Hidasi and Karatzoglou, CIKM 2018).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.base import ScoreInput
from dnrlib.rerankers.own_loss import OwnLoss

LEFT_OUT = -1e9
"""A logit that has no share in a softmax; an infinite one would make NaN of an empty one."""


class GRU4Rec(OwnLoss):
    """A recurrent network over the history, whose last state scores the candidates.

    The logit of candidate i is ⟨h, e_i⟩ + b_i, with one table of items for input and output. No
    candidate sees another, and there is no user vector.

    Its loss is cross entropy: each liked candidate i against the negatives,
    -log( e^{o_i} / (e^{o_i} + Σ_j e^{o_j}) ), averaged over a list's liked candidates, then over
    lists. Negatives are the list's candidates that are not liked, and n items that all lists of
    the batch share, drawn by popularity^alpha; popularity is how often an item is liked in the
    training lists. A drawn item that stands in a list is left out there. It has no score of the
    retriever's, so in each list it takes that of a random candidate that is not liked: a constant
    would tell it from a candidate.

    Ours differs in these negatives (theirs are the other targets of the batch, and drawn ones),
    in the optimiser, and in offering neither BPR-max nor several layers; see the book's page.

    Args:
        users, items: how many there are; users are not read.
        n: candidates in a list, and drawn negatives.
        history: items of history.
        dim: of items and of the state.
        dropout: of the history's items and of the last state.
        alpha: 0 draws negatives uniformly, 1 by popularity.
        logq: how much of an item's log popularity is taken off its logit in the loss, and of a
            drawn one's ``alpha`` times that.
        score_use: see `ScoreInput`; "none" is GRU4Rec as published.

    Raises:
        ConfigError: ``dim`` is not positive, or ``alpha`` or ``logq`` is negative.
    """

    popularity: Tensor

    def __init__(
        self,
        users: int,
        items: int,
        n: int = 50,
        history: int = 20,
        *,
        dim: int = 128,
        dropout: float = 0.1,
        alpha: float = 0.5,
        logq: float = 0.0,
        score_use: str = "none",
    ):
        super().__init__()
        if dim < 1:
            raise ConfigError(f"dim = {dim}: must be at least 1")
        for name, value in {"alpha": alpha, "logq": logq}.items():
            if value < 0:
                raise ConfigError(f"{name} = {value}: must not be negative")
        self.alpha, self.logq = alpha, logq
        self.item = nn.Embedding(items + 1, dim, padding_idx=0)
        self.bias = nn.Embedding(items + 1, 1)
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.score_input = ScoreInput(score_use, dim, n)
        self.register_buffer("popularity", torch.ones(items + 1))
        nn.init.xavier_uniform_(self.item.weight)
        nn.init.zeros_(self.bias.weight)
        for name, weights in self.gru.named_parameters():
            for gate in weights.data.chunk(3):
                nn.init.zeros_(gate) if "bias" in name else nn.init.xavier_uniform_(gate)

    def begin_epoch(self, epoch: int, epochs: int, lists: CandidateLists) -> None:
        """Count how often each item is liked in the training lists."""
        liked = lists.items[lists.labels]
        self.popularity.copy_(torch.bincount(liked, minlength=len(self.popularity)))

    def last_state(self, history: Int[Tensor, "lists steps"]) -> Float[Tensor, "lists dim"]:
        """h after the last item; 0 where there is none.

        The history is turned so that padding comes behind the items, where it is too late to
        change h; before them it would, by the biases.
        """
        length = (history > 0).sum(dim=1, keepdim=True)
        steps = torch.arange(history.shape[1], device=history.device)
        items = history.gather(1, (steps - length) % history.shape[1])
        h, _ = self.gru(self.dropout(self.item(items)))  # lists steps dim
        last = (length - 1).clamp(min=0)[..., None].expand(-1, -1, h.shape[2])
        return self.dropout(h.gather(1, last)[:, 0]) * (length > 0)

    def encode(
        self, batch: CandidateLists
    ) -> tuple[Float[Tensor, "lists dim"], Float[Tensor, "lists n dim"], Float[Tensor, "lists n"]]:
        """The last state, and the candidates' vectors and biases."""
        b = self.bias(batch.items)[..., 0]
        return self.last_state(batch.history), self.item(batch.items), b

    def score(
        self,
        state: tuple[
            Float[Tensor, "lists dim"], Float[Tensor, "lists n dim"], Float[Tensor, "lists n"]
        ],
        scores: Float[Tensor, "lists n"],
    ) -> Float[Tensor, "lists n"]:
        """⟨h, e_i⟩ + b_i, where e_i has the score in it if it is used."""
        h, e, b = state
        return (self.score_input(e, scores) @ h[..., None])[..., 0] + b

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """Cross entropy of each liked candidate against the list's others and the drawn items."""
        h, e, b = self.encode(batch)
        drawn = self.draw(batch.items.shape[1])
        place = (~batch.labels + 1e-6).multinomial(len(drawn), replacement=True)
        state = h, self.item(drawn).expand_as(e), self.bias(drawn)[:, 0].expand_as(b)
        log_p = self.popularity.clamp(min=1).log()
        o = self.score((h, e, b), scores) - self.logq * log_p[batch.items]
        o_drawn = self.score(state, scores.gather(1, place)) - self.logq * self.alpha * log_p[drawn]
        in_list = (drawn[None, :, None] == batch.items[:, None]).any(dim=2)
        negatives = torch.cat(
            [o.masked_fill(batch.labels, LEFT_OUT), o_drawn.masked_fill(in_list, LEFT_OUT)], dim=1
        )
        entropies = F.softplus(negatives.logsumexp(dim=1, keepdim=True) - o) * batch.labels
        return (entropies.sum(dim=1) / batch.labels.sum(dim=1).clamp(min=1)).mean()

    def draw(self, count: int) -> Int[Tensor, " count"]:
        """Items by popularity^alpha, with replacement."""
        return (self.popularity[1:] ** self.alpha).multinomial(count, replacement=True) + 1
