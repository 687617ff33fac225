"""The game in the exact world: what the chapter states of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from dnrlib import theory
from dnrlib.exercises.game import best_response, gaussian_kl

SEEDS = st.integers(0, 1000)
WEIGHTS = st.floats(0.1, 3)


@given(st.floats(-1, 1), st.floats(0.01, 2), st.floats(-1, 1), st.floats(0.01, 2))
def test_gaussian_kl_is_that_of_torch(mean_p, var_p, mean_q, var_q):
    p, q = (
        Normal(torch.tensor(mean).double(), torch.tensor(var).double().sqrt())
        for mean, var in ((mean_p, var_p), (mean_q, var_q))
    )
    assert gaussian_kl(mean_p, var_p, mean_q, var_q) == pytest.approx(
        kl_divergence(p, q).item(), rel=1e-5, abs=1e-6
    )


def law(seed, size=6):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).double().softmax(0)


@given(SEEDS, WEIGHTS)
@pytest.mark.equation("eq-game-gibbs")
def test_gibbs_no_law_does_better(seed, weight):
    p_x, q_z, other = law(seed), law(seed + 1), law(seed + 2)

    def objective(p):
        return (weight * (p * q_z.log()).sum() + theory.kl(p, p_x)).item()

    best = best_response(p_x, q_z, weight)
    least = -(p_x * q_z**-weight).sum().log().item()
    assert objective(best) == pytest.approx(least)
    # any other law is above by its divergence from the best
    assert objective(other) == pytest.approx(least + theory.kl(other, best).item())


@given(SEEDS, WEIGHTS)
@pytest.mark.equation("eq-game-four")
def test_the_four_generators(seed, weight):
    world = theory.random_world(seed)
    q = theory.random_world(seed + 1).p_z_given_x
    found = {name: theory.best_generator(world, q, name, weight) for name in theory.OBJECTIVES}
    torch.testing.assert_close(found["bound"], world.p_x_given_z)
    tilted = world.p_x * (world.p_z_given_x / q).T
    torch.testing.assert_close(found["defined"], tilted / tilted.sum(1, keepdim=True))
    for z, row in enumerate(found["practised"]):
        torch.testing.assert_close(row, best_response(world.p_x, q[:, z], weight))
    worst = found["unregularised"].argmax(1)
    assert (q[worst, torch.arange(len(world.p_z))] == q.amin(0)).all()


@given(SEEDS)
@pytest.mark.equation("eq-game-against-the-posterior")
def test_against_the_posterior_the_definition_ignores_labels_and_practice_contradicts(seed):
    world = theory.random_world(seed, n=1)
    q = world.p_z_given_x
    defined = theory.best_generator(world, q, "defined")
    torch.testing.assert_close(defined, world.p_x.expand_as(defined))
    # p_φ(x | z) p_{x|z}(x | z) ∝ p_x²: where one is above p_x the other is below
    practised = theory.best_generator(world, q, "practised")
    product = practised * world.p_x_given_z / world.p_x**2
    torch.testing.assert_close(product, product[:, :1].expand_as(product))


@given(SEEDS, st.floats(0.1, 2))
@pytest.mark.equation("eq-game-excess")
def test_what_the_reranker_loses_is_a_divergence_from_the_posterior(seed, lambda_m):
    world = theory.random_world(seed)
    phi = theory.random_world(seed + 1).p_x_given_z
    q = theory.best_reranker(world, phi, lambda_m)
    loss = theory.paired(q, world) - theory.conditional_entropy(world)
    assert loss.item() == pytest.approx((world.p_x @ theory.kl(world.p_z_given_x, q)).item())
    assert loss > 0
    nothing = theory.best_reranker(world, world.p_x_given_z, lambda_m)
    torch.testing.assert_close(nothing, world.p_z_given_x)


def value(world, q, phi, lambda_m, weight):
    """What the reranker minimises and the generator maximises."""
    synthetic = theory.l_z(q, phi) - theory.l_x(phi, world) / weight
    return theory.paired(q, world) + lambda_m * (world.p_z @ synthetic)


def robust(world, q, lambda_m, weight):
    """The value where the generator answers best."""
    penalty = (world.p_x.log()[:, None] - weight * q.log()).logsumexp(0) / weight
    return theory.paired(q, world) + lambda_m * (world.p_z @ penalty)


@given(SEEDS, WEIGHTS)
@pytest.mark.equation("eq-game-value")
def test_both_players_descend_on_one_value(seed, weight):
    world, lambda_m = theory.random_world(seed), 0.5
    q, phi = (
        theory.random_world(seed + 1).p_z_given_x,
        theory.random_world(seed + 2).p_x_given_z,
    )
    here = value(world, q, phi, lambda_m, weight)
    answer = theory.best_generator(world, q, "practised", weight)
    assert value(world, q, answer, lambda_m, weight) >= here
    reply = theory.best_reranker(world, phi, lambda_m)
    assert value(world, reply, phi, lambda_m, weight) <= here


@given(SEEDS, WEIGHTS)
@pytest.mark.equation("eq-game-robust")
def test_the_answered_value_is_a_robust_loss(seed, weight):
    world = theory.random_world(seed)
    q = theory.random_world(seed + 1).p_z_given_x
    answer = theory.best_generator(world, q, "practised", weight)
    torch.testing.assert_close(value(world, q, answer, 0.5, weight), robust(world, q, 0.5, weight))
    as_written = theory.paired(q, world) + 0.5 * (world.p_z @ theory.l_direct(q, world))
    torch.testing.assert_close(robust(world, q, 0.5, 1e-6), as_written, rtol=1e-4, atol=1e-4)
    worst = theory.paired(q, world) - 0.5 * (world.p_z @ q.amin(0).log())
    torch.testing.assert_close(robust(world, q, 0.5, 200.0), worst, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_the_game_ends_where_the_robust_loss_is_least(seed):
    world, lambda_m, weight = theory.random_world(seed), 0.5, 1.0
    *_, (q, phi) = theory.play(world, lambda_m, "practised", weight, rounds=200)
    torch.testing.assert_close(theory.best_reranker(world, phi, lambda_m), q)
    *_, found = theory.train_table(world, lambda q: robust(world, q, lambda_m, weight), steps=2000)
    torch.testing.assert_close(found, q, atol=1e-3, rtol=1e-2)
    # a saddle: neither gains by leaving it
    here = value(world, q, phi, lambda_m, weight)
    for other in range(5):
        away = theory.random_world(100 + other)
        assert value(world, away.p_z_given_x, phi, lambda_m, weight) > here
        assert value(world, q, away.p_x_given_z, lambda_m, weight) < here
