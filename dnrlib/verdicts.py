"""A verdict on each claim, computed from recorded runs by the rules of data/rules.yml.

In three steps: `gather` looks at the evidence that a claim names, the p-values are adjusted within
each kind of claim, and a rule judges. Only the first step reads records, so that the other two can
be done again under other constants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Column, Table

from dnrlib import comparisons
from dnrlib.claims import (
    Claim,
    Rules,
    load_claims,
    load_rules,
    rules_history,
    standing_since,
)
from dnrlib.errors import ConfigError, DataError
from dnrlib.experiments import RunConfig, merge, nested
from dnrlib.identity import from_dict, hash_of, plain
from dnrlib.measurements import Measurement, load_measurement, measurement_path, nearest
from dnrlib.records import Record
from dnrlib.statistics import Estimate, Interval, estimate, holm, seed_difference
from dnrlib.timings import RECORDS, Timings

REPRODUCED = "reproduced"
DIRECTION = "direction only"
NOT = "not reproduced"
CONTRADICTED = "contradicted"
UNTESTABLE = "not testable here"
VERDICTS = (REPRODUCED, DIRECTION, NOT, CONTRADICTED, UNTESTABLE)

PROTOCOL = "shown+sampled"
"""Of all runs that a verdict rests on."""
METRICS = {"h@6": "precision@6"}
"""The paper's name -> that of records. Its H@6 lies below its NDCG@6 and so is not the usual hit
ratio; hits / 6 is what it can be."""
SUBSTANTIAL = 0.25
"""Silhouette (Kaufman and Rousseeuw 1990) up to which there is no substantial structure."""


@dataclass(frozen=True)
class Origin:
    """A run or a measurement that a verdict rests on."""

    name: str
    source: str
    """The experiment, measurement or benchmark that it is of."""
    made: Mapping[str, Any]
    """Date, commit, machine, versions."""
    seed: int | None = None
    data: str = ""
    """Fingerprint of its lists."""
    lists: int | None = None
    """Test lists."""
    note: str = ""
    """How its data differ from the publisher's, such as a part of them."""


@dataclass(frozen=True)
class Evidence:
    """What a rule judges by."""

    origins: Sequence[Origin] = ()
    found: Any = None
    """What the rule's function for evidence returns; differences and means in the paper's unit."""
    ours: str = ""
    p: Mapping[str, float] = field(default_factory=dict)
    """Comparison -> p-value, before the family's adjustment."""
    remark: str = ""
    """What else to know, for the reason."""
    missing: str = ""
    """Why there is nothing to judge by."""


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
    bounds: tuple[float, float] = (float("nan"), float("nan"))
    """Of the paper's range."""


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
        before_rule: how many of them are older than the rule in its present wording; None where
            git knows nothing of it.
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
    """
    return judged(gathered(Shelf(results, measurements, benchmarks), claims), claims=claims)


def gathered(
    shelf: Shelf | None = None, claims: Mapping[str, Claim] | None = None
) -> dict[str, Evidence]:
    """The evidence on every claim; where it is missing, why."""
    shelf = shelf or Shelf()
    return {id: gather(claim, shelf) for id, claim in (claims or load_claims()).items()}


def gather(claim: Claim, shelf: Shelf) -> Evidence:
    """The evidence that a claim names, in the paper's unit."""
    try:
        return RULES[claim.rule].look(claim, shelf)
    except DataError as error:
        return Evidence(missing=str(error))


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
    found = {}
    for id, one in evidence.items():
        claim, p = claims[id], {name: adjusted[id, name] for name in one.p}
        terms = _terms(claim, claims, rules.family_level, tolerance_factor, p)
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
            before_rule=_before(claim.rule, one.origins),
        )
    return found


def _adjusted(
    evidence: Mapping[str, Evidence], claims: Mapping[str, Claim]
) -> tuple[dict[tuple[str, str], float], Counter[str]]:
    """Every p-value, adjusted within the claims of one kind, and how many each kind has."""
    kinds: dict[str, dict[tuple[str, str], float]] = {}
    for id, one in evidence.items():
        kinds.setdefault(claims[id].kind, {}).update({(id, name): p for name, p in one.p.items()})
    adjusted: dict[tuple[str, str], float] = {}
    for family in kinds.values():
        adjusted |= holm(family)
    return adjusted, Counter({kind: len(family) for kind, family in kinds.items()})


def _judge(claim: Claim, evidence: Evidence, terms: Terms) -> Judgement:
    if evidence.missing:
        return Judgement(UNTESTABLE, evidence.missing)
    return RULES[claim.rule].judge(evidence.found, terms)


