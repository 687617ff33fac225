"""The exercises on the cascade: answers in other words are right as well."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from dnrlib.exercises import check
from dnrlib.exercises.cascade import EXERCISES


def own_ndcg(labels, k):
    """The logarithm's base cancels."""
    found = sum(label / math.log(place + 2) for place, label in enumerate(labels[:k]))
    ideal = sum(1 / math.log(place + 2) for place in range(min(int(sum(labels)), k)))
    return found / ideal


def own_bias_and_spread(x, z):
    rows = []
    for label in (0, 1):
        noise = [a - b for a, b in zip(x, z, strict=True) if b == label]
        bias = sum(noise) / len(noise)
        rows.append([bias, math.sqrt(sum(e * e for e in noise) / len(noise) - bias**2)])
    return rows


def own_time_split(times):
    latest_first = sorted(times, reverse=True)
    return [max(2 - latest_first.index(time), 0) for time in times]


def own_expected_random_ndcg(positives, n, k):
    return positives / n * own_ideal(k) / own_ideal(min(positives, k))


def own_ideal(places):
    return sum(1 / math.log2(place + 2) for place in range(places))


def own_reranker_loss(logits, noisy_logits, labels, lambda_m):
    def loss(given):
        p = torch.sigmoid(given)
        return -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()

    return loss(logits) + lambda_m * loss(noisy_logits)


def own_best_share(v_direct, v_z, lambda_m):
    shares = np.linspace(0, 1, 2_000_001)[1:-1]
    return shares[(v_direct / (1 - shares) + lambda_m**2 * v_z / shares).argmin()]


def own_variance_ratio(v_direct, v_z, covariance, lambda_m, share):
    one = v_direct / (1 - share) + lambda_m**2 * v_z / share
    return one / (v_direct + lambda_m * (lambda_m * v_z + 2 * covariance))


ANSWERS = {
    "ndcg": own_ndcg,
    "bias_and_spread": own_bias_and_spread,
    "time_split": own_time_split,
    "expected_random_ndcg": own_expected_random_ndcg,
    "synthetic": lambda z, epsilon, lambda_c: z + lambda_c * (epsilon - z),
    "reranker_loss": own_reranker_loss,
    "best_share": own_best_share,
    "variance_ratio": own_variance_ratio,
}


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
@pytest.mark.equation(
    "eq-ndcg", "eq-list-ndcg", "eq-random-ndcg", "eq-noise", "eq-synthetic", "eq-theta"
)
def test_an_answer_in_other_words_is_right(exercise):
    assert repr(check(exercise.name, exercise.truth)).startswith("Right: ")
    assert repr(check(exercise.name, ANSWERS[exercise.name])).startswith("Right: ")


@pytest.mark.parametrize(("positives", "n", "k"), [(2, 5, 3), (3, 5, 2), (1, 4, 4)])
def test_the_expected_ndcg_is_the_mean_over_all_orders(positives, n, k):
    labels = [int(place < positives) for place in range(n)]
    mean = np.mean([own_ndcg(order, k) for order in permutations(labels)])
    [exercise] = [one for one in EXERCISES if one.name == "expected_random_ndcg"]
    assert exercise.truth(positives, n, k) == pytest.approx(mean)
    assert own_expected_random_ndcg(positives, n, k) == pytest.approx(mean)
