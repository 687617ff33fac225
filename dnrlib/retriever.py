"""The first stage: matrix factorisation, and which interactions it may have seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError, DnrError
from dnrlib.log import TRAIN, ExposureLog

SCHEMES = ("in-sample", "earlier", "crossfit")
LEAST_STEPS = 32


@runtime_checkable
class Retriever(Protocol):
    """Whatever scores the whole catalogue for a user."""

    def logits(self, users: Int[Tensor, " some"]) -> Float[Tensor, "some items_plus_1"]:
        """Log-odds of every item for each user; column 0 is padding and means nothing."""
        ...


@dataclass(frozen=True)
class RetrieverConfig:
    """Matrix factorisation and its training; the size is the paper's (d = 128)."""

    dim: int = 128
    epochs: int = 4
    batch_size: int = 8192
    """At most: small data are cut into at least ``LEAST_STEPS`` batches an epoch."""
    negatives: int = 256
    """Items drawn uniformly for each batch and shared by its positives."""
    learning_rate: float = 1e-2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"{name} = {value}: must be positive")


class MatrixFactorisation(nn.Module):
    """logit(u, i) = p_u · q_i + b_i."""

    def __init__(self, users: int, items: int, dim: int):
        super().__init__()
        self.user = nn.Embedding(users, dim)
        self.item = nn.Embedding(items + 1, dim)
        self.bias = nn.Embedding(items + 1, 1)
        nn.init.normal_(self.user.weight, std=0.1)
        nn.init.normal_(self.item.weight, std=0.1)
        nn.init.zeros_(self.bias.weight)

    @torch.no_grad()
    def logits(self, users: Int[Tensor, " some"]) -> Float[Tensor, "some items_plus_1"]:
        """Log-odds of every item for each user; column 0 is padding and means nothing."""
        return self.user(users) @ self.item.weight.T + self.bias.weight.T

    def loss(
        self,
        users: Int[Tensor, " batch"],
        positives: Int[Tensor, " batch"],
        negatives: Int[Tensor, " some"],
    ) -> Float[Tensor, ""]:
        """Logistic loss of the positives and of items drawn at random, each averaged."""
        user = self.user(users)
        positive = (user * self.item(positives)).sum(dim=1) + self.bias(positives)[:, 0]
        negative = user @ self.item(negatives).T + self.bias(negatives).T
        return F.softplus(-positive).mean() + F.softplus(negative).mean()


def fit(
    log: ExposureLog, lists: Bool[Tensor, " lists"], config: RetrieverConfig, seed: int
) -> MatrixFactorisation:
    """Train on the positives of the given lists and on nothing else.

    Raises:
        DnrError: the lists hold no positive.
    """
    rows = log.rows()[lists].flatten()
    rows = rows[log.label[rows]]
    if not len(rows):
        raise DnrError("the retriever has no positive to learn from: give it more lists")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MatrixFactorisation(log.users, log.items, config.dim)
        optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
        size = min(config.batch_size, math.ceil(len(rows) / LEAST_STEPS))
        for _ in range(config.epochs):
            for index in torch.randperm(len(rows)).split(size):
                batch = rows[index]
                negatives = torch.randint(1, log.items + 1, (config.negatives,))
                optimiser.zero_grad()
                model.loss(log.user[batch], log.item[batch], negatives).backward()
                optimiser.step()
    return model.requires_grad_(False)


@dataclass(frozen=True)
class Plan:
    """Which model scores which list, and what each model was trained on.

    Args:
        scorer: the model that scores each list, or -1 for a list that the reranker never sees.
        trained_on: the lists that each model was trained on.
    """

    scorer: Int[Tensor, " lists"]
    trained_on: Bool[Tensor, "models lists"]


def plan(log: ExposureLog, scheme: str, folds: int = 5, seed: int = 0) -> Plan:
    """Which interactions the retriever may see before it scores the reranker's lists.

    - ``in-sample``: one model, trained on all training lists, scores every list, those included.
    - ``earlier``: one model, trained on the earlier half of each user's training lists; the
      reranker trains on the later half.
    - ``crossfit``: each training list is scored by the one of ``folds`` models that was trained
      on the other folds; validation and test lists by a model trained on all training lists.

    Raises:
        ConfigError: unknown scheme, or fewer than two folds.
    """
    train = log.split == TRAIN
    if scheme == "in-sample":
        return Plan(torch.zeros(len(log), dtype=torch.long), train[None])
    if scheme == "earlier":
        earlier = train & _earlier_half(log, train)
        return Plan(torch.where(earlier, -1, 0), earlier[None])
    if scheme == "crossfit":
        if folds < 2:
            raise ConfigError(f"folds = {folds}: cross-fitting needs at least 2")
        generator = torch.Generator().manual_seed(seed)
        fold = torch.randint(folds, (len(log),), generator=generator)
        fold = torch.where(train, fold, folds)
        return Plan(fold, train & (fold != torch.arange(folds + 1)[:, None]))
    raise ConfigError(f"retriever scheme {scheme!r} is unknown: choose one of {', '.join(SCHEMES)}")


def _earlier_half(log: ExposureLog, train: Bool[Tensor, " lists"]) -> Bool[Tensor, " lists"]:
    """Whether a list lies in the earlier half of its user's training lists (rounded up)."""
    user = log.list_user
    count = torch.zeros(log.users, dtype=torch.long).index_add_(0, user, train.long())
    first = torch.searchsorted(user, torch.arange(log.users))
    nth = torch.arange(len(log)) - first[user]
    return nth < (count[user] + 1) // 2


class ExactIndex:
    """Exact top-n over the whole catalogue; an approximate index has the same `top_n`."""

    def __init__(self, retriever: Retriever):
        self.retriever = retriever

    def top_n(
        self,
        users: Int[Tensor, " some"],
        n: int,
        excluded: Int[Tensor, "some width"],
    ) -> Int[Tensor, "some n"]:
        """The n best-scored items of each user, without the excluded ones (0 excludes nothing)."""
        logits = self.retriever.logits(users).scatter(1, excluded, -torch.inf)
        logits[:, 0] = -torch.inf
        return logits.topk(n, dim=1).indices
