"""HetComp: Distillation from Heterogeneous Models for Top-K Recommendation (Kang et al., WWW 2023).

The acronym is the authors' name for heterogeneous model compression.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.losses import bernoulli
from dnrlib.rerankers.base import initial_rank
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.rerankers.prm import PRM
from dnrlib.rerankers.rankflow import Tower
from dnrlib.rerankers.sasrec import SASRec

MEASURED = 512
"""Training lists on which the student's distance to a teacher is measured."""


class HetComp(OwnLoss):
    """A student learns the order of an ensemble of unlike teachers, from easy to hard.

    In the first half of the epochs the teachers learn from the feedback: a dot product, SASRec
    and PRM. Snapshots of their weights along the way are kept. In the second half the student
    learns the teachers' order, first that of early snapshots. A teacher goes on to its next
    snapshot once the student has come ``pace`` times closer to it (dynamic knowledge
    construction), and while one is not at its last the student learns only which candidates stand
    above the rest, afterwards their order as well (adaptive knowledge transfer).

    Ours differs: three teachers of the paper's six; one pace for all users, and never slower than
    evenly over the epochs, as there are few; the student is a PRM of the same size, not a small
    one, so that what is measured is the way of training; the importances, which the authors' code
    reads from files, are exp(-rank / 10); and the paper's two permutations, of observed and of
    unobserved items, are one with the liked first, as the rest of a list is known not to be.

    Args:
        users, items, n, history, dim, layers, heads, feed_forward, dropout, score_use: of the
            student and of the PRM among the teachers, see `PRM`. The other teachers see no score.
        snapshots: of each teacher.
        top: candidates that the student learns to order; at most half of them.
        pace: see above.

    Raises:
        ConfigError: as `PRM` does; a number outside of its range.
    """

    trajectory: Tensor
    distilling: Tensor
    reached: Tensor
    gap: Tensor

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
        snapshots: int = 4,
        top: int = 20,
        pace: float = 1.05,
    ):
        super().__init__()
        if snapshots < 1 or top < 1 or pace <= 0:
            raise ConfigError(
                f"snapshots = {snapshots}, top = {top}, pace = {pace}: must be positive"
            )
        sizes: dict[str, Any] = {"dim": dim, "layers": layers, "heads": heads}
        sizes |= {"feed_forward": feed_forward, "dropout": dropout}
        self.student, listwise = (
            PRM(users, items, n, history, score_use=score_use, **sizes) for _ in range(2)
        )
        sequential = SASRec(users, items, n, history, dim=dim, sequence_weight=0.0)
        self.teachers = nn.ModuleList([Tower(users, items, history, dim), sequential, listwise])
        self.snapshots, self.top, self.pace = snapshots, max(min(top, n // 2), 1), pace
        weights = parameters_to_vector(self.teachers.parameters()).numel()
        self.register_buffer("trajectory", torch.zeros(snapshots, weights))
        self.register_buffer("distilling", torch.tensor(False))
        self.register_buffer("reached", torch.zeros(len(self.teachers), dtype=torch.long))
        self.register_buffer("gap", torch.zeros(len(self.teachers)))

    def forward(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """The student's logits."""
        return self.student(batch, scores)

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """The teachers' likelihoods or, in the second half, the student's distillation."""
        if not self.distilling:
            return torch.stack(
                [bernoulli(t(batch, scores), batch.labels) for t in self.teachers]
            ).sum()
        fine = bool((self.reached == self.snapshots - 1).all())
        target = self.importance(batch, scores)
        return distillation(self.student(batch, scores), target, batch.labels, self.top, fine)

    @torch.no_grad()
    def importance(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Mean of exp(-rank / 10) over the teachers, whose logits are on different scales."""
        self.teachers.eval()
        ranks = torch.stack([initial_rank(teacher(batch, scores)) for teacher in self.teachers])
        return (-ranks / 10).exp().mean(dim=0)

    @torch.no_grad()
    def begin_epoch(self, epoch: int, epochs: int, lists: CandidateLists) -> None:
        """Keep a snapshot of the teachers, or choose those that teach in this epoch.

        Evenly means: from the first to the last over the first half of the distillation.
        """
        done, first = epoch - 1, epochs // 2
        for place in range(self.snapshots):
            if done == math.ceil(first * (place + 1) / self.snapshots):
                self.trajectory[place] = parameters_to_vector(self.teachers.parameters())
        self.distilling.fill_(epoch > first)
        if self.distilling:
            self.eval()  # its trainer sets it to training again
            if done == first:
                self.reached.zero_()
                self.gap.copy_(self.gaps(self.reached + 1, lists[:MEASURED]))
            even = 2 * (done - first) * self.snapshots // (epochs - first)
            self.go_on(even, lists[:MEASURED])

    def go_on(self, even: int, lists: CandidateLists) -> None:
        """Take each teacher to its next snapshot if the student is ready, to ``even`` at least."""
        ready = self.gap > self.pace * self.gaps(self.reached + 1, lists)
        ready |= self.reached < even
        reached = torch.where(ready, (self.reached + 1).clamp(min=even), self.reached)
        self.reached.copy_(reached.clamp(max=self.snapshots - 1))
        self.gap.copy_(torch.where(ready, self.gaps(self.reached + 1, lists), self.gap))
        self.load(self.reached)

    def gaps(self, places: Int[Tensor, " teachers"], lists: CandidateLists) -> Tensor:
        """How far the student's order is from that of a snapshot of each teacher."""
        self.load(places.clamp(max=self.snapshots - 1))
        student = self.student(lists, lists.scores)
        taught = [discrepancy(student, t(lists, lists.scores), self.top) for t in self.teachers]
        return torch.stack(taught)

    def load(self, places: Int[Tensor, " teachers"]) -> None:
        """Give each teacher the weights of a snapshot of its own."""
        begin = 0
        for teacher, place in zip(self.teachers, places.tolist(), strict=True):
            for weight in teacher.parameters():
                kept = self.trajectory[place, begin : begin + weight.numel()]
                weight.copy_(kept.view_as(weight))
                begin += weight.numel()


def discrepancy(
    student: Float[Tensor, "lists n"], teacher: Float[Tensor, "lists n"], top: int
) -> Float[Tensor, ""]:
    """1 - NDCG@top of the student's order with gains exp(-rank / 10) by the teacher's, its top."""
    rank = initial_rank(teacher)
    gain = (-rank / 10).exp() * (rank < top)
    discount = 1 / torch.arange(2, top + 2, device=rank.device).log2()
    first, ideal = (
        gain.gather(1, logits.argsort(dim=1, descending=True)[:, :top])
        for logits in (student, teacher)
    )
    return 1 - ((first * discount).sum(dim=1) / (ideal * discount).sum(dim=1)).mean()


def distillation(
    student: Float[Tensor, "lists n"],
    importance: Float[Tensor, "lists n"],
    labels: Bool[Tensor, "lists n"],
    top: int,
    fine: bool,
) -> Float[Tensor, ""]:
    """-log of each of the top candidates standing first, of itself and the rest or what follows.

    The order is that of the teachers, the liked candidates before the others. Coarse: each of the
    top against all below them. Fine: against all that follow it, Plackett and Luce's likelihood.
    """
    order = (importance + labels).argsort(dim=1, descending=True)
    s = student.gather(1, order)
    if fine:
        following = s.flip(1).logcumsumexp(dim=1).flip(1)
        return (following - s)[:, :top].mean()
    rest = s[:, top:].logsumexp(dim=1, keepdim=True)
    return F.softplus(rest - s[:, :top]).mean()
