"""The exercises on neighbours: answers in other words are right, and each mistake is named."""

import math

import pytest
import torch
from exercise_checks import check_exercise

from dnrlib.exercises.neighbours import EXERCISES as OWN
from dnrlib.rerankers.hetcomp import distillation


def own_exchange_weights(gain):
    gain = gain.tolist()
    places = range(len(gain))
    dcg = sum(gain[k] / math.log2(k + 2) for k in places)

    def swapped(i, j):
        order = [*gain]
        order[i], order[j] = order[j], order[i]
        return sum(order[k] / math.log2(k + 2) for k in places)

    return torch.tensor([[abs(dcg - swapped(i, j)) / dcg for j in places] for i in places])


def own_order_likelihood(logits, top):
    rest, logarithm = [math.exp(x) for x in logits.tolist()], 0.0
    for _ in range(top):
        logarithm += math.log(rest[0] / sum(rest))
        rest.pop(0)
    return -logarithm


def own_worst_step(gradient, epsilon):
    length = math.sqrt(sum(x * x for x in gradient.tolist()))
    return torch.tensor([epsilon * x / length for x in gradient.tolist()])


ANSWERS = {
    "exchange_weights": own_exchange_weights,
    "order_likelihood": own_order_likelihood,
    "worst_step": own_worst_step,
}


@pytest.mark.parametrize("exercise", OWN, ids=lambda exercise: exercise.name)
def test_truth_stub_and_each_mistake(exercise):
    check_exercise(exercise, ANSWERS[exercise.name])


@pytest.mark.equation("eq-hetcomp")
def test_the_order_s_likelihood_is_the_fine_loss():
    logits, labels = torch.tensor([[0.5, 2.0, -1.0, 0.3]]), torch.zeros(1, 4, dtype=torch.bool)
    falling = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    fine = distillation(logits, falling, labels, 2, fine=True).item()
    assert fine == pytest.approx(own_order_likelihood(logits[0], 2) / 2, abs=1e-6)
