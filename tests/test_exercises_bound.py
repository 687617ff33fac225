"""The exercises on the evidence bound: answers in other words, and each mistake."""

import pytest
import torch
from exercise_checks import check_exercise

from dnrlib.exercises.bound import EXERCISES as OWN


def own_model_posterior(p_x, q):
    rows = []
    for column in q.T:
        weight = p_x * column
        rows.append(weight / weight.sum())
    return torch.stack(rows)


def own_evidence_bound(phi, q, p_x):
    met = own_model_posterior(p_x, q)
    return -(p_x @ q).log() + (phi * (phi / met).log()).sum(1)


ANSWERS = {"model_posterior": own_model_posterior, "evidence_bound": own_evidence_bound}


@pytest.mark.parametrize("exercise", OWN, ids=lambda exercise: exercise.name)
def test_truth_stub_and_each_mistake(exercise):
    check_exercise(exercise, ANSWERS[exercise.name])
