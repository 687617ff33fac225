"""Tables of the result pages: an experiment's runs by data set, protocol and model, done or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy.stats import t as student

from dnrlib import comparisons
from dnrlib.claims import load_claims, paper_value
from dnrlib.experiments import (
    FIXED,
    METHODS,
    UNTRAINED,
    RunConfig,
    load_experiment,
    newest,
    run_config,
)
from dnrlib.identity import hash_of, plain
from dnrlib.records import Record
from dnrlib.rerankers import RERANKERS
from dnrlib.statistics import Estimate, equivalence, estimate, holm
from dnrlib.verdicts import verdicts

NOT_YET = "not run yet"
"""Stands where there is no run."""
MISSING = "seeds missing"
"""Stands where there are runs, but not of all seeds that are asked for."""
LEVEL = 0.05
"""Of adjusted p-values: ``family_level`` of data/rules.yml."""

METRICS = {
    "ndcg@6": "NDCG@6",
    "map@6": "MAP@6",
    "precision@6": "hits/6",
    "recall@6": "recall@6",
    "hit_ratio@6": "any hit@6",
    "f1@6": "F1@6",
    "auc": "AUC",
    "auc_shown": "AUC of shown",
    "auc_shown_vs_rest": "shown or not",
}
"""Metric of a record -> title of its column."""

PAPER_ORDER = (
    "sasrec", "caser", "gru4rec", "midnn", "dlcm", "setrank", "prm", "mir", "egrerank", "pier",
    "nar4rec", "diffurec", "dcdr",
)  # fmt: skip
"""Rerankers in the order in which the paper names its baselines."""

PAPER_ROWS = {
    "sasrec-concat": "sasrec",
    "concat": "prm",
    "pier-concat": "pier",
    "pier-DNR-G": "dnrg",
    "DNR-B": "dnrb",
}
"""Model -> row of the paper's main table; DNR-G has PIER and DNR-B has PRM as backbone there."""

PAPER_COLUMNS = {
    "ml-1m": ("ml1m", "ndcg@6"),
    "kuairand-pure": ("kuai", "precision@6"),
    "amazon-books-2023": ("books", "map@6"),
}
"""Data set -> the paper's, or what it stands in for, and the metric that the paper gives for it.
The paper's H@6 is read as hits over six: as any hit it could not lie below NDCG@6."""

_WORDS = {
    "score": "score alone",
    "score-reversed": "score reversed",
    "popularity": "popularity",
    "oracle": "oracle (bound)",
    "none": "{} without score",
    "rank": "{} + score (rank)",
    "concat": "{} + score (concat)",
    "add": "{} + score (add)",
    "weight": "{} + score (weight)",
    "score-dropout": "PRM + score dropped at random",
    "score-jitter": "PRM + score with noise in training",
    "noise-G": "{} + Gaussian noise only",
    "noise-B": "{} + Beta noise only",
    "DNR-G": "{} + DNR-G",
    "DNR-B": "{} + DNR-B",
    "DNR-B-no-adv": "{} + DNR-B without L_adv",
    "DNR-B-no-x": "{} + DNR-B without L_x",
    "light-beta": "{} + learned Beta",
    "light-beta-exact": "{} + learned Beta, exact L_x",
    "empirical": "{} + real scores as noise",
    "empirical-lists": "{} + real lists as noise",
    "bound": "{} + bound",
    "bound-request": "{} + bound, with request",
}

Cell = list[Record | None]
"""The runs of one model on one kind of lists, by seed; None is a run that is not done."""
Cells = dict[Any, Cell]
"""Case, such as a model or a setting -> its runs."""
Place = tuple[str, str]
"""Data set and protocol."""


def model(config: RunConfig) -> str:
    """The case by which most tables tell their rows apart."""
    return config.model


