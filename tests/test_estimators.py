from dataclasses import replace

import pytest
import torch
from test_training import DIRECT, HEURISTIC, TRAIN, VALIDATION, Linear, prm, weights

from dnrlib.errors import ConfigError
from dnrlib.estimators import GradientVariance, gradient_variance
from dnrlib.training import Trainer, synthetic_lists

MANY = replace(HEURISTIC, clip=1e9, lambda_m=0.8)


def sampled(estimator, draws=3000, lists=12):
    """The variance of the trainer's own steps, one list's worth."""
    made = Trainer(Linear(), TRAIN, VALIDATION, replace(MANY, estimator=estimator))
    made.optimiser = torch.optim.SGD(made.reranker.parameters(), lr=0.0)
    rows = []
    torch.manual_seed(5)
    for _ in range(draws):
        made.step(TRAIN[torch.randint(len(TRAIN), (lists,))], phase=1)
        rows.append(torch.stack([p.grad for p in made.reranker.parameters()]))
    return lists * float(torch.stack(rows).double().var(dim=0).sum())


@pytest.mark.equation("eq-variances")
def test_the_formulas_foretell_the_variance_of_the_trainers_own_steps():
    made = Trainer(Linear(), TRAIN, VALIDATION, MANY)
    before = weights(made.reranker)
    found = gradient_variance(made, draws=3000, lists=1)
    assert torch.equal(weights(made.reranker), before)
    share = synthetic_lists(12, 0.8) / 12
    assert found.mixed(share) == pytest.approx(sampled("mixed"), rel=0.15)
    assert found.exact == pytest.approx(sampled("exact"), rel=0.15)
    assert found.mixed(share) > 1.1 * found.exact


def test_the_variance_of_a_list_does_not_depend_on_the_size_of_the_batch():
    one, many = (
        gradient_variance(Trainer(Linear(), TRAIN, VALIDATION, MANY), draws=4000, lists=lists)
        for lists in (1, 4)
    )
    # batches are drawn without replacement, which takes (N - lists) / (N - 1) off
    left = (len(TRAIN) - 4) / (len(TRAIN) - 1)
    assert many.direct == pytest.approx(one.direct * left, rel=0.15)


def test_the_best_share_is_the_least_point_and_the_used_one_for_equal_variances():
    found = GradientVariance(direct=2.0, denoising=5.0, covariance=1.0, lambda_m=0.5)
    shares = torch.linspace(0.01, 0.99, 981).tolist()
    assert min(shares, key=found.mixed) == pytest.approx(found.best_share, abs=1e-3)
    equal = GradientVariance(3.0, 3.0, 0.0, lambda_m=0.5)
    assert equal.best_share == pytest.approx(0.5 / 1.5)
    assert equal.mixed(equal.best_share) == pytest.approx(3.0 * 1.5**2)
    assert equal.exact == pytest.approx(3.0 * 1.25)


def test_direct_training_has_no_such_variance():
    with pytest.raises(ConfigError, match="noise = 'none'"):
        gradient_variance(Trainer(prm(), TRAIN, VALIDATION, DIRECT))
