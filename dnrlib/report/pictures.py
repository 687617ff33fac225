"""Figures and tables of a report, as its page and the chapter *Your own cascade* show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from dnrlib import figures
from dnrlib.records import Record
from dnrlib.report.extras import POINTS
from dnrlib.report.found import Found
from dnrlib.report.runs import REFERENCE
from dnrlib.statistics import Interval
from dnrlib.units import duration

LABELS = {
    "score": "score alone",
    "score-reversed": "score reversed",
    "popularity": "popularity",
    "oracle": "oracle (bound)",
    "none": "without score",
    "concat": "score as a feature (concat)",
    "score-dropout": "score dropout",
    "score-jitter": "score jitter",
}
"""What readers of a report call a method; the others keep their names."""
DISTURBED = {
    ("clean", 0.0): "as they are",
    ("noise", 1.0): "noise, σ = 1",
    ("noise", 4.0): "noise, σ = 4",
    ("permuted", 1.0): "permuted",
    ("constant", 1.0): "constant",
    ("reversed", 1.0): "reversed",
}
METRICS = {
    "NDCG@6": "ndcg@6", "MAP@6": "map@6", "precision@6": "precision@6", "recall@6": "recall@6",
    "hit ratio@6": "hit_ratio@6", "AUC": "auc",
}  # fmt: skip
EXPOSURE = {"AUC among shown": "auc_shown", "AUC shown or not": "auc_shown_vs_rest"}

Rows = list[dict[str, Any]]


class Picture(NamedTuple):
    """A figure with what `dnrlib.figures.save` asks for."""

    fig: Figure
    name: str
    alt: str
    caption: str


def label(method: str) -> str:
    """What a reader calls a method."""
    return LABELS.get(method, method)


# Figures -----------------------------------------------------------------------------------


def answer_figure(found: Found) -> Picture:
    """Each method's difference from the score as a plain feature, with its interval."""
    ordered = found.contrasts[::-1]
    figures.style()
    fig, ax = plt.subplots(figsize=(5.2, 0.8 + 0.36 * len(ordered)))
    ax.axvspan(-found.asked.effect, found.asked.effect, color="#EDEDED", lw=0, zorder=0)
    ax.axvline(0, color="#777777", lw=1)
    for place, one in enumerate(ordered):
        colour, filled = figures.METHOD_COLOURS[one.method], one.verdict in ("better", "worse")
        ax.plot([one.found.low, one.found.high], [place, place], color=colour, lw=2.5)
        face = colour if filled else "white"
        ax.plot(one.found.mean, place, "o", mfc=face, mec=colour, mew=2, ms=8)
    ax.set_yticks(range(len(ordered)), [label(one.method) for one in ordered])
    low, high = ax.get_xlim()
    ax.set_xlim(max(low, -1), min(high, 1))  # no difference of NDCG is beyond, few seeds' ends are
    ax.set_xlabel("NDCG@6 minus that with the score as a feature")
    ax.grid(visible=False, axis="y")
    said = "; ".join(f"{label(one.method)} {one.found:+}, {one.verdict}" for one in found.contrasts)
    caption = (
        f"Mean difference from the score as a plain feature, with 95 % intervals, over "
        f"{found.contrasts[0].found.lists} test lists and {found.asked.seeds} seeds. Filled: told "
        "apart from zero after adjustment. Grey: differences below the smallest that matters."
    )
    return Picture(fig, "answer", f"Differences in NDCG@6 with intervals: {said}.", caption)


def time_figure(found: Found) -> Picture | None:
    """AUC of the score along the log; None where no list defines it."""
    places, values = found.alone.blocks
    if not len(values):
        return None
    figures.style()
    fig, ax = plt.subplots(figsize=(5.2, 2.4))
    ax.axhline(0.5, color="#777777", lw=1, ls=":")
    ax.plot(places, values, "o-", color=figures.METHOD_COLOURS["score"], ms=4)
    for border, name in zip(found.alone.borders, ("validation", "test"), strict=True):
        ax.axvline(border, color=figures.PALETTE[1], lw=1)
        ax.annotate(
            name, (border, 1.0), (2, 2), xycoords=("data", "axes fraction"),
            textcoords="offset points", fontsize=8, rotation=30,
        )  # fmt: skip
    ax.set(xlabel="place in the log, by time", ylabel="AUC of the score", xlim=(0, 1))
    alt = (
        f"A line of the score's AUC over {len(values)} stretches of the log; it starts at "
        f"{values[0]:.2f} and ends at {values[-1]:.2f}."
    )
    caption = (
        "AUC of the score in stretches of the log. A step down where validation begins says that "
        "the retriever has seen the feedback of the training lists; a slope says drift."
    )
    return Picture(fig, "time", alt, caption)