def layout(
    experiment: str,
    results: Path | None = None,
    case: Callable[[RunConfig], Any] = model,
) -> dict[Place, Cells]:
    """Data set and protocol -> case -> its runs, in the order of the experiment.

    What is not trained (`UNTRAINED`) comes first; where the experiment does not have it, runs on
    the same lists count that are recorded for another one.

    Raises:
        DataError: as in `dnrlib.experiments.load_experiment`.
    """
    known = newest(results)
    places: dict[Place, Cells] = {}
    for config in load_experiment(experiment, results=results):
        place = config.data.dataset, config.data.protocol
        cells = places.setdefault(place, _untrained(config, known))
        if config.method not in UNTRAINED:
            cells.setdefault(case(config), []).append(known.get(hash_of(config)))
    return places


def _untrained(config: RunConfig, known: Mapping[str, Record]) -> Cells:
    settings = {"data": plain(config.data)}
    configs = {method: run_config({"method": method, **settings}) for method in UNTRAINED}
    return {method: [known.get(hash_of(one))] for method, one in configs.items()}


def done(cell: Cell) -> list[Record]:
    """The runs of a cell that are recorded."""
    return [record for record in cell if record is not None]


def records_of(places: Mapping[Place, Cells]) -> list[Record]:
    """Every recorded run of a layout."""
    return [record for cells in places.values() for cell in cells.values() for record in done(cell)]


def progress(experiment: str, results: Path | None = None) -> str:
    """How many of its runs are recorded, in words: ``12 of 57 runs``."""
    recorded, missing = comparisons.present(experiment, results)
    return f"{len(recorded):,} of {len(recorded) + len(missing):,} runs"


def parts_of(case: str) -> tuple[str, str]:
    """Reranker and method of a model: ``("pier", "DNR-G")`` of ``pier-DNR-G``."""
    for method in METHODS:
        if case.endswith(f"-{method}") and case.removesuffix(f"-{method}") in RERANKERS:
            return case.removesuffix(f"-{method}"), method
    return "prm", case


def label(case: str) -> str:
    """A model as readers know it: ``PIER + DNR-G``; what is no model stays as it is."""
    reranker, method = parts_of(case)
    return _WORDS.get(method, case).format(RERANKERS[reranker].__name__)


def in_paper_order(cells: Cells) -> Cells:
    """Cells of models in the order of the paper's baselines, what is not trained first."""

    def place(case: str) -> tuple[bool, int, int]:
        reranker, method = parts_of(case)
        return method not in UNTRAINED, PAPER_ORDER.index(reranker), [*METHODS].index(method)

    return {case: cells[case] for case in sorted(cells, key=place)}


def contrast(
    plus: Sequence[Cell], minus: Sequence[Cell], metric: str = "ndcg@6"
) -> Estimate | None:
    """Sum of a metric over some models minus that over others, paired by list and seed.

    One of each is their difference; two of each, (treated a, plain b) - (plain a, treated b), are
    the interaction: by how much the difference depends on the backbone. Seeds count that are
    recorded for all; what is not trained stands for every seed. None where no seed is.

    Raises:
        DataError: the records are of different lists.
    """
    cells = [done(cell) for cell in (*plus, *minus)]
    seeds = _shared_seeds(cells)
    if not seeds:
        return None
    records = [record for cell in cells for record in _at(cell, seeds)]
    values = comparisons.per_seed(records, metric).reshape(len(cells), len(seeds), -1)
    signs = np.repeat([1, -1], [len(plus), len(minus)])
    return estimate(np.tensordot(signs, values, axes=1))


def _shared_seeds(cells: Sequence[Sequence[Record]]) -> list[int]:
    if not all(cells):
        return []
    trained = [cell for cell in cells if cell[0].best_epoch]
    seeds = [{record.seed for record in cell} for cell in trained]
    return sorted(set.intersection(*seeds)) if seeds else [0]


def _at(cell: Sequence[Record], seeds: Sequence[int]) -> list[Record]:
    by_seed = {record.seed: record for record in cell}
    return [by_seed[seed] if cell[0].best_epoch else cell[0] for seed in seeds]


