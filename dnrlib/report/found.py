"""Everything that a report says, computed from the file and from its runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dnrlib import logged
from dnrlib.comparisons import per_seed
from dnrlib.errors import DataError
from dnrlib.lists import CandidateLists
from dnrlib.prepare import prepare
from dnrlib.report.answer import Answer, Contrast, answered, contrasts, nothing_to_order
from dnrlib.report.extras import Place, Robustness, Serving, place, robust, serving, training_mib
from dnrlib.report.runs import REFERENCE, Asked, Plan, Runs, do, full_log, plan
from dnrlib.report.score import ScoreAlone, mean_of, score_alone
from dnrlib.statistics import Estimate
from dnrlib.units import duration


@dataclass(frozen=True)
class Found:
    """What the report is made of.

    Args:
        understood: of the file, as ``dnr data check`` has it.
        clusters: of the test lists: users, or None where there are none to tell apart.
        over_score: the reference minus the score alone, NDCG@6.
        training_mib, serving: of each trained method.
        full_seconds: of one run of each method on all training lists of the file.
        unseen: the share of the test candidates that occur in no training list.
    """

    asked: Asked
    planned: Plan
    understood: logged.Report
    lists: CandidateLists
    clusters: np.ndarray | None
    runs: Runs
    alone: ScoreAlone
    contrasts: list[Contrast]
    over_score: Estimate
    answer: Answer
    robustness: Robustness | None
    training_mib: dict[str, float]
    serving: dict[str, Serving]
    full_seconds: dict[str, float]
    place: Place
    unseen: float

    def values(self, method: str, metric: str = "ndcg@6") -> Float[np.ndarray, "seeds lists"]:
        """A metric of every test list under every seed."""
        return per_seed(self.runs.of[method], metric)

    def mean(self, method: str, metric: str = "ndcg@6") -> Estimate | None:
        """Mean over seeds and test lists; None where fewer than two lists define the metric."""
        return mean_of(self.values(method, metric), self.clusters)

    @property
    def exposure(self) -> bool:
        """Whether the file says what was shown, and something was not."""
        return exposure_known(self.understood, self.lists)


def exposure_known(understood: logged.Report, lists: CandidateLists) -> bool:
    """Whether the file says what was shown, and something was not."""
    return "shown" in understood.columns and not bool(lists.shown.all())


def find(
    asked: Asked,
    workers: int = 1,
    results: Path | None = None,
    runs: Path | None = None,
    budget: float = 0.0,
    say: Callable[[str], None] = lambda text: None,
) -> Found:
    """Do what a report needs, as far as it is not done yet.

    Args:
        workers: runs side by side.
        results, runs: folders of records and of weights, as `dnrlib.experiments.run` has them.
        budget: minutes that the runs may take; 0: as many as they do.
        say: told what is being done.

    Raises:
        ConfigError: a setting that cannot be used, or a budget that is too small.
        DataError: the file cannot be used.
        TrainingError: a run cannot go on.
    """
    data = asked.config(REFERENCE).data
    lists = prepare(data)
    n, automatic = data.candidates, type(data).candidates
    understood = logged.check(asked.file, None if n == automatic else n, data.history, data.seed)
    test = lists.of_split("test")
    if len(test) < 2:
        raise DataError(asked.file, f"leaves {len(test)} test list: log more requests")
    clusters = _clusters(understood, test)
    planned = plan(asked, lists, workers, results, runs)
    say(_said(planned))
    if budget:
        planned.check_budget(budget)
    for method, why in planned.left_out.items():
        say(f"{method} is left out: {why}")
    done = do(planned, results, runs, say)
    say("Looking at what came out")
    alone = score_alone(lists, exposure_known(understood, lists), clusters is not None)
    return _found(asked, planned, understood, lists, clusters, done, alone, runs)


def _clusters(understood: logged.Report, test: CandidateLists) -> np.ndarray | None:
    users = test.users.numpy()
    return users if "user" in understood.columns and len(np.unique(users)) > 1 else None


def _said(planned: Plan) -> str:
    if not planned.epochs_left:
        return f"All {planned.done} runs are recorded already"
    done = f", {planned.done} are recorded already" if planned.done else ""
    several = ", each a little slower beside others" if planned.workers > 1 else ""
    return (
        f"{len(planned.epochs_left)} runs to do{done}: about {duration(planned.seconds)} "
        f"({planned.workers} at a time{several}). Stopped and given again, it goes on"
    )


def _found(
    asked: Asked,
    planned: Plan,
    understood: logged.Report,
    lists: CandidateLists,
    clusters: np.ndarray | None,
    done: Runs,
    alone: ScoreAlone,
    runs: Path | None,
) -> Found:
    trained = {name: done.of[name] for name in planned.works}
    ndcg = {name: per_seed(group) for name, group in trained.items()}
    others = {name: values for name, values in ndcg.items() if name != REFERENCE}
    compared = contrasts(others, ndcg[REFERENCE], asked.effect, clusters)
    over = mean_of(ndcg[REFERENCE] - per_seed(done.of["score"]), clusters)
    assert over is not None  # NDCG is defined for every list, and there are two
    first = {name: group[0] for name, group in trained.items()}
    whole = round(understood.splits["train"])
    return Found(
        asked, planned, understood, lists, clusters, done, alone, compared, over,
        _answer(compared, asked, understood, done, alone, over),
        robust({"score": done.of["score"], **trained}, lists, runs, clusters),
        {name: training_mib(record, lists) for name, record in first.items()},
        serving(first, lists, runs),
        {name: full_log(planned, name, train=whole) for name in trained},
        place(lists, float(first[REFERENCE].cost["parameters"])),
        _unseen(lists),
    )  # fmt: skip


def _answer(
    compared: list[Contrast],
    asked: Asked,
    understood: logged.Report,
    done: Runs,
    alone: ScoreAlone,
    over: Estimate,
) -> Answer:
    if alone.auc["test"] is None:
        return nothing_to_order()
    besides = [*_trap(done, alone), *alone.warnings(), *_training_warnings(asked, done, over)]
    requests = understood.requests / understood.splits["test"]
    return answered(compared, asked.effect, requests, besides)


def _trap(done: Runs, alone: ScoreAlone) -> Iterator[str]:
    """Where an order that nobody would serve beats whatever was trained."""
    best = max(float(np.mean([one.metrics["test"]["ndcg@6"] for one in done.of[name]]))
               for name in done.tried)  # fmt: skip
    turned = alone.ndcg["score-reversed"].mean
    if alone.reversed_is_better and turned > best:
        yield (
            f"The score reversed, without any training, has NDCG@6 {turned:.3f}; the best trained "
            f"method has {best:.3f}. Do not use a figure of this report before you know why."
        )


def _training_warnings(asked: Asked, done: Runs, over: Estimate) -> Iterator[str]:
    """Signs that the comparison is one of rerankers that have not learnt enough."""
    if over.high < 0:
        yield (
            "The reranker with the score as a plain feature ranks worse than the score alone, by "
            f"{-over.mean:.3f} NDCG@6: it has learnt too little from these lists in this time. "
            "What helps such a reranker need not help one that you would serve: give it more "
            "epochs, more lists, other learning rates or a smaller model first."
        )
    if asked.seeds == 1:
        yield (
            "With one seed nothing is known of other seeds, and they often differ by more than "
            "methods do: the intervals speak of other lists alone. Give three or more."
        )
    trained = [one for name in done.tried for one in done.of[name]]
    if 2 * sum(one.best_epoch == asked.epochs for one in trained) > len(trained):
        yield (
            f"Most runs were at their best in the last epoch of {asked.epochs}, by validation: "
            "they might get better with more, and not all by as much."
        )


def _unseen(lists: CandidateLists) -> float:
    """The share of the test candidates that occur in no training list."""
    known = np.isin(lists.of_split("test").items, lists.of_split("train").items)
    return float(1 - known.mean())
