"""What was expected before the runs, as the heads of ``experiments/*.yml`` state it, and what came.

Each judge below follows the rule in the head of one file. Where a module of that file's page judges
already, its functions are called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from dnrlib import robustness, studies
from dnrlib.claims import first_committed
from dnrlib.comparisons import gain, gain_over_seeds, grouped, of, present
from dnrlib.errors import DataError
from dnrlib.evidence import over_seeds
from dnrlib.experiments import EXPERIMENTS
from dnrlib.measurements import load_measurement
from dnrlib.records import Record
from dnrlib.statistics import Interval, seed_difference

TRUE, FALSE, UNDECIDED, OPEN = "true", "false", "undecided", "not run yet"
NOT_ASKED = "not asked"
"""Of a rule with a condition that held nowhere: neither true nor false."""
BOOK, PAPER = "this book", "the paper"
VERDICTS = (TRUE, FALSE, UNDECIDED, NOT_ASKED, OPEN)
"""What can become of an expectation."""
LIST_RERANKERS = ("dlcm", "setrank", "prm", "mir", "egrerank", "pier", "nar4rec", "dcdr")
ABOUT = 0.02
"""How near to one half an AUC counts as one half (experiments/game.yml)."""


@dataclass(frozen=True)
class Judged:
    """One expectation and what became of it.

    Attributes:
        experiment: in the head of whose file it stands.
        expected: in words.
        verdict: one of `VERDICTS`.
        found: the numbers behind it, in words.
        by: who expected it: `PAPER`, by its table, or `BOOK`.
    """

    experiment: str
    expected: str
    verdict: str
    found: str
    by: str = BOOK


def judged(results: Path | None = None, measurements: Path | None = None) -> list[Judged]:
    """Every expectation, in the order in which the experiments were defined."""
    return [
        *of_rerankers(results),
        *of_sequence(results),
        *of_game(results, measurements),
        *of_regimes(results),
        *of_protocol_study(results),
        *of_multiverse(results),
        *of_robustness(measurements),
    ]


def share_true(verdicts: Sequence[str]) -> tuple[int, int, float, float]:
    """How many of the judged came true, of how many, and Clopper and Pearson's 95 % interval.

    Raises:
        ValueError: none is judged.
    """
    told = [verdict for verdict in verdicts if verdict not in (OPEN, NOT_ASKED)]
    true = told.count(TRUE)
    interval = binomtest(true, len(told)).proportion_ci(method="exact")
    return true, len(told), interval.low, interval.high


def older_than_file(
    experiment: str, results: Path | None = None, folder: Path = EXPERIMENTS
) -> int | None:
    """How many recorded runs of an experiment are older than the first commit of its file.

    These are runs that it shares with an earlier experiment: what was expected of them was not
    written before they were made. None where git does not know the file.
    """
    since = first_committed(folder / f"{experiment}.yml")
    try:
        records = present(experiment, results)[0]
    except DataError:  # it waits for the runs that it is tuned on
        records = []
    if since is None:
        return None
    return sum(datetime.fromisoformat(record.made["date"]) < since for record in records)


def _side(found: Interval, wanted: int) -> str:
    """Of a difference whose sign was expected."""
    side = int(found.low > 0) - int(found.high < 0)
    return UNDECIDED if not side else TRUE if side == wanted else FALSE


def _open(experiment: str, expected: Sequence[str], results: Path | None) -> list[Judged]:
    """Expectations whose runs are not all recorded; empty if they are."""
    try:
        done, missing = present(experiment, results)
    except DataError:  # it waits for the runs that it is tuned on
        return [Judged(experiment, words, OPEN, "waits for its tuning") for words in expected]
    if not missing:
        return []
    counts = f"{len(done)} of {len(done) + len(missing)} runs"
    return [Judged(experiment, words, OPEN, counts) for words in expected]


# Of the rerankers -------------------------------------------------------------------------


def of_rerankers(results: Path | None = None) -> list[Judged]:
    """Bonferroni over the comparisons of a table; the paper's order, and this book's own guess."""
    expected = (
        "every list reranker is above SASRec",
        "PIER is above PRM",
        "DNR is above its backbone, for PRM and PIER",
        "PRM with and without the score are not told apart",
    )
    if waiting := _open("rerankers", expected, results):
        return _of_the_paper(waiting, 3)
    by = grouped(present("rerankers", results)[0], lambda record: record.config["reranker"])
    concat = {name: methods["concat"] for name, methods in by.items() if "concat" in methods}
    backbones = [name for name, methods in by.items() if "DNR-B" in methods]
    level, level_dnr = 1 - 0.05 / (len(concat) - 1), 1 - 0.05 / (3 * len(backbones))
    over_sasrec = [
        gain(concat[name], concat["sasrec"], confidence=level) for name in LIST_RERANKERS
    ]
    pier = gain(concat["pier"], concat["prm"], confidence=level)
    dnr = [
        gain(by[name][method], concat[name], confidence=level_dnr)
        for name in ("prm", "pier")
        for method in ("DNR-G", "DNR-B")
    ]
    none = gain(by["prm"]["none"], concat["prm"], confidence=level_dnr)
    apart = _side(none, 1) != UNDECIDED
    verdicts = (
        _all(over_sasrec),
        (_side(pier, 1), f"{pier:+}"),
        _all(dnr),
        (FALSE if apart else TRUE, f"{none:+}"),
    )
    return _of_the_paper(_told("rerankers", expected, verdicts), 3)


def _of_the_paper(judged: list[Judged], first: int) -> list[Judged]:
    """The same with the first few expected by the paper."""
    return [replace(one, by=PAPER) for one in judged[:first]] + judged[first:]


def _all(found: Sequence[Interval]) -> tuple[str, str]:
    """That every difference is above zero: false if one is below, else undecided if one is not."""
    sides = [_side(one, 1) for one in found]
    counts = f"above in {sides.count(TRUE)}, below in {sides.count(FALSE)} of {len(sides)}"
    verdict = FALSE if FALSE in sides else UNDECIDED if UNDECIDED in sides else TRUE
    return verdict, counts


def _told(
    experiment: str, expected: Sequence[str], verdicts: Sequence[tuple[str, str]]
) -> list[Judged]:
    pairs = zip(expected, verdicts, strict=True)
    return [Judged(experiment, words, *verdict) for words, verdict in pairs]


def of_sequence(results: Path | None = None) -> list[Judged]:
    """SASRec's lead over PRM, with and without its loss over the history."""
    expected = ("most of SASRec's lead over PRM goes without its loss over the history",)
    if waiting := _open("sequence", expected, results) or _open("rerankers", expected, results):
        return waiting
    records = present("sequence", results)[0]
    prm = [r for r in of(present("rerankers", results)[0], method="concat")
           if r.config["reranker"] == "prm"]  # fmt: skip
    with_it, without = (
        [r for r in records if r.config["options"]["sequence_weight"] == weight]
        for weight in (1.0, 0.0)
    )
    worth, lead, left = gain(with_it, without), gain(with_it, prm), gain(without, prm)
    most = worth.mean > lead.mean / 2
    verdict = _side(worth, 1) if most else FALSE
    said = f"with minus without {worth:+}; lead {lead.mean:+.3f}, without it {left.mean:+.3f}"
    return _told("sequence", expected, [(verdict, said)])


