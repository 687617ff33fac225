"""What `protocol-study` and `multiverse` say: hypotheses, and choices that move a result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Float, Num
from scipy.stats import t as student

from dnrlib.comparisons import per_seed, present
from dnrlib.experiments import UNTRAINED, RunConfig, load_experiment, newest, run_config
from dnrlib.identity import hash_of, plain
from dnrlib.lists import CandidateLists
from dnrlib.prepare import DataConfig
from dnrlib.records import Record
from dnrlib.statistics import Estimate, estimate

PROTOCOLS = ("shown+sampled", "shown+retrieved", "retrieved")
"""The protocols that are compared."""
SCHEMES = ("in-sample", "earlier", "crossfit")
"""What the retriever may have seen, as compared; see `dnrlib.retriever.plan`."""
CALIBRATED = "calibrated"
"""The label of ``concat`` with calibrated scores: other data, and so never plain ``concat``."""
REMEDIES = ("noise-B", "score-dropout", "score-jitter", CALIBRATED)
"""What is simpler than DNR, by `label`."""

Cell = tuple[str, str]
"""Protocol and scheme."""
Verdict = Literal["true", "false", "undecided", "not asked", "open"]
"""``open``: a run that the rule needs has no record. ``not asked``: the condition does not hold."""
PerSeed = Float[np.ndarray, "seeds lists"]
PerSeedOther = Float[np.ndarray, "seeds other_lists"]


# Differences ------------------------------------------------------------------------------


def label(config: Mapping[str, Any]) -> str:
    """The method of a configuration, or `CALIBRATED`."""
    return CALIBRATED if _calibration(config["data"]) != "none" else config["method"]


def difference(
    records: Sequence[Record], reference: Sequence[Record], metric: str = "ndcg@6"
) -> Estimate | None:
    """Mean of the first minus that of the second, over the seeds that both have; None without one.

    Paired by list where the requests are the same, whatever the scores; else `unpaired`. A record
    of what is not trained stands for every seed.

    Raises:
        DataError: records of one side are of different lists.
    """
    seeds = shared_seeds(records, reference)
    if not seeds:
        return None
    first, second = (on_seeds(group, seeds, metric) for group in (records, reference))
    return contrast(first, second, same_requests(records[0], reference[0]))


def shared_seeds(*groups: Sequence[Record]) -> list[int]:
    """The seeds that all groups have; [0] where nothing is trained, [] where a group is empty."""
    if not all(groups):
        return []
    trained = [{record.seed for record in group} for group in groups if group[0].best_epoch]
    return sorted(set.intersection(*trained)) if trained else [0]


def on_seeds(records: Sequence[Record], seeds: Sequence[int], metric: str = "ndcg@6") -> PerSeed:
    """A metric of every test list under these seeds.

    Raises:
        DataError: the records are of different lists.
    """
    if not records[0].best_epoch:
        return per_seed([records[0]] * len(seeds), metric)
    by_seed = {record.seed: record for record in records}
    return per_seed([by_seed[seed] for seed in seeds], metric)


def same_requests(first: Record, second: Record) -> bool:
    """Whether two records have the same test lists, perhaps with other scores and candidates.

    A record keeps labels and no names of requests: they are taken for the same if each list has as
    many liked and as many shown candidates in both. Thousands of other lists would not.
    """
    if first.data["fingerprint"] == second.data["fingerprint"]:
        return True
    counts = [
        [kind.sum(1).tolist() for kind in record.ranked()] for record in (first, second)
    ]  # fmt: skip
    return counts[0] == counts[1]


def contrast(first: PerSeed, second: PerSeedOther, paired: bool) -> Estimate:
    """Mean of first minus second, by pairs of lists and seeds or `unpaired`."""
    return estimate(first - second) if paired else unpaired(first, second)


def unpaired(first: PerSeed, second: PerSeedOther, confidence: float = 0.95) -> Estimate:
    """Difference of the means over different lists: Welch's interval.

    The standard errors of `dnrlib.statistics.estimate` add up in squares; degrees of freedom by
    Satterthwaite (1946). Where some lists are the same or the seeds have something in common, it
    is wider than need be.
    """
    a, b = estimate(first), estimate(second)
    error = float(np.hypot(a.error, b.error))
    parts = a.error**4 / a.freedom + b.error**4 / b.freedom
    freedom = error**4 / parts if parts else np.inf
    mean, half = a.mean - b.mean, float(student.ppf((1 + confidence) / 2, freedom)) * error
    p = float(2 * student.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    spread = np.sqrt((first.mean(0).var(ddof=1) + second.mean(0).var(ddof=1)) / 2).item()
    return Estimate(
        mean, mean - half, mean + half, a.lists + b.lists, a.dropped + b.dropped,
        error, float(freedom), p, mean / spread if spread else 0.0, min(a.seeds, b.seeds),
    )  # fmt: skip


# The protocol study -----------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """What is recorded of `experiments/protocol-study.yml`.

    Attributes:
        cells: protocol and scheme -> label of each run that is asked for -> records, perhaps none.
        seeds: those that the experiment asks for.
        recorded: number of runs that have a record.
        planned: number of all runs.
    """

    cells: Mapping[Cell, Mapping[str, Sequence[Record]]]
    seeds: tuple[int, ...]
    recorded: int
    planned: int

    def records(self, cell: Cell, name: str) -> Sequence[Record]:
        """The records of a label in a cell, perhaps none."""
        return self.cells.get(cell, {}).get(name, [])

    def gain(
        self, cell: Cell, name: str, reference: str = "concat", metric: str = "ndcg@6"
    ) -> Estimate | None:
        """`difference` of two labels of one cell."""
        return difference(self.records(cell, name), self.records(cell, reference), metric)

    def complete(self, *wanted: tuple[Cell, str]) -> bool:
        """Whether every seed of these is recorded."""
        groups = (self.records(cell, name) for cell, name in wanted)
        return all(len(shared_seeds(group)) == len(self.seeds) for group in groups)


@dataclass(frozen=True)
class Finding:
    """One hypothesis in one place: the difference that decides it, and the verdict."""

    hypothesis: str
    where: str
    found: Estimate | None
    verdict: Verdict


def load_study(results: Path | None = None) -> Study:
    """The study as far as it is recorded.

    Raises:
        DataError, ConfigError: as `dnrlib.experiments.load_experiment` does.
    """
    done, missing = present("protocol-study", results)
    asked = [record.config for record in done] + [plain(config) for config in missing]
    cells: dict[Cell, dict[str, list[Record]]] = {}
    for config in asked:
        cells.setdefault(_cell(config), {}).setdefault(label(config), [])
    for record in done:
        cells[_cell(record.config)][label(record.config)].append(record)
    seeds = {config["seed"] for config in asked}
    return Study(cells, tuple(sorted(seeds)), len(done), len(done) + len(missing))


def _cell(config: Mapping[str, Any]) -> Cell:
    return config["data"]["protocol"], config["data"]["retriever"]


def findings(study: Study) -> list[Finding]:
    """Every verdict on H1 to H4, by the rules of `experiments/protocol-study.yml`."""
    judges = (in_sample_hurts, gain_is_repair, no_gain_crossfit)
    by_protocol = [judge(study, protocol) for judge in judges for protocol in PROTOCOLS]
    cells = [(protocol, scheme) for protocol in PROTOCOLS for scheme in SCHEMES]
    by_cell = [a_remedy_does_it(study, cell) for cell in cells]
    return [*by_protocol, *by_cell, Finding("H4", "all cells", None, no_cell_against(by_cell))]


def in_sample_hurts(study: Study, protocol: str) -> Finding:
    """H1: concat with in-sample scores is below concat with crossfit scores."""
    cells = [(protocol, "in-sample"), (protocol, "crossfit")]
    first, second = (study.records(cell, "concat") for cell in cells)
    found = difference(first, second)
    complete = study.complete(*((cell, "concat") for cell in cells))
    return Finding("H1", protocol, found, _sign(found, -1) if complete else "open")


def gain_is_repair(study: Study, protocol: str) -> Finding:
    """H2: DNR-B minus concat is greater with in-sample scores than with crossfit scores."""
    runs = [
        ((protocol, scheme), name)
        for scheme in ("in-sample", "crossfit")
        for name in ("DNR-B", "concat")
    ]
    dnr, concat, dnr_out, concat_out = (study.records(*run) for run in runs)
    found = repair(dnr, concat, dnr_out, concat_out)
    return Finding("H2", protocol, found, _sign(found, 1) if study.complete(*runs) else "open")


def no_gain_crossfit(study: Study, protocol: str) -> Finding:
    """H3: with crossfit scores DNR-B does not beat concat."""
    cell = protocol, "crossfit"
    found = study.gain(cell, "DNR-B")
    if found is None or not study.complete((cell, "DNR-B"), (cell, "concat")):
        return Finding("H3", protocol, found, "open")
    return Finding("H3", protocol, found, "false" if found.low > 0 else "true")


def a_remedy_does_it(study: Study, cell: Cell) -> Finding:
    """H4 in one cell: if DNR-B beats concat, so does the best remedy, and DNR-B not that remedy.

    The difference is DNR-B minus the remedy with the highest mean on the test lists. It is chosen
    and then tested on the same lists, which favours it, and so "true".
    """
    where, found = " · ".join(cell), study.gain(cell, "DNR-B")
    needed = ("DNR-B", "concat", *(name for name in REMEDIES if name in study.cells.get(cell, {})))
    best = best_remedy(study, cell)
    against = study.gain(cell, "DNR-B", best) if best else None
    over = study.gain(cell, best) if best else None
    if not (found and against and over and study.complete(*((cell, name) for name in needed))):
        return Finding("H4", where, against, "open")
    if not found.low > 0:
        return Finding("H4", where, against, "not asked")
    return Finding("H4", where, against, "true" if over.low > 0 >= against.low else "false")


def best_remedy(study: Study, cell: Cell) -> str | None:
    """The remedy with the highest mean gain over concat; None if none is recorded."""
    gains = {name: study.gain(cell, name) for name in REMEDIES}
    means = {name: found.mean for name, found in gains.items() if found}
    return max(means, key=lambda name: means[name]) if means else None


def in_digits(found: Estimate | None, digits: int = 5) -> str:
    """A signed estimate with its interval, in digits enough to see on which side an end lies."""
    if found is None:
        return "–"
    mean, low, high = (f"{value:+.{digits}f}" for value in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]"


def not_excluded(found: Estimate) -> str:
    """How large a gain an interval leaves possible: what "does not beat" does not say."""
    if found.high <= 0:
        return "excluded: any gain"
    return f"not excluded: gains up to {found.high:+.4f}"


def no_cell_against(cells: Iterable[Finding]) -> Verdict:
    """H4 as a whole: true if no cell contradicts it, and not asked if DNR-B beats concat in none.

    The rule would call the latter true, though nothing was put to the test.
    """
    verdicts = {finding.verdict for finding in cells}
    order: tuple[Verdict, ...] = ("false", "open", "true")
    return next((verdict for verdict in order if verdict in verdicts), "not asked")


def repair(
    dnr: Sequence[Record],
    concat: Sequence[Record],
    dnr_out: Sequence[Record],
    concat_out: Sequence[Record],
    metric: str = "ndcg@6",
) -> Estimate | None:
    """{eq}`eq-repair`: the gain with in-sample scores minus the gain with out-of-sample scores.

    Raises:
        DataError: as `difference` does.
    """
    groups = (dnr, concat, dnr_out, concat_out)
    seeds = shared_seeds(*groups)
    if not seeds:
        return None
    a, b, c, d = (on_seeds(group, seeds, metric) for group in groups)
    return contrast(a - b, c - d, same_requests(dnr[0], dnr_out[0]))


def _sign(found: Estimate | None, wanted: int) -> Verdict:
    if found is None:
        return "open"
    side = 1 if found.low > 0 else -1 if found.high < 0 else 0
    return "undecided" if not side else "true" if side == wanted else "false"


# The multiverse ---------------------------------------------------------------------------


def _trained(config: Mapping[str, Any]) -> str:
    """Training lists and, for what is trained, epochs and learning rate."""
    size, how = config["data"]["train_lists"], config["training"]
    lists = f"{size} lists" if size else "all lists"
    if config["method"] in UNTRAINED:
        return lists
    return f"{lists} × {how['epochs']} at {how['learning_rate']:g}"


def _retriever(config: Mapping[str, Any]) -> str:
    """Size and training of the matrix factorisation."""
    how = config["data"]["factorisation"]
    return f"d = {how['dim']}, {how['epochs']} epochs"


def _calibration(data: Mapping[str, Any]) -> str:
    return str(data.get("calibration", DataConfig.calibration))


CHOICES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "protocol": lambda config: config["data"]["protocol"],
    "scheme": lambda config: config["data"]["retriever"],
    "calibration": lambda config: _calibration(config["data"]),
    "liked from": lambda config: f"{config['data']['positive']:g}",
    "list length": lambda config: f"{config['data']['list_length']}",
    "retriever": _retriever,
    "order": lambda config: config["data"].get("order", DataConfig.order),
    "best epoch by": lambda config: config["data"].get("selection", DataConfig.selection),
    "training": _trained,
}
"""Choice -> what a configuration chooses, in words."""
_RERANKERS = ("prm", "prm-placed", "prm-disturbed", *UNTRAINED)
_DATA = {
    "dataset", "protocol", "retriever", "calibration", "positive", "list_length", "factorisation",
    "order", "selection", "train_lists", "evaluation_lists",
}  # fmt: skip
_TRAINING = {"epochs", "lambda_e", "learning_rate", "batch_size"}


def universes(dataset: str = "ml-1m", results: Path | None = None) -> list[Record]:
    """The recorded runs of PRM, or of what learns nothing, that differ in `CHOICES` alone.

    Whatever experiment a run was done for, it counts if all its other settings are the book's own.
    """
    known = newest(results).values()
    return [record for record in known if _is_universe(record.config, dataset)]


def _is_universe(config: Mapping[str, Any], dataset: str) -> bool:
    if config["data"]["dataset"] != dataset or config["reranker"] not in _RERANKERS:
        return False
    own = {name: config[name] for name in ("method", "reranker", "seed")}
    data = {name: value for name, value in config["data"].items() if name in _DATA}
    training = {name: config["training"][name] for name in _TRAINING}
    return hash_of(run_config(own | {"data": data, "training": training})) == hash_of(config)


def frame(records: Iterable[Record], metric: str = "ndcg@6") -> pl.DataFrame:
    """One row a record: what it chose, its model, method and seed, and its test ``value``."""
    rows = [
        row_of(record.config) | {"value": record.metrics["test"][metric]} for record in records
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=_SCHEMA)


def row_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration chose, its model, method and seed."""
    chosen = {name: choice(config) for name, choice in CHOICES.items()}
    placed = config["reranker"] == "prm-placed"
    test = config["data"]["evaluation_lists"]
    return chosen | {
        "places": placed, "test lists": test, "method": config["method"], "seed": config["seed"]
    }  # fmt: skip


