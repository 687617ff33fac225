"""What the runs of ``experiments/behaviours.yml`` say: hypotheses, tables and the noise matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations, product
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from dnrlib import tables
from dnrlib.experiments import RunConfig
from dnrlib.metrics import unpack
from dnrlib.records import Record
from dnrlib.statistics import Estimate
from dnrlib.tables import Cells, Compared, contrast, family

EXPERIMENT = "behaviours"
"""Of experiments/."""
PROTOCOL = "shown+sampled"
ALL = (0, 1, 2)
"""The kinds that are learnt together."""
Case = tuple[str, tuple[int, ...], tuple[int, ...]]
"""Method, the kinds that it learns, and the kinds of which its noise is, if not of these."""
HYPOTHESES = {
    "K1": "plain training of all kinds ranks a kind better than plain training of it alone",
    "K2": "DNR-B of all kinds ranks a kind better than DNR-B of it alone",
    "K3": "DNR-B of all kinds ranks a kind better than plain training of all kinds",
    "K4": "noise of one kind ranks another kind better than no noise does",
}
"""As in the head of the experiment's file."""


def case(config: RunConfig) -> Case:
    """What tells the rows of this experiment apart."""
    learnt, noise_of = (config.options.get(name, ()) for name in ("behaviours", "noise_of"))
    return config.method.removeprefix(f"{EXPERIMENT}-"), (*learnt,), (*noise_of,)


def cells_of(dataset: str, results: Path | None = None) -> Cells:
    """Case -> its runs on a data set, in the order of the experiment."""
    place = tables.layout(EXPERIMENT, results, case)[dataset, PROTOCOL]
    return {key: cell for key, cell in place.items() if isinstance(key, tuple)}


def label(key: Case) -> str:
    """A case as readers know it; which kinds it learns stands in a column of its own."""
    method, _, noise_of = key
    known = tables.label(method)
    return f"{known} (of kind {noise_of[0] + 1})" if noise_of else known


def learnt(key: Case, kinds: Sequence[str]) -> str:
    """The kinds that a case learns, in words."""
    _, numbers, _ = key
    names = ", ".join(kinds[number].replace(" ", "\N{NO-BREAK SPACE}") for number in numbers)
    return "all" if numbers == ALL else names or "–"


# Hypotheses -------------------------------------------------------------------------------


def hypotheses(
    cells: Cells, kinds: Sequence[str], metric: str = "ndcg@6"
) -> dict[str, dict[str, Compared]]:
    """Hypothesis -> kind or pair of kinds -> the difference of which it speaks, as one family.

    Raises:
        DataError: the records are of different lists.
    """
    together: dict[str, tuple[Case, Case | None]] = {
        "K1": (("concat", ALL, ()), None),
        "K2": (("DNR-B", ALL, ()), None),
        "K3": (("DNR-B", ALL, ()), ("concat", ALL, ())),
    }
    found = {}
    for name, (plus, minus) in together.items():
        sides = {
            kind: (kind, plus, minus or (plus[0], (number,), ()))
            for number, kind in enumerate(kinds)
        }
        found[name] = _compared(cells, sides, metric)
    others = {
        f"{kinds[noise]} on {kinds[ranked]}": _noise(noise, kinds[ranked])
        for noise, ranked in permutations(range(len(kinds)), 2)
    }
    return found | {"K4": _compared(cells, others, metric)}


def _noise(noise: int, kind: str) -> tuple[str, Case, Case]:
    return kind, ("noise-B", ALL, (noise,)), ("concat", ALL, ())


def _compared(
    cells: Cells, sides: Mapping[str, tuple[str, Case, Case]], metric: str
) -> dict[str, Compared]:
    """Name -> the difference of two cases in the metric of a kind."""
    differences = {
        name: contrast([cells[plus]], [cells[minus]], f"{kind}/{metric}")
        for name, (kind, plus, minus) in sides.items()
    }
    lacking = [
        name
        for name, (_, plus, minus) in sides.items()
        if not tables.complete(cells[plus], cells[minus])
    ]
    return family(differences, lacking)