# Of the game and the regimes --------------------------------------------------------------


def game_variant(record: Record) -> str:
    """Which game a run of experiments/game.yml has played."""
    training = record.config["training"]
    if training["regulariser"] == "pooled":
        return "pooled"
    if not training["regulariser_weight"]:
        return "no L_x"
    return "full" if training["adversarial_weight"] else "no L_adv"


def of_game(results: Path | None = None, measurements: Path | None = None) -> list[Judged]:
    """The AUC of the generators' scores for the label; Student's intervals over the seeds."""
    expected = (
        "the full game's synthetic scores have an AUC of at most one half, below real scores'",
        "with L_x pooled over labels their AUC is lower",
        "without L_adv their AUC is one half",
    )
    if waiting := _open("game", expected, results):
        return waiting
    try:
        runs = load_measurement("game", "noise", measurements).runs
    except DataError:
        return [Judged("game", words, OPEN, "not measured yet") for words in expected]
    variants = {record.run: game_variant(record) for record in present("game", results)[0]}
    aucs = {
        variant: np.array([[_auc(run["rows"], "generator")] for run in runs
                           if variants.get(run["run"]) == variant])
        for variant in ("full", "pooled", "no L_adv")
    }  # fmt: skip
    real = _auc(runs[0]["rows"], "real")
    full, without = (over_seeds(aucs[name][:, 0]) for name in ("full", "no L_adv"))
    lower = seed_difference(aucs["pooled"], aucs["full"])
    half = without.low >= 0.5 - ABOUT and without.high <= 0.5 + ABOUT
    verdicts = (
        (TRUE if full.high <= min(0.5 + ABOUT, real) else FALSE, f"{full}; real {real:.3f}"),
        (_side(lower, -1), f"{lower:+}"),
        (TRUE if half else FALSE, f"{without}"),
    )
    return _told("game", expected, verdicts)


