"""The exercises on the evidence bound: answers in other words, and each mistake."""

import pytest
import torch

from dnrlib.exercises import EXERCISES, check
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
    assert check(exercise.name, ANSWERS[exercise.name]).passed
    assert EXERCISES[exercise.name] is exercise
    assert exercise.check(exercise.truth).passed
    assert repr(exercise.check(lambda *given: ...)).startswith("Not yet")
    for words, mistake in exercise.mistakes.items():
        feedback = exercise.check(mistake)
        assert not feedback.passed
        assert feedback.message.endswith(words)