def calibration_figure(found: Found) -> Picture:
    """Share of liked candidates against the score."""
    mean, liked = found.alone.calibration
    figures.style()
    fig, ax = plt.subplots(figsize=(5.2, 2.8))
    ends = [0, max(0.05, float(np.max(mean)), float(np.max(liked)))]
    ax.plot(ends, ends, color="#777777", lw=1, ls=":", label="a probability")
    ax.plot(mean, liked, "o-", color=figures.METHOD_COLOURS["score"], label="your score")
    ax.set(xlabel="score", ylabel="share that was liked")
    ax.legend()
    alt = (
        f"Share of liked test candidates against their mean score in {len(mean)} bins: from "
        f"{liked[0]:.2f} at score {mean[0]:.2f} to {liked[-1]:.2f} at {mean[-1]:.2f}."
    )
    caption = (
        "Share of liked candidates in bins of the score with as many test candidates each. On the "
        "dotted line a score is a probability; a line that falls is a score that points the wrong "
        "way. An order needs no calibration. Denoising training sets synthetic scores, built "
        "around the labels 0 and 1, beside the real ones, so that it sees their scale as well."
    )
    return Picture(fig, "calibration", alt, caption)


def robustness_figure(found: Found) -> Picture | None:
    """NDCG@6 of the methods on disturbed scores; None where that was not measured."""
    if found.robustness is None:
        return None
    figures.style()
    fig, ax = plt.subplots(figsize=(5.2, 3.4))
    for method, means in found.robustness.means.items():
        thick = method in ("score", REFERENCE)
        ax.plot(
            range(len(POINTS)), [means[point] for point in POINTS], "o-", ms=4,
            color=figures.METHOD_COLOURS[method], lw=2.4 if thick else 1.4, label=label(method),
        )  # fmt: skip
    names = [DISTURBED[point] for point in POINTS]
    ax.set_xticks(range(len(POINTS)), names, rotation=30, ha="right", fontsize=9)
    ax.set_ylabel("NDCG@6")
    fig.legend(loc="outside lower center", ncols=2, fontsize=8)
    alone, plain = (found.robustness.means[name] for name in ("score", REFERENCE))
    alt = (
        f"NDCG@6 on disturbed scores. The score alone goes from {alone[POINTS[0]]:.3f} to "
        f"{alone[POINTS[-1]]:.3f} when reversed, the score as a feature from "
        f"{plain[POINTS[0]]:.3f} to {plain[POINTS[-1]]:.3f}."
    )
    caption = (
        "The trained rerankers on test lists whose scores are disturbed: noise on the logit, "
        "scores permuted within their list, all the same, or reversed. None was trained for that."
    )
    return Picture(fig, "robustness", alt, caption)


# Tables ------------------------------------------------------------------------------------


def file_rows(found: Found) -> Rows:
    """How the file was understood."""
    seen, meta = found.understood, found.lists.meta
    columns = [{"what": f"column {name}", "here": taken} for name, taken in seen.columns.items()]
    rest = {
        "ignored": ", ".join(seen.ignored) or "nothing",
        "rows, requests": f"{seen.rows:,}, {seen.requests:,}",
        "users, items": f"{meta['users']:,}, {meta['items']:,}",
        "candidates of a request": _three(seen.lengths),
        "liked of a request": _three(seen.positives),
        "lists that are used": ", ".join(f"{n:,} {name}" for name, n in seen.splits.items())
        + f", of {seen.n} candidates",
        "test candidates that no training list has": f"{found.unseen:.1%}",
        "notes": seen.note,
    }
    return columns + [{"what": name, "here": text} for name, text in rest.items()]


def _three(spread: tuple[float, float, float]) -> str:
    least, median, most = spread
    return f"{least:g} to {most:g}, median {median:g}"


def score_rows(found: Found) -> Rows:
    """What needs no training, and the oracle, on the test lists."""
    names = ("score", "score-reversed", "popularity", "oracle")
    return [
        {"order": label(name), **_metrics(found, name)} for name in names
    ] + [_random(found)]  # fmt: skip


def _random(found: Found) -> dict[str, Any]:
    chance = {"AUC": "0.500"} | (dict.fromkeys(EXPOSURE, "0.500") if found.exposure else {})
    row: dict[str, Any] = {"order": "random (expected)"}
    return row | {
        name: chance.get(name, f"{found.alone.ndcg['random order']}" if name == "NDCG@6" else "–")
        for name in _columns(found)
    }


def _columns(found: Found) -> dict[str, str]:
    return METRICS | (EXPOSURE if found.exposure else {})


def _metrics(found: Found, method: str) -> dict[str, str]:
    cells = {title: found.mean(method, metric) for title, metric in _columns(found).items()}
    return {
        title: "–" if cell is None else f"{cell}" if title == "NDCG@6" else f"{cell.mean:.3f}"
        for title, cell in cells.items()
    }


