import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.linear_model import LogisticRegression
from torch.distributions import Beta, Normal, kl_divergence
from worlds import make_lists

from dnrlib.divergences import (
    ESTIMATORS,
    FEATURES,
    BetaFit,
    Conditional,
    Discriminator,
    GaussianMoments,
    NearestNeighbours,
    Pooled,
    distance_to_neighbour,
)
from dnrlib.errors import ConfigError
from dnrlib.losses import REGULARISERS, conditional_regulariser, pooled_regulariser
from dnrlib.training import Trainer, TrainingConfig

NORMALS = Normal(0.45, 0.08), Normal(0.5, 0.12)  # so far inside (0, 1) that Beta's clamp is idle
BETAS = Beta(2.0, 4.0), Beta(3.0, 2.0)
ALIKE = {name: pytest.param(estimator, id=name) for name, estimator in ESTIMATORS.items()}


def draw(law, size, seed):
    torch.manual_seed(seed)
    return law.sample((size,))


def pair(laws, size, seed=0):
    return draw(laws[0], size, 2 * seed), draw(laws[1], size, 2 * seed + 1)


def by_integration(p, q, low=0.0, high=1.0):
    """KL(p ‖ q) of two SciPy laws."""
    return integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), low, high)[0]


# The truth, where it is known -----------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator",
    [GaussianMoments(), NearestNeighbours(10), Discriminator(), Discriminator("normal")],
    ids=str,
)
def test_two_normals(estimator):
    truth = kl_divergence(*NORMALS).item()
    assert estimator(*pair(NORMALS, 20_000)).item() == pytest.approx(truth, abs=0.015)


@pytest.mark.parametrize(
    "estimator",
    [BetaFit(), NearestNeighbours(10), Discriminator(), Discriminator("beta")],
    ids=str,
)
def test_two_betas(estimator):
    truth = kl_divergence(*BETAS).item()
    assert estimator(*pair(BETAS, 20_000)).item() == pytest.approx(truth, rel=0.04)


@pytest.mark.parametrize(
    "estimator", [NearestNeighbours(), Discriminator(), Discriminator("bumps")], ids=str
)
def test_a_normal_against_a_beta_agrees_with_numerical_integration(estimator):
    normal, beta = stats.truncnorm(-5, 5, 0.5, 0.08), stats.beta(2, 4)
    truth = by_integration(normal, beta, 0.1, 0.9)
    p, q = (
        torch.from_numpy(law.rvs(20_000, random_state=seed).astype(np.float32))
        for seed, law in enumerate((normal, beta))
    )
    assert estimator(p, q).item() == pytest.approx(truth, rel=0.05)


def test_bumps_read_a_ratio_that_is_in_no_family():
    p = torch.cat([draw(Normal(m, 0.1), 10_000, m_seed) for m_seed, m in ((0, 0.3), (1, 0.7))])
    q = draw(Normal(0.5, 0.25), 20_000, 2)
    grid = torch.linspace(-1, 2, 3001, dtype=torch.float64)
    law_p = 0.5 * sum(Normal(m, 0.1).log_prob(grid).exp() for m in (0.3, 0.7))
    law_q = Normal(0.5, 0.25).log_prob(grid)
    truth = torch.trapezoid(law_p * (law_p.clamp(min=1e-300).log() - law_q), grid).item()
    errors = {name: abs(Discriminator(name)(p, q).item() - truth) for name in ("normal", "bumps")}
    assert errors["bumps"] < 0.03 < errors["normal"]
    assert NearestNeighbours(10)(p, q).item() == pytest.approx(truth, abs=0.03)


@pytest.mark.parametrize(("a", "b", "c", "d"), [(2, 4, 3, 2), (0.5, 0.5, 1, 1), (20, 3, 5, 5)])
def test_beta_fit_has_the_closed_form_of_its_two_fits(a, b, c, d):
    p, q = draw(Beta(a, b), 4000, 0).double(), draw(Beta(c, d), 4000, 1).double()
    fits = [BetaFit().fit(x) for x in (p, q)]
    (a, b), (c, d) = ((f.concentration1.item(), f.concentration0.item()) for f in fits)
    first, second = (stats.beta(*f) for f in ((a, b), (c, d)))
    assert BetaFit()(p, q).item() == pytest.approx(by_integration(first, second), rel=1e-5)