def _terms(
    claim: Claim,
    claims: Mapping[str, Claim],
    level: float,
    factor: float,
    p: Mapping[str, float],
) -> Terms:
    low, _, high = claim.value.partition("-")
    value = _number(claim.value)
    if claim.rule == "part":
        value = round(_number(claims["ablation-full"].value) - value, 9)
    tolerance = _number(claim.tolerance.removesuffix("%")) * factor
    tolerance = tolerance / 100 if claim.tolerance.endswith("%") else tolerance
    bounds = (_number(low), _number(high)) if high and low else Terms.bounds
    return Terms(value, tolerance, level, p, bounds)


def _number(text: str) -> float:
    """NaN where there is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _before(rule: str, origins: Sequence[Origin]) -> int | None:
    """How many are older than the rule as it reads now."""
    if not rules_history():
        return None
    since = standing_since(rule)
    return len(origins) if since is None else older_than(since.date, origins)


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


# The evidence -----------------------------------------------------------------------------


class Cell(NamedTuple):
    """One cell of a table, ``EXPERIMENT/MODEL@DATASET``."""

    experiment: str
    model: str
    dataset: str

    @classmethod
    def read(cls, text: str, dataset: str) -> Cell:
        """From its text; ``dataset`` is used where the text names none."""
        experiment, _, rest = text.strip().partition("/")
        model, _, own = rest.partition("@")
        return cls(experiment, model, own or dataset)


class Shelf:
    """Where the evidence is; each experiment is read once."""

    def __init__(
        self,
        results: Path | None = None,
        measurements: Path | None = None,
        benchmarks: Path | None = None,
    ):
        self.results, self.measurements = results, measurements
        self.benchmarks = benchmarks or RECORDS
        self._read: dict[str, tuple[list[Record], list[RunConfig]]] = {}

    def present(self, experiment: str) -> tuple[list[Record], list[RunConfig]]:
        """The records of an experiment, and the runs that have none."""
        if experiment not in self._read:
            self._read[experiment] = comparisons.present(experiment, self.results)
        return self._read[experiment]

    def records(self, experiment: str, wanted: Callable[[RunConfig], bool]) -> list[Record]:
        """The records of those runs of an experiment that are wanted.

        Raises:
            DataError: there is none, or one has no record.
        """
        records, missing = self.present(experiment)
        kept = [record for record in records if wanted(from_dict(RunConfig, record.config))]
        left = sum(wanted(config) for config in missing)
        if left or not kept:
            raise DataError(
                f"experiments/{experiment}.yml",
                f"{len(kept)} of {len(kept) + left} runs are recorded: "
                f"`dnr reproduce --experiment {experiment}`",
            )
        return kept

    def cell(self, cell: Cell) -> list[Record]:
        """The records of a cell, one a seed, under `PROTOCOL`."""
        return self.records(
            cell.experiment,
            lambda config: (
                (config.model, config.data.dataset, config.data.protocol)
                == (cell.model, cell.dataset, PROTOCOL)
            ),
        )

    def measured(self, name: str, method: str = "") -> tuple[list[Origin], list[dict[str, Any]]]:
        """Runs of a measurement, of one method or all, with their rows."""
        experiment, _, what = name.rpartition("-")
        found = load_measurement(experiment, what, self.measurements)
        runs = [run for run in found.runs if run.get("method", "") == method]
        if not runs:
            path = measurement_path(experiment, what, self.measurements)
            raise DataError(path, f"has no run of {method}")
        return [_measured_run(name, run, found) for run in runs], runs

    def timings(self, group: str) -> Timings:
        """A group of benchmarks."""
        return Timings.load(self.benchmarks / f"{group}.json")


def _measured_run(name: str, run: Mapping[str, Any], whole: Measurement) -> Origin:
    source = f"measurements/{name}.json"
    return Origin(
        run["run"], source, whole.made, run.get("seed"), run.get("data", ""),
        note=run.get("note", ""),
    )  # fmt: skip


def _origins(experiment: str, records: Iterable[Record]) -> list[Origin]:
    source = f"experiments/{experiment}.yml"
    return [
        Origin(
            record.run, source, record.made, record.seed if record.best_epoch else None,
            record.data["fingerprint"], record.data["test"], record.data.get("note", ""),
        )
        for record in records
    ]  # fmt: skip


def _cells(claim: Claim) -> list[Cell]:
    dataset = "ml-1m" if claim.dataset in ("", "all") else claim.dataset
    return [Cell.read(text, dataset) for text in claim.evidence.split(" - ")]


def _metric(claim: Claim) -> str:
    name = claim.metric.split()[0]
    return METRICS.get(name, name)


def _scaled(found: Estimate, factor: float) -> Estimate:
    """In another unit; the p-value, the degrees of freedom and the effect size have none."""
    return replace(
        found, mean=found.mean * factor, low=found.low * factor, high=found.high * factor,
        error=found.error * factor,
    )  # fmt: skip


def _of_records(
    claim: Claim, records: Sequence[Sequence[Record]], found: Estimate, p: Mapping[str, float]
) -> Evidence:
    cells = _cells(claim)
    origins = [
        origin
        for cell, group in zip(cells, records, strict=True)
        for origin in _origins(cell.experiment, group)
    ]
    unit = " points" if claim.rule in ("difference", "part") else " %"
    sign = "+" if len(cells) > 1 else ""
    ours = f"{found.mean:{sign}.2f} [{found.low:{sign}.2f}, {found.high:{sign}.2f}]{unit}"
    return Evidence(origins, found, ours, p, _remark(claim, cells, origins))


def _remark(claim: Claim, cells: Sequence[Cell], origins: Sequence[Origin]) -> str:
    """What of the claim the records are not: another metric, one data set of several, a part."""
    remarks = []
    if _metric(claim) != claim.metric.split()[0]:
        remarks.append(f"{claim.metric.split()[0]} is read as {_metric(claim)}")
    if cells[0].dataset != claim.dataset:
        remarks.append(f"on {cells[0].dataset}")
    if cells[0].dataset != "ml-1m":
        remarks += _distinct(origin.note for origin in origins)
    return f" ({'; '.join(remarks)})" if remarks else ""


def _mean(claim: Claim, shelf: Shelf) -> Evidence:
    (cell,) = _cells(claim)
    records = shelf.cell(cell)
    found = _scaled(estimate(comparisons.per_seed(records, _metric(claim))), 100)
    return _of_records(claim, [records], found, {})


def _pair(claim: Claim, shelf: Shelf) -> tuple[list[Record], list[Record]]:
    first, second = (shelf.cell(cell) for cell in _cells(claim))
    return first, second


def _difference(claim: Claim, shelf: Shelf) -> Evidence:
    first, second = _pair(claim, shelf)
    found = _scaled(comparisons.difference(first, second, _metric(claim)), 100)
    return _of_records(claim, [first, second], found, {"difference": found.p})


def _relative(claim: Claim, shelf: Shelf) -> Evidence:
    """In percent of the second's mean, which is taken as known."""
    first, second = _pair(claim, shelf)
    whole = comparisons.per_seed(second, _metric(claim))
    found = comparisons.difference(first, second, _metric(claim))
    found = _scaled(found, 100 / np.nanmean(whole).item())
    return _of_records(claim, [first, second], found, {"difference": found.p})


