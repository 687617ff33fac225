"""The exercises on noise: answers in other words are right as well."""

import numpy as np
import pytest
import torch

from dnrlib.exercises import EXERCISES, check
from dnrlib.exercises.noise import EXERCISES as OWN

NAMES = [exercise.name for exercise in OWN]


def own_ks(a, b):
    points = np.concatenate([a, b])
    return max(abs(np.mean(a <= point) - np.mean(b <= point)) for point in points)


def own_wasserstein(a, b):
    return np.mean(np.abs(np.sort(a) - np.sort(b)))


def own_pooled(given_0, given_1, share):
    return given_0 - share * (given_0 - given_1)


ANSWERS = {"ks": own_ks, "wasserstein": own_wasserstein, "pooled_wasserstein": own_pooled}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.equation("eq-noise-ks", "eq-noise-wasserstein", "eq-noise-pooled-parts")
def test_an_answer_in_other_words_is_right(name):
    assert check(name, ANSWERS[name]).passed
    assert check(name, EXERCISES[name].truth).passed
    assert check(name, lambda *given: torch.tensor(ANSWERS[name](*given))).passed
