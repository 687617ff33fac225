"""How rerankers rank liked items that training has seldom shown, and those that it has shown often.

`measure` is what ``dnr measure cold-items`` writes down of each run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dnrlib.lists import CandidateLists
from dnrlib.metrics import ndcg, pack, ranking
from dnrlib.robustness import K, per_list
from dnrlib.statistics import Estimate, estimate
from dnrlib.training import score_lists

GROUPS = {"0-9": (0, 9), "10-29": (10, 29), "30-99": (30, 99), "100 or more": (100, math.inf)}
"""Name -> the least and the most training lists in which the items of a group were shown."""

ByGroup = dict[str, Float[np.ndarray, "seeds lists"]]
"""Group -> NDCG@6 of every test list under every seed; NaN where no item of the group was liked."""


def times_shown(lists: CandidateLists) -> Int[Tensor, " items_plus_1"]:
    """In how many training lists each item was shown; candidates drawn besides do not count."""
    train = lists.of_split("train")
    return train.items[train.shown].bincount(minlength=lists.meta["items"] + 1)


def groups_of(lists: CandidateLists) -> dict[str, Bool[Tensor, "test n"]]:
    """Group -> which candidates of the test lists are in it."""
    shown = times_shown(lists)[lists.of_split("test").items.long()]
    return {name: (shown >= least) & (shown <= most) for name, (least, most) in GROUPS.items()}


def measure(lists: CandidateLists, reranker: nn.Module) -> list[dict[str, Any]]:
    """How the liked items of each group are ranked among the candidates that were not liked.

    A row a group. The liked items of other groups are taken out of the lists, so that a group does
    not pay for another's. ``top`` has the labels of the first six places of each test list
    (`dnrlib.metrics.pack`) and ``liked`` the numbers of the group's liked items up to six, one
    digit a list, from which NDCG@6 of each list follows (`by_method`). ``items`` counts the liked
    candidates of the group.
    """
    test, groups = lists.of_split("test"), groups_of(lists)
    with torch.no_grad():
        logits = score_lists(reranker, test)
    return [
        {"group": name, **_ranked(logits, test.labels, members)} for name, members in groups.items()
    ]


def _ranked(
    logits: Float[Tensor, "test n"], labels: Bool[Tensor, "test n"], members: Bool[Tensor, "test n"]
) -> dict[str, Any]:
    liked = labels & members
    order = ranking(logits.masked_fill(labels & ~members, float(logits.min()) - 1))
    ranked = liked.gather(1, order)
    return {
        "ndcg@6": float(ndcg(ranked, K).nanmean()),
        "items": int(liked.sum()),
        "lists": len(labels),
        "top": pack(ranked[:, :K]),
        "liked": "".join(str(int(count)) for count in liked.sum(1).clamp(max=K)),
    }


def by_method(
    runs: Iterable[Mapping[str, Any]], names: Mapping[str, str] | None = None
) -> dict[str, ByGroup]:
    """Method -> group -> NDCG@6 of every list under every seed, in the order of seeds.

    Args:
        runs: those of a `dnrlib.measurements.Measurement`.
        names: run -> what to call its method, where the method alone does not tell; runs without a
            name are left out.
    """
    methods: dict[str, dict[str, list[np.ndarray]]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        if names is not None and run["run"] not in names:
            continue
        method = run["method"] if names is None else names[run["run"]]
        for row in run["rows"]:
            groups = methods.setdefault(method, {})
            groups.setdefault(row["group"], []).append(per_list(row, row["liked"]))
    return {
        method: {group: np.stack(seeds) for group, seeds in groups.items()}
        for method, groups in methods.items()
    }


def difference(method: ByGroup, reference: ByGroup, group: str) -> Estimate | None:
    """NDCG@6 of a method minus that of another in a group, paired by list and seed.

    None where fewer than two lists have a liked item of the group.
    """
    values = method[group] - reference[group]
    return estimate(values) if _enough(values) else None


def difference_between(
    method: ByGroup, reference: ByGroup, first: str, second: str
) -> Estimate | None:
    """The `difference` in the first group minus that in the second.

    The groups have other lists, so that each list counts by what it adds to its group's mean: see
    `_shares`. None as for `difference`.
    """
    one, other = (method[group] - reference[group] for group in (first, second))
    return estimate(_shares(one) - _shares(other)) if _enough(one) and _enough(other) else None


def _enough(values: Float[np.ndarray, "seeds lists"]) -> bool:
    """Whether two lists at least have a value."""
    return int(np.isfinite(values).all(axis=0).sum()) >= 2


def _shares(values: Float[np.ndarray, "seeds lists"]) -> Float[np.ndarray, "seeds lists"]:
    """Values for all lists, with the mean of those that have one, and its error to first order.

    The mean is the ratio of two means over all lists, of the values and of having one.
    """
    there, mean = np.isfinite(values), np.nanmean(values, axis=1, keepdims=True)
    return mean + np.where(there, values - mean, 0) / there.mean(axis=1, keepdims=True)
