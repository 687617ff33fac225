"""Exercises of the chapter *When denoising helps*."""

from __future__ import annotations

import numpy as np

from dnrlib import phases
from dnrlib.exercises.core import Exercise

_WORLD = phases.Candidates(contexts=3, levels=4)
_COUNTS = phases.draw(_WORLD.train, 40, 1)[0].astype(float)
_PHI = {kind: phases.generator(kind, _WORLD) for kind in ("beta", "gaussian", "uninformed")}


def _added(counts: np.ndarray, phi: np.ndarray, lambda_m: float) -> np.ndarray:
    return phases.with_denoising(counts[None], phi, lambda_m)[0]


def _unlimited_gain(joint: np.ndarray, phi: np.ndarray, lambda_m: float) -> float:
    logits = phases.best_logits(joint, phi, lambda_m)
    return float(phases.best_loss(joint) - phases.loss(logits[None], joint)[0])


def _without_context(joint: np.ndarray, phi: np.ndarray, lambda_m: float) -> float:
    """L_z with p(z) in place of p(c, z)."""
    invented = np.broadcast_to((joint.sum(axis=(0, 1)) * phi.T)[None], joint.shape) / len(joint)
    law = joint + lambda_m * invented
    logits = np.log(law[..., 1] / law[..., 0])
    return float(phases.best_loss(joint) - phases.loss(logits[None], joint)[0])


def _own_loss(joint: np.ndarray, phi: np.ndarray, lambda_m: float) -> float:
    """Judged by the objective that was trained, not by the test loss."""
    law = _added(joint, phi, lambda_m)
    return float(phases.best_loss(joint) - phases.best_loss(law))


def _level_auc(law: np.ndarray) -> float:
    levels = np.arange(law.shape[1], dtype=float)
    return float(phases.auc(levels[None], law.T)[0])


def _ties(law: np.ndarray, worth: float) -> float:
    disliked, liked = law
    below = disliked.cumsum() - disliked
    return float((liked * (below + worth * disliked)).sum())


EXERCISES: list[Exercise] = [
    Exercise(
        "denoised_counts",
        _added,
        {
            "Beta noise": (_COUNTS, _PHI["beta"], 0.5),
            "Gaussian noise, full weight": (_COUNTS, _PHI["gaussian"], 1.0),
            "no weight": (_COUNTS, _PHI["beta"], 0.0),
        },
        {
            "The direct pairs are missing: L_z is added to L_direct and does not replace it.": (
                lambda counts, phi, weight: _added(counts, phi, weight) - counts
            ),
            "The labels are swapped: a liked pair gets its score from p_φ(x' | z = 1).": (
                lambda counts, phi, weight: _added(counts, phi[::-1], weight)
            ),
            "That shares one pair's weight among both losses. In L_direct + λ_m L_z the "
            "direct pairs keep their full weight.": (
                lambda counts, phi, weight: (
                    (1 - weight) * counts + _added(counts, phi, weight) - counts
                )
            ),
            "The number of pairs of that context and label is missing: every real pair invents "
            "its own.": (lambda counts, phi, weight: counts + weight * phi.T[None]),
        },
    ),
    Exercise(
        "unlimited_gain",
        _unlimited_gain,
        {
            "Beta noise": (_WORLD.test, _PHI["beta"], 0.5),
            "Gaussian noise": (_WORLD.test, _PHI["gaussian"], 2.0),
            "scores that say nothing": (_WORLD.test, _PHI["uninformed"], 0.5),
            "no weight": (_WORLD.test, _PHI["beta"], 0.0),
        },
        {
            "That is the loss added; the gain is its negative, and never positive here.": (
                lambda joint, phi, weight: -_unlimited_gain(joint, phi, weight)
            ),
            "L_z keeps the context: weigh p_φ(x | z) by p(c, z), not by p(z).": _without_context,
            "That compares the values of two objectives. Judge both rerankers by the same test "
            "loss, under the law of real scores.": _own_loss,
        },
        tolerance=1e-8,
    ),
    Exercise(
        "auc_of_levels",
        _level_auc,
        {
            "true scores": (phases.generator("oracle", _WORLD),),
            "Gaussian noise": (_PHI["gaussian"],),
            "scores that say nothing": (_PHI["uninformed"],),
        },
        {
            "Equal levels count one half; that counts them as lost.": lambda law: _ties(law, 0),
            "Equal levels count one half; that counts them as won.": lambda law: _ties(law, 1),
            "The rows are swapped: row 0 is z = 0, row 1 is z = 1.": (
                lambda law: _ties(law[::-1], 0.5)
            ),
        },
    ),
]
