"""The exercises of the page Claims: answers in other words are right, mistakes are named."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dnrlib import metrics
from dnrlib.exercises import EXERCISES, check
from dnrlib.exercises.claims import EXERCISES as OWN

NAMES = [exercise.name for exercise in OWN]


def own_holm(p):
    """The least level at which the step-down procedure rejects, by its definition."""
    return [max(min(1.0, sum(p >= q) * q) for q in p[p <= one]) for one in p]


def own_seeds(spread, difference):
    widths = {n: stats.t.interval(0.95, n - 1, scale=spread / math.sqrt(n)) for n in range(2, 999)}
    return min(n for n, (_, high) in widths.items() if high <= difference)


def own_same(low, high, margin):
    within, beyond = max(abs(low), abs(high)) < margin, min(abs(low), abs(high)) > margin
    return int(within) - int(beyond and low * high > 0)


ANSWERS = {"holm_adjusted": own_holm, "seeds_needed": own_seeds, "told_same": own_same}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.equation("eq-claims-holm")
def test_an_answer_in_other_words_is_right(name):
    assert check(name, ANSWERS[name]).passed
    assert check(name, EXERCISES[name].truth).passed


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_answer_is_not_yet_one(name):
    assert repr(check(name, lambda *given: None)).startswith("Not yet")


@pytest.mark.parametrize(
    ("name", "words"), [(exercise.name, words) for exercise in OWN for words in exercise.mistakes]
)
def test_each_mistake_is_named(name, words):
    found = check(name, EXERCISES[name].mistakes[words])
    assert not found.passed
    assert words in found.message


@pytest.mark.equation("eq-claims-hit")
@given(st.integers(0, 2**30), st.integers(1, 8))
def test_a_hit_ratio_is_never_below_ndcg_but_precision_can_be(seed, k):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(20, 8, generator=generator) < 0.3
    labels = labels[labels.any(1)]
    if len(labels):
        hit, gain = metrics.hit_ratio(labels, k), metrics.ndcg(labels, k)
        assert (gain <= hit + 1e-12).all()
    one = torch.zeros(1, 8, dtype=torch.bool)
    one[0, 0] = True
    assert metrics.precision(one, 6) < metrics.ndcg(one, 6) == np.float64(1)
