"""Exercises of *Two stages*, *Data and protocols*, *Training with DNR* and *What it costs*."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from dnrlib import losses, metrics
from dnrlib.estimators import GradientVariance
from dnrlib.exercises.core import Exercise

Labels = Int[np.ndarray, " n"]
Values = Float[np.ndarray, " m"]
Logits = Float[Tensor, "lists n"]


def ndcg(labels: Labels, k: int) -> float:
    """NDCG@k of the labels of one list in ranked order, {eq}`eq-ndcg`."""
    return float(metrics.ndcg(torch.as_tensor(labels)[None].bool(), k))


def bias_and_spread(x: Values, z: Values) -> Float[np.ndarray, "2 2"]:
    """Mean and standard deviation of x - z given z = 0 and given z = 1, one row each."""
    noise = [(x - z)[z == label] for label in (0, 1)]
    return np.array([[given.mean(), given.std()] for given in noise])


def time_split(times: Values) -> Int[np.ndarray, " m"]:
    """0 (training), 1 (validation) or 2 (test) for each list of one user."""
    from_the_end = (times[:, None] < times).sum(1)
    return np.maximum(2 - from_the_end, 0)


def expected_random_ndcg(positives: int, n: int, k: int) -> float:
    """Expected NDCG@k of a random order, {eq}`eq-random-ndcg`."""
    labels = torch.arange(n)[None] < positives
    return float(metrics.expected_random_ndcg(labels, k))


def synthetic(z: Values, epsilon: Values, lambda_c: float) -> Values:
    """x' of {eq}`eq-synthetic`."""
    return (1 - lambda_c) * z + lambda_c * epsilon


def reranker_loss(
    logits: Logits, noisy_logits: Logits, labels: Logits, lambda_m: float
) -> Float[Tensor, ""]:
    """L_θ of {eq}`eq-theta` in nats a candidate."""
    z = labels.bool()
    return losses.bernoulli(logits, z) + lambda_m * losses.bernoulli(noisy_logits, z)


def best_share(v_direct: float, v_z: float, lambda_m: float) -> float:
    """s* of the theorem on one pass."""
    return GradientVariance(v_direct, v_z, 0.0, lambda_m).best_share


def variance_ratio(
    v_direct: float, v_z: float, covariance: float, lambda_m: float, share: float
) -> float:
    """Variance of one pass over that of two, by the theorem on one pass."""
    variance = GradientVariance(v_direct, v_z, covariance, lambda_m)
    return variance.mixed(share) / variance.exact


def _over_ideal(gains: Num[np.ndarray, " n"], k: int, ideal: int) -> float:
    """DCG@k over that of so many positives at the top."""
    discounts = 1 / np.log2(np.arange(len(gains)) + 2)
    return float((gains * discounts)[:k].sum() / discounts[:ideal].sum())


def _without_cut(labels: Labels, k: int) -> float:
    return _over_ideal(labels, len(labels), min(int(labels.sum()), k))


def _root_mean_square(x: Values, z: Values) -> Float[np.ndarray, "2 2"]:
    found = bias_and_spread(x, z)
    return np.stack([found[:, 0], np.hypot(*found.T)], 1)


def _pooled(x: Values, z: Values) -> Float[np.ndarray, "2 2"]:
    return np.array([[(x - z).mean(), (x - z).std()]] * 2)


def _by_place(times: Values) -> Int[np.ndarray, " m"]:
    return np.maximum(np.arange(len(times)) - len(times) + 3, 0)


def _mean_error(logits: Logits, labels: Logits) -> Float[Tensor, ""]:
    return (logits.sigmoid() - labels).square().mean()


def _given(seed: int) -> tuple[Logits, Logits, Logits]:
    random = torch.Generator().manual_seed(seed)
    logits, noisy = torch.randn(2, 3, 4, generator=random, dtype=torch.float64)
    return logits, noisy, (logits + noisy > 0).double()