def _gain(claim: Claim, shelf: Shelf) -> Evidence:
    """As `_relative`; the rule looks at the interval alone, so that no p-value joins a family."""
    return replace(_relative(claim, shelf), p={})


class Optimum(NamedTuple):
    """The settings of one parameter, of which validation chooses the best."""

    validation: Mapping[float, float]
    """Setting -> mean NDCG@6."""
    behind: Mapping[float, Estimate]
    """Other setting -> the best one's test NDCG@6 minus its own."""

    @property
    def best(self) -> float:
        """The setting with the highest mean on the validation lists."""
        return max(self.validation, key=lambda setting: self.validation[setting])


def _optimum(claim: Claim, shelf: Shelf) -> Evidence:
    experiment, _, path = claim.evidence.partition("/")
    groups = _sweep(shelf, experiment, path)
    validation = {
        setting: float(np.mean([record.metrics["validation"]["ndcg@6"] for record in records]))
        for setting, records in groups.items()
    }
    best = Optimum(validation, {}).best
    behind = {
        setting: _scaled(comparisons.difference(groups[best], records), 100)
        for setting, records in groups.items()
        if setting != best
    }
    found = Optimum(validation, behind)
    low, high = (float(end) for end in claim.value.split("-"))
    inside = low <= best <= high
    judged_by = {s: one for s, one in behind.items() if (low <= s <= high) != inside}
    origins = [origin for group in groups.values() for origin in _origins(experiment, group)]
    p = {f"{best:g} over {setting:g}": one.p for setting, one in judged_by.items()}
    return Evidence(origins, found, f"{best:g}, of {_listed(validation)}", p)


