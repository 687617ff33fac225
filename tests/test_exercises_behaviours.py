"""The exercises on several kinds of feedback: answers in other words are right."""

import math

import pytest
import torch
from exercise_checks import check_exercise

from dnrlib.exercises.behaviours import EXERCISES as OWN


def own_mean_noise(behaviours, epsilon, lambda_c):
    kinds = [one.double() for one in behaviours.unbind(dim=-1)]
    return (sum(kinds) / len(kinds)).lerp(epsilon.double(), lambda_c).float()


def own_noise_matrix(with_noise, without):
    def mean(values):
        kept = [value for value in values if not math.isnan(value)]
        return sum(kept) / len(kept)

    return torch.tensor(
        [[mean((cell - base).tolist()) for cell, base in zip(row, without, strict=True)]
         for row in with_noise]
    )  # fmt: skip


ANSWERS = {"mean_noise": own_mean_noise, "noise_matrix": own_noise_matrix}


@pytest.mark.equation("eq-kinds-matrix")
@pytest.mark.parametrize("exercise", OWN, ids=lambda exercise: exercise.name)
def test_truth_stub_and_each_mistake(exercise):
    check_exercise(exercise, ANSWERS[exercise.name])
