"""What is recorded on each claim, in the paper's unit: runs, measurements and benchmarks.

Nothing is judged here; `dnrlib.verdicts` does that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from dnrlib import comparisons
from dnrlib.claims import Claim, Rules, load_claims, load_rules, span
from dnrlib.data import DATASETS
from dnrlib.errors import ConfigError, DataError
from dnrlib.experiments import EXPERIMENTS, RunConfig, config_of, merge, nested
from dnrlib.identity import hash_of, plain
from dnrlib.measurements import (
    MEASURES,
    WITHOUT_RUNS,
    load_measurement,
    measurement_path,
    nearest,
)
from dnrlib.metrics import per_list
from dnrlib.records import Record
from dnrlib.statistics import Estimate, Interval, estimate, seed_difference
from dnrlib.timings import RECORDS, Figure, Timings

PROTOCOL = "shown+sampled"
"""Of all runs that a verdict rests on."""
METRICS = {"h@6": "precision@6"}
"""The paper's name -> that of records. Its H@6 lies below its NDCG@6 and so is not the usual hit
ratio; hits / 6 is what it can be."""


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
    """What the rule judges; differences and means in the paper's unit."""
    ours: str = ""
    p: Mapping[str, float] = field(default_factory=dict)
    """Comparison -> p-value, before the family's adjustment."""
    remark: str = ""
    """What else to know, for the reason."""
    missing: str = ""
    """Why there is nothing to judge by."""
    awaited: int = 0
    """How many p-values, at most, will join the family once what is missing is recorded."""


def gathered(
    shelf: Shelf | None = None,
    claims: Mapping[str, Claim] | None = None,
    rules: Rules | None = None,
) -> dict[str, Evidence]:
    """The evidence on every claim, by its id; where it is missing, why.

    Args:
        claims: by default all of data/claims.csv.
        rules: whose confidence and resamples the intervals have; by default data/rules.yml.

    Raises:
        ConfigError: a claim names an experiment, a cell, a metric, a parameter or a measurement
            that there is not.
    """
    shelf, rules = shelf or Shelf(), rules or load_rules()
    return {id: _gather(claim, shelf, rules) for id, claim in (claims or load_claims()).items()}


def _gather(claim: Claim, shelf: Shelf, rules: Rules) -> Evidence:
    try:
        return LOOK[claim.rule](claim, shelf, rules)
    except DataError as error:
        return Evidence(missing=str(error), awaited=_awaited(claim, shelf))
    except ConfigError as error:
        raise ConfigError(f"data/claims.csv, claim {claim.id!r}: {error}") from error


def _awaited(claim: Claim, shelf: Shelf) -> int:
    if claim.rule == "optimum":
        return _most_rivals(claim, shelf)
    return int(claim.rule in ("difference", "relative", "part"))