def _sweep(shelf: Shelf, experiment: str, path: str) -> dict[float, list[Record]]:
    """Setting -> its records, of the runs that differ in one parameter and the seed alone."""
    records, missing = shelf.present(experiment)
    configs = [from_dict(RunConfig, record.config) for record in records] + missing
    cases: dict[str, set[float]] = {}
    for config in configs:
        cases.setdefault(_but(config, path), set()).add(_setting(config, path))
    case = max(cases, key=lambda name: len(cases[name]), default="")
    kept = shelf.records(experiment, lambda config: _but(config, path) == case)
    groups: dict[float, list[Record]] = {}
    for record in kept:
        setting = _setting(from_dict(RunConfig, record.config), path)
        groups.setdefault(setting, []).append(record)
    return dict(sorted(groups.items()))


def _but(config: RunConfig, path: str) -> str:
    """A run without one setting and without its seed."""
    return hash_of(merge(merge(plain(config), nested(path, None)), {"seed": None}))


def _setting(config: RunConfig, path: str) -> float:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return float(value)


def _count(claim: Claim, shelf: Shelf) -> Evidence:
    dataset, _, what = claim.evidence.partition("/")
    origins, runs = shelf.measured("counts")
    for origin, run in zip(origins, runs, strict=True):
        if run["run"] == dataset:
            found = run["rows"][0][what]
            return Evidence([origin], found, f"{found:,}")
    raise DataError("measurements/counts.json", f"has no {dataset}: `dnr measure counts`")


def _worlds(claim: Claim, shelf: Shelf) -> Evidence:
    what = claim.evidence.partition("/")[2]
    origins, runs = shelf.measured("worlds")
    found = np.array([run["rows"][0][what] for run in runs])
    one = replace(origins[0], name=f"{len(runs)} random worlds", seed=None)
    return Evidence([one], found, f"at most {found.max():.2g}{UNITS.get(claim.unit, ' nats')}")


def _closest(claim: Claim, shelf: Shelf) -> Evidence:
    name, _, method = claim.evidence.partition("/")
    origins, runs = shelf.measured(name, method)
    found = [
        {
            given: nearest([row for row in run["rows"] if row["given"] == given], "Wasserstein")
            for given in dict.fromkeys(row["given"] for row in run["rows"])
        }
        for run in runs
    ]
    places = {given: Counter(one[given] for one in found) for given in found[0]}
    ours = "; ".join(
        f"{given}: {', '.join(f'{noise} in {n} of {len(runs)}' for noise, n in count.items())}"
        for given, count in places.items()
    )
    return Evidence(origins, found, f"closest {ours}")


class Compared(NamedTuple):
    """A number of the reranker and of the retriever, seed by seed."""

    reranker: Float[np.ndarray, " seeds"]
    retriever: Float[np.ndarray, " seeds"]
    calibrated: Float[np.ndarray, " seeds"] | None = None
    """Of the retriever, after calibration."""


def _numbers(runs: Sequence[Mapping[str, Any]], what: str, **wanted: str) -> np.ndarray:
    return np.array(
        [row[what] for run in runs for row in run["rows"] if wanted.items() <= row.items()]
    )


def _clusters(claim: Claim, shelf: Shelf) -> Evidence:
    name, _, method = claim.evidence.partition("/")
    origins, runs = shelf.measured(name, method)
    kinds = ("last layer", "p ⊙ q")
    found = Compared(*(_numbers(runs, "silhouette", representation=kind) for kind in kinds))
    ours = f"silhouette {over_seeds(found.reranker)}, the retriever's {found.retriever.mean():.3f}"
    return Evidence(origins, found, ours)


def _narrower(claim: Claim, shelf: Shelf) -> Evidence:
    """The spread is the root of the mean square of the error, so that a bias counts."""
    name, _, method = claim.evidence.partition("/")
    origins, runs = shelf.measured(name, method)
    kinds = ("reranker", "score", "score, recalibrated")
    found = Compared(*(_numbers(runs, "rms", prediction=kind) for kind in kinds))
    ours = (
        f"root mean square {over_seeds(found.reranker)}, the retriever's "
        f"{found.retriever.mean():.3f}, calibrated {_calibrated(found).mean():.3f}"
    )
    return Evidence(origins, found, ours)


def _calibrated(found: Compared) -> np.ndarray:
    return np.array([]) if found.calibrated is None else found.calibrated


def over_seeds(values: Float[np.ndarray, " seeds"]) -> Interval:
    """Student's interval of a mean over seeds."""
    return seed_difference(values[:, None], np.zeros((len(values), 1)))