def _auc(rows: Sequence[Mapping[str, object]], noise: str) -> float:
    wanted = ({"noise": noise, "given": "pooled"}.items() <= row.items() for row in rows)
    return next(float(str(row["auc"])) for row, found in zip(rows, wanted, strict=True) if found)


def of_regimes(results: Path | None = None) -> list[Judged]:
    """Test AUC above that of concat in the simulated world; H1 to H3 of experiments/regimes.yml."""
    expected = (
        "H1: noise-G gains where scores are optimistic and informative",
        "H2: without optimism and with many lists neither heuristic noise gains",
        "H3: with the noisiest scores noise-B loses",
    )
    if waiting := _open("regimes", expected, results):
        return waiting
    settings = grouped(present("regimes", results)[0], _regime)
    gains = {
        (setting, method): _side(gain_over_seeds(methods[method], methods["concat"], "auc"), 1)
        for setting, methods in settings.items()
        for method in ("noise-G", "noise-B")
    }
    h1 = [gains[s, "noise-G"] == TRUE for s in settings if "optimism 2" in s and "scale 8" not in s]
    h2 = [
        side != TRUE
        for (s, _), side in gains.items()
        if "optimism 0" in s and s.endswith(" 2000 lists")
    ]
    h3 = [gains[s, "noise-B"] == FALSE for s in settings if "scale 8" in s]
    return _told("regimes", expected, [_in_every_setting(parts) for parts in (h1, h2, h3)])


def _regime(record: Record) -> str:
    data = record.config["data"]
    truth = data["noisy_truth"]
    return f"scale {truth['scale']:g}, optimism {truth['optimism']:g}, {data['train_lists']} lists"


def _in_every_setting(parts: Sequence[bool]) -> tuple[str, str]:
    return TRUE if all(parts) else FALSE, f"in {sum(parts)} of {len(parts)} settings"


# Of the studies ---------------------------------------------------------------------------

_HYPOTHESES = {
    "H1": "H1: concat with in-sample scores is below concat with crossfit scores",
    "H2": "H2: DNR-B's gain is greater with in-sample than with crossfit scores",
    "H3": "H3: with crossfit scores DNR-B does not beat concat",
    "H4": "H4: where DNR-B beats concat, a simpler remedy does too",
}


