"""The three candidate protocols: how 50 candidates are made around a list that was shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dnrlib.errors import ConfigError, DnrError
from dnrlib.lists import CandidateLists
from dnrlib.log import ExposureLog
from dnrlib.retriever import ExactIndex, Plan, Retriever

PROTOCOLS = ("shown+retrieved", "shown+sampled", "retrieved")
CHUNK = 1024


def excluded_items(
    log: ExposureLog, lists: Int[Tensor, " some"], trained_on: Bool[Tensor, " lists"]
) -> Int[Tensor, "some width"]:
    """Items that may not be drawn as candidates of a list, padded with 0.

    These are what the user interacted with *before* the list, and all that the lists hold on
    which the retriever was trained, liked or not: neither a retriever at work nor one that was
    trained would offer them again. The list's own items are not among them. For the training
    lists of ``in-sample`` and ``crossfit`` this takes away items that the user meets later.
    """
    bounds = log.user_start
    user = log.list_user[lists]
    first, last = bounds[user, None], bounds[user + 1, None]
    rows = first + torch.arange(int((last - first).max()))
    inside, rows = rows < last, rows.clamp(max=len(log.user) - 1)
    number = log.list[rows]
    seen = (rows < log.start[lists, None]) | (trained_on[number] & (number >= 0))
    return torch.where(inside & seen & (number != lists[:, None]), log.item[rows], 0)


def sample_items(
    items: int, n: int, excluded: Int[Tensor, "some width"], generator: torch.Generator
) -> Int[Tensor, "some n"]:
    """n items a list, uniform without replacement over the items that are not excluded."""
    keys = torch.rand(len(excluded), items + 1, generator=generator)
    keys.scatter_(1, excluded, -1.0)[:, 0] = -1.0
    return keys.topk(n, dim=1).indices


def candidate_lists(
    log: ExposureLog,
    retrievers: Sequence[Retriever],
    plan: Plan,
    protocol: str,
    n: int = 50,
    history: int = 20,
    seed: int = 0,
) -> CandidateLists:
    """Make the candidates of every list that the plan scores.

    - ``shown+retrieved``: the shown items and the best-scored others.
    - ``shown+sampled``: the shown items and others drawn uniformly.
    - ``retrieved``: the retriever's own top n, as in production. A shown item that it does not
      retrieve is lost; a list that so loses every positive is left out and counted in
      ``meta["without_positive"]``.

    Lists whose user has no earlier interaction are left out (``meta["without_history"]``), and
    `excluded_items` says which items are never drawn. The order of the candidates is random.

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
    if not (scored & has_history).any():
        raise DnrError("no user has an interaction before a list: there is no history to rank by")
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for model, retriever in enumerate(retrievers):
        wanted = (plan.scorer == model) & has_history
        for lists in wanted.nonzero()[:, 0].split(CHUNK):
            excluded = excluded_items(log, lists, plan.trained_on[model])
            items = _candidates(log, retriever, lists, excluded, protocol, n, generator)
            parts.append(_bundle(log, retriever, lists, items, history))
    meta = {
        "dataset": log.name,
        "note": log.note,
        "log": log.fingerprint,
        "users": log.users,
        "items": log.items,
        "protocol": protocol,
        "without_history": int((scored & ~has_history).sum()),
    }
    bundle = CandidateLists.concatenate(parts, meta)
    bundle = bundle[bundle.list.argsort()]
    kept = bundle.labels.any(dim=1)
    meta["without_positive"] = int((~kept).sum())
    if not kept.any():
        raise DnrError("the retriever finds no positive of any list: use more `candidates`")
    return bundle[kept].validate()


def _candidates(
    log: ExposureLog,
    retriever: Retriever,
    lists: Int[Tensor, " some"],
    excluded: Int[Tensor, "some width"],
    protocol: str,
    n: int,
    generator: torch.Generator,
) -> Int[Tensor, "some n"]:
    """The candidates of each list, in random order."""
    shown = log.item[log.rows()[lists]]
    taken = excluded if protocol == "retrieved" else torch.cat([excluded, shown], dim=1)
    wanted = n if protocol == "retrieved" else n - log.list_length
    _check_supply(log, lists, taken, wanted)
    if protocol == "shown+sampled":
        drawn = sample_items(log.items, wanted, taken, generator)
    else:
        drawn = ExactIndex(retriever).top_n(log.list_user[lists], wanted, taken)
    items = drawn if protocol == "retrieved" else torch.cat([shown, drawn], dim=1)
    order = torch.rand(items.shape, generator=generator).argsort(dim=1)
    return items.gather(1, order)


def _check_supply(
    log: ExposureLog, lists: Int[Tensor, " some"], taken: Int[Tensor, "some width"], wanted: int
) -> None:
    left = log.items - (taken > 0).sum(dim=1)
    worst = int(left.argmin())
    if left[worst] < wanted:
        raise DnrError(
            f"user {int(log.list_user[lists[worst]])} has only {int(left[worst])} items left of "
            f"which to draw {wanted} candidates: lower `candidates` or use a larger catalogue"
        )


def _bundle(
    log: ExposureLog,
    retriever: Retriever,
    lists: Int[Tensor, " some"],
    items: Int[Tensor, "some n"],
    history: int,
) -> CandidateLists:
    """Scores, labels and history for given candidates."""
    rows, users = log.rows()[lists], log.list_user[lists]
    same = items[:, :, None] == log.item[rows][:, None]
    return CandidateLists(
        users=users.int(),
        history=log.history(lists, history).int(),
        items=items.int(),
        scores=retriever.logits(users).gather(1, items).sigmoid(),
        labels=(same & log.label[rows][:, None]).any(dim=2),
        shown=same.any(dim=2),
        split=log.split[lists].to(torch.int8),
        list=lists.int(),
    )
