import pytest
import torch

from dnrlib.errors import ConfigError
from dnrlib.noise import BetaNoise, GaussianNoise, MLPNoise

LABELS = torch.arange(40_000).reshape(-1, 10) % 4 == 0


def sample(noise, seed=0):
    torch.manual_seed(seed)
    return noise(LABELS)


def assert_moments(x, mean, variance):
    """Mean and variance within five standard errors (kurtosis at most that of a normal)."""
    count = x.numel()
    assert abs(x.mean().item() - mean) < 5 * (variance / count) ** 0.5
    assert abs(x.var().item() - variance) < 5 * variance * (2 / count) ** 0.5


@pytest.mark.parametrize("lambda_c", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("label", [0, 1])
def test_gaussian_moments(lambda_c, label):
    x = sample(GaussianNoise(lambda_c))[label == LABELS]
    assert_moments(x, (1 - lambda_c) * label, lambda_c**2)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (2.0, 1.0), (1.0, 5.0)])
@pytest.mark.parametrize("label", [0, 1])
def test_beta_moments_and_range(a, b, label):
    lambda_c = 0.3
    x = sample(BetaNoise(lambda_c, a, b))[label == LABELS]
    variance = a * b / ((a + b) ** 2 * (a + b + 1))
    mean = (1 - lambda_c) * label + lambda_c * a / (a + b)
    count = x.numel()
    assert abs(x.mean().item() - mean) < 5 * lambda_c * (variance / count) ** 0.5
    assert abs(x.var().item() / (lambda_c**2 * variance) - 1) < 0.05
    assert x.min() >= (1 - lambda_c) * label - 1e-6
    assert x.max() <= (1 - lambda_c) * label + lambda_c + 1e-6


def test_the_paper_s_beta_has_its_mass_at_both_ends():
    x = sample(BetaNoise(1.0))
    ends = ((x < 0.1) | (x > 0.9)).float().mean().item()
    assert ends == pytest.approx(0.4097, abs=0.02)  # 2 · (2 / π) arcsin √0.1


@pytest.mark.parametrize(
    "noise", [GaussianNoise(0.0), BetaNoise(0.0), MLPNoise("epsilon", 0.0)], ids=type
)
def test_without_noise_the_scores_are_the_labels(noise):
    assert torch.equal(sample(noise), LABELS.float())


@pytest.mark.parametrize(
    "noise",
    [GaussianNoise(0.4), BetaNoise(0.4), MLPNoise("scores", 0.4), MLPNoise("epsilon", 0.4)],
    ids=["gaussian", "beta", "scores", "epsilon"],
)
def test_samples_come_from_the_global_stream_and_differ_by_candidate(noise):
    assert torch.equal(sample(noise, 1), sample(noise, 1))
    assert not torch.equal(sample(noise, 1), sample(noise, 2))
    one_label = sample(noise)[~LABELS]
    assert len(one_label.unique()) > 0.5 * len(one_label)


def test_the_generator_of_scores_stays_between_0_and_1():
    noise = MLPNoise("scores", lambda_c=0.3)
    torch.nn.init.constant_(noise.mlp[2].weight, 9.0)
    x = sample(noise)
    assert (x >= 0).all()
    assert (x <= 1).all()
    assert noise.lambda_c == 1.0


def test_the_generator_of_epsilon_is_mixed_with_the_label():
    noise = MLPNoise("epsilon", lambda_c=0.3)
    torch.manual_seed(7)
    epsilon = noise.epsilon(LABELS.float())
    expected = 0.7 * LABELS + 0.3 * epsilon
    torch.testing.assert_close(sample(noise, 7), expected)
    assert (epsilon < 0).any()


@pytest.mark.parametrize("output", ["scores", "epsilon"])
def test_the_generator_is_differentiable_and_hears_the_label(output):
    noise = MLPNoise(output, lambda_c=0.5)
    sample(noise).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in noise.parameters())
    torch.manual_seed(0)
    of_ones = noise.epsilon(torch.ones(50, 4))
    torch.manual_seed(0)
    assert not torch.equal(noise.epsilon(torch.zeros(50, 4)), of_ones)


@pytest.mark.parametrize("noise", [GaussianNoise(0.4), BetaNoise(0.4)])
def test_heuristic_noise_has_nothing_to_train(noise):
    assert not list(noise.parameters())
    assert not sample(noise).requires_grad


@pytest.mark.parametrize("lambda_c", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("make", [GaussianNoise, BetaNoise, lambda x: MLPNoise("epsilon", x)])
def test_shares_outside_0_to_1_are_refused(make, lambda_c):
    with pytest.raises(ConfigError, match="lambda_c"):
        make(lambda_c)


def test_other_bad_parameters_are_refused():
    with pytest.raises(ConfigError, match="beta = "):
        BetaNoise(0.4, 0.0, 0.5)
    with pytest.raises(ConfigError, match="beta = "):
        BetaNoise(0.4, 0.5, -1.0)
    with pytest.raises(ConfigError, match="generator 'x' is unknown"):
        MLPNoise("x", 0.4)
