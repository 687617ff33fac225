"""The three candidate protocols: how 50 candidates are made around a list that was shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from dnrlib.errors import ConfigError, DnrError
from dnrlib.lists import CandidateLists
from dnrlib.log import ExposureLog
from dnrlib.retriever import ExactIndex, Index, Plan, Retriever, contained, first_of

PROTOCOLS = ("shown+retrieved", "shown+sampled", "retrieved")
"""The ways to put candidates around a list that was shown."""
CHUNK = 1024
"""Lists that are made at a time, at most."""
CELLS = 2**25
"""Lists times items that are scored at a time, at most: 128 MiB."""
LARGE = 2**15
"""In a catalogue of more items, n are drawn without looking at all of them."""


def excluded_items(
    log: ExposureLog, lists: Int[Tensor, " some"], trained_on: Bool[Tensor, " lists"]
) -> Int[Tensor, "some width"]:
    """Items that may not be drawn as candidates of a list, padded with 0.

    These are what the user interacted with *before* the list, and all that the lists hold on
    which the retriever was trained, liked or not: neither a retriever at work nor one that was
    trained would offer them again. The list's own items are not among them. For the training
    lists of ``in-sample`` and ``crossfit`` this takes away items that the user meets later.
    """
    user = log.user[log.start[lists], None]
    first, last = torch.searchsorted(log.user, user), torch.searchsorted(log.user, user + 1)
    rows = first + torch.arange(int((last - first).max()) if len(lists) else 0)
    inside, rows = rows < last, rows.clamp(max=len(log.user) - 1)
    number = log.list[rows]
    seen = (rows < log.start[lists, None]) | (trained_on[number] & (number >= 0))
    return torch.where(inside & seen & (number != lists[:, None]), log.item[rows], 0)


def sample_items(
    items: int, n: int, excluded: Int[Tensor, "some width"], generator: torch.Generator
) -> Int[Tensor, "some n"]:
    """n items a list, uniform without replacement over the items that are not excluded."""
    if items > LARGE:
        return _sample_by_rejection(items, n, excluded, generator)
    return _sample_by_keys(items, n, excluded, generator)


def _sample_by_keys(
    items: int, n: int, excluded: Int[Tensor, "some width"], generator: torch.Generator
) -> Int[Tensor, "some n"]:
    """Those with the n largest of random keys: the work is that of the whole catalogue."""
    keys = torch.rand(len(excluded), items + 1, generator=generator)
    keys.scatter_(1, excluded, -1.0)[:, 0] = -1.0
    return keys.topk(n, dim=1).indices


def _sample_by_rejection(
    items: int, n: int, excluded: Int[Tensor, "some width"], generator: torch.Generator
) -> Int[Tensor, "some n"]:
    """The first n of more draws that are neither excluded nor repeated; keys where they are few."""
    drawn = torch.randint(1, items + 1, (len(excluded), 2 * n + 16), generator=generator)
    ordered, places = drawn.sort(dim=1, stable=True)
    repeated = F.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0))
    repeated = torch.zeros_like(repeated).scatter(1, places, repeated)
    free = ~repeated & ~contained(drawn, excluded)
    sample = first_of(drawn, free, n)
    if len(few := (free.sum(dim=1) < n).nonzero()[:, 0]):
        sample[few] = _sample_by_keys(items, n, excluded[few], generator)
    return sample


def candidate_lists(
    log: ExposureLog,
    retrievers: Sequence[Retriever],
    plan: Plan,
    protocol: str,
    n: int = 50,
    history: int = 20,
    seed: int = 0,
    index: Callable[[Any], Index] = ExactIndex,
    part: bool = False,
) -> CandidateLists:
    """Make the candidates of every list that the plan scores.

    - ``shown+retrieved``: the shown items and the best-scored others.
    - ``shown+sampled``: the shown items and others drawn uniformly.
    - ``retrieved``: the retriever's own top n, as in production. A shown item that it does not
      retrieve is lost; a list that so loses every positive is left out and counted in
      ``meta["without_positive"]``.

    Lists whose user has no earlier interaction are left out (``meta["without_history"]``), and
    `excluded_items` says which items are never drawn. The order of the candidates is random.

    Args:
        n: candidates of a list.
        history: items of the user before the list.
        seed: of what is drawn and of the order.
        index: how a retriever is searched, and what scores for it.
        part: whether the log is a part of a larger one; then no list may be left.

    Raises:
        ConfigError: unknown protocol, n not above the number of shown items, or a retriever of
            the plan is missing.
        DnrError: the catalogue leaves fewer than n candidates for some list, no user has a
            history, or no list has a positive among its candidates.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol {protocol!r} is unknown: choose one of {', '.join(PROTOCOLS)}")
    if n <= log.list_length:
        raise ConfigError(f"candidates = {n}: must be more than the {log.list_length} shown items")
    if len(retrievers) != len(plan.trained_on):
        raise ConfigError(f"{len(retrievers)} retrievers for a plan of {len(plan.trained_on)}")
    if log.items < n:
        raise DnrError(
            f"the catalogue has {log.items} items, too few for lists of {n}: "
            "lower `candidates` or use more data"
        )
    scored = plan.scorer >= 0
    has_history = log.start > log.user_start[log.list_user]
    if not (part or (scored & has_history).any()):
        raise DnrError("no user has an interaction before a list: there is no history to rank by")
    generator = torch.Generator().manual_seed(seed)
    chunk = max(1, min(CHUNK, CELLS // (log.items + 1)))
    bundles = []
    for model, retriever in enumerate(retrievers):
        searched = index(retriever)
        wanted = ((plan.scorer == model) & has_history).nonzero()[:, 0]
        for lists in wanted.split(chunk):
            users = log.user[log.start[lists]]
            excluded = excluded_items(log, lists, plan.trained_on[model])
            items = _candidates(log, searched, users, lists, excluded, protocol, n, generator)
            bundles.append(_bundle(log, searched, users, lists, items, history))
    meta = {
        "dataset": log.name,
        "note": log.note,
        "log": log.fingerprint,
        "users": log.users,
        "items": log.items,
        "protocol": protocol,
        "without_history": int((scored & ~has_history).sum()),
    }
    bundle = CandidateLists.concatenate(bundles, meta)
    bundle = bundle[bundle.list.argsort()]
    kept = bundle.labels.any(dim=1)
    meta["without_positive"] = int((~kept).sum())
    if not (part or kept.any()):
        raise DnrError("the retriever finds no positive of any list: use more `candidates`")
    return bundle[kept].validate()


def _candidates(
    log: ExposureLog,
    index: Index,
    users: Int[Tensor, " some"],
    lists: Int[Tensor, " some"],
    excluded: Int[Tensor, "some width"],
    protocol: str,
    n: int,
    generator: torch.Generator,
) -> Int[Tensor, "some n"]:
    """The candidates of each list, in random order."""
    shown = log.item[log.rows(lists)]
    taken = excluded if protocol == "retrieved" else torch.cat([excluded, shown], dim=1)
    wanted = n if protocol == "retrieved" else n - log.list_length
    _check_supply(log, lists, taken, wanted)
    if protocol == "shown+sampled":
        drawn = sample_items(log.items, wanted, taken, generator)
    else:
        drawn = index.top_n(users, wanted, taken)
    items = drawn if protocol == "retrieved" else torch.cat([shown, drawn], dim=1)
    order = torch.rand(items.shape, generator=generator).argsort(dim=1)
    return items.gather(1, order)


def _check_supply(
    log: ExposureLog, lists: Int[Tensor, " some"], taken: Int[Tensor, "some width"], wanted: int
) -> None:
    if not len(lists):
        return
    left = log.items - (taken > 0).sum(dim=1)
    worst = int(left.argmin())
    if left[worst] < wanted:
        raise DnrError(
            f"user {int(log.list_user[lists[worst]])} has only {int(left[worst])} items left of "
            f"which to draw {wanted} candidates: lower `candidates` or use a larger catalogue"
        )


def _bundle(
    log: ExposureLog,
    index: Index,
    users: Int[Tensor, " some"],
    lists: Int[Tensor, " some"],
    items: Int[Tensor, "some n"],
    history: int,
) -> CandidateLists:
    """Scores, labels and history for given candidates."""
    rows = log.rows(lists)
    same = items[:, :, None] == log.item[rows][:, None]
    return CandidateLists(
        users=users.int(),
        history=log.history(lists, history).int(),
        items=items.int(),
        scores=index.logits(users, items).sigmoid(),
        labels=(same & log.label[rows][:, None]).any(dim=2),
        shown=same.any(dim=2),
        split=log.split[lists].to(torch.int8),
        list=lists.int(),
    )
