import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from dnrlib.losses import (
    LIKELIHOODS,
    bernoulli,
    conditional_regulariser,
    gaussian_kl,
    moments,
    pooled_regulariser,
    softmax,
)

LOGITS = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]])
LABELS = torch.tensor([[False, True], [False, True]])
NONE = torch.zeros(2, 2, dtype=torch.bool)


def lists(seed, share=0.5, count=8, n=16):
    """Synthetic scores, labels and real scores."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(count, n, generator=generator) < share
    synthetic = labels * torch.rand((), generator=generator) + torch.rand(
        count, n, generator=generator
    )
    return synthetic, labels, torch.rand(count, n, generator=generator)


def test_bernoulli_by_hand():
    # -log ½, -log ¾; -log ¼, -log ½
    expected = (math.log(2) + math.log(4 / 3) + math.log(4) + math.log(2)) / 4
    assert bernoulli(LOGITS, LABELS).item() == pytest.approx(expected)


def test_softmax_by_hand():
    # one positive in each list, with probability ¾ and ¼
    expected = (math.log(4 / 3) + math.log(4)) / 2
    assert softmax(LOGITS, LABELS).item() == pytest.approx(expected)


def test_softmax_shares_the_mass_among_the_positives():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    labels = torch.tensor([[True, False, True]])
    log_p = logits.log_softmax(dim=1)[0]
    assert softmax(logits, labels).item() == pytest.approx(-(log_p[0] + log_p[2]).item() / 2)


@pytest.mark.parametrize("likelihood", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_likelihoods_survive_extremes(likelihood):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    for labels in (LABELS, NONE, ~NONE):
        loss = likelihood(logits, labels)
        loss.backward()
        assert loss.isfinite()
        assert loss >= 0
    assert logits.grad.isfinite().all()


def test_softmax_ignores_a_list_without_a_positive():
    assert softmax(LOGITS, NONE).item() == 0


def test_weighted_moments_by_hand():
    mean, variance = moments(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    assert (mean.item(), variance.item()) == (2.0, 1.0)
    assert moments(torch.ones(2, 2), torch.ones(2, 2))[1].item() == pytest.approx(1e-6)


@given(st.floats(-3, 3), st.floats(0.01, 9), st.floats(-3, 3), st.floats(0.01, 9))
def test_gaussian_kl_is_that_of_torch(mean_p, var_p, mean_q, var_q):
    p, q = torch.tensor([mean_p, var_p]).double(), torch.tensor([mean_q, var_q]).double()
    theirs = kl_divergence(Normal(p[0], p[1].sqrt()), Normal(q[0], q[1].sqrt()))
    ours = gaussian_kl((p[0].float(), p[1].float()), (q[0].float(), q[1].float()))
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-5)


@given(st.integers(0, 10_000), st.floats(0.02, 0.98))
def test_pooled_is_never_above_conditional(seed, share):
    batch = lists(seed, share)
    pooled, conditional = pooled_regulariser(*batch), conditional_regulariser(*batch)
    assert pooled >= -1e-6
    assert pooled <= conditional + 1e-6


def test_conditional_by_hand():
    synthetic = torch.tensor([[0.0, 2.0, 1.0, 5.0]])
    labels = torch.tensor([[True, True, False, False]])
    scores = torch.tensor([[0.0, 0.0, 2.0, 2.0]])  # mean 1, variance 1
    positive = kl_divergence(Normal(1.0, 1.0), Normal(1.0, 1.0))
    negative = kl_divergence(Normal(3.0, 2.0), Normal(1.0, 1.0))
    loss = conditional_regulariser(synthetic, labels, scores)
    assert loss.item() == pytest.approx((0.5 * positive + 0.5 * negative).item())


def test_conditional_weighs_labels_by_how_often_they_occur():
    synthetic = torch.tensor([[0.0, 2.0, 1.0, 5.0, 1.0, 5.0]])
    labels = torch.tensor([[True, True, False, False, False, False]])
    scores = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0, 2.0]])
    negative = kl_divergence(Normal(3.0, 2.0), Normal(1.0, 1.0))
    loss = conditional_regulariser(synthetic, labels, scores)
    assert loss.item() == pytest.approx((2 / 3 * negative).item())


def test_conditional_is_zero_only_where_the_moments_match_for_each_label():
    labels = torch.tensor([[True, True, False, False]])
    scores = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    unrelated = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    related = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert conditional_regulariser(unrelated, labels, scores).item() == pytest.approx(0, abs=1e-6)
    assert conditional_regulariser(related, labels, scores) > 1
    assert pooled_regulariser(related, labels, scores).item() == pytest.approx(0, abs=1e-6)
    assert pooled_regulariser(related + 1, labels, scores) > 1


@pytest.mark.parametrize("regulariser", [conditional_regulariser, pooled_regulariser])
@pytest.mark.parametrize("labels", [NONE, ~NONE], ids=["no positive", "all positive"])
@pytest.mark.parametrize("synthetic", [LOGITS, torch.zeros(2, 2)], ids=["some", "constant"])
@pytest.mark.parametrize("scores", [LOGITS.sigmoid(), torch.ones(2, 2)], ids=["some", "constant"])
def test_regularisers_survive_extremes(regulariser, labels, synthetic, scores):
    x = synthetic.clone().requires_grad_()
    loss = regulariser(x, labels, scores)
    loss.backward()
    assert loss.isfinite()
    assert loss > -1e-4
    assert x.grad.isfinite().all()


def test_with_one_label_only_both_regularisers_agree():
    synthetic, _, scores = lists(0)
    labels = torch.zeros_like(scores, dtype=torch.bool)
    torch.testing.assert_close(
        conditional_regulariser(synthetic, labels, scores),
        pooled_regulariser(synthetic, labels, scores),
    )
