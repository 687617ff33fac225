"""RankFlow: Joint Optimization of Multi-Stage Cascade Ranking Systems as Flows.

Qin et al., SIGIR 2022.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.losses import bernoulli
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.rerankers.prm import PRM

STAGES = ("reranker", "retriever")


class Tower(nn.Module):
    """A light earlier stage: the dot product of the request's and the item's vector.

    It makes scores of its own, so that it reads none.
    """

    def __init__(self, users: int, items: int, history: int, dim: int):
        super().__init__()
        self.item = nn.Embedding(items + 1, dim, padding_idx=0)
        self.user = nn.Embedding(users, dim)
        self.bias = nn.Parameter(torch.zeros(items + 1))
        self.recency = nn.Parameter(torch.zeros(history))
        self.request = nn.Linear(2 * dim, dim)
        nn.init.normal_(self.item.weight, std=dim**-0.5)
        nn.init.normal_(self.user.weight, std=dim**-0.5)

    def forward(self, batch: CandidateLists, scores: Any = None) -> Float[Tensor, "lists n"]:
        """Logits p_u · q_i + b_i, whatever the scores."""
        weight = self.recency.masked_fill(batch.history == 0, -1e9).softmax(dim=1)
        history = (weight[:, None] @ self.item(batch.history))[:, 0]
        request = self.request(torch.cat([self.user(batch.users), history], dim=1))
        return (self.item(batch.items) @ request[..., None])[..., 0] + self.bias[batch.items]


class RankFlow(OwnLoss):
    """Two stages that are trained together: each by the other's output.

    The later stage learns on the samples of the earlier one (self-learning on stage-specific
    data), the earlier one learns the later one's scores (tutor learning). The paper has three
    stages and alternates between the two kinds of learning by epochs; here both are terms of one
    loss, with the other stage held fixed in each, which is an alternation by steps. The paper's
    later stage is given nothing but the samples; ours attends to the whole list, as it does when
    it serves, and only its loss is on the samples. The labels also teach the earlier stage all
    the time, and not before only.

    Args:
        users, items, n, history, dim, layers, heads, feed_forward, dropout, score_use: of the
            later stage, see `PRM`; the earlier one is a `Tower` that sees no score.
        passed: share of the candidates that the earlier stage hands on; liked ones always are.
        places: K of the tutor's top-K term.
        alpha: weight of that term against the squared error.
        serve: the stage whose logits `forward` gives: ``reranker`` or ``retriever``.

    Raises:
        ConfigError: as `PRM` does; unknown ``serve``; a share or weight outside of its range.
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
        passed: float = 0.5,
        places: int = 6,
        alpha: float = 0.5,
        serve: str = "reranker",
    ):
        super().__init__()
        if serve not in STAGES:
            raise ConfigError(f"serve {serve!r} is unknown: choose one of {', '.join(STAGES)}")
        if not 0 < passed <= 1 or not 0 <= alpha <= 1:
            raise ConfigError(f"passed = {passed}, alpha = {alpha}: must be shares in (0, 1]")
        if not 0 < places < n:
            raise ConfigError(f"places = {places} of {n} candidates: must be fewer, and at least 1")
        sizes: dict[str, Any] = {"dim": dim, "layers": layers, "heads": heads}
        sizes |= {"feed_forward": feed_forward, "dropout": dropout}
        self.reranker = PRM(users, items, n, history, score_use=score_use, **sizes)
        self.retriever = Tower(users, items, history, dim)
        self.passed, self.places, self.alpha, self.serve = passed, places, alpha, serve

    def forward(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Logits of the stage that serves."""
        return self.reranker(batch, scores) if self.serve == "reranker" else self.retriever(batch)

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """Self-learning of both stages and the tutor's loss of the earlier one."""
        retrieved, reranked = self.retriever(batch), self.reranker(batch, scores)
        kept = self.hand_on(retrieved.detach(), batch.labels)
        later = F.binary_cross_entropy_with_logits(
            reranked[kept], batch.labels[kept].to(reranked.dtype)
        )
        return bernoulli(retrieved, batch.labels) + later + self.tutor(retrieved, reranked.detach())

    def hand_on(
        self, retrieved: Float[Tensor, "lists n"], labels: Bool[Tensor, "lists n"]
    ) -> Bool[Tensor, "lists n"]:
        """The earlier stage's samples: without replacement by its softmax, and what was liked."""
        gumbel = -torch.empty_like(retrieved).exponential_().log()
        count = math.ceil(self.passed * retrieved.shape[1])
        first = (retrieved + gumbel).masked_fill(labels, torch.inf).topk(count, dim=1).indices
        return labels.scatter(1, first, True)

    def tutor(
        self, student: Float[Tensor, "lists n"], teacher: Float[Tensor, "lists n"]
    ) -> Float[Tensor, ""]:
        """Squared error of the probabilities, and the teacher's top K before the rest."""
        student, teacher = student.sigmoid(), teacher.sigmoid()
        ordered = student.gather(1, teacher.argsort(dim=1, descending=True))
        ahead = ordered[:, : self.places].mean(dim=1) - ordered[:, self.places :].mean(dim=1)
        return (1 - self.alpha) * F.mse_loss(student, teacher) - self.alpha * F.logsigmoid(
            ahead
        ).mean()