def level(cell: Cell, metric: str = "ndcg@6") -> Estimate | None:
    """Mean of a metric over the recorded seeds and the test lists; None where no run is."""
    return contrast([cell], [], metric)


@dataclass(frozen=True)
class Compared:
    """A difference within a family of comparisons.

    Attributes:
        found: the difference, with the interval that it has alone.
        p: its p-value, adjusted for the family (Holm); 1 while seeds are missing.
        complete: whether every run that it is asked of is recorded.
    """

    found: Estimate
    p: float
    complete: bool = True

    @property
    def side(self) -> str:
        """``above`` or ``below`` zero by the adjusted p-value, or ``not told apart``.

        Of what is not complete nothing is said but `MISSING`.
        """
        if not self.complete:
            return MISSING
        if self.p >= LEVEL:
            return "not told apart"
        return "above" if self.found.mean > 0 else "below"


def family(
    differences: Mapping[str, Estimate | None], incomplete: Iterable[str] = ()
) -> dict[str, Compared]:
    """The differences that there are, with p-values adjusted together.

    What is not there or not complete counts as a p-value of 1: a family is as large from its first
    run on as in the end, so that no side changes when other runs arrive.

    Args:
        incomplete: names of differences that lack runs.
    """
    waiting = {name for name, found in differences.items() if found is None} | {*incomplete}
    adjusted = holm(
        {
            name: 1.0 if found is None or name in waiting else found.p
            for name, found in differences.items()
        }
    )
    return {
        name: Compared(found, adjusted[name], name not in waiting)
        for name, found in differences.items()
        if found is not None
    }


def compared(
    sides: Mapping[str, tuple[Sequence[Cell], Sequence[Cell]]], metric: str = "ndcg@6"
) -> dict[str, Compared]:
    """The `contrast` of each pair of sides, as one `family`.

    Raises:
        DataError: the records are of different lists.
    """
    differences = {name: contrast(plus, minus, metric) for name, (plus, minus) in sides.items()}
    lacking = [name for name, side in sides.items() if not complete(*side[0], *side[1])]
    return family(differences, lacking)


def complete(*cells: Cell) -> bool:
    """Whether every run of these is recorded."""
    return all(cell and None not in cell for cell in cells)


def against(cells: Cells, reference: str, metric: str = "ndcg@6") -> dict[str, Compared]:
    """Every other model minus the reference, as one family; the oracle is a bound and left out."""
    sides = {
        case: ([cell], [cells[reference]])
        for case, cell in cells.items()
        if case not in (reference, "oracle")
    }
    return compared(sides, metric)


def in_words(
    compared: Mapping[str, Compared], link: str = "for", unit: float = 1, digits: int = 3
) -> str:
    """Which differences of a family are above zero, below it, or not told apart from it.

    Where seeds are missing only the name stands: the value would be one of luck.

    Args:
        link: the word before the names.
        unit: by what differences are multiplied, such as 100 for points.
    """
    sides: dict[str, list[str]] = {}
    for name, one in compared.items():
        mean = round(one.found.mean * unit, digits) + 0.0  # no minus before zeros alone
        value = f" ({mean:+.{digits}f})" if one.complete else ""
        sides.setdefault(one.side, []).append(f"{name}{value}")
    return (
        "; ".join(f"{side} {link} {', '.join(names)}" for side, names in sides.items()) or NOT_YET
    )


def comparison_table(
    cells: Cells,
    reference: str,
    metric: str = "ndcg@6",
    names: Callable[[Any], str] = label,
    differences: Mapping[str, Compared] | None = None,
) -> list[dict[str, str]]:
    """A row for each model: seeds, mean, difference to the reference and its adjusted p-value.

    Args:
        differences: what `against` gives, where that is at hand.
    """
    differences = against(cells, reference, metric) if differences is None else differences
    return [
        {
            "method": names(case),
            "seeds": _seeds(case, cell),
            METRICS[metric]: shown(level(cell, metric)),
            f"minus {names(reference)}": f"{one.found:+}" if one else "–",
            "p (Holm)": "–" if not one else p_value(one.p) if one.complete else MISSING,
        }
        for case, cell in cells.items()
        for one in [differences.get(case)]
    ]


