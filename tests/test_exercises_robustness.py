"""The exercises on robustness: answers in other words are right, and each mistake is named."""

import math
import statistics

import pytest
import torch
from exercise_checks import check_exercise

from dnrlib.exercises.robustness import EXERCISES as OWN


def own_noisy_scores(x, noise, sigma):
    odds = x / (1 - x) * torch.exp(sigma * noise)
    return odds / (1 + odds)


def own_drop_difference(clean, bad, clean_reference, bad_reference):
    columns = (clean, bad, clean_reference, bad_reference)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    drops = [(c - d) - (a - b) for a, b, c, d in rows]
    error = statistics.stdev(drops) / math.sqrt(len(drops))
    return torch.tensor([statistics.mean(drops), error])


ANSWERS = {"noisy_scores": own_noisy_scores, "drop_difference": own_drop_difference}


@pytest.mark.parametrize("exercise", OWN, ids=lambda exercise: exercise.name)
def test_truth_stub_and_each_mistake(exercise):
    check_exercise(exercise, ANSWERS[exercise.name])
