"""The exercises of *Your own cascade* know the truth and its mistakes."""

import math
from itertools import product

import numpy as np
import pytest

from dnrlib.exercises import check
from dnrlib.exercises.own_cascade import EXERCISES, border_step, needed_lists, unbiased_dcg
from dnrlib.report import lists_needed


def own_border_step(aucs, border, width):
    before = [a for a in aucs[border - width : border] if not math.isnan(a)]
    after = [a for a in aucs[border : border + width] if not math.isnan(a)]
    return sum(before) / len(before) - sum(after) / len(after)


def own_needed_lists(lists, squared_error, by_seed, seeds, effect, z):
    falls = lists * (squared_error * seeds - by_seed) * z**2
    return falls / (effect**2 * seeds - by_seed * z**2)


def own_unbiased_dcg(clicks, shown_at, examined, new_places):
    total = 0.0
    for row, old, new in zip(clicks, shown_at, new_places, strict=True):
        for click, place, other in zip(row, old, new, strict=True):
            total += click / examined[place] / math.log2(1 + (other + 1))
    return total / len(clicks)


ANSWERS = {
    "border_step": own_border_step,
    "needed_lists": own_needed_lists,
    "unbiased_dcg": own_unbiased_dcg,
}


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.name)
@pytest.mark.equation("eq-own-cascade-ips", "eq-own-cascade-needed")
def test_an_answer_in_other_words_is_right(exercise):
    assert check(exercise.name, ANSWERS[exercise.name]).passed
    assert check(exercise.name, exercise.truth).passed


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.name)
def test_an_empty_answer_is_told_so_and_each_mistake_is_named(exercise):
    assert repr(check(exercise.name, lambda *_: ...)).startswith("Not yet: ")
    for words, mistake in exercise.mistakes.items():
        assert check(exercise.name, mistake).message.endswith(words)


def test_without_a_step_there_is_none():
    assert border_step(np.full(20, 0.7), 10, 4) == pytest.approx(0)


@pytest.mark.equation("eq-own-cascade-ips")
def test_weighted_clicks_are_the_dcg_of_looking_at_everything_on_average():
    """Over every pattern of looks, each with its probability."""
    liked = np.array([[1.0, 0.0, 1.0]])
    old, new, examined = np.array([[2, 0, 1]]), np.array([[0, 1, 2]]), np.array([0.9, 0.5, 0.3])
    expected = 0.0
    for looks in product([0, 1], repeat=3):
        seen = np.array([looks])
        chance = np.where(seen == 1, examined[old], 1 - examined[old]).prod()
        expected += chance * unbiased_dcg(liked * seen, old, examined, new)
    assert expected == pytest.approx(unbiased_dcg(liked, old, np.ones(3), new))


@pytest.mark.equation("eq-own-cascade-needed")
def test_the_exercise_is_what_the_report_computes():
    from scipy.stats import norm

    from dnrlib.report.answer import _by_seed_alone
    from dnrlib.statistics import estimate

    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.1, (3, 400)) + rng.normal(0, 0.002, (3, 1))
    z = norm.ppf(1 - 0.05 / 2) + norm.ppf(0.8)
    squared = estimate(values).error ** 2
    wanted = needed_lists(400, squared, _by_seed_alone(values), 3, 0.02, z)
    assert lists_needed(values, 0.02) == math.ceil(wanted)