# Where it is ------------------------------------------------------------------------------


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
        self._configs: dict[str, list[RunConfig]] = {}

    def present(self, experiment: str) -> tuple[list[Record], list[RunConfig]]:
        """The records of an experiment, and the runs that have none.

        Raises:
            ConfigError: there is no such experiment.
            DataError: the runs that it is tuned on are not recorded.
        """
        if experiment not in self._read:
            _check_experiment(experiment)
            self._read[experiment] = comparisons.present(experiment, self.results)
        return self._read[experiment]

    def records(self, experiment: str, wanted: Callable[[RunConfig], bool]) -> list[Record]:
        """The records of those runs of an experiment that are wanted.

        Raises:
            DataError: one has no record.
            ConfigError: the experiment has no such run.
        """
        records, missing = self.present(experiment)
        configs = self.runs(experiment)
        kept = [record for record, config in zip(records, configs, strict=False) if wanted(config)]
        left = sum(wanted(config) for config in missing)
        if not left and not kept:
            cells = {f"{config.model}@{config.data.dataset}" for config in configs}
            raise ConfigError(
                f"experiments/{experiment}.yml has no such run: choose one of "
                f"{', '.join(sorted(cells))}, each under {PROTOCOL}"
            )
        if left:
            raise DataError(
                f"experiments/{experiment}.yml",
                f"{len(kept)} of {len(kept) + left} runs are recorded: "
                f"`dnr reproduce --experiment {experiment}`",
            )
        return kept

    def runs(self, experiment: str) -> list[RunConfig]:
        """The runs of an experiment, those with a record first; raises as `present`."""
        if experiment not in self._configs:
            records, missing = self.present(experiment)
            self._configs[experiment] = [*map(config_of, records), *missing]
        return self._configs[experiment]

    def cell(self, cell: Cell) -> list[Record]:
        """The records of a cell, one a seed, under `PROTOCOL`; raises as `records`."""
        return self.records(
            cell.experiment,
            lambda config: (
                (config.model, config.data.dataset, config.data.protocol)
                == (cell.model, cell.dataset, PROTOCOL)
            ),
        )

    def measured(self, text: str) -> tuple[list[Origin], list[dict[str, Any]]]:
        """Runs of a measurement with their rows, from ``NAME/METHOD``, or ``NAME`` of no run.

        Raises:
            ConfigError: there can be no such measurement, or it has no such method.
            DataError: it is not made yet.
        """
        name, _, method = text.partition("/")
        experiment, _, what = name.rpartition("-")
        if what not in MEASURES | WITHOUT_RUNS:
            known = ", ".join(MEASURES | WITHOUT_RUNS)
            raise ConfigError(f"measurement {what!r} is unknown: choose one of {known}")
        if experiment:
            _check_experiment(experiment)
        whole = load_measurement(experiment, what, self.measurements)
        runs = [run for run in whole.runs if run.get("method", "") == method]
        if not runs:
            path = measurement_path(experiment, what, self.measurements)
            methods = ", ".join(dict.fromkeys(run.get("method", "") for run in whole.runs))
            raise ConfigError(f"{path} has no run of {method!r}: choose one of {methods}")
        source = f"measurements/{name}.json"
        origins = [
            Origin(
                run["run"], source, whole.made, run.get("seed"), run.get("data", ""),
                note=run.get("note", ""),
            )
            for run in runs
        ]  # fmt: skip
        return origins, runs

    def timings(self, group: str) -> Timings:
        """A group of benchmarks."""
        return Timings.load(self.benchmarks / f"{group}.json")


def _check_experiment(name: str) -> None:
    if not (EXPERIMENTS / f"{name}.yml").exists():
        known = ", ".join(sorted(path.stem for path in EXPERIMENTS.glob("*.yml"))) or "none"
        raise ConfigError(f"there is no experiment {name!r}: choose one of {known}")


# Of the cells of tables -------------------------------------------------------------------


def _mean(claim: Claim, shelf: Shelf, rules: Rules) -> Evidence:
    metric = _metric(claim)
    (records,) = groups = _records(claim, shelf)
    values = comparisons.per_seed(records, metric)
    found = estimate(values, confidence=rules.confidence, resamples=rules.resamples)
    return _of_records(claim, groups, _scaled(found, 100), {})


def _difference(claim: Claim, shelf: Shelf, rules: Rules) -> Evidence:
    metric = _metric(claim)
    first, second = groups = _records(claim, shelf)
    found = _scaled(_over(first, second, metric, rules), 100)
    return _of_records(claim, groups, found, {"difference": found.p})


def _over(first: Sequence[Record], second: Sequence[Record], metric: str, rules: Rules) -> Estimate:
    return comparisons.difference(first, second, metric, rules.confidence, rules.resamples)


def _relative(claim: Claim, shelf: Shelf, rules: Rules) -> Evidence:
    """In percent of the second's mean, which is taken as known."""
    metric = _metric(claim)
    first, second = groups = _records(claim, shelf)
    whole = comparisons.per_seed(second, metric)
    found = _over(first, second, metric, rules)
    found = _scaled(found, 100 / np.nanmean(whole).item())
    return _of_records(claim, groups, found, {"difference": found.p})


def _gain(claim: Claim, shelf: Shelf, rules: Rules) -> Evidence:
    """As `_relative`; the rule looks at the interval alone, so that no p-value joins a family."""
    return replace(_relative(claim, shelf, rules), p={})


def _records(claim: Claim, shelf: Shelf) -> list[list[Record]]:
    return [shelf.cell(cell) for cell in _cells(claim)]