def of_protocol_study(results: Path | None = None) -> list[Judged]:
    """H1 to H3 under each protocol and H4 as a whole, as `dnrlib.studies.findings` tells.

    H4 is `NOT_ASKED` if DNR-B beats concat nowhere.
    """
    told = []
    for finding in studies.findings(studies.load_study(results)):
        if finding.hypothesis == "H4" and finding.where != "all cells":
            continue
        verdict = OPEN if finding.verdict == "open" else finding.verdict
        words = f"{_HYPOTHESES[finding.hypothesis]} ({finding.where})"
        numbers = studies.in_digits(finding.found)
        if finding.hypothesis == "H3" and finding.verdict == TRUE and finding.found:
            numbers += f"; {studies.not_excluded(finding.found)}"
        told.append(Judged("protocol-study", words, verdict, numbers))
    return told


def of_multiverse(results: Path | None = None) -> list[Judged]:
    """Each choice of the file by its mean range, against DNR-B in place of concat.

    The file has no rule. This one, "every choice, by its mean range", was written after the runs.
    Within what is recorded (`dnrlib.studies`).
    """
    expected = ("each open choice moves NDCG@6 by more than DNR-B does",)
    if waiting := _open("multiverse", expected, results):
        return waiting
    table = studies.frame(studies.universes(results=results))
    ranges = {row["choice"]: row["range"] for row in studies.ranked_choices(table)}
    by_dnr = ranges["DNR-B for concat"]
    choices = {
        "protocol": "protocol",
        "liked from": "label threshold",
        "list length": "list length",
        "retriever": "retriever",
        "order": "order of the candidates",
        "best epoch by": "lists that choose the best epoch",
    }
    less = [words for name, words in choices.items() if ranges.get(name, np.inf) <= by_dnr]
    said = f"DNR-B {by_dnr:.3f}; no more: {', '.join(less) or 'none'}"
    return _told("multiverse", expected, [(FALSE if less else TRUE, said)])


def of_robustness(measurements: Path | None = None) -> list[Judged]:
    """R1 to R3, each family as `dnrlib.robustness.verdict` tells."""
    families = {
        ("noise", "concat"): "R1: with noise on the scores DNR-B drops less than concat",
        ("permuted", "concat"): "R2: with permuted scores DNR-B drops less than concat",
        **{
            (kind, name): f"R3: DNR-B drops less than {name} ({kind})"
            for kind in ("noise", "permuted")
            for name in ("noise-B", "score-dropout", "score-jitter")
        },
    }
    try:
        runs = load_measurement("robustness", "robustness", measurements).runs
    except DataError:
        return [
            Judged("robustness", words, OPEN, "not measured yet") for words in families.values()
        ]
    methods = robustness.by_method(runs)
    told = []
    for (kind, name), words in families.items():
        if not {"DNR-B", name} <= methods.keys():
            told.append(Judged("robustness", words, OPEN, "not measured yet"))
            continue
        found = robustness.smaller_drops(methods["DNR-B"], methods[name], kind)
        verdict, largest = robustness.verdict(found), max(found.values(), key=lambda one: one.mean)
        short = {"holds": TRUE, "contradicted": FALSE}.get(verdict, UNDECIDED)
        told.append(
            Judged(
                "robustness", words, short, f"{verdict}; largest difference of drops {largest:+}"
            )
        )
    return told


# Of patience ------------------------------------------------------------------------------


def with_patience(validation: Sequence[float], patience: int) -> tuple[int, int]:
    """Epochs that would have been trained, and the one that would have been kept, from 1.

    Training stops after so many epochs without a better one (`TrainingConfig.patience`).
    """
    best = 0
    for epoch, value in enumerate(validation):
        best = epoch if value > validation[best] else best
        if epoch - best == patience:
            return epoch + 1, best + 1
    return len(validation), best + 1


def lost_by_patience(record: Record, patience: int) -> float:
    """Validation NDCG@6 of the epoch that was kept minus that of the one patience would keep."""
    validation = [row["validation"] for row in record.curves]
    _, kept = with_patience(validation, patience)
    return max(validation) - validation[kept - 1]
