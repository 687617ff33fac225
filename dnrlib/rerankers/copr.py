"""COPR: Consistency-Oriented Pre-Ranking for Online Advertising (Zhao et al., CIKM 2023)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.losses import bernoulli
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.rerankers.prm import PRM
from dnrlib.rerankers.rankflow import STAGES, Tower


class COPR(OwnLoss):
    """The earlier stage learns the order, not the scores, of the later one.

    The later stage's order is cut into chunks, one candidate is drawn from each, and every pair
    of them shall stand in the same order in the earlier stage, weighted by what its exchange
    would change in NDCG. Nothing flows the other way: the later stage is `PRM`, trained by the
    feedback, and what the paper improves is the earlier one (``serve="retriever"``).

    The paper compares expected revenues, probability times bid, by their ratio. Without bids
    these are the probabilities, and we compare logits. It takes the later stage of a running
    system; here both are trained in the same steps, with the later one held fixed in the
    alignment. Gains of NDCG are the later stage's probabilities.

    Args:
        users, items, n, history, dim, layers, heads, feed_forward, dropout, score_use: of the
            later stage, see `PRM`; the earlier one is a `Tower` that sees no score.
        chunks: how many; never more than candidates.
        weight: of the alignment; with 0 each stage learns from the feedback alone.
        serve: the stage whose logits `forward` gives: ``reranker`` or ``retriever``.

    Raises:
        ConfigError: as `PRM` does; unknown ``serve``; too few chunks or a negative weight.
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
        score_use: str = "none",
        chunks: int = 10,
        weight: float = 1.0,
        serve: str = "reranker",
    ):
        super().__init__()
        if serve not in STAGES:
            raise ConfigError(f"serve {serve!r} is unknown: choose one of {', '.join(STAGES)}")
        if chunks < 2 or weight < 0:
            raise ConfigError(
                f"chunks = {chunks}, weight = {weight}: at least two chunks, and no negative weight"
            )
        sizes: dict[str, Any] = {"dim": dim, "layers": layers, "heads": heads}
        sizes |= {"feed_forward": feed_forward, "dropout": dropout}
        self.reranker = PRM(users, items, n, history, score_use=score_use, **sizes)
        self.retriever = Tower(users, items, history, dim)
        self.chunks, self.weight, self.serve = min(chunks, n), weight, serve

    def forward(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Logits of the stage that serves."""
        return self.reranker(batch, scores) if self.serve == "reranker" else self.retriever(batch)

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """The feedback's likelihood under both stages, and the alignment of the earlier one."""
        earlier, later = self.retriever(batch), self.reranker(batch, scores)
        feedback = bernoulli(later, batch.labels) + bernoulli(earlier, batch.labels)
        one_each = self.draw(later.detach())
        aligned = alignment(earlier.gather(1, one_each), later.detach().gather(1, one_each))
        return feedback + self.weight * aligned

    def draw(self, later: Float[Tensor, "lists n"]) -> Tensor:
        """One candidate of each chunk of the later stage's order, the best chunk first."""
        lists, n = later.shape
        inside = torch.rand(lists, self.chunks, device=later.device)
        place = (torch.arange(self.chunks, device=later.device) + inside) * n / self.chunks
        return later.argsort(dim=1, descending=True).gather(1, place.long().clamp(max=n - 1))


def alignment(
    earlier: Float[Tensor, "lists m"], later: Float[Tensor, "lists m"]
) -> Float[Tensor, ""]:
    """Σ_{i<j} ΔNDCG_ij log(1 + exp(s_j - s_i)) over candidates in descending order of ``later``."""
    gain = later.sigmoid()
    discount = 1 / torch.arange(2, later.shape[1] + 2, device=later.device).log2()
    exchanged = (gain[:, :, None] - gain[:, None]) * (discount[:, None] - discount)
    delta = exchanged / (gain * discount).sum(dim=1)[:, None, None]
    pairs = delta * F.softplus(earlier[:, None] - earlier[:, :, None])
    return pairs.triu(1).sum(dim=(1, 2)).mean()