def test_beta_fit_has_the_samples_moments():
    x = draw(Beta(2.0, 5.0), 100, 0).double()
    law = BetaFit().fit(x)
    assert law.mean.item() == pytest.approx(x.mean().item())
    assert law.variance.item() == pytest.approx(x.var(correction=0).item())


@pytest.mark.equation("eq-game-neighbours")
def test_neighbours_by_hand():
    p, q = torch.tensor([0.1, 0.2, 0.4]), torch.tensor([0.0, 0.5])
    # to the nearest other of p: 0.1, 0.1, 0.2; of q: 0.1, 0.2, 0.1
    wanted = (math.log(1) + math.log(2) + math.log(0.5)) / 3 + math.log(2 / 2)
    assert NearestNeighbours(1)(p, q).item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_distances_are_those_of_all_pairs(rank):
    x, others = draw(Normal(0.0, 1.0), 50, 0), draw(Normal(0.0, 1.0), 30, 1)
    wanted = (x[:, None] - others).abs().sort(dim=1).values[:, rank - 1]
    torch.testing.assert_close(distance_to_neighbour(x, others, rank), wanted)


@pytest.mark.equation("eq-game-discriminator")
def test_the_discriminator_is_a_logistic_regression():
    p, q = pair(BETAS, 500)
    x = FEATURES["both"](torch.cat([p, q]).double())
    x = (x - x.mean(dim=0)) / x.std(dim=0)
    theirs = LogisticRegression(C=1 / (1e-3 * 1000), tol=1e-10, max_iter=10_000)
    theirs.fit(x.numpy(), np.repeat([1, 0], 500))
    wanted = theirs.decision_function(x[:500].numpy()).mean()
    # scikit-learn does not penalise the constant
    ours = Discriminator(ridge=1e-3, rounds=300)(p, q).item()
    assert ours == pytest.approx(wanted, abs=1e-3)


def test_the_rounds_are_enough_where_the_samples_overlap():
    p, q = pair(BETAS, 2000)
    few, many = (
        estimator(p, q).item() for estimator in (Discriminator(), Discriminator(rounds=1000))
    )
    assert few == pytest.approx(many, abs=1e-3)


# Samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ALIKE.values())
def test_two_samples_of_one_law_are_at_no_distance(estimator):
    assert estimator(*pair((BETAS[0], BETAS[0]), 20_000)).item() == pytest.approx(0, abs=0.015)


@pytest.mark.parametrize(
    ("estimator", "laws"),
    [
        (GaussianMoments(), NORMALS),
        (BetaFit(), BETAS),
        (NearestNeighbours(3), BETAS),
        (Discriminator(), BETAS),
    ],
    ids=lambda value: str(value) if not isinstance(value, tuple) else "",
)
def test_the_error_falls_with_the_samples(estimator, laws):
    truth = kl_divergence(*laws).item()
    errors = [
        np.sqrt(np.mean([(estimator(*pair(laws, n, s)).item() - truth) ** 2 for s in range(20)]))
        for n in (50, 500, 5000)
    ]
    # as 1/√n: a tenth from first to last; half of that is asked for
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < errors[0] / 5


def test_more_neighbours_more_steadiness():
    few, many = (
        np.std([NearestNeighbours(k)(*pair(BETAS, 500, s)).item() for s in range(40)])
        for k in (1, 20)
    )
    assert many < 0.8 * few


def test_the_discriminator_is_too_high_by_what_its_docstring_says():
    n, laws = 200, (BETAS[0], BETAS[0])
    excess = np.mean([Discriminator("beta")(*pair(laws, n, s)).item() for s in range(300)])
    assert excess == pytest.approx(2 / 2 * (1 / n + 1 / n), rel=0.25)