def verdict(found: Mapping[str, Compared], size: int) -> str:
    """What a family says of a hypothesis: the rule in the head of the experiment's file.

    Args:
        size: how many kinds or pairs the family has when all runs are done.
    """
    if len(found) < size or not all(one.complete for one in found.values()):
        return tables.NOT_YET
    told = [one.side for one in found.values()]
    above, below = told.count("above"), told.count("below")
    if above and below:
        return "mixed"
    if above:
        return "holds" if above == size else "holds in part"
    return "contradicted" if below else "not shown"


def matrix(
    cells: Cells, kinds: Sequence[str], metric: str = "ndcg@6"
) -> dict[tuple[int, int], Estimate | None]:
    """(kind of the noise, kind that is ranked) -> the gain over no noise, all kinds learnt."""
    found = {}
    for noise, ranked in product(range(len(kinds)), repeat=2):
        kind, plus, minus = _noise(noise, kinds[ranked])
        found[noise, ranked] = contrast([cells[plus]], [cells[minus]], f"{kind}/{metric}")
    return found


# Tables -----------------------------------------------------------------------------------


def levels_table(
    cells: Cells, kinds: Sequence[str], metric: str = "ndcg@6"
) -> list[dict[str, str]]:
    """A row for each case: what it learns, and the mean of a metric for each kind."""
    return [
        {
            "method": label(key),
            "learns": learnt(key, kinds),
            **{kind: tables.shown(tables.level(cell, f"{kind}/{metric}")) for kind in kinds},
        }
        for key, cell in cells.items()
    ]


def metrics_table(cells: Cells, kind: str, kinds: Sequence[str]) -> list[dict[str, str | float]]:
    """A row for each case: every metric of one kind, over seeds and the lists that have it."""
    rows = []
    for key, cell in cells.items():
        means = {
            title: [record.metrics["test"][f"{kind}/{name}"] for record in tables.done(cell)]
            for name, title in tables.METRICS.items()
        }
        shown = {t: float(np.mean(v)) if v else tables.NOT_YET for t, v in means.items()}
        rows.append({"method": label(key), "learns": learnt(key, kinds), **shown})
    return rows


# What the feedback looks like -------------------------------------------------------------


def shown_feedback(record: Record) -> Bool[np.ndarray, "shown b"]:
    """The feedback of every shown candidate of the test lists.

    Args:
        record: of a reranker that has one order for all kinds, as the score alone.
    """
    lists, n = record.data["test"], record.data["candidates"]
    kinds = record.behaviours.values()
    (shown,) = {kind["ranked_shown"] for kind in kinds}
    labels = [unpack(kind["ranked_labels"], lists, n).numpy() for kind in kinds]
    return np.stack(labels, axis=-1)[unpack(shown, lists, n).numpy()]


def given(feedback: Bool[np.ndarray, "shown b"]) -> Float[np.ndarray, "b b"]:
    """The share of those with feedback of the row's kind that have the column's as well."""
    both = feedback.T.astype(float) @ feedback.astype(float)
    return both / np.diag(both)[:, None]


def kinds_table(record: Record) -> list[dict[str, str | float]]:
    """A row for each kind: how often it is given, and how well the score tells who gave it."""
    feedback, test = shown_feedback(record), record.metrics["test"]
    correlation = np.corrcoef(feedback.T.astype(float))[0]
    return [
        {
            "kind": kind,
            "of shown": f"{feedback[:, number].mean():.1%}",
            "lists that have it": f"{test[f'{kind}/ndcg@6:defined']:.0%}",
            "correlation with the first": float(correlation[number]),
            "AUC of x in a list": test[f"{kind}/auc"],
            "among the shown": test[f"{kind}/auc_shown"],
        }
        for number, kind in enumerate(record.behaviours)
    ]
