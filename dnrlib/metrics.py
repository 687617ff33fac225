"""Ranking metrics, each a function of the labels in ranked order.

A scorer enters only through `ranking`; after it a list is a row of booleans, best first, and
every metric at every cut-off follows from that row. `pack` stores the rows in a record.

Gains are binary. A metric that a list does not define is NaN there: every metric where the list
has no positive, the AUCs also where it has no negative. Means are over the lists that define it.
"""

from __future__ import annotations

import base64
import lzma

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dnrlib.errors import ConfigError

_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]


def ranking(scores: Float[Tensor, "lists n"], seed: int = 0) -> Int[Tensor, "lists n"]:
    """Indices of the candidates in order of descending score.

    Candidates are shuffled by a generator seeded with `seed` and then sorted stably, so each
    order of tied candidates is equally likely and none depends on the device. Scores rounded
    to half precision tie where the model did not: compute them in float32 or better.

    Raises:
        ConfigError: a score is NaN or infinite.
    """
    if not scores.isfinite().all():
        where = (~scores.isfinite()).nonzero()[0].tolist()
        raise ConfigError(f"scores must be finite; list {where[0]}, candidate {where[1]} is not")
    keys = torch.rand(
        scores.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    shuffle = keys.argsort(1).to(scores.device)
    by_score = scores.gather(1, shuffle).argsort(dim=1, descending=True, stable=True)
    return shuffle.gather(1, by_score)


def rank(
    scores: Float[Tensor, "lists n"], values: Shaped[Tensor, "lists n"], seed: int = 0
) -> Shaped[Tensor, "lists n"]:
    """`values` (labels, the shown mask) in order of descending score, see `ranking`.

    The same scores and seed give the same order, whatever the values.
    """
    return values.gather(1, ranking(scores, seed))


def _cut(ranked: Tensor, k: int) -> Tensor:
    """The first k labels as float64, all NaN where the list has no positive."""
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    return ranked[:, :k].double().where(ranked.any(1, keepdim=True), torch.nan)


def _positives(ranked: Tensor) -> Tensor:
    return ranked.sum(1).double()


def _discount(n: int, device: torch.device) -> Tensor:
    return 1 / torch.arange(2, n + 2, dtype=torch.float64, device=device).log2()


def _ideal(ranked: Tensor, k: int) -> Tensor:
    return _dcg(ranked.sort(1, descending=True).values, k)


def _dcg(ranked: Tensor, k: int) -> Tensor:
    top = _cut(ranked, k)
    return (top * _discount(top.shape[1], top.device)).sum(1)


def hit_ratio(ranked: Bool[Tensor, "lists n"], k: int) -> Float[Tensor, " lists"]:
    """1 if any of the first k is positive, otherwise 0. Never below `ndcg` at the same k."""
    return _cut(ranked, k).sum(1).clamp(max=1)


def precision(ranked: Bool[Tensor, "lists n"], k: int) -> Float[Tensor, " lists"]:
    """Positives among the first k, over k, also where the list is shorter than k: a missing
    place counts as a miss."""
    return _cut(ranked, k).sum(1) / k


def recall(ranked: Bool[Tensor, "lists n"], k: int) -> Float[Tensor, " lists"]:
    """Positives among the first k, over all positives of the list."""
    return _cut(ranked, k).sum(1) / _positives(ranked)


def f1(ranked: Bool[Tensor, "lists n"], k: int) -> Float[Tensor, " lists"]:
    """Harmonic mean of precision and recall at k: 2 hits / (k + positives)."""
    return 2 * _cut(ranked, k).sum(1) / (k + _positives(ranked))


def ndcg(ranked: Bool[Tensor, "lists n"], k: int) -> Float[Tensor, " lists"]:
    """DCG@k over that of the ideal order, also cut at k; the discount of place i is
    1 / log2(i + 1). With binary labels the gains r and 2^r - 1 are the same."""
    return _dcg(ranked, k) / _ideal(ranked, k)


def expected_random_ndcg(labels: Bool[Tensor, "lists n"], k: int) -> Float[Tensor, " lists"]:
    """Mean NDCG@k of a list over all orders of its candidates."""
    discount = _discount(labels.shape[1], labels.device)[:k].sum()
    return labels.double().mean(1) * discount / _ideal(labels, k)


def average_precision(
    ranked: Bool[Tensor, "lists n"], k: int, denominator: str = "positives"
) -> Float[Tensor, " lists"]:
    """Sum of the precision at the place of each hit among the first k, over a denominator.

    Args:
        denominator: "positives" for min(positives, k), so that only an ideal order has 1; or
            "hits" for the number of hits among the first k, where no hit gives 0.

    Raises:
        ConfigError: unknown denominator.
    """
    hits = _cut(ranked, k)
    places = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    total = (hits * hits.cumsum(1) / places).sum(1)
    if denominator == "positives":
        return total / _positives(ranked).clamp(max=k)
    if denominator == "hits":
        return total / hits.sum(1).clamp(min=1)
    raise ConfigError(f'denominator must be "positives" or "hits", got "{denominator}"')


def _pairs_in_order(positive: Tensor, negative: Tensor) -> Tensor:
    below = negative.flip(1).cumsum(1).flip(1)
    return (positive * below).sum(1).double() / (positive.sum(1) * negative.sum(1))


def auc(ranked: Bool[Tensor, "lists n"]) -> Float[Tensor, " lists"]:
    """Share of the (positive, negative) pairs of a list in which the positive stands first."""
    return _pairs_in_order(ranked, ~ranked)


def auc_shown(
    ranked: Bool[Tensor, "lists n"], shown: Bool[Tensor, "lists n"]
) -> Float[Tensor, " lists"]:
    """AUC of liked against disliked among the shown candidates; both arguments are ranked."""
    return _pairs_in_order(ranked & shown, ~ranked & shown)


def auc_shown_vs_rest(shown: Bool[Tensor, "lists n"]) -> Float[Tensor, " lists"]:
    """AUC of all shown candidates, liked or not, against the rest; `shown` is ranked.

    High with `auc_shown` near 0.5, it tells a scorer that knows what was shown, not what is liked.
    """
    return auc(shown)


def pooled_auc(scores: Float[Tensor, "lists n"], labels: Bool[Tensor, "lists n"]) -> float:
    """AUC over all candidates of all lists in one pool, ties counted as one half (midranks).

    It also rewards telling lists apart, which does not change any order: compare `auc`.
    NaN without a positive or without a negative.
    """
    _, group, size = torch.unique(scores, return_inverse=True, return_counts=True)
    midrank = size.cumsum(0) - (size - 1).double() / 2
    positives, negatives = labels.sum().double(), (~labels).sum()
    wins = midrank[group[labels]].sum() - positives * (positives + 1) / 2
    return (wins / (positives * negatives)).item()


def per_list(
    ranked: Bool[Tensor, "lists n"], shown: Bool[Tensor, "lists n"], k: int = 6
) -> dict[str, Float[Tensor, " lists"]]:
    """Every per-list metric by its name in records; both arguments are in ranked order."""
    return {
        f"hit_ratio@{k}": hit_ratio(ranked, k),
        f"precision@{k}": precision(ranked, k),
        f"recall@{k}": recall(ranked, k),
        f"f1@{k}": f1(ranked, k),
        f"ndcg@{k}": ndcg(ranked, k),
        f"map@{k}": average_precision(ranked, k),
        f"map_hits@{k}": average_precision(ranked, k, denominator="hits"),
        "auc": auc(ranked),
        "auc_shown": auc_shown(ranked, shown),
        "auc_shown_vs_rest": auc_shown_vs_rest(shown),
    }


def summarise(
    ranked: Bool[Tensor, "lists n"], shown: Bool[Tensor, "lists n"], k: int = 6
) -> dict[str, float]:
    """Mean of each metric over the lists that define it, and their share as "<name>:defined".

    Give it all lists at once: a mean of batch means weighs the lists of a short last batch more.
    A mean over no list is NaN.
    """
    metrics = per_list(ranked, shown, k)
    means = {name: values.nanmean().item() for name, values in metrics.items()}
    shares = {f"{name}:defined": _share_defined(values) for name, values in metrics.items()}
    return means | shares


def _share_defined(values: Tensor) -> float:
    return (~values.isnan()).double().mean().item()


def pack(ranked: Bool[Tensor, "lists n"]) -> str:
    """Compact text (base85, safe inside JSON) from which `unpack` restores the rows exactly.

    Bits go place by place rather than list by list, since the first places are dense and the
    last ones sparse.
    """
    bits = np.packbits(ranked.cpu().numpy().T)
    return base64.b85encode(lzma.compress(bits.tobytes(), filters=_FILTERS)).decode()


def unpack(text: str, lists: int, n: int) -> Bool[Tensor, "{lists} {n}"]:
    """The rows that `pack` stored.

    Raises:
        ConfigError: the text is damaged, or does not hold lists x n labels.
    """
    try:
        packed = np.frombuffer(lzma.decompress(base64.b85decode(text)), np.uint8)
    except (ValueError, lzma.LZMAError) as error:
        raise ConfigError(f"text is not a packed ranking: {error}") from error
    if len(packed) != (lists * n + 7) // 8:
        raise ConfigError(f"text holds {len(packed)} bytes, not {lists} lists x {n} labels")
    bits = np.unpackbits(packed, count=lists * n).astype(bool)
    return torch.from_numpy(bits.reshape(n, lists).T.copy())
