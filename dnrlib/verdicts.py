"""A verdict on each claim, computed from recorded runs by the rules of data/rules.yml.

The evidence that a claim names is looked up (`dnrlib.evidence`), the p-values are adjusted within
each kind of claim, and a rule judges. Only the first step reads records, so that the other two can
be done again under other constants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Column, Table

from dnrlib.claims import (
    WHOLE,
    Claim,
    Rules,
    claims_history,
    judged_since,
    load_claims,
    load_rules,
    number,
    rules_history,
    share,
)
from dnrlib.errors import ConfigError
from dnrlib.evidence import (
    Evidence,
    Optimum,
    Origin,
    Shelf,
    Silhouettes,
    Spreads,
    gathered,
    over_seeds,
)
from dnrlib.statistics import Estimate, Interval, holm

REPRODUCED = "reproduced"
DIRECTION = "direction only"
NOT = "not reproduced"
CONTRADICTED = "contradicted"
UNTESTABLE = "not testable here"
"""The verdict where what is needed is not recorded."""
VERDICTS = (REPRODUCED, DIRECTION, NOT, CONTRADICTED, UNTESTABLE)
"""All verdicts, from the best for the paper."""

SUBSTANTIAL = 0.25
"""Silhouette (Kaufman and Rousseeuw 1990) up to which there is no substantial structure."""


@dataclass(frozen=True)
class Terms:
    """The numbers that a rule holds the evidence against."""

    value: float
    """The paper's, in the paper's unit; NaN if the claim has none."""
    tolerance: float
    """In the unit that the rule says; NaN if the claim has none."""
    level: float
    p: Mapping[str, float]
    """Adjusted."""
    confidence: float = 0.95
    """Of every interval."""


class Judgement(NamedTuple):
    """A verdict and why."""

    verdict: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What came of a claim.

    Args:
        claim: as stated.
        verdict: one of `VERDICTS`.
        paper, ours: values as text, with their unit.
        reason: one sentence, computed.
        estimate: ours, in the paper's unit, where the rule looks at one mean or difference.
        p: the largest adjusted p-value that the rule looks at, of ``family`` p-values.
        family: how many p-values were adjusted together; 0 where the rule looks at none.
        origins: the runs and measurements.
        before_rule: how many of them are older than the rule in its present wording or the row of
            the claim; None where git knows nothing of them.
        awaited: how many of ``family`` are not recorded yet and counted as 1.
    """

    claim: Claim
    verdict: str
    paper: str
    ours: str
    reason: str
    estimate: Estimate | None = None
    p: float | None = None
    family: int = 0
    origins: Sequence[Origin] = ()
    before_rule: int | None = None
    awaited: int = 0

    @property
    def runs(self) -> list[str]:
        """Names of the runs and measurements."""
        return [origin.name for origin in self.origins]

    @property
    def sources(self) -> list[str]:
        """The experiments, measurements or benchmarks."""
        return _distinct(origin.source for origin in self.origins)

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs."""
        return sorted({origin.seed for origin in self.origins if origin.seed is not None})

    @property
    def fingerprints(self) -> list[str]:
        """Of the data."""
        return _distinct(origin.data for origin in self.origins)

    @property
    def lists(self) -> int | None:
        """Test lists of a run."""
        return max((origin.lists for origin in self.origins if origin.lists), default=None)

    @property
    def notes(self) -> list[str]:
        """How the data differ from the publishers'."""
        return _distinct(origin.note for origin in self.origins)

    def made(self, what: str) -> list[str]:
        """The ``commit``, ``machine`` or ``date`` of the runs, each once."""
        return _distinct(str(origin.made.get(what, "")) for origin in self.origins)