def _seeds(case: str, cell: Cell) -> str:
    if case in FIXED and done(cell):
        return "–"
    return f"{len(done(cell))} of {len(cell)}"


def p_value(p: float) -> str:
    """With three decimals, or that it is below what these show."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def shown(found: Estimate | None, spec: str = "") -> str:
    """A cell of a table; one without runs says so."""
    return NOT_YET if found is None else format(found, spec)


def metrics_table(
    cells: Cells, metrics: Iterable[str] = METRICS, names: Callable[[Any], str] = label
) -> list[dict[str, str | float | None]]:
    """A row for each model: the mean of each metric over seeds and test lists."""
    return [
        {"method": names(case), **{METRICS[name]: _mean(cell, name) for name in metrics}}
        for case, cell in cells.items()
    ]


def _mean(cell: Cell, metric: str) -> float | None:
    """As in the records: a list that does not define the metric does not count."""
    values = [record.metrics["test"][metric] for record in done(cell)]
    return float(np.mean(values)) if values else None


@dataclass(frozen=True)
class Beside:
    """A row of the paper's main table beside ours, in percent."""

    case: str
    metric: str
    paper: float
    ours: Estimate | None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, in points."""
        return None if self.ours is None else 100 * self.ours.mean - self.paper


def beside_paper(dataset: str, cells: Cells) -> list[Beside]:
    """Ours and the paper's in the paper's metric, for each row that it has of a data set."""
    if dataset not in PAPER_COLUMNS:
        return []
    column, metric = PAPER_COLUMNS[dataset]
    return [
        Beside(case, metric, paper_value(f"main-{row}-{column}"), level(cells[case], metric))
        for case, row in PAPER_ROWS.items()
        if case in cells
    ]


def paper_table(dataset: str, cells: Cells) -> list[dict[str, str]]:
    """`beside_paper` as rows of a table."""
    return [
        {
            "method": label(one.case),
            "metric": METRICS[one.metric],
            "paper, %": f"{one.paper:.2f}",
            "ours, %": percent(one.ours),
            "ours minus paper": "–" if one.difference is None else f"{one.difference:+.2f}",
        }
        for one in beside_paper(dataset, cells)
    ]


def percent(found: Estimate | None) -> str:
    """A share as a percentage with its interval, ``57.7 [57.0, 58.4]``."""
    if found is None:
        return NOT_YET
    return f"{100 * found.mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def scaled(found: Estimate, factor: float) -> Estimate:
    """The same in another unit, such as points for shares; ``factor`` is positive and known."""
    parts = ("mean", "low", "high", "error")
    return replace(found, **{name: getattr(found, name) * factor for name in parts})


def least_margin(found: Estimate, level: float = LEVEL) -> float:
    """The smallest margin at which `dnrlib.statistics.equivalence` has a p-value of ``level``."""
    return abs(found.mean) + float(student.ppf(1 - level, found.freedom)) * found.error


@dataclass(frozen=True)
class Settled:
    """What is known of a difference against a margin, such as the paper's own effect.

    Attributes:
        compared: the difference and its adjusted p-value.
        margin: above zero.
        p_equivalent: of the difference being as large as the margin, adjusted for the family.
    """

    compared: Compared
    margin: float
    p_equivalent: float

    @property
    def words(self) -> str:
        """Whether there is a difference above zero, none of this size, or nothing to be said."""
        if not self.compared.complete:
            return MISSING
        found, small = self.compared.found, self.p_equivalent < LEVEL
        if self.compared.side == "not told apart":
            return "no difference of this size" if small else "open"
        if self.compared.side == "below":
            return "the opposite"
        return "smaller" if small else "larger" if found.low > self.margin else "about this size"

    @property
    def more(self) -> float:
        """How many times as many lists and seeds would show it if there were no difference."""
        found = self.compared.found
        return (float(student.ppf(1 - LEVEL, found.freedom)) * found.error / self.margin) ** 2


def settle(compared: Mapping[str, Compared], margins: Mapping[str, float]) -> dict[str, Settled]:
    """Each difference against its margin: two one-sided tests, adjusted together (Holm).

    A margin whose difference is missing or not complete counts as a p-value of 1, as in `family`.
    """
    known = {name for name, one in compared.items() if one.complete}
    p = holm(
        {
            name: equivalence(compared[name].found, margin) if name in known else 1.0
            for name, margin in margins.items()
        }
    )
    return {name: Settled(compared[name], margins[name], p[name]) for name in compared}


def verdict_table(*kinds: str, results: Path | None = None) -> list[dict[str, str]]:
    """The verdicts on the claims of these kinds; p-values are adjusted within a kind."""
    claims = {id: claim for id, claim in load_claims().items() if claim.kind in kinds}
    return [
        {
            "claim": f"{one.claim.statement} ({one.claim.dataset})",
            "paper": one.paper,
            "ours": one.ours,
            "verdict": one.verdict,
            "because": one.reason,
        }
        for one in verdicts(results, claims=claims).values()
    ]


def conditions(records: Iterable[Record]) -> str:
    """Data set, protocol, scheme, lists and seeds of trained runs, in words."""
    rows = [record for record in records if record.best_epoch]
    if not rows:
        return NOT_YET
    seeds = sorted({record.seed for record in rows})
    parts = {
        "data set": {record.config["data"]["dataset"] for record in rows},
        "protocol": {record.protocol for record in rows},
        "scores": {record.config["data"]["retriever"] for record in rows},
        "training lists": {f"{record.data['train']:,}" for record in rows},
        "test lists": {f"{record.data['test']:,}" for record in rows},
        "epochs": {str(record.config["training"]["epochs"]) for record in rows},
    }
    words = [f"{name} {' or '.join(sorted(values))}" for name, values in parts.items()]
    return ", ".join([*words, f"seeds {', '.join(map(str, seeds))}"])


def scores_of(records: Iterable[Record]) -> str:
    """The scheme of the retriever's scores behind runs, in words: ``crossfit scores``."""
    schemes = sorted({record.config["data"]["retriever"] for record in records})
    return f"{' or '.join(schemes)} scores" if schemes else f"scores {NOT_YET}"


