"""The exercises on online tests: answers in other words are right, and each mistake is named."""

import math

import numpy as np
import pytest
import scipy.stats
from exercise_checks import check_exercise

from dnrlib.exercises import EXERCISES
from dnrlib.exercises.online import EXERCISES as OWN
from dnrlib.simulation.experiment import lifts, moments, sample_ratio_mismatch


def own_mismatch(counts, shares):
    return scipy.stats.chisquare(counts, counts.sum() * shares).pvalue


def own_ratio_error(y, per):
    (v_y, covariance), (_, v_per) = np.cov(y, per) / len(y)
    ratio = y.mean() / per.mean()
    return math.sqrt(v_y - 2 * ratio * covariance + ratio**2 * v_per) / per.mean()


def own_alarms(z):
    return sum(max(abs(look) for look in test) > 1.96 for test in z) / len(z)


def own_winners(estimates, errors, truth):
    pairs = zip(estimates, errors, strict=True)
    kept = [abs(one) for one, error in pairs if abs(one) > 1.96 * error]
    return sum(kept) / len(kept) / abs(truth)


ANSWERS = {
    "mismatch": own_mismatch,
    "ratio_error": own_ratio_error,
    "alarms": own_alarms,
    "winners": own_winners,
}


@pytest.mark.parametrize("exercise", OWN, ids=lambda exercise: exercise.name)
def test_truth_stub_and_each_mistake(exercise):
    check_exercise(exercise, ANSWERS[exercise.name])


def test_the_library_agrees():
    counts, shares = EXERCISES["mismatch"].cases["three arms"]
    assert sample_ratio_mismatch(counts, shares.tolist()) == own_mismatch(counts, shares)
    y, per = EXERCISES["ratio_error"].cases["six users"]
    arm = moments({"y": y, "per": per})
    expected = math.sqrt(2) * own_ratio_error(y, per) / (y.sum() / per.sum())
    assert lifts([arm, arm], "y", "per")[1].error == pytest.approx(100 * expected)