@pytest.mark.parametrize("estimator", ALIKE.values())
def test_the_order_of_the_samples_does_not_matter(estimator):
    p, q = pair(BETAS, 300)
    mixed = estimator(p[torch.randperm(300)], q[torch.randperm(300)])
    torch.testing.assert_close(mixed, estimator(p, q), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", ALIKE.values())
def test_single_and_double_precision_agree(estimator):
    p, q = pair(BETAS, 300)
    single, double = estimator(p, q), estimator(p.double(), q.double())
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert single.item() == pytest.approx(double.item(), rel=1e-3)


@pytest.mark.parametrize("estimator", ALIKE.values())
def test_a_sample_of_no_weight_is_not_there(estimator):
    p, q = pair(BETAS, 300)
    here = torch.arange(300) % 3 > 0
    weighted = estimator(p, q, here.to(p.dtype))
    torch.testing.assert_close(weighted, estimator(p[here], q), rtol=1e-4, atol=1e-5)


# What the assumptions cost --------------------------------------------------------------------


def test_gaussian_moments_take_two_laws_with_the_same_moments_for_one():
    ends = torch.tensor([0.25, 0.75]).repeat(1000)
    normal = draw(Normal(0.5, 0.25), 2000, 0)
    normal = (normal - normal.mean()) / normal.std(correction=0) * 0.25 + 0.5
    assert GaussianMoments()(ends, normal).item() == pytest.approx(0, abs=1e-6)
    assert NearestNeighbours()(ends + 1e-3 * torch.rand(2000), normal) > 1
    assert Discriminator("bumps")(ends, normal) > 1


def test_a_beta_fit_takes_two_laws_with_the_same_moments_for_one():
    p = torch.tensor([0.25, 0.75]).repeat(1000)
    q = torch.cat([torch.full((250,), 0.5 - 0.25 * math.sqrt(2)), torch.full((500,), 0.5)])
    q = torch.cat([q, torch.full((250,), 0.5 + 0.25 * math.sqrt(2))])
    assert BetaFit()(p, q).item() == pytest.approx(0, abs=1e-5)


def test_a_discriminator_with_too_few_features_sees_too_little():
    p, q = pair((Beta(0.5, 0.5), Beta(1.0, 1.0)), 5000)
    straight = Discriminator("normal")(p, q).item()
    assert straight < Discriminator("beta")(p, q).item() - 0.02


def test_apart_the_discriminator_reads_its_ridge():
    p, q = 0.9 + 0.05 * torch.rand(200), 0.1 * torch.rand(200)
    strict, lax = (Discriminator(ridge=ridge)(p, q).item() for ridge in (1e-2, 1e-4))
    assert 0 < strict < lax < 100


# Gradients ------------------------------------------------------------------------------------


def gradients(estimator, law_p, law_q, size=20_000):
    """Of the estimate in the mean and the log of the spread of a normal p."""
    mean, log_spread = (torch.tensor(value, requires_grad=True) for value in law_p)
    p = mean + log_spread.exp() * draw(Normal(0.0, 1.0), size, 0)
    loss = estimator(p, draw(law_q, size, 1))
    return [g.item() for g in torch.autograd.grad(loss, (mean, log_spread))]


@pytest.mark.equation("eq-game-discriminator-gradient")
@pytest.mark.parametrize(
    ("estimator", "tolerance"),
    [
        (GaussianMoments(), 0.15),
        (Discriminator("normal"), 0.15),
        (Discriminator(), 0.25),
    ],
    ids=str,
)
def test_the_gradient_is_that_of_the_divergence(estimator, tolerance):
    mean, spread, law_q = 0.45, 0.08, NORMALS[1]
    # KL = log(s_q / s) + (s² + (m - m_q)²) / (2 s_q²) - ½
    s_q, m_q = law_q.scale.item(), law_q.loc.item()
    wanted = [(mean - m_q) / s_q**2, spread**2 / s_q**2 - 1]
    found = gradients(estimator, (mean, math.log(spread)), law_q)
    assert found[0] == pytest.approx(wanted[0], abs=tolerance)
    assert found[1] == pytest.approx(wanted[1], abs=0.1)


def test_few_neighbours_make_a_noisy_gradient():
    spread = {}
    for k in (3, 30):
        found = []
        for seed in range(30):
            p, q = pair(BETAS, 500, seed)
            shift = torch.zeros((), requires_grad=True)
            found.append(*torch.autograd.grad(NearestNeighbours(k)(p + shift, q), shift))
        spread[k] = torch.stack(found).std()
    assert spread[30] < spread[3] / 3


@pytest.mark.parametrize("estimator", ALIKE.values())
def test_descending_brings_p_to_q(estimator):
    q = draw(Normal(0.4, 0.8), 2000, 0).sigmoid()
    law = torch.tensor([-0.5, 0.0], requires_grad=True)  # mean and log spread of the logit
    optimiser = torch.optim.Adam([law], lr=0.03)
    torch.manual_seed(0)
    late = []
    for step in range(400):
        p = (law[0] + law[1].exp() * torch.randn(500)).sigmoid()
        optimiser.zero_grad()
        estimator(p, q).backward()
        optimiser.step()
        if step >= 300:  # the neighbours' gradient is noisy
            late.append(law.detach().clone())
    mean, log_spread = torch.stack(late).mean(dim=0)
    assert mean.item() == pytest.approx(0.4, abs=0.15)
    assert log_spread.exp().item() == pytest.approx(0.8, abs=0.15)


# What goes wrong ------------------------------------------------------------------------------

SAMPLES = {
    "some": torch.linspace(0.1, 0.9, 6),
    "one value": torch.full((6,), 0.3),
    "the ends": torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]),
    "outside": torch.linspace(-1, 2, 6),
    "a single one": torch.tensor([0.5]),
}


