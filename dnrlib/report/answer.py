"""The rule by which a report answers whether denoising helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped
from scipy.stats import norm

from dnrlib.errors import ConfigError
from dnrlib.report.runs import DENOISING
from dnrlib.statistics import Estimate, equivalence, estimate, holm

LEVEL = 0.05
"""Of the adjusted p-values."""
POWER = 0.8
"""With which a difference is to be found where a number of lists is named."""
RULE = (
    "For each method the NDCG@6 of every test list under every seed is set against that of the "
    "same reranker with the score as a plain feature (concat), on the same list under the same "
    "seed. The mean difference has a 95 % interval and a p-value that speak of other lists and "
    "other seeds (hierarchical bootstrap). The p-values of all methods that were tried are "
    "adjusted together (Holm). A method is better or worse if its adjusted p-value is below "
    f"{LEVEL}; it is as good if two one-sided tests, adjusted in the same way, exclude a "
    "difference of the smallest effect that matters or more; else it is open. Denoising helps if "
    "one of its methods is better, and hurts if one is worse and none is better."
)

Verdict = Literal["better", "worse", "as good", "open"]
Kind = Literal["helps", "hurts", "no difference", "open", "no order"]


@dataclass(frozen=True)
class Contrast:
    """A method minus the score as a plain feature, in NDCG@6.

    Args:
        p, p_within: adjusted p-values of no difference, and of one of the effect or more.
        verdict: by `RULE`.
        needed: test lists with which a difference of the effect would be found with `POWER`;
            infinite where these seeds alone vary too much.
    """

    method: str
    found: Estimate
    p: float
    p_within: float
    verdict: Verdict
    needed: float


def contrasts(
    values: Mapping[str, Float[np.ndarray, "seeds lists"]],
    reference: Float[np.ndarray, "seeds lists"],
    effect: float,
    clusters: Shaped[np.ndarray, " lists"] | None = None,
) -> list[Contrast]:
    """Every method against the reference, adjusted together.

    Args:
        values: method -> NDCG@6 of each test list under each seed.
        effect: the smallest difference that matters.
        clusters: what each list belongs to, such as its user.

    Raises:
        ConfigError: fewer than two lists or clusters, or an effect that is not positive.
    """
    found = {name: estimate(value - reference, clusters) for name, value in values.items()}
    p = holm({name: one.p for name, one in found.items()})
    within = holm({name: equivalence(one, effect) for name, one in found.items()})
    needed = {
        name: lists_needed(value - reference, effect, LEVEL / len(values), clusters)
        for name, value in values.items()
    }
    return [
        Contrast(
            name, one, p[name], within[name], _verdict(one.mean, p[name], within[name]),
            needed[name],
        )
        for name, one in found.items()
    ]  # fmt: skip


def _verdict(mean: float, p: float, p_within: float) -> Verdict:
    if p < LEVEL:
        return "better" if mean > 0 else "worse"
    return "as good" if p_within < LEVEL else "open"


def lists_needed(
    differences: Float[np.ndarray, "seeds lists"],
    effect: float,
    level: float = LEVEL,
    clusters: Shaped[np.ndarray, " lists"] | None = None,
    power: float = POWER,
) -> float:
    """Lists with which a mean difference of the effect would be told from zero, with these seeds.

    {eq}`eq-own-cascade-needed`. What varies by seed alone stays, and may make it infinite; all else
    of the standard error that the test has (`dnrlib.statistics.estimate`) falls with the lists.

    Args:
        level: of the two-sided test.
        clusters: what each list belongs to.
        power: probability of finding the effect, in (0, 1).

    Raises:
        ConfigError: the effect is not positive, or there are fewer than two lists or clusters.
    """
    if not effect > 0:
        raise ConfigError(f"effect = {effect}: must be positive")
    wanted = (effect / (norm.ppf(1 - level / 2) + norm.ppf(power))) ** 2
    stays = _by_seed_alone(differences) / len(differences)
    falls = max(estimate(differences, clusters).error ** 2 - stays, 0.0)
    lists = differences.shape[1]
    return float(np.ceil(lists * falls / (wanted - stays))) if wanted > stays else inf


def _by_seed_alone(differences: Float[np.ndarray, "seeds lists"]) -> float:
    """Variance component of the seeds in a two-way table without repeats; 0 for one seed."""
    seeds, lists = differences.shape
    if seeds == 1:
        return 0.0
    by_seed, by_list = differences.mean(1, keepdims=True), differences.mean(0)
    rest = differences - by_seed - by_list + differences.mean()
    both = (rest**2).sum() / ((seeds - 1) * (lists - 1))
    return max(float(by_seed.var(ddof=1) - both / lists), 0.0)


@dataclass(frozen=True)
class Answer:
    """What the report says first.

    Args:
        kind: by `RULE`; ``no order`` where fewer than two test lists have both a liked and another
            candidate.
        headline: a few words.
        sentence: with the numbers.
        besides: what a reader should know before believing it.
    """

    kind: Kind
    headline: str
    sentence: str
    besides: tuple[str, ...] = ()


def answered(
    found: Sequence[Contrast], effect: float, requests: float = 0.0, besides: Sequence[str] = ()
) -> Answer:
    """The answer from the contrasts of all methods.

    Args:
        requests: of the whole log for each test list, to say how much log would be needed; 0: do
            not say.
    """
    denoising = [one for one in found if one.method in DENOISING]
    better, worse = (_of(denoising, verdict) for verdict in ("better", "worse"))
    simpler = _of([one for one in found if one.method not in DENOISING], "better")
    also = f" Simpler than denoising, and better too: {_numbers(simpler)}." * bool(simpler)
    size = f"{found[0].found.lists:,} test lists, {_seeds(found[0].found.seeds)}"
    if better:
        small = "" if any(one.found.low >= effect for one in better) else (
            f" That it is worth less than {effect:g}, the smallest gain that matters to you, is "
            "not excluded."
        )  # fmt: skip
        text = (
            f"Against the same reranker with the score as a plain feature NDCG@6 rises with "
            f"{_numbers(better)} ({size})."
        )
        return Answer("helps", "Denoising helps here", text + small + also, tuple(besides))
    if worse:
        text = (
            f"Against the same reranker with the score as a plain feature NDCG@6 falls with "
            f"{_numbers(worse)} ({size}); no denoising method is better."
        )
        return Answer("hurts", "Denoising does not help here: it hurts", text + also, (*besides,))
    if all(one.verdict == "as good" for one in denoising):
        text = (
            f"Each denoising method is within {effect:g} of the score as a plain feature, in "
            f"NDCG@6 ({size}): {_numbers(denoising)}."
        )
        return Answer(
            "no difference", "Denoising makes no difference that matters here", text + also,
            tuple(besides),
        )  # fmt: skip
    text = _open(denoising, effect, requests, size)
    return Answer("open", "No difference can be told with this much data", text + also, (*besides,))


def nothing_to_order() -> Answer:
    """Where every order of every test list is as good."""
    return Answer(
        "no order",
        "This log cannot answer it",
        "Fewer than two test lists have both a liked and another candidate: in the others every "
        "order is as good as any other. Log what was not liked too.",
    )


def _open(denoising: Sequence[Contrast], effect: float, requests: float, size: str) -> str:
    low = min(one.found.low for one in denoising)
    high = max(one.found.high for one in denoising)
    least = max(max(abs(one.found.low), abs(one.found.high)) for one in denoising)
    told = (
        f"Differences of more than {least:.3f} NDCG@6 do not fit these lists ({size}): the "
        f"intervals of the denoising methods go from {low:+.3f} to {high:+.3f}. "
    )
    needed, lists = max(one.needed for one in denoising), denoising[0].found.lists
    if needed == inf:
        return told + (
            f"To tell {effect:g} apart takes more seeds first: the seeds alone differ by more "
            "than that."
        )
    if needed <= lists:
        return told + (
            f"A difference of {effect:g} or more would have been found with a probability of "
            f"{POWER:.0%}."
        )
    log = f", a log of about {_rounded(needed * requests)} requests" * bool(requests)
    return told + (
        f"To find a difference of {effect:g} with a probability of {POWER:.0%} you would need "
        f"about {_rounded(needed)} test lists{log}."
    )


def _of(found: Sequence[Contrast], verdict: str) -> list[Contrast]:
    return [one for one in found if one.verdict == verdict]


def _numbers(found: Sequence[Contrast]) -> str:
    return ", ".join(
        f"{one.method} {one.found.mean:+.3f} ({one.found.low:+.3f} to {one.found.high:+.3f})"
        for one in sorted(found, key=lambda one: -one.found.mean)
    )


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _rounded(count: float) -> str:
    """Two digits, as no such number is known better."""
    return f"{float(f'{count:.2g}'):,.0f}"