def data_table(records: Iterable[Record]) -> list[dict[str, str | int]]:
    """Which part of each data set the runs saw, under each protocol."""
    there = {(r.config["data"]["dataset"], r.protocol, r.data["fingerprint"]): r for r in records}
    return [
        {
            "data set": dataset,
            "protocol": protocol,
            "users": one.data["users"],
            "items": one.data["items"],
            "train": one.data["train"],
            "validation": one.data["validation"],
            "test": one.data["test"],
            "note": one.data.get("note") or "–",
        }
        for (dataset, protocol, _), one in there.items()
    ]


def forest(
    ax: Axes,
    rows: Mapping[str, Estimate | None],
    colours: Mapping[str, str],
    paper: Mapping[str, float] | None = None,
) -> None:
    """Draw a mean and its interval for each row, the first on top, and the paper's as a diamond.

    Args:
        rows: label -> what to draw; None leaves the row empty.
        colours: label -> colour.
        paper: label -> the paper's value, in the unit of the rows.
    """
    for place, (name, found) in enumerate(rows.items()):
        if found is not None:
            ends, colour = [found.low, found.high], colours.get(name, "0.35")
            ax.plot(ends, [place, place], color=colour, lw=3, solid_capstyle="butt")
            ax.plot(found.mean, place, "o", color=colour)
        if paper and name in paper:
            ax.plot(paper[name], place, "D", mfc="white", mec="black", ms=6, zorder=3)
    ax.set(yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.4, -0.6))