def splits_rows(found: Found) -> Rows:
    """AUC of the score in each split, and its differences."""
    alone = found.alone
    cells: dict[str, Interval | None] = dict(alone.auc)
    rows = [{"lists": name, "AUC of the score": _cell(one)} for name, one in cells.items()]
    differences = {
        "training minus test": alone.gap,
        "last of training minus validation": alone.step,
    }
    return rows + [
        {"lists": name, "AUC of the score": _cell(one, "+")} for name, one in differences.items()
    ]


def _cell(found: Interval | None, spec: str = "") -> str:
    return "–" if found is None else format(found, spec)


def method_rows(found: Found) -> Rows:
    """The comparison that the answer rests on."""
    reference = {
        "method": label(REFERENCE), "NDCG@6": _cell(found.mean(REFERENCE)), "minus concat": "–",
        "p": "–", "p within": "–", "verdict": "reference", "lists needed": "–",
    }  # fmt: skip
    return [reference] + [
        {
            "method": label(one.method),
            "NDCG@6": _cell(found.mean(one.method)),
            "minus concat": f"{one.found:+}",
            "p": _p(one.p),
            "p within": _p(one.p_within),
            "verdict": one.verdict,
            "lists needed": f"{one.needed:,.0f}" if np.isfinite(one.needed) else "more seeds",
        }
        for one in found.contrasts
    ]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def metric_rows(found: Found) -> Rows:
    """All metrics of every method."""
    return [
        {"method": label(name), **_metrics(found, name)}
        for name in ("score", *found.planned.works)
    ]  # fmt: skip


def tuning_rows(found: Found) -> Rows:
    """Validation NDCG@6 of each learning rate, and the one that was chosen."""
    return [
        {
            "method": label(name),
            **{f"rate {rate:g}": f"{value:.4f}" for rate, value in tried.items()},
            "chosen": f"{found.runs.chosen(name):g}",
            "best epochs": ", ".join(str(one.best_epoch) for one in found.runs.of[name]),
        }
        for name, tried in found.runs.tried.items()
    ]


def robustness_rows(found: Found) -> Rows:
    """How much less each method drops than the score as a feature, by kind of disturbance."""
    if found.robustness is None:
        return []
    methods = [one.method for one in found.contrasts]
    return [
        {
            "scores": DISTURBED[point],
            **{label(name): _cell(found.robustness.drops[point][name], "+") for name in methods},
        }
        for point in POINTS[1:]
    ]


def cost_rows(found: Found) -> Rows:
    """Training and serving of each method."""
    plain = _speed(found.runs.of[REFERENCE])
    return [
        {
            "method": label(name),
            "a run": duration(_median(found.runs.of[name], "seconds")),
            "all training lists": duration(found.full_seconds[name]),
            "lists/s": f"{_speed(found.runs.of[name]):,.0f}",
            "time a list": f"{plain / _speed(found.runs.of[name]):.2f}\N{NO-BREAK SPACE}×",
            "training MiB": f"{found.training_mib[name]:,.1f}",
            "parameters": f"{_median(found.runs.of[name], 'parameters'):,.0f}",
            **_serving(found, name),
        }
        for name in found.planned.works
    ]


def _serving(found: Found, method: str) -> dict[str, str]:
    if method not in found.serving:
        return {"serving ms": "–", "same graph": "–"}
    one = found.serving[method]
    same = {True: "yes", False: "no", None: "not known"}[one.same_graph]
    return {"serving ms": f"{one.milliseconds:.2f}", "same graph": same}


def _speed(records: Sequence[Record]) -> float:
    return _median(records, "lists_per_second")


def _median(records: Sequence[Record], name: str) -> float:
    return float(np.median([float(record.cost[name]) for record in records]))


def map_rows(found: Found) -> Rows:
    """What the map of *When denoising helps* asks for, and what it says."""
    place = found.place
    gain = {True: "outside of the map: that world has no such scores", False: "not computed"}
    values = {
        "AUC of the score in test": f"{place.seen.test_auc:.3f}",
        "excess of it in training": f"{place.seen.gap:+.3f}",
        "mean and spread of the score's logit": f"{place.seen.bias:+.2f}, {place.seen.width:.2f}",
        "training pairs": f"{place.seen.pairs:,}",
        "pairs for each parameter": f"{place.per_parameter:.2f}",
        "gain in AUC by its poor reading": _cell(place.poor, "+")
        if place.poor else gain[not place.within],
        "gain in AUC by its rich reading": _cell(place.rich, "+")
        if place.rich else gain[not place.within],
    }  # fmt: skip
    return [{"what": name, "here": text} for name, text in values.items()]


def run_rows(found: Found) -> Rows:
    """The names of the runs behind the figures."""
    return [
        {"method": label(name), "seed": one.seed, "NDCG@6": f"{one.metrics['test']['ndcg@6']:.4f}",
         "run": one.run}
        for name, group in found.runs.of.items() for one in group
    ]  # fmt: skip
