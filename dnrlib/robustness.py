"""How rerankers rank when the retriever's scores are corrupted at test time.

`measure` is what ``dnr measure robustness`` writes down of each run. A corruption is the same for
every run on the same lists, so that differences are paired by list and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.metrics import auc, ndcg, pack, ranking, unpack
from dnrlib.statistics import Estimate, estimate, holm
from dnrlib.training import score_lists

CLAMP = 1e-4
"""Scores nearer to 0 or 1 count as so near: their logits could be infinite."""
SEED = 0
"""Of the noise and the permutations."""
K = 6
"""The cut-off of NDCG."""
FAMILY_LEVEL = 0.05
"""Of the adjusted p-values of a family."""
CLEAN = ("clean", 0.0)
"""Kind and level of the scores as they are."""

Random = torch.Generator
Corruption = Callable[[Tensor, float, Random], Tensor]
Levels = dict[tuple[str, float], Float[np.ndarray, "seeds lists"]]
"""Kind and level of a corruption -> NDCG@6 of every test list under every seed."""


# Corruptions ------------------------------------------------------------------------------


def noisy(x: Float[Tensor, "lists n"], sigma: float, random: Random) -> Float[Tensor, "lists n"]:
    """logit x + sigma · ε with ε ~ N(0, 1) for each candidate, back in (0, 1) by the sigmoid."""
    return (torch.logit(x, CLAMP) + sigma * torch.randn(x.shape, generator=random)).sigmoid()


def permuted(x: Float[Tensor, "lists n"], share: float, random: Random) -> Float[Tensor, "lists n"]:
    """A share of the lists has its scores in random order; a greater share has these and more."""
    chosen = torch.rand(len(x), 1, generator=random).argsort(0).argsort(0) < round(share * len(x))
    return torch.where(chosen, x.gather(1, torch.rand(x.shape, generator=random).argsort(1)), x)


def constant(x: Float[Tensor, "lists n"], level: float, random: Random) -> Float[Tensor, "lists n"]:
    """The mean of all scores in place of each: a retriever that is down and a default for it."""
    return x.mean().expand_as(x)


def turned(x: Float[Tensor, "lists n"], level: float, random: Random) -> Float[Tensor, "lists n"]:
    """The scores of each list in reverse: its best candidate gets the lowest, and so on."""
    order = x.argsort(dim=1)
    return torch.empty_like(x).scatter(1, order, x.gather(1, order).flip(1))


def scaled(x: Float[Tensor, "lists n"], factor: float, random: Random) -> Float[Tensor, "lists n"]:
    """The logit times a factor: scores too timid below 1, too bold above it; in the same order."""
    return (factor * torch.logit(x, CLAMP)).sigmoid()


def shifted(x: Float[Tensor, "lists n"], by: float, random: Random) -> Float[Tensor, "lists n"]:
    """The logit plus a number: all scores too low or too high, in the same order."""
    return (torch.logit(x, CLAMP) + by).sigmoid()


CORRUPTIONS: dict[str, Corruption] = {
    "noise": noisy,
    "permuted": permuted,
    "constant": constant,
    "reversed": turned,
    "scaled": scaled,
    "shifted": shifted,
}
"""Kind -> what it makes of scores at a level."""
LEVELS: dict[str, tuple[float, ...]] = {
    "noise": (0.25, 0.5, 1.0, 2.0, 4.0),
    "permuted": (0.1, 0.25, 0.5, 1.0),
    "constant": (1.0,),
    "reversed": (1.0,),
    "scaled": (0.5, 2.0),
    "shifted": (-2.0, 2.0),
}
"""Kind -> levels that are measured: sigma, share of the lists, (none), factor, summand."""


def corrupted(lists: CandidateLists, kind: str, level: float) -> CandidateLists:
    """The same lists with corrupted scores; of the kind ``clean``, the lists as they are.

    Raises:
        ConfigError: unknown kind, negative sigma, or a share outside [0, 1].
    """
    if kind == "clean":
        return lists
    if kind not in CORRUPTIONS:
        raise ConfigError(f"corruption {kind!r} is unknown: choose one of {', '.join(CORRUPTIONS)}")
    if (kind == "noise" and level < 0) or (kind == "permuted" and not 0 <= level <= 1):
        raise ConfigError(f"level = {level} of {kind}: noise must be 0 or more, a share in [0, 1]")
    random = torch.Generator().manual_seed(SEED)
    return replace(lists, scores=CORRUPTIONS[kind](lists.scores, level, random))


# The measure ------------------------------------------------------------------------------


def measure(lists: CandidateLists, reranker: nn.Module) -> list[dict[str, Any]]:
    """How the test lists are ranked: a row for the scores as they are and one for each level.

    A row has mean NDCG@6 and mean per-list AUC, and in ``top`` the labels of the first six places
    of each list (`dnrlib.metrics.pack`); with ``liked``, the numbers of liked candidates up to six,
    one digit a list, NDCG@6 of each list follows from it (`per_list`).
    """
    test = lists.of_split("test")
    points = [CLEAN, *((kind, level) for kind, levels in LEVELS.items() for level in levels)]
    rows = [_row(test, kind, level, ranked(reranker, test, kind, level)) for kind, level in points]
    rows[0]["liked"] = "".join(str(int(count)) for count in test.labels.sum(1).clamp(max=K))
    return rows


def ranked(
    reranker: nn.Module, lists: CandidateLists, kind: str, level: float
) -> Bool[Tensor, "lists n"]:
    """Labels in the order of the reranker that is given corrupted scores, best first."""
    with torch.no_grad():
        logits = score_lists(reranker, corrupted(lists, kind, level))
    return lists.labels.gather(1, ranking(logits))


def _row(
    lists: CandidateLists, kind: str, level: float, labels: Bool[Tensor, "lists n"]
) -> dict[str, Any]:
    means = {"ndcg@6": float(ndcg(labels, K).nanmean()), "auc": float(auc(labels).nanmean())}
    return {"kind": kind, "level": level, **means, "lists": len(lists), "top": pack(labels[:, :K])}


def per_list(row: Mapping[str, Any], liked: str) -> Float[np.ndarray, " lists"]:
    """NDCG@6 of each list from a row of `measure` and its ``liked``."""
    top = unpack(row["top"], row["lists"], K)
    left = torch.tensor([int(digit) for digit in liked]) - top.sum(1)
    return ndcg(torch.cat([top, _places(left)], dim=1), K).numpy()


def _places(count: Int[Tensor, " lists"]) -> Bool[Tensor, "lists k"]:
    """So many liked candidates behind the first six places, which the ideal order needs to know."""
    return torch.arange(K) < count[:, None]


# Comparisons ------------------------------------------------------------------------------


def by_method(runs: Iterable[Mapping[str, Any]]) -> dict[str, Levels]:
    """Method -> kind and level -> NDCG@6 of every list under every seed, in the order of seeds.

    Args:
        runs: those of a `dnrlib.measurements.Measurement`.
    """
    methods: dict[str, dict[tuple[str, float], list[np.ndarray]]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        of_run = methods.setdefault(run["method"], {})
        for row in run["rows"]:
            found = per_list(row, run["rows"][0]["liked"])
            of_run.setdefault((row["kind"], row["level"]), []).append(found)
    return {
        method: {point: np.stack(seeds) for point, seeds in points.items()}
        for method, points in methods.items()
    }


def drop(method: Levels, kind: str, level: float) -> Float[np.ndarray, "seeds lists"]:
    """NDCG@6 on the scores as they are minus that on the corrupted ones."""
    return method[CLEAN] - method[kind, level]


def smaller_drops(
    method: Levels, reference: Levels, kind: str, levels: Sequence[float] = ()
) -> dict[float, Estimate]:
    """Level -> drop of the reference minus drop of the method, paired by list and seed.

    What is not trained has one seed and stands for every seed of the other.
    """
    return {
        level: estimate(drop(reference, kind, level) - drop(method, kind, level))
        for level in levels or LEVELS[kind]
    }


def differences(
    method: Levels, reference: Levels, kind: str, levels: Sequence[float] = ()
) -> dict[float, Estimate]:
    """Level -> NDCG@6 of the method minus that of the reference on the corrupted scores."""
    return {
        level: estimate(method[kind, level] - reference[kind, level])
        for level in levels or LEVELS[kind]
    }


def sides(found: Mapping[float, Estimate], family_level: float = FAMILY_LEVEL) -> dict[float, str]:
    """Level -> ``for``, ``against`` or ``open``, by p-values adjusted over the levels (Holm)."""
    adjusted = holm({str(level): one.p for level, one in found.items()})
    return {
        level: "open" if adjusted[str(level)] >= family_level else
        "for" if one.mean > 0 else "against"
        for level, one in found.items()
    }  # fmt: skip


def verdict(found: Mapping[float, Estimate], family_level: float = FAMILY_LEVEL) -> str:
    """What a family says of "drops less than": the rule in the head of robustness.yml."""
    told = set(sides(found, family_level).values())
    if {"for", "against"} <= told:
        return "mixed"
    return "holds" if "for" in told else "contradicted" if "against" in told else "not shown"
