"""The assignment: exercises of several chapters with points, and a small experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Float

from dnrlib.exercises.core import Answer, Feedback
from dnrlib.experiments import merge, run, run_config
from dnrlib.statistics import seed_difference

POINTS = {
    "ndcg": 10,
    "expected_random_ndcg": 10,
    "posterior": 10,
    "bound_gap": 10,
    "reranker_loss": 10,
    "best_response": 15,
    "holm_adjusted": 10,
    "small_experiment": 25,
}
"""Task -> points, in the order of the assignment."""

SETTINGS: Mapping[str, Any] = {
    "data": {"dataset": "simulated", "train_lists": 400, "evaluation_lists": 200},
    "options": {"dim": 16},
    "training": {"epochs": 4, "lambda_e": 2},
}
"""Of the runs of the experiment; `dnrlib.experiments.run_config` takes them."""
SEEDS = (3, 5, 8)
REFERENCE, TRAINED = "concat", "DNR-B"
ENDS = ("gain", "low", "high")

Runs = Mapping[tuple[str, int], float]
"""Method and seed -> test NDCG@6."""
PerSeed = Float[np.ndarray, " seeds"]
Ends = Float[np.ndarray, " gain_low_high"]


@dataclass(frozen=True)
class SmallExperiment:
    """A task whose answer is a table of runs: what counts is how it was made, not who wins.

    The answer is a function of settings and seeds that returns ``runs``, rows of ``method``,
    ``seed`` and ``ndcg`` (NDCG@6 on the test lists), and ``gain``, ``low`` and ``high``: by how
    much DNR-B has more than concat, with Student's interval of 95 % over the seeds.
    """

    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    name: str = "small_experiment"

    def check(self, answer: Answer) -> Feedback:
        """Try an answer, and say the first thing that is wrong with its table."""
        try:
            table = answer(merge(self.settings, {}), list(self.seeds))
            fault = next(self._faults(table), "")
        except Exception as error:
            fault = f"raised {type(error).__name__}: {error}"
        return Feedback(not fault, f"{self.name} {fault or 'has all runs, and they repeat'}")

    def _faults(self, table: Any) -> Iterator[str]:
        """What is wrong, the simplest first: later checks rely on earlier ones."""
        if table is None or table is ...:
            yield "returned nothing: write it and try again"
        if missing := [name for name in ("runs", *ENDS) if name not in table]:
            yield f"returned a table without {missing[0]!r}"
        runs = {(row["method"], row["seed"]): float(row["ndcg"]) for row in table["runs"]}
        yield from self._missing(runs)
        yield from self._not_the_score(runs)
        yield from self._without_a_seed(runs)
        yield from self._not_repeated(runs)
        yield from self._other_interval(runs, np.array([table[name] for name in ENDS], dtype=float))

    def _missing(self, runs: Runs) -> Iterator[str]:
        if not any(method == "score" for method, _ in runs):
            yield "has no row of the method score, the floor of every table"
        for method in (REFERENCE, TRAINED):
            for seed in self.seeds:
                if (method, seed) not in runs:
                    yield f"has no run of {method} with seed {seed}: without it there is no pair"

    def _not_the_score(self, runs: Runs) -> Iterator[str]:
        wanted = self.again("score", 0)
        for (method, _), found in runs.items():
            if method == "score" and not _same(found, wanted):
                yield (
                    f"has {found:.4f} for the score alone, but its NDCG@6 on the test lists is "
                    f"{wanted:.4f}. Is that another split, another metric, or other lists?"
                )

    def _without_a_seed(self, runs: Runs) -> Iterator[str]:
        for method in (REFERENCE, TRAINED):
            if len({runs[method, seed] for seed in self.seeds}) == 1:
                yield f"has the same NDCG@6 for {method} with every seed: is the seed passed on?"

    def _not_repeated(self, runs: Runs) -> Iterator[str]:
        """One run of each method is done again."""
        for method, seed in ((REFERENCE, self.seeds[0]), (TRAINED, self.seeds[-1])):
            found, wanted = runs[method, seed], self.again(method, seed)
            if not _same(found, wanted):
                yield (
                    f"has {found:.4f} for {method} with seed {seed}; done again it has "
                    f"{wanted:.4f}. Are all settings passed on? Is it the NDCG@6 of the test lists?"
                )

    def _other_interval(self, runs: Runs, found: Ends) -> Iterator[str]:
        dnr, concat = (
            np.array([runs[method, seed] for seed in self.seeds]) for method in (TRAINED, REFERENCE)
        )
        wanted = student(dnr, concat)
        if not _same(found, wanted):
            named = [words for words, wrong in MISTAKES.items() if _same(found, wrong(dnr, concat))]
            numbers = ", ".join(f"{value:+.4f}" for value in wanted)
            yield " ".join([f"has other ends than its runs, which give {numbers}.", *named[:1]])

    def again(self, method: str, seed: int) -> float:
        """Test NDCG@6 of a run that is done here, whatever has been recorded."""
        config = run_config(merge(self.settings, {"method": method, "seed": seed}))
        with TemporaryDirectory() as folder:
            record = run(config, Path(folder) / "results", Path(folder) / "runs")
        return record.metrics["test"]["ndcg@6"]


EXPERIMENT = SmallExperiment(SETTINGS, SEEDS)


def student(dnr: PerSeed, concat: PerSeed) -> Ends:
    """Mean paired difference and the ends of Student's interval of 95 % over seeds."""
    found = seed_difference(dnr[:, None], concat[:, None])
    return np.array([found.mean, found.low, found.high])


def _normal(dnr: PerSeed, concat: PerSeed) -> Ends:
    differences = dnr - concat
    half = 1.96 * differences.std(ddof=1) / len(differences) ** 0.5
    return differences.mean() + half * np.array([0, -1, 1])


def _unpaired(dnr: PerSeed, concat: PerSeed) -> Ends:
    from scipy.stats import ttest_ind

    interval = ttest_ind(dnr, concat).confidence_interval(0.95)
    return np.array([dnr.mean() - concat.mean(), interval.low, interval.high])


def _spread(dnr: PerSeed, concat: PerSeed) -> Ends:
    gain, low, high = student(dnr, concat)
    return gain + np.array([0, low - gain, high - gain]) * len(dnr) ** 0.5


MISTAKES: Mapping[str, Callable[[PerSeed, PerSeed], Ends]] = {
    "The sign is wrong: it is DNR-B minus concat.": lambda dnr, concat: student(concat, dnr),
    "That is the interval of a normal law: with few seeds take Student's t.": _normal,
    "That takes the seeds as unpaired: take the differences first.": _unpaired,
    "That is the spread of single runs: the mean's error is smaller by the root of the seeds.": (
        _spread
    ),
}


def _same(found: Any, wanted: Any) -> bool:
    return bool(np.allclose(found, wanted, rtol=0, atol=1e-4))