def _distinct(texts: Iterable[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]


# All of them ------------------------------------------------------------------------------


def verdicts(
    results: Path | None = None,
    measurements: Path | None = None,
    benchmarks: Path | None = None,
    claims: Mapping[str, Claim] | None = None,
) -> dict[str, Verdict]:
    """The verdict on every claim, by its id.

    Args:
        results, measurements, benchmarks: folders, by default those of the project.
        claims: by default all of data/claims.csv; p-values are adjusted among these.

    Raises:
        DataError: the claims or the rules cannot be read.
        ConfigError: as `dnrlib.evidence.gathered`.
    """
    rules = load_rules()
    shelf = Shelf(results, measurements, benchmarks)
    return judged(gathered(shelf, claims, rules), rules, claims=claims)


def judged(
    evidence: Mapping[str, Evidence],
    rules: Rules | None = None,
    tolerance_factor: float = 1.0,
    claims: Mapping[str, Claim] | None = None,
) -> dict[str, Verdict]:
    """The verdicts on evidence.

    Args:
        rules: by default those of data/rules.yml.
        tolerance_factor: by which every claim's tolerance is multiplied.
        claims: by default all of data/claims.csv.
    """
    rules, claims = rules or load_rules(), claims or load_claims()
    adjusted, families = _adjusted(evidence, claims)
    awaited: Counter[str] = Counter()
    for id, one in evidence.items():
        awaited[claims[id].kind] += one.awaited
    found = {}
    for id, one in evidence.items():
        claim, p = claims[id], {name: adjusted[id, name] for name in one.p}
        terms = _terms(claim, claims, rules, tolerance_factor, p)
        judgement = _judge(claim, one, terms)
        found[id] = Verdict(
            claim=claim,
            verdict=judgement.verdict,
            paper=paper_text(claim, terms),
            ours=one.ours or "–",
            reason=f"{judgement.reason}{one.remark}",
            estimate=one.found if isinstance(one.found, Estimate) else None,
            p=max(p.values(), default=None),
            family=families[claim.kind] if p else 0,
            origins=one.origins,
            before_rule=_before(claim, one.origins),
            awaited=awaited[claim.kind] if p else 0,
        )
    return found


def _adjusted(
    evidence: Mapping[str, Evidence], claims: Mapping[str, Claim]
) -> tuple[dict[tuple[str, str], float], Counter[str]]:
    """Every p-value, adjusted within the claims of one kind, and how many each kind has.

    Those that are not recorded yet count as 1: Holm's procedure rejects no less when a p-value
    falls, so that a difference which is told apart stays so, whatever else is recorded later.
    """
    kinds: dict[str, dict[tuple[str, str], float]] = {}
    for id, one in evidence.items():
        waiting = {f"awaited {number}": 1.0 for number in range(one.awaited)}
        own = {(id, name): p for name, p in (*one.p.items(), *waiting.items())}
        kinds.setdefault(claims[id].kind, {}).update(own)
    adjusted: dict[tuple[str, str], float] = {}
    for family in kinds.values():
        adjusted |= holm(family)
    return adjusted, Counter({kind: len(family) for kind, family in kinds.items()})


def _judge(claim: Claim, evidence: Evidence, terms: Terms) -> Judgement:
    if evidence.missing:
        return Judgement(UNTESTABLE, evidence.missing)
    return JUDGE[claim.rule](evidence.found, terms)


def _terms(
    claim: Claim,
    claims: Mapping[str, Claim],
    rules: Rules,
    factor: float,
    p: Mapping[str, float],
) -> Terms:
    value = _or_nan(number(claim.value))
    if claim.rule == "part":
        value = round(_or_nan(number(claims[WHOLE].value)) - value, 9)
    text = claim.tolerance
    tolerance = _or_nan(share(text) if text.endswith("%") else number(text)) * factor
    return Terms(value, tolerance, rules.family_level, p, rules.confidence)


def _or_nan(found: float | None) -> float:
    return float("nan") if found is None else found


def _before(claim: Claim, origins: Sequence[Origin]) -> int | None:
    """How many are older than the rule as it reads now, or than the claim's row."""
    if not rules_history() or not claims_history():
        return None
    since = judged_since(claim)
    return len(origins) if since is None else older_than(since, origins)


def older_than(date: datetime, origins: Iterable[Origin]) -> int:
    """How many runs or measurements were made before a date."""
    return sum(datetime.fromisoformat(origin.made["date"]) < date for origin in origins)


UNITS = {"percent": " %", "points": " points", "ratio": " x", "seconds": " s", "nats": " nats"}


def paper_text(claim: Claim, terms: Terms) -> str:
    """The paper's value with its unit; of a part also what the rule makes of it."""
    if claim.rule == "part":
        return f"{claim.value} %, {terms.value:.2f} points below the whole"
    if not claim.value:
        return "no number"
    if claim.unit == "range":
        return claim.value.replace("-", " to ")
    if claim.unit == "count":
        return f"{int(claim.value):,}"
    return f"{claim.value.replace('-', '−')}{UNITS.get(claim.unit, '')}"


# The rules --------------------------------------------------------------------------------


def _judge_count(found: int, terms: Terms) -> Judgement:
    off, most = abs(found - terms.value), terms.tolerance * terms.value
    word = "no more" if off <= most else "more"
    return Judgement(
        REPRODUCED if off <= most else NOT,
        f"ours differs by {off:,.0f}, {word} than {terms.tolerance:.2%} of the paper's",
    )


def _judge_level(found: Estimate, terms: Terms) -> Judgement:
    meets = _meets(found, terms.value, terms.tolerance)
    return Judgement(
        REPRODUCED if meets else NOT,
        f"the interval {'meets' if meets else 'misses'} the paper's value ± {terms.tolerance:g} "
        f"points, by {found.mean - terms.value:+.2f} in the mean",
    )


def _meets(found: Interval, value: float, margin: float) -> bool:
    return found.low <= value + margin and found.high >= value - margin


def _judge_at_least(found: Estimate, terms: Terms) -> Judgement:
    if found.low >= terms.value:
        return Judgement(REPRODUCED, "the interval lies at or above the paper's value")
    if found.high < terms.value:
        return Judgement(CONTRADICTED, "the interval lies below the paper's value")
    return Judgement(NOT, "the interval holds the paper's value, so that ours may lie below")


def _judge_difference(found: Estimate, terms: Terms) -> Judgement:
    (p,) = terms.p.values()
    told = f"adjusted p = {p:.3g}"
    if p >= terms.level:
        return Judgement(NOT, f"not told apart from zero ({told})")
    if found.mean < 0:
        return Judgement(CONTRADICTED, f"told apart from zero, and negative ({told})")
    if np.isnan(terms.value):
        return Judgement(REPRODUCED, f"above zero ({told}); the claim gives no size")
    meets = _meets(found, terms.value, terms.tolerance * terms.value)
    return Judgement(
        REPRODUCED if meets else DIRECTION,
        f"above zero ({told}); the interval {'meets' if meets else 'misses'} {terms.value:g} give "
        f"or take {terms.tolerance:.0%} of it",
    )


def _judge_gain_below(found: Estimate, terms: Terms) -> Judgement:
    if found.high < terms.value:
        return Judgement(REPRODUCED, "the interval lies below the paper's value")
    if found.low > terms.value:
        return Judgement(CONTRADICTED, "the interval lies above the paper's value")
    return Judgement(NOT, "the interval holds the paper's value")


def _judge_optimum(found: Optimum, terms: Terms) -> Judgement:
    if not found.rivals:
        return Judgement(NOT, "the runs have no setting on the other side of the range's ends")
    close = [
        f"{setting:g}"
        for setting, one in found.rivals.items()
        if not (terms.p[found.over(setting)] < terms.level and one.mean > 0)
    ]
    inside = found.inside(found.best)
    where = f"the best, {found.best:g}, lies {'in' if inside else 'outside'} the paper's range"
    side = "outside" if inside else "in it"
    ahead = f"and is above every setting {side} on the test lists"
    if close:
        ahead = f"but is not told apart from {', '.join(close)} {side}"
    if inside:
        return Judgement(DIRECTION if close else REPRODUCED, f"{where}, {ahead}")
    return Judgement(NOT if close else CONTRADICTED, f"{where}, {ahead}")


def _judge_closest(found: Sequence[Mapping[str, str]], terms: Terms) -> Judgement:
    pooled = [one["pooled"] == "generator" for one in found]
    given = [set(one.values()) == {"generator"} for one in found]
    seeds = f"in {sum(pooled)} of {len(found)} seeds"
    if all(given):
        return Judgement(REPRODUCED, "the generator is closest pooled and given each label")
    if all(pooled):
        return Judgement(
            DIRECTION,
            "the generator is closest pooled over labels in every seed, but given each label only "
            f"in {sum(given)} of {len(found)}",
        )
    word = NOT if any(pooled) else CONTRADICTED
    return Judgement(word, f"pooled over labels the generator is closest {seeds}")


def _judge_clusters(found: Silhouettes, terms: Terms) -> Judgement:
    ours, theirs = (
        over_seeds(values, terms.confidence) for values in (found.reranker, found.retriever)
    )
    if ours.low > SUBSTANTIAL >= theirs.low:
        return Judgement(
            REPRODUCED, f"the reranker's silhouette lies above {SUBSTANTIAL}, the retriever's not"
        )
    higher = found.reranker > found.retriever
    word = DIRECTION if higher.all() else NOT
    if (found.reranker < found.retriever).all():
        word = CONTRADICTED
    return Judgement(
        word,
        f"the reranker's silhouette is higher in {higher.sum()} of {len(higher)} seeds, its lower "
        f"end {ours.low:.3f} against {SUBSTANTIAL}",
    )


def _judge_narrower(found: Spreads, terms: Terms) -> Judgement:
    before = found.reranker < found.retriever
    after = found.reranker < found.calibrated
    reason = (
        f"narrower in {before.sum()} of {len(before)} seeds, after calibration of the retriever's "
        f"score in {after.sum()}"
    )
    if before.all():
        return Judgement(REPRODUCED if after.all() else DIRECTION, reason)
    larger = (found.reranker > found.retriever).all()
    return Judgement(CONTRADICTED if larger else NOT, reason)


def _judge_worlds(found: Float[np.ndarray, " worlds"], terms: Terms) -> Judgement:
    """At most the tolerance everywhere; a claim without a tolerance has zero."""
    limit = 0.0 if np.isnan(terms.tolerance) else terms.tolerance
    above = int((found > limit).sum())
    reason = f"above {limit:g} in {above} of {len(found)} worlds"
    return Judgement(CONTRADICTED if above else REPRODUCED, reason)


def _judge_overhead(found: float, terms: Terms) -> Judgement:
    reason = f"differs from the paper's by {found - terms.value:+.1f} percentage points"
    if abs(found - terms.value) <= terms.tolerance:
        return Judgement(REPRODUCED, reason)
    return Judgement(DIRECTION if found > 0 else CONTRADICTED, reason)


def _judge_ratio(found: tuple[float, float], terms: Terms) -> Judgement:
    low, high = found
    lower, upper = 1 - terms.tolerance, 1 + terms.tolerance
    if lower <= low and high <= upper:
        return Judgement(REPRODUCED, f"every round lies within 1 ± {terms.tolerance:g}")
    if high < lower or low > upper:
        return Judgement(CONTRADICTED, f"every round lies outside 1 ± {terms.tolerance:g}")
    return Judgement(NOT, f"some rounds lie outside 1 ± {terms.tolerance:g}")


JUDGE: dict[str, Callable[[Any, Terms], Judgement]] = {
    "count": _judge_count,
    "level": _judge_level,
    "at least": _judge_at_least,
    "difference": _judge_difference,
    "relative": _judge_difference,
    "part": _judge_difference,
    "gain below": _judge_gain_below,
    "optimum": _judge_optimum,
    "closest": _judge_closest,
    "clusters": _judge_clusters,
    "narrower": _judge_narrower,
    "identity": _judge_worlds,
    "independent": _judge_worlds,
    "bound": _judge_worlds,
    "overhead": _judge_overhead,
    "same ratio": _judge_ratio,
}
"""Rule of data/rules.yml -> how it judges; `none` has no evidence and is not asked."""


# For people -------------------------------------------------------------------------------


def redo(verdict: Verdict) -> list[str]:
    """The commands that do the runs or measurements of a verdict again."""
    return _distinct(_command(source) for source in verdict.sources)


def _command(source: str) -> str:
    folder, _, file = source.partition("/")
    name = Path(file).stem
    if folder == "experiments":
        return f"dnr reproduce --experiment {name}"
    if folder == "benchmarks":
        return f"make bench GROUPS={name}"
    experiment, _, what = name.rpartition("-")
    return f"dnr measure {what}" + (f" --experiment {experiment}" if experiment else "")


def print_verdicts(console: Console, id: str = "") -> None:
    """The table of all verdicts, or one of them with its runs.

    Raises:
        ConfigError: there is no such claim.
    """
    claims = load_claims()
    if id and id not in claims:
        raise ConfigError(f"id = {id!r}: choose one of {', '.join(claims)}")
    # one claim's p-values are adjusted with those of its kind
    wanted = {name: one for name, one in claims.items() if not id or one.kind == claims[id].kind}
    found = verdicts(claims=wanted)
    for part in _about(found[id]) if id else [_overview(found)]:
        console.print(part)


def _overview(found: Mapping[str, Verdict]) -> Table:
    table = Table("claim", "paper", "ours", "verdict")
    for id, one in found.items():
        table.add_row(id, one.paper, one.ours, one.verdict)
    return table


def _about(one: Verdict) -> Iterator[str | Table]:
    rules = load_rules()
    yield f"{one.claim.statement} ({one.claim.source})"
    yield f"paper: {one.paper}   ours: {one.ours}"
    yield f"verdict: {one.verdict}: {one.reason}"
    yield f"rule, {one.claim.rule}: {rules.rules[one.claim.rule]}"
    if not one.origins:
        return
    table = Table(Column("run", overflow="fold"), "seed", "made", "commit")
    for origin in one.origins:
        seed = "" if origin.seed is None else str(origin.seed)
        table.add_row(origin.name, seed, origin.made["date"][:10], origin.made["commit"])
    yield table
    yield "of: " + ", ".join(one.sources)
    yield "again: " + ", ".join(f"`{command}`" for command in redo(one))
