"""The exercises on protocols and on the gain: answers in other words are right."""

import itertools
import math
import statistics

import numpy as np
import pytest
from exercise_checks import check_exercise

from dnrlib.exercises.protocol_study import EXERCISES as OWN


def own_expected_shown_first(liked, shown, k):
    """Over all orders of the shown candidates."""
    orders = set(itertools.permutations([1] * liked + [0] * (shown - liked)))
    ideal = sum(1 / math.log2(place + 2) for place in range(min(liked, k)))
    sums = [sum(z / math.log2(place + 2) for place, z in enumerate(o[:k])) for o in orders]
    return statistics.mean(sums) / ideal


def own_mean_range(results):
    return statistics.mean(max(row) - min(row) for row in results.tolist())


def own_optimism(train_x, train_z, test_x, test_z):
    def slope(x, z):  # of the least squares line through scores at labels 0 and 1
        return np.polyfit(z, x, 1)[0]

    return slope(train_x, train_z) - slope(test_x, test_z)


def own_repair(dnr, concat, dnr_out, concat_out):
    each = [a - b - c + d for a, b, c, d in zip(dnr, concat, dnr_out, concat_out, strict=True)]
    return [statistics.mean(each), statistics.stdev(each) / math.sqrt(len(each))]


ANSWERS = {
    "expected_shown_first": own_expected_shown_first,
    "mean_range": own_mean_range,
    "score_optimism": own_optimism,
    "repair": own_repair,
}


@pytest.mark.parametrize("exercise", OWN, ids=lambda exercise: exercise.name)
@pytest.mark.equation("eq-shown-first", "eq-range", "eq-optimism", "eq-repair")
def test_truth_stub_and_each_mistake(exercise):
    check_exercise(exercise, ANSWERS[exercise.name])
