"""The first stage: matrix factorisation, and which interactions it may have seen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError, DnrError
from dnrlib.log import TRAIN, ExposureLog

SCHEMES = ("in-sample", "earlier", "crossfit")
"""Which interactions a retriever may have seen that scores a list; see `plan`."""
LEAST_STEPS = 32
Pairs = Int[Tensor, "2 _"]
"""Users, and the item that each liked."""


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
    return fit_parts([positives(log, lists)], log.users, log.items, config, seed)


def positives(log: ExposureLog, lists: Bool[Tensor, " lists"]) -> Pairs:
    """User and item of each positive row of the given lists."""
    rows = log.rows(lists.nonzero()[:, 0]).flatten()
    rows = rows[log.label[rows]]
    return torch.stack([log.user[rows], log.item[rows]])


def fit_parts(
    parts: Iterable[Pairs], users: int, items: int, config: RetrieverConfig, seed: int
) -> MatrixFactorisation:
    """Train on positives that come in parts, which are read anew in each epoch.

    Only one part need be in memory at a time, and a batch never mixes parts.

    Raises:
        DnrError: there is no positive, or the parts can be read only once.
    """
    if iter(parts) is parts:
        raise DnrError("the parts are an iterator, but are to be read anew in each epoch")
    count = sum(len(user) for user, _ in parts)
    if not count:
        raise DnrError("the retriever has no positive to learn from: give it more lists")
    size = min(config.batch_size, math.ceil(count / LEAST_STEPS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MatrixFactorisation(users, items, config.dim)
        optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
        for _ in range(config.epochs):
            for user, item in parts:
                for batch in torch.randperm(len(user)).split(size):
                    if not len(batch):  # a part without positives
                        continue
                    negatives = torch.randint(1, items + 1, (config.negatives,))
                    optimiser.zero_grad()
                    model.loss(user[batch], item[batch], negatives).backward()
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


def plan(log: ExposureLog, scheme: str, folds: int = 5, seed: int | torch.Generator = 0) -> Plan:
    """Which interactions the retriever may see before it scores the reranker's lists.

    - ``in-sample``: one model, trained on all training lists, scores every list, those included.
    - ``earlier``: one model, trained on the earlier half of each user's training lists; the
      reranker trains on the later half.
    - ``crossfit``: each training list is scored by the one of ``folds`` models that was trained
      on the other folds; validation and test lists by a model trained on all training lists.

    Of a log in parts, plans made one after the other with the same generator as the seed are
    together the plan of the whole.

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
        generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
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


@runtime_checkable
class Index(Protocol):
    """A catalogue that can be searched."""

    def top_n(
        self, users: Int[Tensor, " some"], n: int, excluded: Int[Tensor, "some width"]
    ) -> Int[Tensor, "some n"]:
        """The n best-scored items of each user, without the excluded ones (0 excludes nothing)."""
        ...

    def logits(
        self, users: Int[Tensor, " some"], items: Int[Tensor, "some n"]
    ) -> Float[Tensor, "some n"]:
        """Log-odds of the given items of each user."""
        ...


class ExactIndex:
    """Exact top-n over the whole catalogue."""

    def __init__(self, retriever: Retriever):
        self.retriever = retriever
        self._last: tuple[Tensor, Tensor] | None = None

    def top_n(
        self, users: Int[Tensor, " some"], n: int, excluded: Int[Tensor, "some width"]
    ) -> Int[Tensor, "some n"]:
        """The n best-scored items of each user, without the excluded ones (0 excludes nothing)."""
        logits = self._catalogue(users).scatter(1, excluded, -torch.inf)
        logits[:, 0] = -torch.inf
        return logits.topk(n, dim=1).indices

    def logits(
        self, users: Int[Tensor, " some"], items: Int[Tensor, "some n"]
    ) -> Float[Tensor, "some n"]:
        """Log-odds of the given items of each user."""
        return self._catalogue(users).gather(1, items)

    def _catalogue(self, users: Tensor) -> Tensor:
        """Logits of all items, kept for the next question about the same tensor of users."""
        if self._last is None or self._last[0] is not users:
            self._last = users, self.retriever.logits(users)
        return self._last[1]