_SCHEMA = {
    **dict.fromkeys(CHOICES, pl.String),
    "places": pl.Boolean, "test lists": pl.Int64, "method": pl.String, "seed": pl.Int64,
    "value": pl.Float64,
}  # fmt: skip


def base_choices(experiment: str = "protocol-study") -> dict[str, str]:
    """What the experiment's plain ``concat`` with scores of the default scheme chooses.

    Raises:
        DataError, ConfigError: as `dnrlib.experiments.load_experiment` does.
    """
    configs = (config for config in load_experiment(experiment) if _is_base(config))
    row = row_of(plain(next(configs)))
    return {name: row[name] for name in CHOICES}


def _is_base(config: RunConfig) -> bool:
    plainly = config.method == "concat" and config.data.calibration == "none"
    return plainly and config.data.retriever == DataConfig.retriever


def moves(table: pl.DataFrame, choice: str) -> pl.DataFrame:
    """{eq}`eq-range`: how far one choice moves the value with all else the same, the seed too.

    Args:
        table: as `frame` or `gains` makes it.
        choice: one of `CHOICES`, or ``seed`` or ``method``.

    Returns:
        One row for each setting of all else under which two values or more were tried, with the
        columns of all else, ``values`` (how many) and ``range`` (largest less smallest).
    """
    # a choice of what to train on may come with another number of test lists
    ignored = {choice, "value"} | ({"test lists"} if choice == "training" else set())
    rest = [name for name in table.columns if name not in ignored]
    grouped = table.group_by(rest, maintain_order=True).agg(
        values=pl.col(choice).n_unique(), range=pl.col("value").max() - pl.col("value").min()
    )
    return grouped.filter(pl.col("values") > 1)