EXERCISES = [
    Exercise(
        "ndcg",
        ndcg,
        {
            "two positives": (np.array([0, 1, 0, 0, 1, 0, 0, 0]), 6),
            "more positives than places": (np.array([1, 0, 1, 1, 1, 0]), 3),
            "a positive behind the cut": (np.array([0, 1, 0, 0, 0, 1]), 3),
            "none in the first places": (np.array([0, 0, 0, 1]), 2),
        },
        {
            "The ideal order is not cut: with more than k positives it fills the k places, and "
            "no more.": lambda labels, k: _over_ideal(labels, k, int(labels.sum())),
            "The ideal order has k positives even where the list has fewer: a perfect order of "
            "such a list would not get one.": lambda labels, k: _over_ideal(labels, k, k),
            "Positives behind place k count too: cut the sum at k.": _without_cut,
            "That is the share of hits among the k places: each place needs its discount.": (
                lambda labels, k: labels[:k].mean()
            ),
        },
    ),
    Exercise(
        "bias_and_spread",
        bias_and_spread,
        {
            "four candidates": (np.array([0.9, 0.7, 0.2, 0.4]), np.array([1.0, 0.0, 0.0, 1.0])),
            "few liked": (
                np.array([0.3, 0.6, 0.5, 0.8, 0.1, 0.7]),
                np.array([0.0, 0.0, 1.0, 0.0, 0.0, 1.0]),
            ),
            "no noise": (np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0])),
        },
        {
            "The sign is wrong: the noise is x - z.": lambda x, z: bias_and_spread(x, z) * [-1, 1],
            "The rows have changed places: the first is z = 0.": lambda x, z: bias_and_spread(x, z)[
                [1, 0]
            ],
            "That is the root mean square: the spread leaves the bias out.": _root_mean_square,
            "That is the noise of all candidates: take those of each label by themselves.": _pooled,
        },
    ),
    Exercise(
        "time_split",
        time_split,
        {
            "in order of time": (np.array([1.0, 2.0, 5.0, 9.0]),),
            "in another order": (np.array([5.0, 1.0, 9.0, 2.0, 7.0]),),
            "two lists": (np.array([8.0, 3.0]),),
            "one list": (np.array([4.0]),),
        },
        {
            "You went by the place in the array: what counts is the time.": _by_place,
            "Time runs backwards: the test list is the last one.": lambda times: time_split(-times),
            "Validation and test have changed places: the last list is for the test.": (
                lambda times: np.array([0, 2, 1])[time_split(times)]
            ),
        },
    ),
    Exercise(
        "expected_random_ndcg",
        expected_random_ndcg,
        {
            "five of fifty": (5, 50, 6),
            "more positives than places": (8, 20, 6),
            "all positive": (4, 4, 3),
            "one place": (3, 10, 1),
        },
        {
            "The ideal order is not cut: its sum ends at min(P, K).": lambda positives, n, k: (
                _over_ideal(np.full(n, positives / n), k, positives)
            ),
            "That is P / n, which is right for P ≥ K; with fewer positives the ideal sum ends at "
            "P.": lambda positives, n, k: positives / n,
            "The chance that a place is positive is missing: P / n.": lambda positives, n, k: (
                _over_ideal(np.ones(n), k, min(positives, k))
            ),
        },
    ),
    Exercise(
        "synthetic",
        synthetic,
        {
            "some noise": (np.array([0.0, 1.0, 1.0]), np.array([0.8, 0.1, 0.6]), 0.4),
            "none": (np.array([0.0, 1.0]), np.array([0.3, 0.3]), 0.0),
            "nothing else": (np.array([0.0, 1.0]), np.array([-1.2, 0.3]), 1.0),
        },
        {
            "The weights have changed places: λ_c is the share of noise.": lambda z, epsilon, c: (
                synthetic(epsilon, z, c)
            ),
            "The label kept its full weight: it gets 1 - λ_c.": lambda z, epsilon, c: (
                z + c * epsilon
            ),
            "The noise has its full weight: it gets λ_c.": lambda z, epsilon, c: (
                (1 - c) * z + epsilon
            ),
        },
    ),
    Exercise(
        "reranker_loss",
        reranker_loss,
        {
            "half the weight": (*_given(1), 0.5),
            "full weight": (*_given(2), 1.0),
            "no weight": (*_given(3), 0.0),
        },
        {
            "The weights sum to one there: L_direct keeps its full weight.": (
                lambda logits, noisy, labels, weight: (
                    reranker_loss(logits, noisy, labels, weight)
                    - weight * reranker_loss(logits, noisy, labels, 0.0)
                )
            ),
            "That is a sum: in nats a candidate the loss is a mean.": (
                lambda logits, noisy, labels, weight: (
                    reranker_loss(logits, noisy, labels, weight) * labels.numel()
                )
            ),
            "The sign is wrong: a loss is minus the log-likelihood.": (
                lambda *given: -reranker_loss(*given)
            ),
            "That is a squared error: the loss is the negative log-likelihood of each label.": (
                lambda logits, noisy, labels, weight: (
                    _mean_error(logits, labels) + weight * _mean_error(noisy, labels)
                )
            ),
        },
    ),
    Exercise(
        "best_share",
        best_share,
        {
            "equal variances": (1.0, 1.0, 0.5),
            "a noisy direct gradient": (4.0, 1.0, 0.5),
            "a large weight": (1.0, 3.0, 2.0),
        },
        {
            "That divides the lists in proportion to variances; it should be standard "
            "deviations.": lambda v_direct, v_z, weight: (
                weight**2 * v_z / (v_direct + weight**2 * v_z)
            ),
            "That is the share of the real scores, 1 - s*.": lambda *given: 1 - best_share(*given),
            "The weight is missing: λ_m scales the gradient of L_z, and so its standard "
            "deviation.": lambda v_direct, v_z, weight: best_share(v_direct, v_z, 1.0),
        },
    ),
    Exercise(
        "variance_ratio",
        variance_ratio,
        {
            "uncorrelated": (1.0, 1.0, 0.0, 0.5, 1 / 3),
            "correlated": (2.0, 1.0, 0.5, 0.5, 0.4),
            "opposed": (1.0, 3.0, -0.5, 1.0, 0.7),
        },
        {
            "The covariance is missing: in two passes the same list gives both gradients.": (
                lambda v_direct, v_z, c, weight, s: variance_ratio(v_direct, v_z, 0.0, weight, s)
            ),
            "The shares have changed places: s is that of the synthetic scores.": (
                lambda v_direct, v_z, c, weight, s: variance_ratio(v_direct, v_z, c, weight, 1 - s)
            ),
            "That is two passes over one: wanted is the inverse.": (
                lambda *given: 1 / variance_ratio(*given)
            ),
            "The weight counts squared where it multiplies a variance.": (
                lambda v_direct, v_z, c, weight, s: (
                    (v_direct / (1 - s) + weight * v_z / s)
                    / (v_direct + weight * v_z + 2 * weight * c)
                )
            ),
        },
    ),
]
