"""The exercises on results: answers in other words are right, and each mistake is named."""

import pytest
import torch
from exercise_checks import check_exercise
from scipy.stats import kendalltau

from dnrlib.exercises.results import EXERCISES as OWN
from dnrlib.statistics import holm


def own_adjusted(p):
    found = holm({str(i): value for i, value in enumerate(p.tolist())})
    return torch.tensor([found[str(i)] for i in range(len(p))])


def own_interaction(plain, treated):
    total = 0.0
    for place in range(plain.shape[1]):
        total += float(treated[1, place] - treated[0, place] - plain[1, place] + plain[0, place])
    return total / plain.shape[1]


def own_flatness(values):
    rows = values.tolist()
    means = [sum(row) / len(row) for row in rows]
    squares = [
        sum((x - mean) ** 2 for x in row) / (len(row) - 1)
        for row, mean in zip(rows, means, strict=True)
    ]
    return (max(means) - min(means)) / (sum(squares) / len(squares)) ** 0.5


def own_rank_agreement(first, second):
    return kendalltau(first, second).statistic


def own_excluded_size(mean, error, quantile):
    return max(mean + quantile * error, quantile * error - mean)


def own_chosen_by_validation(validation, test):
    means = validation.mean(dim=1).tolist()
    return sum(test[means.index(max(means))].tolist()) / test.shape[1]


ANSWERS = {
    "adjusted": own_adjusted,
    "rank_agreement": own_rank_agreement,
    "excluded_size": own_excluded_size,
    "interaction": own_interaction,
    "chosen_by_validation": own_chosen_by_validation,
    "flatness": own_flatness,
}


@pytest.mark.parametrize("exercise", OWN, ids=lambda exercise: exercise.name)
def test_truth_stub_and_each_mistake(exercise):
    check_exercise(exercise, ANSWERS[exercise.name])