def gains(table: pl.DataFrame, method: str = "DNR-B", reference: str = "concat") -> pl.DataFrame:
    """The ``value`` of a method minus that of another, in each universe and seed that has both."""
    both = (table.filter(pl.col("method") == name).drop("method") for name in (method, reference))
    first, second = both
    rest = [name for name in first.columns if name != "value"]
    joined = first.join(second, on=rest, how="inner", maintain_order="left")
    return joined.with_columns(value=pl.col("value") - pl.col("value_right")).drop("value_right")


def ranked_choices(table: pl.DataFrame) -> list[dict[str, Any]]:
    """The choices by how far they move ``concat`` on average, and DNR-B in place of concat as one.

    Returns:
        Rows of ``choice``, ``values`` (the most that were tried at once), ``settings`` of all else
        that could be compared, ``range`` (mean), ``largest``, and ``of the gain``: the mean range
        of DNR-B minus concat, None where it was not tried.
    """
    concat, gain = table.filter(pl.col("method") == "concat"), gains(table)
    rows = [_row(name, moves(concat, name), moves(gain, name)) for name in (*CHOICES, "seed")]
    pair = table.filter(pl.col("method").is_in(["concat", "DNR-B"]))
    rows.append(_row("DNR-B for concat", moves(pair, "method"), gain.clear()))
    return sorted((row for row in rows if row["settings"]), key=lambda row: -row["range"])


