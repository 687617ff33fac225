"""What the score alone is worth, what protocol the lists look like, and what is odd about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from sklearn.calibration import calibration_curve

from dnrlib.lists import CandidateLists
from dnrlib.log import SPLITS
from dnrlib.metrics import auc, auc_shown_vs_rest, expected_random_ndcg, ndcg, rank
from dnrlib.statistics import Estimate, estimate

K = 6
BLOCKS = 20
"""Of the log in time, each with its own AUC."""
BINS = 10
"""Of the calibration curve, with as many candidates each."""
SIDE = 0.1
"""How far from one half the AUC of shown against others says something of the protocol."""

Optional = Estimate | None


@dataclass(frozen=True)
class ScoreAlone:
    """The score of the lists, without any reranker.

    Args:
        ndcg: on the test lists, of the score, of it reversed, and expected of a random order.
        reversed_gain: NDCG@6 of the score reversed minus that of the score, on the test lists.
        auc: split -> mean over its lists; None where fewer than two define it.
        gap: AUC in training minus AUC in test.
        step: AUC in the last training lists minus AUC in the first validation lists.
        blocks: place in the log, 0 to 1, and AUC of the score, in order of time.
        borders: places in the log where validation and test begin.
        calibration: mean score and share of liked candidates, test, in bins of like size.
        shown_apart: AUC of shown against not shown candidates in test; None where all or an
            unknown part of them were shown.
    """

    ndcg: dict[str, Estimate]
    reversed_gain: Estimate
    auc: dict[str, Optional]
    gap: Optional
    step: Optional
    blocks: tuple[Float[np.ndarray, " blocks"], Float[np.ndarray, " blocks"]]
    borders: tuple[float, float]
    calibration: tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]
    shown_apart: Optional

    @property
    def reversed_is_better(self) -> bool:
        """Whether the score reversed ranks better than the score, beyond chance."""
        return self.reversed_gain.low > 0

    @property
    def in_sample(self) -> bool:
        """Whether the score tells likes better right before the split than right after."""
        return self.step is not None and self.step.low > 0

    def warnings(self) -> Iterator[str]:
        """What a reader has to know before believing any figure of the report."""
        if self.reversed_is_better:
            yield (
                "Your score reversed ranks better than your score: NDCG@6 "
                f"{self.ndcg['score-reversed'].mean:.3f} against {self.ndcg['score'].mean:.3f}. "
                "Either a small score means good, or the candidates that nobody saw were chosen "
                "by the score and count as disliked. In the second case the score says what was "
                "shown and not what is liked, any model that finds that out looks good offline, "
                "and no figure of this report says anything about service. Compare the shown "
                "candidates alone, or log what production really ranks."
            )
        if self.in_sample and self.step:
            yield (
                "The score looks in-sample: its AUC falls by "
                f"{self.step.mean:.3f} ({self.step.low:.3f} to {self.step.high:.3f}) from the last "
                "training lists to the first validation lists. A retriever that has seen the "
                "feedback of the training lists teaches the reranker to trust it too much. Log "
                "scores of a retriever that was trained before the request, and compare again."
            )
        elif self.gap is not None and self.gap.low > 0:
            yield (
                f"The score's AUC is {self.gap.mean:.3f} higher on training than on test lists, "
                "but there is no step at the border that could be told from chance: it may have "
                "seen the training lists, or tastes may drift away from it."
            )

    def looks_like(self) -> str:
        """Which protocol the lists look like, in words."""
        if self.shown_apart is None:
            return (
                "Which candidates were shown is not known, or all were: whether a low label means "
                "disliked or never seen cannot be told. A column shown would tell"
            )
        value, side = self.shown_apart.mean, self.shown_apart.mean - 0.5
        told = f"The score tells shown from other candidates with an AUC of {value:.3f}: "
        if side < -SIDE:
            return told + (
                "what was not shown scores higher, as under shown+retrieved, where the best of "
                "what was not shown is added. There the score reversed is hard to beat, and means "
                "nothing"
            )
        if side > SIDE:
            return told + (
                "what was not shown scores lower, as under shown+sampled or after a slate was "
                "cut off by score. A part of every figure is then knowing what was shown"
            )
        return told + (
            "hardly at all, as under retrieved, where candidates are what production retrieves"
        )


def score_alone(lists: CandidateLists, exposure: bool, by_user: bool = False) -> ScoreAlone:
    """Look at the score of all lists.

    Args:
        exposure: whether ``shown`` is known, and not made of the labels.
        by_user: intervals are over users, whose lists stay together; else over lists.
    """
    parts = {name: _in_time(lists.of_split(name)) for name in SPLITS}
    test = parts["test"]
    values = {name: auc(rank(part.scores, part.labels)).numpy() for name, part in parts.items()}
    groups = {name: (part.users if by_user else part.list).numpy() for name, part in parts.items()}
    clusters = groups["test"]
    orders = {"score": test.scores, "score-reversed": -test.scores}
    found = {name: ndcg(rank(x, test.labels), K).numpy() for name, x in orders.items()}
    found["random order"] = expected_random_ndcg(test.labels, K).numpy()
    apart = auc_shown_vs_rest(rank(test.scores, test.shown)).numpy()
    near = min(len(values["validation"]), len(values["train"]))
    return ScoreAlone(
        ndcg={name: estimate(value, clusters) for name, value in found.items()},
        reversed_gain=estimate(found["score-reversed"] - found["score"], clusters),
        auc={name: mean_of(value, groups[name]) for name, value in values.items()},
        gap=_less(values["train"], values["test"], groups["train"], clusters),
        step=_less(
            values["train"][-near:], values["validation"][:near],
            groups["train"][-near:], groups["validation"][:near],
        ),
        blocks=_blocks([values[name] for name in SPLITS]),
        borders=_borders([len(parts[name]) for name in SPLITS]),
        calibration=_calibration(test.scores, test.labels),
        shown_apart=mean_of(apart, clusters) if exposure else None,
    )  # fmt: skip


def mean_of(
    values: Float[np.ndarray, "*seeds lists"],
    clusters: Shaped[np.ndarray, " lists"] | None = None,
) -> Optional:
    """Mean with interval over the lists that define it; None where fewer than two clusters do."""
    rows = np.atleast_2d(values)
    known = ~np.isnan(rows).any(0)
    groups = np.flatnonzero(known) if clusters is None else clusters[known]
    return estimate(rows, clusters) if len(np.unique(groups)) > 1 else None


def _in_time(part: CandidateLists) -> CandidateLists:
    return part[part.list.argsort()]


def _less(
    first: Float[np.ndarray, " some"],
    second: Float[np.ndarray, " others"],
    of_first: Shaped[np.ndarray, " some"],
    of_second: Shaped[np.ndarray, " others"],
) -> Optional:
    """Mean of some lists less that of others; None where fewer than two of either define it.

    A user may have lists on both sides. What each user's lists pull the difference by, away from
    itself, is a sum of deviations from either mean; the error is that of the sum over users
    (Liang and Zeger 1986, for a constant and an indicator).
    """
    some, others = ~np.isnan(first), ~np.isnan(second)
    _, user = np.unique(np.append(of_first[some], of_second[others]), return_inverse=True)
    if min(some.sum(), others.sum(), user.max(initial=0) + 1) < 2:
        return None
    a, b = first[some], second[others]
    pulls = np.append((a - a.mean()) / len(a), (b.mean() - b) / len(b))
    by_user = np.bincount(user, weights=pulls)
    found = estimate(a.mean() - b.mean() + len(by_user) * by_user)
    dropped = len(first) + len(second) - len(pulls)
    return replace(found, lists=len(pulls), dropped=dropped)


def _blocks(
    parts: Sequence[Float[np.ndarray, " _"]],
) -> tuple[Float[np.ndarray, " blocks"], Float[np.ndarray, " blocks"]]:
    """The middle of each block and its mean AUC; no block spans two splits."""
    total, place, middles, means = sum(map(len, parts)), 0, [], []
    for part in parts:
        for block in np.array_split(part, max(1, round(BLOCKS * len(part) / total))):
            if (known := block[~np.isnan(block)]).size:
                middles.append((place + len(block) / 2) / total)
                means.append(known.mean())
            place += len(block)
    return np.array(middles), np.array(means)


def _borders(sizes: Sequence[int]) -> tuple[float, float]:
    train, validation, test = sizes
    total = train + validation + test
    return train / total, (train + validation) / total


def _calibration(
    scores: Float[torch.Tensor, "lists n"], labels: Bool[torch.Tensor, "lists n"]
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    if labels.all() or not labels.any() or bool((scores == scores.flatten()[0]).all()):
        return np.array([float(scores.mean())]), np.array([float(labels.double().mean())])
    liked, mean = calibration_curve(
        labels.flatten().numpy(), scores.flatten().numpy(), n_bins=BINS, strategy="quantile"
    )
    return mean, liked