def _cells(claim: Claim) -> list[Cell]:
    dataset = "ml-1m" if claim.dataset in ("", "all") else claim.dataset
    return [Cell.read(text, dataset) for text in claim.evidence.split(" - ")]


def _metric(claim: Claim) -> str:
    """The first word of the claim's metric, as records name it."""
    first = claim.metric.partition(" ")[0]
    name, known = METRICS.get(first, first), _known_metrics()
    if name not in known:
        raise ConfigError(f"metric {first!r} is unknown: choose one of {', '.join(known)}")
    return name


@cache
def _known_metrics() -> tuple[str, ...]:
    return tuple(per_list(*torch.zeros(2, 1, 1, dtype=torch.bool)))


def _scaled(found: Estimate, factor: float) -> Estimate:
    """In another unit; the p-value, the degrees of freedom and the effect size have none."""
    return replace(
        found, mean=found.mean * factor, low=found.low * factor, high=found.high * factor,
        error=found.error * factor,
    )  # fmt: skip


def _of_records(
    claim: Claim, groups: Sequence[Sequence[Record]], found: Estimate, p: Mapping[str, float]
) -> Evidence:
    cells = _cells(claim)
    origins = [
        origin
        for cell, records in zip(cells, groups, strict=True)
        for origin in _origins(cell.experiment, records)
    ]
    unit = " points" if claim.rule in ("difference", "part") else " %"
    sign = "+" if len(cells) > 1 else ""
    ours = f"{found.mean:{sign}.2f} [{found.low:{sign}.2f}, {found.high:{sign}.2f}]{unit}"
    return Evidence(origins, found, ours, p, _remark(claim, cells[0].dataset, origins))


def _origins(experiment: str, records: Iterable[Record]) -> list[Origin]:
    source = f"experiments/{experiment}.yml"
    return [
        Origin(
            record.run, source, record.made, record.seed if record.best_epoch else None,
            record.data["fingerprint"], record.data["test"], record.data.get("note", ""),
        )
        for record in records
    ]  # fmt: skip


def _remark(claim: Claim, dataset: str, origins: Iterable[Origin]) -> str:
    """What of the claim the records are not: another metric, one data set of several, a part."""
    remarks, name = [], claim.metric.split()[0]
    if name in METRICS:
        remarks.append(f"{name} is read as {METRICS[name]}")
    if dataset != claim.dataset:
        remarks.append(f"on {dataset}")
    if dataset != "ml-1m":
        remarks += dict.fromkeys(origin.note for origin in origins if origin.note)
    return f" ({'; '.join(remarks)})" if remarks else ""


# Of the settings of a parameter -----------------------------------------------------------


class Optimum(NamedTuple):
    """The setting of a parameter with the highest mean validation NDCG@6, and the others."""

    best: float
    behind: Mapping[float, Estimate]
    """Other setting -> the best one's test NDCG@6 minus its own."""
    paper: tuple[float, float]
    """The ends of the range in which the paper has the best."""

    def inside(self, setting: float) -> bool:
        """Whether a setting lies in the paper's range."""
        low, high = self.paper
        return low <= setting <= high

    @property
    def rivals(self) -> dict[float, Estimate]:
        """`behind` of the settings on the other side of the range's ends."""
        inside = self.inside(self.best)
        return {s: one for s, one in self.behind.items() if self.inside(s) != inside}

    def over(self, setting: float) -> str:
        """The name of the best one's comparison with a setting."""
        return f"{self.best:g} over {setting:g}"


def _optimum(claim: Claim, shelf: Shelf, rules: Rules) -> Evidence:
    experiment, _, path = claim.evidence.partition("/")
    paper = _range(claim)
    groups = _sweep(shelf, experiment, path)
    best = max(groups, key=lambda setting: _validation(groups[setting]))
    behind = {
        setting: _scaled(_over(groups[best], records, "ndcg@6", rules), 100)
        for setting, records in groups.items()
        if setting != best
    }
    found = Optimum(best, behind, paper)
    origins = [origin for group in groups.values() for origin in _origins(experiment, group)]
    p = {found.over(setting): one.p for setting, one in found.rivals.items()}
    settings = ", ".join(f"{setting:g}" for setting in groups)
    return Evidence(origins, found, f"{best:g}, of {settings}", p)


