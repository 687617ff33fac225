"""The exercises on words: answers in other words are right, and each mistake is named."""

import pytest
import torch
from exercise_checks import check_exercise

from dnrlib.exercises.semantics import EXERCISES as OWN


def own_cosine(history, candidates):
    taste = history.sum(dim=0)
    return torch.stack([row @ taste / (row.norm() * taste.norm()) for row in candidates])


def own_flops(size, prompt, title, candidates):
    once = 2 * size * prompt + sum(2 * size * title for _ in range(candidates))
    again = sum(2 * size * (prompt + title) for _ in range(candidates))
    return torch.tensor([once, again])


ANSWERS = {"cosine_to_history": own_cosine, "language_model_flops": own_flops}


@pytest.mark.parametrize("exercise", OWN, ids=lambda exercise: exercise.name)
def test_truth_stub_and_each_mistake(exercise):
    check_exercise(exercise, ANSWERS[exercise.name])