class FaissIndex:
    """Approximate top-n by FAISS, for catalogues too large to score whole.

    The bias is one more dimension, p_u · q_i + b_i = (p_u, 1) · (q_i, b_i), and the search for the
    largest inner product is one for the nearest neighbour once each item has a last coordinate
    that makes all of one length (Bachrach et al. 2014). The neighbours are found in an inverted
    file: the catalogue falls into ``cells`` by k-means, and the ``probes`` cells nearest to a user
    are searched. Logits are those of the retriever, computed for the given items alone.

    Args:
        retriever: whose vectors are indexed; it must not change afterwards.
        cells: about twice the root of the catalogue by default; 1 is an exact search.
        probes: of more, recall and time grow.
        seed: of the k-means.

    Raises:
        ConfigError: FAISS is not installed, or cells or probes are below 1.
    """

    def __init__(
        self,
        retriever: MatrixFactorisation,
        cells: int | None = None,
        probes: int = 64,
        seed: int = 0,
    ):
        items = len(retriever.item.weight) - 1
        cells = max(1, min(2 * math.isqrt(items), items // 32)) if cells is None else cells
        if min(cells, probes) < 1:
            raise ConfigError(f"cells = {cells}, probes = {probes}: both must be at least 1")
        self.exact = ExactIndex(retriever)
        self.retriever = retriever
        self.items = items
        self._index = _inverted_file(_of_one_length(retriever), cells, min(probes, cells), seed)

    def top_n(
        self, users: Int[Tensor, " some"], n: int, excluded: Int[Tensor, "some width"]
    ) -> Int[Tensor, "some n"]:
        """As `ExactIndex.top_n`, but some of the n best may be missed and others stand for them.

        So many more than n are fetched that n are left without the excluded ones; users for whom
        the searched cells do not hold as many are searched exactly.
        """
        fetched = min(n + int((excluded > 0).sum(dim=1).max()), self.items) if len(users) else n
        user = self.retriever.user(users)
        query = torch.cat([user, torch.ones(len(user), 1), torch.zeros(len(user), 1)], dim=1)
        _, places = self._index.search(query.detach().numpy(), fetched)
        found = torch.from_numpy(places) + 1  # FAISS numbers from 0 and says -1 for none
        free = (found > 0) & ~contained(found, excluded)
        best = first_of(found, free, n)
        if len(few := (free.sum(dim=1) < n).nonzero()[:, 0]):
            best[few] = self.exact.top_n(users[few], n, excluded[few])
        return best

    @torch.no_grad()
    def logits(
        self, users: Int[Tensor, " some"], items: Int[Tensor, "some n"]
    ) -> Float[Tensor, "some n"]:
        """Log-odds of the given items of each user."""
        item, bias = self.retriever.item(items), self.retriever.bias(items)[..., 0]
        return (item @ self.retriever.user(users)[:, :, None])[..., 0] + bias


def _of_one_length(retriever: MatrixFactorisation) -> np.ndarray:
    """(q_i, b_i, sqrt(M - |q_i|² - b_i²)) of each item, M the largest squared length."""
    vectors = torch.cat([retriever.item.weight, retriever.bias.weight], dim=1)[1:].detach()
    squares = (vectors**2).sum(dim=1, keepdim=True)
    return torch.cat([vectors, (squares.max() - squares).sqrt()], dim=1).numpy()


def _inverted_file(vectors: np.ndarray, cells: int, probes: int, seed: int) -> Any:
    """A trained and filled FAISS index."""
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "an approximate index needs FAISS: pip install 'dnrlib[faiss]'"
        ) from error
    dim = vectors.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, cells)
    # k-means sees this many points of each cell: more change the cells little and cost much
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64
    index.cp.seed, index.nprobe = seed, probes
    index.train(vectors)
    index.add(vectors)
    return index


def contained(
    items: Int[Tensor, "some n"], among: Int[Tensor, "some width"]
) -> Bool[Tensor, "some n"]:
    """Whether each item is among the items of its row."""
    among = F.pad(among, (1, 0)).sort(dim=1).values  # so that there is at least one column
    place = torch.searchsorted(among, items).clamp(max=among.shape[1] - 1)
    return among.gather(1, place) == items


def first_of(
    items: Int[Tensor, "some m"], free: Bool[Tensor, "some m"], n: int
) -> Int[Tensor, "some n"]:
    """The first n free items of each row, then others where there are too few."""
    return items.gather(1, (~free).byte().argsort(dim=1, stable=True)[:, :n])
