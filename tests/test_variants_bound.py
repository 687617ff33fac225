"""The evidence bound: as a theorem in exact worlds, and as what the trainer descends on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy import stats
from test_theory import EXACT, SEEDS, SIZES, random_case
from test_training import DNR, TRAIN, VALIDATION, Linear, prm, untimed
from torch import nn
from torch.distributions import Beta, kl_divergence
from torch.nn import functional as F

from dnrlib import theory
from dnrlib.errors import ConfigError
from dnrlib.training import Trainer, synthetic_lists
from dnrlib.variants.bound import (
    Bound,
    BoundOfRequest,
    LightBetaExact,
    RequestBeta,
    fitted_beta,
)

BOUND = replace(DNR, generator="scores", generator_learning_rate=3e-2)


def model_evidence(q, world):
    """-log p_θ(z), p_θ(z) = Σ_x p_x(x) q_θ(z | x)."""
    return -(world.p_x @ q).log()


def model_posterior(q, world):
    """p_θ(x | z) ∝ p_x(x) q_θ(z | x)."""
    joint = world.p_x[:, None] * q
    return (joint / joint.sum(0)).T


# The theorem ----------------------------------------------------------------------------------


@pytest.mark.equation("eq-bound-model", "eq-bound-gap", "eq-bound-inequality")
@given(SEEDS, SIZES)
def test_the_bound_lies_above_the_model_s_evidence_by_a_divergence(seed, sizes):
    world, q, phi = random_case(seed, sizes)
    gap = theory.l_z(q, phi) + theory.l_x(phi, world) - model_evidence(q, world)
    assert (gap >= -EXACT).all()
    away = theory.kl(phi, model_posterior(q, world))
    torch.testing.assert_close(gap, away, rtol=1e-9, atol=1e-10)
    met = model_posterior(q, world)
    tight = theory.l_z(q, met) + theory.l_x(met, world)
    torch.testing.assert_close(tight, model_evidence(q, world), rtol=1e-9, atol=1e-10)


@pytest.mark.equation("eq-bound-blind")
@given(SEEDS, SIZES)
def test_the_bound_alone_is_least_for_a_reranker_that_does_not_look_at_the_score(seed, sizes):
    world, q, phi = random_case(seed, sizes)
    blind, ignorant = world.p_z.expand_as(q), world.p_x.expand_as(phi)
    least = world.p_z @ (theory.l_z(blind, ignorant) + theory.l_x(ignorant, world))
    torch.testing.assert_close(least, theory.entropy(world), rtol=0, atol=1e-10)
    assert world.p_z @ (theory.l_z(q, phi) + theory.l_x(phi, world)) >= least - 1e-10


@pytest.mark.equation("eq-bound-joint")
@pytest.mark.parametrize(("seed", "lambda_m"), [(0, 0.2), (1, 1.0), (2, 1.0)])
def test_with_the_direct_loss_both_come_to_the_truth_and_it_costs_nothing(seed, lambda_m):
    """By turns: the generator answers with the model's posterior, the reranker with Bayes' rule."""
    world = theory.random_world(seed, users=1)
    least = theory.conditional_entropy(world) + lambda_m * theory.entropy(world)
    q, values = theory.random_table(*world.p_z_given_x.shape, seed), []
    for _ in range(1500):
        phi = model_posterior(q, world)
        bound = world.p_z @ (theory.l_z(q, phi) + theory.l_x(phi, world))
        values.append(float(theory.paired(q, world) + lambda_m * bound))
        q = theory.best_reranker(world, phi, lambda_m)
    assert np.all(np.diff(values) <= 1e-12)
    assert values[-1] == pytest.approx(float(least), abs=1e-8)
    torch.testing.assert_close(q, world.p_z_given_x, rtol=0, atol=1e-4)
    torch.testing.assert_close(phi, world.p_x_given_z, rtol=0, atol=1e-4)


# What the trainer descends on -----------------------------------------------------------------


@pytest.mark.parametrize(("kind", "sign"), [(Bound, 1.0), (LightBetaExact, -1.0)])
@pytest.mark.parametrize("lambda_m", [0.25, 1.0])
def test_reranker_and_generator_get_the_gradients_of_their_objectives(kind, sign, lambda_m):
    made = kind(Linear(), TRAIN, VALIDATION, replace(BOUND, lambda_m=lambda_m))
    batch, m = TRAIN[:16], synthetic_lists(16, lambda_m)
    torch.manual_seed(0)
    losses, objective = made.one_pass(batch, made.generator)
    theta, phi = [*made.reranker.parameters()], [*made.generator.parameters()]
    found = torch.autograd.grad(objective, [*theta, *phi])

    torch.manual_seed(0)
    law = made.generator.law(batch.labels[:m].float())
    x, w, b = law.rsample(), *theta
    l_z = F.binary_cross_entropy_with_logits(w * x + b, batch.labels[:m].float())
    real = w * batch.scores[m:] + b
    direct = F.binary_cross_entropy_with_logits(real, batch.labels[m:].float())
    l_x = kl_divergence(law, made.prior).mean()
    of_theta = torch.autograd.grad(direct + lambda_m * l_z, theta, retain_graph=True)
    of_phi = torch.autograd.grad(sign * l_z + l_x, phi)
    for a, expected in zip(found, [*of_theta, *of_phi], strict=True):
        torch.testing.assert_close(a, expected)
    assert losses["L_z"].item() == pytest.approx(l_z.item())
    assert losses["L_x"].item() == pytest.approx(l_x.item())


@pytest.mark.parametrize("kind", [Bound, LightBetaExact, BoundOfRequest])
def test_phase_one_is_that_of_the_paper_s_training(kind):
    ours = untimed(kind(prm(), TRAIN, VALIDATION, BOUND).run())
    theirs = untimed(Trainer(prm(), TRAIN, VALIDATION, BOUND).run())
    assert ours[:2] == theirs[:2]
    assert {"L_direct", "L_z", "L_x"} == ours[-1]["losses"].keys()


class Honest(nn.Module):
    """q(z = 1 | x) = x: the score is the probability. The parameter does nothing."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, batch, scores):
        return torch.logit(scores, 1e-6) + 0 * self.unused