def _range(claim: Claim) -> tuple[float, float]:
    ends = span(claim.value)
    if ends is None:
        raise ConfigError(f"value {claim.value!r} must be a range such as 0.3-0.5")
    return ends


def _most_rivals(claim: Claim, shelf: Shelf) -> int:
    """The most settings that the best one can be compared with; 1 where the runs are not known."""
    experiment, _, path = claim.evidence.partition("/")
    try:
        settings = _case(shelf, experiment, path)[1]
    except DataError:
        return 1
    low, high = _range(claim)
    inside = sum(low <= setting <= high for setting in settings)
    return max(inside, len(settings) - inside)


def _validation(records: Sequence[Record]) -> float:
    return float(np.mean([record.metrics["validation"]["ndcg@6"] for record in records]))


def _sweep(shelf: Shelf, experiment: str, path: str) -> dict[float, list[Record]]:
    """Setting -> its records, of the runs that differ in one parameter and the seed alone."""
    case, _ = _case(shelf, experiment, path)
    kept = shelf.records(experiment, lambda config: _but(config, path) == case)
    groups: dict[float, list[Record]] = {}
    for record in kept:
        setting = _setting(config_of(record), path)
        groups.setdefault(setting, []).append(record)
    return dict(sorted(groups.items()))


def _case(shelf: Shelf, experiment: str, path: str) -> tuple[str, set[float]]:
    """What the runs with the most settings of a parameter share (`_but`), and these settings."""
    cases: dict[str, set[float]] = {}
    for config in shelf.runs(experiment):
        cases.setdefault(_but(config, path), set()).add(_setting(config, path))
    case = max(cases, key=lambda name: len(cases[name]))
    if len(cases[case]) < 2:
        raise ConfigError(f"experiments/{experiment}.yml has but one setting of {path!r}")
    return case, cases[case]


def _but(config: RunConfig, path: str) -> str:
    """A run without one setting and without its seed."""
    return hash_of(merge(merge(plain(config), nested(path, None)), {"seed": None}))


def _setting(config: RunConfig, path: str) -> float:
    try:
        return float(attrgetter(path)(config))
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"a run has no numeric parameter {path!r}: {error}") from error


# Of measurements --------------------------------------------------------------------------


def _count(claim: Claim, shelf: Shelf, rules: Rules) -> Evidence:
    dataset, _, what = claim.evidence.partition("/")
    if dataset not in DATASETS:
        raise ConfigError(f"data set {dataset!r} is unknown: choose one of {', '.join(DATASETS)}")
    origins, runs = shelf.measured("counts")
    for origin, run in zip(origins, runs, strict=True):
        if run["run"] == dataset:
            found = _entry(run["rows"][0], what)
            return Evidence([origin], found, f"{found:,}")
    raise DataError("measurements/counts.json", f"has no {dataset}: `dnr measure counts`")