def _row(choice: str, moved: pl.DataFrame, gain: pl.DataFrame) -> dict[str, Any]:
    return {
        "choice": choice,
        "values": moved["values"].max(),
        "settings": moved.height,
        "range": moved["range"].mean(),
        "largest": moved["range"].max(),
        "of the gain": gain["range"].mean() if gain.height else None,
    }


def twins(
    records: Iterable[Record], setting: str, value: str, other: str
) -> dict[tuple[str, str], tuple[list[Record], list[Record]]]:
    """Runs that differ in one setting of the data alone.

    Args:
        setting: a field of `DataConfig` with a default.
        value, other: of the first and of the second of each pair.

    Returns:
        Protocol and name of the run's model -> runs with the one and with the other, in pairs.
    """
    default = next(field.default for field in fields(DataConfig) if field.name == setting)
    known: dict[str, dict[str, Record]] = {}
    for record in records:
        data = {"dataset": record.config["data"]["dataset"]} | record.config["data"]
        chosen = data.pop(setting, default)
        known.setdefault(hash_of(record.config | {"data": data}), {})[chosen] = record
    found: dict[tuple[str, str], tuple[list[Record], list[Record]]] = {}
    for pair in known.values():
        if value in pair and other in pair:
            first, second = pair[value], pair[other]
            groups = found.setdefault((first.protocol, model(first)), ([], []))
            groups[0].append(first)
            groups[1].append(second)
    return found