@pytest.mark.equation("eq-bound-conjugate")
def test_a_score_that_is_a_probability_has_a_beta_posterior_which_is_found():
    """Prior Beta(a, b), likelihood x^z (1 - x)^(1 - z): the posterior is Beta(a + z, b + 1 - z)."""
    a, b = 1.4, 2.5
    made = Bound(Honest(), TRAIN, VALIDATION, BOUND)
    made.prior = Beta(torch.tensor(a), torch.tensor(b))
    raw = made.generator.raw
    posterior = torch.tensor([[a, b + 1], [a + 1, b]])  # z, (a, b)
    torch.manual_seed(0)

    def pulls():
        """The mean gradient of the generator's four numbers, in its standard errors."""
        draws = torch.stack(
            [
                torch.autograd.grad(made.one_pass(TRAIN, made.generator)[1], raw)[0]
                for _ in range(300)
            ]
        )
        return draws.mean(0) / draws.std(0) * len(draws) ** 0.5

    assert (pulls().abs() > 5).all()
    raw.data = (posterior - 0.1).expm1().log()
    torch.testing.assert_close(made.generator.law(torch.ones(1, 1)).concentration1.item(), a + 1)
    assert (pulls().abs() < 3.5).all()


def test_the_two_terms_are_on_one_scale():
    """The bound of one candidate, by quadrature, with the trainer's L_x."""
    made = Bound(Honest(), TRAIN, VALIDATION, BOUND)
    a, b = made.prior.concentration1.item(), made.prior.concentration0.item()
    x = np.linspace(0, 1, 200_001)[1:-1]
    for z, likelihood in enumerate((1 - x, x)):
        p_x, law = stats.beta.pdf(x, a, b), stats.beta.pdf(x, a + z, b + 1 - z)
        evidence = -np.log((p_x * likelihood).sum() / p_x.sum())
        l_z = -(law * np.log(likelihood)).sum() / law.sum()
        ours = Beta(torch.tensor(a + z), torch.tensor(b + 1.0 - z))
        assert l_z + kl_divergence(ours, made.prior).item() == pytest.approx(evidence, abs=1e-3)


def test_the_prior_is_the_law_of_greatest_likelihood():
    torch.manual_seed(0)
    x = Beta(0.6, 2.0).sample((200, 50))
    law = fitted_beta(x)
    assert law.concentration1.item() == pytest.approx(0.6, rel=0.05)
    assert law.concentration0.item() == pytest.approx(2.0, rel=0.05)
    inside = x.clamp(1e-4, 1 - 1e-4)
    best = law.log_prob(inside).mean()
    for factor in (0.97, 1.03):
        for a, b in ((factor, 1), (1, factor)):
            other = Beta(a * law.concentration1, b * law.concentration0)
            assert other.log_prob(inside).mean() < best


def test_a_prior_is_there_where_scores_reach_the_ends():
    law = fitted_beta(torch.tensor([[0.0, 1.0, 0.5], [0.2, 0.9, 0.0]]))
    assert min(law.concentration1, law.concentration0) > 0


@pytest.mark.parametrize(
    "changed",
    [
        {"estimator": "exact"},
        {"likelihood": "softmax"},
        {"adversarial_weight": 0.5},
        {"regulariser": "pooled"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_would_be_no_bound_is_refused(changed):
    (name,) = changed
    with pytest.raises(ConfigError, match=f"{name} = .*Bound knows .* only"):
        Bound(prm(), TRAIN, VALIDATION, replace(BOUND, **changed))


# With the request -----------------------------------------------------------------------------


def test_the_generator_of_the_request_is_uniform_first_and_wants_the_request():
    noise = RequestBeta()
    law = noise.law(torch.tensor([[0.0, 1.0]]), torch.tensor([[-3.0, 5.0]]))
    assert law.concentration1.flatten().tolist() == pytest.approx([1, 1])
    assert law.concentration0.flatten().tolist() == pytest.approx([1, 1])
    with pytest.raises(ConfigError, match="wants the request"):
        noise(torch.tensor([[True]]))


class Offset(nn.Module):
    """logit = 4 (x - ½) + what the item says."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, batch, scores):
        item = torch.where(batch.items % 2 == 0, 3.0, -3.0)
        return 4 * (scores - 0.5) + item + 0 * self.unused


def test_a_feedback_that_was_expected_says_little_of_the_score():
    """Of a liked candidate the score must be high only where the reranker did not expect it."""
    made = BoundOfRequest(
        Offset(), TRAIN, VALIDATION, replace(BOUND, generator_learning_rate=1e-2, lambda_m=5.0)
    )
    for _ in range(400):
        made.step(TRAIN, phase=2)
    with torch.no_grad():
        mean = made.law(TRAIN).mean
    even = TRAIN.items % 2 == 0
    liked_expected, liked_unexpected = mean[TRAIN.labels & even], mean[TRAIN.labels & ~even]
    prior = made.prior.mean
    assert liked_unexpected.mean() > liked_expected.mean() + 0.05
    assert abs(liked_expected.mean() - prior) < 0.1
    (gradient,) = torch.autograd.grad(
        made.law(TRAIN).mean.sum(), made.reranker.parameters(), allow_unused=True
    )
    assert gradient is None