@pytest.mark.parametrize("estimator", ALIKE.values())
@pytest.mark.parametrize("p", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("q", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("counted", [1.0, 0.0])
def test_estimates_and_gradients_are_finite(estimator, p, q, counted):
    x = p.clone().requires_grad_()
    estimate = estimator(x, q, torch.full_like(p, counted))
    estimate.backward()
    assert estimate.isfinite()
    assert x.grad.isfinite().all()


def test_wrong_parameters_are_named():
    with pytest.raises(ConfigError, match="k = 0"):
        NearestNeighbours(0)
    with pytest.raises(ConfigError, match="splines.*normal, beta"):
        Discriminator("splines")
    with pytest.raises(ConfigError, match="ridge = 0"):
        Discriminator(ridge=0.0)


# Regularisers ---------------------------------------------------------------------------------


@pytest.fixture(params=[0.0, 0.1, 0.5, 1.0], ids="{} liked".format)
def batch(request):
    generator = torch.Generator().manual_seed(0)
    synthetic, real = torch.rand(2, 16, 50, generator=generator)
    labels = torch.rand(16, 50, generator=generator) < request.param
    return (synthetic + 0.3 * labels) / 1.3, labels, real


def test_with_gaussian_moments_they_are_those_of_losses(batch):
    assert torch.equal(Conditional(GaussianMoments())(*batch), conditional_regulariser(*batch))
    assert torch.equal(Pooled(GaussianMoments())(*batch), pooled_regulariser(*batch))


@pytest.mark.parametrize("estimator", ALIKE.values())
def test_conditional_weighs_each_label_by_its_share(estimator, batch):
    synthetic, labels, real = batch
    share = labels.float().mean()
    wanted = sum(
        weight * estimator(synthetic[chosen], real.flatten())
        for weight, chosen in ((share, labels), (1 - share, ~labels))
        if chosen.any()
    )
    torch.testing.assert_close(Conditional(estimator)(*batch), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", ALIKE.values())
def test_pooled_does_not_look_at_labels(estimator, batch):
    synthetic, labels, real = batch
    pooled = Pooled(estimator)
    assert torch.equal(pooled(synthetic, labels, real), pooled(synthetic, ~labels, real))


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "moments"])
@pytest.mark.parametrize("form", ["conditional", "pooled"])
def test_a_generator_is_trained_with_them(name, form):
    lists = make_lists(lists=40)
    config = TrainingConfig(
        epochs=1, lambda_e=0, noise="beta", generator="scores", regulariser=f"{form}-{name}"
    )
    torch.manual_seed(0)
    reranker = torch.nn.Bilinear(1, 1, 1)

    class Scored(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = reranker

        def forward(self, batch, scores):
            return self.layer(scores[..., None], scores[..., None])[..., 0]

    trainer = Trainer(Scored(), lists, lists.of_split("validation"), config)
    before = [parameter.clone() for parameter in trainer.generator.parameters()]
    losses = trainer.epoch(1, lambda progress: None).losses
    assert math.isfinite(losses["L_x"])
    after = trainer.generator.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_names_of_before_are_untouched():
    assert REGULARISERS["conditional"] is conditional_regulariser
    assert REGULARISERS["pooled"] is pooled_regulariser
    assert not [name for name in REGULARISERS if name.endswith("moments")]