def _timing(timings: Timings, name: str) -> Origin:
    return Origin(name, f"benchmarks/records/{timings.group}.json", timings.made)


def _overhead(claim: Claim, shelf: Shelf) -> Evidence:
    """The mean of the two phases, which have half of the epochs each, as the method is written."""
    timings = shelf.timings(claim.evidence)
    names = {
        how: [f"DNR-B over direct, {how}, phase {phase}" for phase in ("one", "two")]
        for how in ("exact", "mixed")
    }
    figures = {how: [_figure(timings, name) for name in both] for how, both in names.items()}
    means = {how: float(np.mean([one.value for one in both])) for how, both in figures.items()}
    origins = [_timing(timings, one.name) for both in figures.values() for one in both]
    remark = f" (as written; in one pass, as the runs of the book are done, {means['mixed']:.1f} %)"
    return Evidence(origins, means["exact"], f"{means['exact']:.1f} %", remark=remark)


def _ratio(claim: Claim, shelf: Shelf) -> Evidence:
    """The range over all rounds and batch sizes."""
    timings = shelf.timings(claim.evidence)
    rows = [row for row in timings.figures if row.name.startswith("PRM trained with DNR / ")]
    if not rows:
        raise DataError(shelf.benchmarks, "has no latency of PRM trained with DNR: `make bench`")
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    medians = ", ".join(f"{row.value:.3f}" for row in rows)
    remark = f" (medians {medians}; {rows[0].how.rpartition('; ')[2]})"
    origins = [_timing(timings, row.name) for row in rows]
    return Evidence(origins, (low, high), f"{low:.2f} to {high:.2f} x", remark=remark)


def _figure(timings: Timings, name: str) -> Any:
    try:
        return timings.find(name)
    except KeyError as error:
        raise DataError(f"benchmarks/records/{timings.group}.json", str(error)) from error


def _nothing(claim: Claim, shelf: Shelf) -> Evidence:
    return Evidence(missing=claim.evidence)


# The rules --------------------------------------------------------------------------------


def _judge_nothing(found: None, terms: Terms) -> Judgement:
    return Judgement(UNTESTABLE, "there is nothing to look at")


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
    low, high = terms.bounds
    inside = low <= found.best <= high
    rivals = {s: one for s, one in found.behind.items() if (low <= s <= high) != inside}
    level = {
        setting: terms.p[f"{found.best:g} over {setting:g}"] < terms.level and one.mean > 0
        for setting, one in rivals.items()
    }
    if not rivals:
        return Judgement(NOT, "the runs have no setting on the other side of the range's ends")
    close = [setting for setting, apart in level.items() if not apart]
    where = f"the best, {found.best:g}, lies {'in' if inside else 'outside'} the paper's range"
    side = "outside" if inside else "in it"
    ahead = f"and is above every setting {side} on the test lists"
    if close:
        ahead = f"but is not told apart from {_listed(close)} {side}"
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


def _judge_clusters(found: Compared, terms: Terms) -> Judgement:
    ours, theirs = over_seeds(found.reranker), over_seeds(found.retriever)
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


def _judge_narrower(found: Compared, terms: Terms) -> Judgement:
    before = found.reranker < found.retriever
    after = found.reranker < _calibrated(found)
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


class Rule(NamedTuple):
    """What a rule looks at, and how it judges."""

    look: Callable[[Claim, Shelf], Evidence]
    judge: Callable[[Any, Terms], Judgement]


RULES = {
    "none": Rule(_nothing, _judge_nothing),
    "count": Rule(_count, _judge_count),
    "level": Rule(_mean, _judge_level),
    "at least": Rule(_mean, _judge_at_least),
    "difference": Rule(_difference, _judge_difference),
    "relative": Rule(_relative, _judge_difference),
    "part": Rule(_difference, _judge_difference),
    "gain below": Rule(_gain, _judge_gain_below),
    "optimum": Rule(_optimum, _judge_optimum),
    "closest": Rule(_closest, _judge_closest),
    "clusters": Rule(_clusters, _judge_clusters),
    "narrower": Rule(_narrower, _judge_narrower),
    "identity": Rule(_worlds, _judge_worlds),
    "independent": Rule(_worlds, _judge_worlds),
    "bound": Rule(_worlds, _judge_worlds),
    "overhead": Rule(_overhead, _judge_overhead),
    "same ratio": Rule(_ratio, _judge_ratio),
}
"""Name in data/rules.yml -> what it does."""


# For people -------------------------------------------------------------------------------


def _listed(settings: Iterable[float]) -> str:
    return ", ".join(f"{setting:g}" for setting in settings)


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
