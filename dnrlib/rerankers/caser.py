"""Caser: Personalized Top-N Sequential Recommendation (Tang and Wang, WSDM 2018)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.base import ScoreInput
from dnrlib.rerankers.own_loss import OwnLoss


class Caser(OwnLoss):
    """Convolutions over the last items as over a picture of L rows and d columns.

    Vertical filters (L × 1) weigh the rows, each in its own way and all columns alike; horizontal
    ones (h × d, for h = 1 … L) look for patterns of h items in a row, wherever they stand. A dense
    layer makes c of both (the paper's z, which is the feedback here); with the user's vector
    beside it, it meets the candidate's output vector, which is 2d wide:
    logit_i = ⟨[c ; p_u], w_i⟩ + b_i. No candidate sees another.

    The paper's instance is T = 3 successive items as targets and as many negatives. Here it is a
    list, whose liked candidates are the targets and whose others are the negatives, all of them;
    either kind counts the same as a whole, as in the authors' code.

    Ours differs in that padding is zero (theirs has a learned vector), and in what is common to
    all rerankers here (optimiser, d); see the book's page.

    Args:
        users, items: how many there are.
        n: candidates in a list.
        history: items of history; the last ``recent`` are read.
        dim: d, of items, users and c.
        recent: L, the rows of the picture; a shorter history is padded.
        vertical, horizontal: filters; of the horizontal ones so many for each height.
        dropout: of the filters' output.
        score_use: see `ScoreInput`, of the output vectors; "none" is Caser as published.

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
        recent: int = 5,
        vertical: int = 4,
        horizontal: int = 16,
        dropout: float = 0.5,
        score_use: str = "none",
    ):
        super().__init__()
        sizes = {"dim": dim, "recent": recent, "vertical": vertical, "horizontal": horizontal}
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{name} = {size}: must be at least 1")
        self.recent = recent
        self.item = nn.Embedding(items + 1, dim, padding_idx=0)
        self.user = nn.Embedding(users, dim)
        self.vertical = nn.Linear(recent, vertical)
        self.horizontal = nn.ModuleList(
            nn.Conv1d(dim, horizontal, height) for height in range(1, recent + 1)
        )
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(vertical * dim + horizontal * recent, dim)
        self.output = nn.Embedding(items + 1, 2 * dim)
        self.bias = nn.Embedding(items + 1, 1)
        self.score_input = ScoreInput(score_use, 2 * dim, n)
        for table in (self.item, self.user, self.output):
            nn.init.normal_(table.weight, std=1 / table.embedding_dim)
        nn.init.zeros_(self.bias.weight)

    def convolve(self, history: Int[Tensor, "lists steps"]) -> Float[Tensor, "lists dim"]:
        """c, from the last L items of the history."""
        recent = F.pad(history, (max(self.recent - history.shape[1], 0), 0))[:, -self.recent :]
        picture = self.item(recent) * (recent > 0)[..., None]  # lists L dim
        columns = picture.transpose(1, 2)  # lists dim L
        rows = self.vertical(columns).transpose(1, 2)  # lists vertical dim
        patterns = [F.relu(filters(columns)).amax(dim=2) for filters in self.horizontal]
        found = torch.cat([rows.flatten(1), *patterns], dim=1)
        return F.relu(self.dense(self.dropout(found)))

    def encode(
        self, batch: CandidateLists
    ) -> tuple[
        Float[Tensor, "lists two_dim"], Float[Tensor, "lists n two_dim"], Float[Tensor, "lists n"]
    ]:
        """[c ; p_u], and the candidates' output vectors and biases."""
        state = torch.cat([self.convolve(batch.history), self.user(batch.users)], dim=1)
        return state, self.output(batch.items), self.bias(batch.items)[..., 0]

    def score(
        self,
        state: tuple[
            Float[Tensor, "lists two_dim"],
            Float[Tensor, "lists n two_dim"],
            Float[Tensor, "lists n"],
        ],
        scores: Float[Tensor, "lists n"],
    ) -> Float[Tensor, "lists n"]:
        """⟨[c ; p_u], w_i⟩ + b_i, where w_i has the score in it if it is used."""
        state_vector, w, b = state
        return (self.score_input(w, scores) @ state_vector[..., None])[..., 0] + b

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """-log σ(logit) over a list's liked candidates, -log(1 - σ(logit)) over its others.

        Each is a mean over the candidates of its kind; their sum is averaged over lists.
        """
        logits = self(batch, scores)
        liked, other = batch.labels, ~batch.labels
        targets = (F.softplus(-logits) * liked).sum(dim=1) / liked.sum(dim=1).clamp(min=1)
        negatives = (F.softplus(logits) * other).sum(dim=1) / other.sum(dim=1).clamp(min=1)
        return (targets + negatives).mean()