def model(record: Record) -> str:
    """The method, behind the reranker where that knows places."""
    placed = record.config["reranker"] == "prm-placed"
    return f"prm-placed-{record.method}" if placed else record.method


# What a figure is worth -------------------------------------------------------------------


def shown_first(
    liked: Num[np.ndarray, " lists"], shown: Num[np.ndarray, " lists"], k: int = 6
) -> Float[np.ndarray, " lists"]:
    """Expected NDCG@k of an order that puts what was shown first and is random otherwise.

    {eq}`eq-shown-first`: what there is to be had by knowing what was shown and nothing of taste.

    Args:
        liked, shown: how many candidates of each list were liked, and shown; 1 ≤ liked ≤ shown.
    """
    gained = np.append(0.0, np.cumsum(1 / np.log2(np.arange(k) + 2)))
    places = np.minimum(shown, k).astype(int)
    return liked / shown * gained[places] / gained[np.minimum(liked, k).astype(int)]


def optimism(train: CandidateLists, test: CandidateLists) -> float:
    """{eq}`eq-optimism`: how much better the score tells likes in training than in test lists.

    The distance of its means for liked and for other candidates, in training less in test lists.
    """
    return _distance(train) - _distance(test)


def _distance(lists: CandidateLists) -> float:
    return float(lists.scores[lists.labels].mean() - lists.scores[~lists.labels].mean())


def overlap(first: CandidateLists, second: CandidateLists) -> tuple[float, float]:
    """Share of the first's requests that the second has too, and what they share there.

    The latter is the mean number of candidates that are the same; NaN without a common request.
    """
    rows = {number: row for row, number in enumerate(second.list.tolist())}
    pairs = [(row, rows[n]) for row, n in enumerate(first.list.tolist()) if n in rows]
    common = [np.intersect1d(first.items[a], second.items[b]).size for a, b in pairs]
    return len(pairs) / len(first), float(np.mean(common)) if common else float("nan")
