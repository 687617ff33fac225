"""PRM that reads words: item vectors from the items' texts; and what the texts say untrained."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.base import Reranker
from dnrlib.rerankers.prm import PRM

USES = ("both", "text")
SHUFFLE = 0
"""The seed of the order in which shuffled texts are dealt out to the items."""


@dataclass(frozen=True)
class WordedLists(CandidateLists):
    """Candidate lists, and a vector of each item's text, which belongs to no single list.

    Args:
        words: a row for each item and, first, a row of zeros for the padding. What they are must
            stand in ``meta["words"]``, by which the fingerprint knows it.
    """

    words: Float[Tensor, "items_plus_1 d"] = field(default_factory=lambda: torch.zeros(1, 0))


def words_of(lists: CandidateLists, size: int) -> Float[Tensor, "items_plus_1 d"]:
    """The text vectors that the lists carry.

    Raises:
        ConfigError: they carry none, or ones of another size than [items + 1, size].
    """
    wanted = (lists.meta["items"] + 1, size)
    if not isinstance(lists, WordedLists):
        raise ConfigError(
            "the lists carry no words about the items: take those of "
            "`dnrlib.experiments.lists_of`, or add yours with `dnrlib.semantics.worded`"
        )
    if tuple(lists.words.shape) != wanted:
        raise ConfigError(
            f"the text vectors have shape {tuple(lists.words.shape)}, but must have {wanted}: "
            "set text_dim to their second size"
        )
    return lists.words


class WordedItems(nn.Module):
    """The vector of an item: e_i + W t_i from a learned e_i and its text's fixed t_i, or W t_i.

    Args:
        items: how many there are.
        dim, text_dim: of e and of t.
        use: ``both``, or ``text`` for W t_i alone, which an item never seen has as well.
        shuffled: deal the texts out to the items at random, always the same way. Whatever a model
            then gains, it does not gain by what the words mean.
    """

    words: Float[Tensor, "items_plus_1 d"]

    def __init__(self, items: int, dim: int, text_dim: int, use: str, shuffled: bool):
        super().__init__()
        # not kept with the weights: `learn_from` fills it wherever the model is built again
        self.register_buffer("words", torch.zeros(items + 1, text_dim), persistent=False)
        self.project = nn.Linear(text_dim, dim, bias=False)
        nn.init.normal_(self.project.weight, std=dim**-0.5)
        if use == "both":
            self.own = nn.Embedding(items + 1, dim, padding_idx=0)
            nn.init.normal_(self.own.weight, std=dim**-0.5)
        self.use, self.shuffled = use, shuffled

    def extra_repr(self) -> str:
        """Tell uses apart that have the same parameters."""
        return f"{self.use}, shuffled={self.shuffled}"

    def fill(self, words: Float[Tensor, "items_plus_1 d"]) -> None:
        """Take the texts' vectors; the padding keeps its zeros."""
        if self.shuffled:
            random = torch.Generator().manual_seed(SHUFFLE)
            dealt = 1 + torch.randperm(len(words) - 1, generator=random)
            words = torch.cat([words[:1], words[dealt]])
        self.words.copy_(words)

    def forward(self, items: Int[Tensor, "lists some"]) -> Float[Tensor, "lists some dim"]:
        """The vectors of items; that of the padding, which `PRM` gives no weight, is arbitrary."""
        worded = self.project(F.embedding(items, self.words))
        return worded + self.own(items) if self.use == "both" else worded


class TextPRM(PRM):
    """`PRM` whose item vectors, of candidates and of history, are made of words (`WordedItems`).

    Args:
        users, items, n, history, dim, layers, heads, feed_forward, dropout, shared_dropout,
            score_use: see `PRM`.
        use: ``both``: a learned vector of each item and its text; ``text``: the text alone.
        text_dim: size of the texts' vectors, by default that of `dnrlib.semantics.embed`.
        shuffled: a control, in which each item has the text of another: see `WordedItems`.
        features: how many of the lists' ``features`` each candidate has, such as the score of a
            language model; they enter by a learned direction each. By default none is read.

    Raises:
        ConfigError: as `PRM` does; unknown ``use``; a size below its least.
    """

    item: Any

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
        use: str = "both",
        text_dim: int = 256,
        shuffled: bool = False,
        features: int = 0,
    ):
        sizes: dict[str, Any] = {"dim": dim, "layers": layers, "heads": heads}
        sizes |= {"feed_forward": feed_forward, "dropout": dropout}
        sizes |= {"shared_dropout": shared_dropout, "score_use": score_use}
        super().__init__(users, items, n, history, **sizes)
        if use not in USES:
            raise ConfigError(f"use {use!r} is unknown: choose one of {', '.join(USES)}")
        for name, size, least in (("text_dim", text_dim, 1), ("features", features, 0)):
            if size < least:
                raise ConfigError(f"{name} = {size}: must be at least {least}")
        self.item = WordedItems(items, dim, text_dim, use, shuffled)
        self.features = features
        if features:
            self.describe = nn.Linear(features, dim, bias=False)

    def learn_from(self, train: CandidateLists) -> None:
        """Take the texts' vectors from the lists; nothing is counted.

        Raises:
            ConfigError: the lists carry none, or not so many features as are to be read.
        """
        self.item.fill(words_of(train, self.item.words.shape[1]))
        there = 0 if train.features is None else train.features.shape[2]
        if self.features not in (0, there):
            raise ConfigError(f"features = {self.features}, but the lists have {there}")

    def encode(self, batch: CandidateLists) -> Float[Tensor, "lists n dim"]:
        """As `PRM.encode`, with the features where they are read."""
        state = super().encode(batch)
        return state + self.describe(batch.features) if self.features else state

    @torch.no_grad()
    def folded(self) -> TextPRM:
        """The same reranker for serving, its item vectors computed once: words then cost nothing.

        Only when the catalogue or the weights change has it to be folded anew.
        """
        served = copy.deepcopy(self).eval()
        every = torch.arange(len(self.item.words), device=self.item.words.device)
        served.item = nn.Embedding.from_pretrained(self.item(every[None])[0], padding_idx=0)
        return served


class TextSimilarity(Reranker):
    """Order the candidates by the cosine of their text and the mean text of the history.

    Nothing is trained, and neither score nor label is read: what the words alone say. The other
    sizes are taken and ignored.
    """

    words: Float[Tensor, "items_plus_1 d"]

    def __init__(self, users: int, items: int, n: int, history: int, *, text_dim: int = 256):
        super().__init__()
        self.register_buffer("words", torch.zeros(items + 1, text_dim), persistent=False)

    def learn_from(self, train: CandidateLists) -> None:
        """Take the texts' vectors from the lists.

        Raises:
            ConfigError: the lists carry none.
        """
        self.words.copy_(words_of(train, self.words.shape[1]))

    def score(
        self, state: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Cosine in [-1, 1], no logit; 0 for all candidates where there is no history."""
        taste = F.embedding(state.history, self.words).sum(dim=1, keepdim=True)
        return F.cosine_similarity(F.embedding(state.items, self.words), taste, dim=2)
