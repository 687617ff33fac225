"""Rerankers of several kinds of feedback: PRM with a head for each, and what needs no learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.behaviours import behaviours_of
from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.rerankers.prm import PRM
from dnrlib.rerankers.score import RetrieverScore


def bernoulli_of_heads(
    logits: Float[Tensor, "lists n h"], behaviours: Bool[Tensor, "lists n h"]
) -> Float[Tensor, ""]:
    """-log q_θ(z_1 … z_h | x) / (n h): the mean of the heads' Bernoulli losses."""
    return F.binary_cross_entropy_with_logits(logits, behaviours.to(logits.dtype))


class SeveralPRM(PRM, OwnLoss):
    """`PRM` whose last layer has a row for each kind of feedback that it learns.

    With one kind it is PRM to the last bit. Its logits are those of the first kind that it
    learns; `logits_of_each` gives them all. To be trained by ``trainer = "behaviours"``, whose
    noise and choice of the epoch know of all kinds: without it the label alone decides.

    Args:
        users, items, n, history, dim, layers, heads, feed_forward, dropout, shared_dropout,
            score_use: see `PRM`; ``heads`` are those of the attention.
        behaviours: the kinds to learn, by their number 0, 1, … in the lists.
        noise_of: the kinds of which synthetic scores are made; empty: those that are learnt.

    Raises:
        ConfigError: as `PRM` does; or no kind to learn, one twice, or no number of a kind.
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
        score_use: str = "concat",
        behaviours: Sequence[int] = (0,),
        noise_of: Sequence[int] = (),
    ):
        sizes: dict[str, Any] = {"dim": dim, "layers": layers, "heads": heads}
        sizes |= {"feed_forward": feed_forward, "dropout": dropout}
        sizes |= {"shared_dropout": shared_dropout, "score_use": score_use}
        super().__init__(users, items, n, history, **sizes)
        for name, kinds in {"behaviours": behaviours, "noise_of": noise_of}.items():
            numbers = all(type(kind) is int and kind >= 0 for kind in kinds)
            if not numbers or len({*kinds}) < len(kinds):
                raise ConfigError(f"{name} = {kinds!r}: must be different numbers from 0")
        if not behaviours:
            raise ConfigError("behaviours is empty: name a kind to learn, as in [0]")
        self.behaviours = [*behaviours]
        self.noise_of = [*(noise_of or behaviours)]
        if len(behaviours) > 1:
            self.head = nn.Linear(dim, len(behaviours))

    def extra_repr(self) -> str:
        """Tell models apart that have the same parameters."""
        return f"behaviours={self.behaviours}, noise_of={self.noise_of}"

    def feedback(self, batch: CandidateLists, kinds: Sequence[int]) -> Bool[Tensor, "lists n h"]:
        """The feedback of some kinds.

        Raises:
            ConfigError: the lists have fewer.
        """
        known = behaviours_of(batch, max(kinds) + 1)
        if max(kinds) >= known.shape[2]:
            raise ConfigError(
                f"behaviours or noise_of has {max(kinds)}, but the lists have {known.shape[2]} "
                f"kinds of feedback: choose from 0 … {known.shape[2] - 1}"
            )
        return known[:, :, [*kinds]]

    def logits_of_heads(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n h"]:
        """Logits of each kind that is learnt, given the scores to use."""
        mixed = self.score_input(self.encode(batch), scores)
        return self.head(self.layers(self.dropout(mixed)))

    def logits_of_each(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n b"]:
        """Logits by which each kind is ranked: of its own head, else of the first."""
        count, own = behaviours_of(batch).shape[2], self.behaviours
        heads = [own.index(kind) if kind in own else 0 for kind in range(count)]
        return self.logits_of_heads(batch, scores)[:, :, heads]

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """The mean of the heads' losses."""
        logits = self.logits_of_heads(batch, scores)
        return bernoulli_of_heads(logits, self.feedback(batch, self.behaviours))


class BehaviourPopularity(RetrieverScore):
    """`Popularity` by each kind of feedback: how often a candidate got it in the training lists."""

    likes: Float[Tensor, "b items_plus_1"]

    def __init__(self, users: int, items: int, n: int, history: int):
        super().__init__(users, items, n, history)
        self.register_buffer("likes", torch.zeros(1, items + 1))

    def learn_from(self, train: CandidateLists) -> None:
        """Count the feedback of each item.

        Raises:
            ConfigError: there are no lists.
        """
        if not len(train):
            raise ConfigError("popularity counts likes in the training lists, and there are none")
        items = self.likes.shape[1]
        kinds = behaviours_of(train).unbind(dim=2)
        self.likes = torch.stack([train.items[kind].bincount(minlength=items) for kind in kinds])
        self.likes = self.likes.float()

    def logits_of_each(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n b"]:
        """Counts of each kind."""
        return self.likes[:, batch.items.long()].permute(1, 2, 0)

    def score(
        self, state: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Counts of the first kind, no logits."""
        return self.likes[0][state.items.long()]


class BehaviourOracle(RetrieverScore):
    """`Oracle` for each kind of feedback: a bound, made by reading what is to be predicted."""

    def logits_of_each(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n b"]:
        """1 where there was such feedback, 0 for the others."""
        return behaviours_of(batch).to(scores.dtype)

    def score(
        self, state: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """1 for the liked candidates, 0 for the others."""
        return state.labels.to(scores.dtype)


def score_behaviours(reranker: nn.Module, lists: CandidateLists) -> Float[Tensor, "lists n b"]:
    """Logits by which each kind of feedback is ranked, on the retriever's real scores.

    A reranker without ``logits_of_each`` has one order for all kinds.
    """
    kinds = behaviours_of(lists).shape[2]

    def alike(batch: CandidateLists, scores: Tensor) -> Tensor:
        return reranker(batch, scores)[:, :, None].expand(-1, -1, kinds)

    return scored(reranker, getattr(reranker, "logits_of_each", alike), lists)


@torch.inference_mode()
def scored(
    reranker: nn.Module,
    logits: Callable[[CandidateLists, Tensor], Tensor],
    lists: CandidateLists,
    batch_size: int = 512,
) -> Float[Tensor, "lists n k"]:
    """As `dnrlib.training.score_lists`, by what gives several logits of each candidate."""
    was_training = reranker.training
    reranker.eval()
    parts = [lists[i : i + batch_size] for i in range(0, len(lists), batch_size)]
    found = [logits(part, part.scores).float() for part in parts]
    reranker.train(was_training)
    return torch.cat(found)