def _entry(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise ConfigError(f"{name!r} was not measured: choose one of {', '.join(row)}")
    return row[name]


def _worlds(claim: Claim, shelf: Shelf, rules: Rules) -> Evidence:
    what = claim.evidence.partition("/")[2]
    origins, runs = shelf.measured("worlds")
    found = np.array([_entry(run["rows"][0], what) for run in runs])
    one = replace(origins[0], name=f"{len(runs)} random worlds", seed=None)
    return Evidence([one], found, f"at most {found.max():.2g} nats")


def _closest(claim: Claim, shelf: Shelf, rules: Rules) -> Evidence:
    origins, runs = shelf.measured(claim.evidence)
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


class Silhouettes(NamedTuple):
    """Of liked against other candidates, seed by seed."""

    reranker: Float[np.ndarray, " seeds"]
    retriever: Float[np.ndarray, " seeds"]


def _clusters(claim: Claim, shelf: Shelf, rules: Rules) -> Evidence:
    origins, runs = shelf.measured(claim.evidence)
    kinds = ("last layer", "p ⊙ q")
    found = Silhouettes(*(_numbers(runs, "silhouette", representation=kind) for kind in kinds))
    own = over_seeds(found.reranker, rules.confidence)
    ours = f"silhouette {own}, the retriever's {found.retriever.mean():.3f}"
    return Evidence(origins, found, ours)


class Spreads(NamedTuple):
    """Root mean square of the error of a probability, so that a bias counts; seed by seed."""

    reranker: Float[np.ndarray, " seeds"]
    retriever: Float[np.ndarray, " seeds"]
    calibrated: Float[np.ndarray, " seeds"]
    """Of the retriever's score, after calibration."""


def _narrower(claim: Claim, shelf: Shelf, rules: Rules) -> Evidence:
    origins, runs = shelf.measured(claim.evidence)
    kinds = ("reranker", "score", "score, recalibrated")
    found = Spreads(*(_numbers(runs, "rms", prediction=kind) for kind in kinds))
    ours = (
        f"root mean square {over_seeds(found.reranker, rules.confidence)}, the retriever's "
        f"{found.retriever.mean():.3f}, calibrated {found.calibrated.mean():.3f}"
    )
    return Evidence(origins, found, ours)


def _numbers(
    runs: Sequence[Mapping[str, Any]], what: str, **wanted: str
) -> Float[np.ndarray, " seeds"]:
    return np.array(
        [row[what] for run in runs for row in run["rows"] if wanted.items() <= row.items()]
    )


def over_seeds(values: Float[np.ndarray, " seeds"], confidence: float = 0.95) -> Interval:
    """Student's interval of a mean over seeds."""
    return seed_difference(values[:, None], np.zeros((len(values), 1)), confidence)


# Of benchmarks ----------------------------------------------------------------------------


def _overhead(claim: Claim, shelf: Shelf, rules: Rules) -> Evidence:
    """The mean of the two phases, which have half of the epochs each, as the method is written."""
    timings = shelf.timings(claim.evidence)
    exact, mixed = (
        [_figure(timings, f"DNR-B over direct, {how}, phase {phase}") for phase in ("one", "two")]
        for how in ("exact", "mixed")
    )
    found, in_one_pass = (
        float(np.mean([figure.value for figure in phases])) for phases in (exact, mixed)
    )
    remark = f" (as written; in one pass, as the runs of the book are done, {in_one_pass:.1f} %)"
    return Evidence(_timed(timings, exact + mixed), found, f"{found:.1f} %", remark=remark)


def _figure(timings: Timings, name: str) -> Figure:
    try:
        return timings.find(name)
    except KeyError as error:
        raise DataError(_source(timings), str(error)) from error


def _ratio(claim: Claim, shelf: Shelf, rules: Rules) -> Evidence:
    """The range over all rounds and batch sizes."""
    timings = shelf.timings(claim.evidence)
    rows = [row for row in timings.figures if row.name.startswith("PRM trained with DNR / ")]
    if not rows:
        raise DataError(shelf.benchmarks, "has no latency of PRM trained with DNR: `make bench`")
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    medians = ", ".join(f"{row.value:.3f}" for row in rows)
    remark = f" (medians {medians}; {rows[0].how.rpartition('; ')[2]})"
    return Evidence(_timed(timings, rows), (low, high), f"{low:.2f} to {high:.2f} x", remark=remark)


def _timed(timings: Timings, figures: Iterable[Figure]) -> list[Origin]:
    return [Origin(figure.name, _source(timings), timings.made) for figure in figures]


def _source(timings: Timings) -> str:
    return f"benchmarks/records/{timings.group}.json"


# By rule ----------------------------------------------------------------------------------


def _nothing(claim: Claim, shelf: Shelf, rules: Rules) -> Evidence:
    return Evidence(missing=claim.evidence or "there is nothing to look at")


LOOK: dict[str, Callable[[Claim, Shelf, Rules], Evidence]] = {
    "none": _nothing,
    "count": _count,
    "level": _mean,
    "at least": _mean,
    "difference": _difference,
    "relative": _relative,
    "part": _difference,
    "gain below": _gain,
    "optimum": _optimum,
    "closest": _closest,
    "clusters": _clusters,
    "narrower": _narrower,
    "identity": _worlds,
    "independent": _worlds,
    "bound": _worlds,
    "overhead": _overhead,
    "same ratio": _ratio,
}
"""Rule of data/rules.yml -> what it looks at."""
