"""The exact world: identities to rounding, bounds, and optima against brute force."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dnrlib import theory
from dnrlib.errors import ConfigError
from dnrlib.theory import World

EXACT = 1e-12
SEEDS = st.integers(0, 10**6)
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(2, 4))


def random_case(seed, sizes, scale=1.0):
    users, n, levels = sizes
    world = theory.random_world(seed, users, n, levels)
    q = theory.random_table(*world.p_z_given_x.shape, seed + 1, scale)
    phi = theory.random_table(*world.p_x_given_z.shape, seed + 2, scale)
    return world, q, phi


def enumerated(world):
    """p(u, x, z) by loops, from the definition."""
    total = {}
    for u, prior in enumerate(world.prior.tolist()):
        for x, score in enumerate(world.scores[u].tolist()):
            for z, liked in enumerate(world.feedback[u, x].tolist()):
                total[u, x, z] = prior * score * liked
    return total


# The world ------------------------------------------------------------------------------------


@pytest.mark.equation("eq-chain")
@given(SEEDS, SIZES)
def test_laws_are_sums_of_the_joint_law(seed, sizes):
    world, _, _ = random_case(seed, sizes)
    joint = enumerated(world)
    p_x, p_z = torch.zeros_like(world.p_x), torch.zeros_like(world.p_z)
    for (_, x, z), p in joint.items():
        p_x[x] += p
        p_z[z] += p
    torch.testing.assert_close(world.p_x, p_x, rtol=0, atol=EXACT)
    torch.testing.assert_close(world.p_z, p_z, rtol=0, atol=EXACT)
    bayes = world.p_z_given_x * world.p_x[:, None] / world.p_z
    torch.testing.assert_close(world.p_x_given_z, bayes.T, rtol=0, atol=EXACT)


def test_vectors_are_numbered_with_the_last_candidate_running_fastest():
    world = theory.random_world(n=2, levels=3)
    assert world.z_values.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert world.x_values[:4].mul(6).round().tolist() == [[1, 1], [1, 3], [1, 5], [3, 1]]


def test_cascade_is_what_sampling_it_gives():
    world = theory.cascade(users=2, n=2, levels=3, moods=4, noise=0.7, bias=0.5, seed=3)
    generator = torch.Generator().manual_seed(3)
    taste = torch.randn(2, 1, 2, generator=generator, dtype=torch.float64)
    mood = 1.5 * torch.randn(1, 4, 2, generator=generator, dtype=torch.float64)
    draws = 400_000
    u = torch.randint(2, (draws,), generator=generator)
    s = torch.randint(4, (draws,), generator=generator)
    affinity = (taste + mood)[u, s]
    z = torch.rand(draws, 2, generator=generator) < affinity.sigmoid()
    noise = 0.7 * torch.randn(draws, 2, generator=generator, dtype=torch.float64)
    x = (3 * (affinity + 0.5 + noise).sigmoid()).long()
    cell = ((u * 9 + x @ torch.tensor([3, 1])) * 4) + z.long() @ torch.tensor([2, 1])
    found = torch.bincount(cell, minlength=2 * 9 * 4).view(2, 9, 4) / draws
    error = 5 * (world.with_request / draws).sqrt()
    assert ((found - world.with_request).abs() < error + 1e-5).all()


def test_noise_hides_what_the_score_knows():
    known = [
        theory.entropy(world) - theory.conditional_entropy(world)
        for world in (theory.cascade(noise=noise) for noise in (0.2, 1.0, 5.0, 100.0))
    ]
    assert known == sorted(known, reverse=True)
    assert known[-1] < 1e-3 < 0.1 < known[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prior": torch.tensor([0.9], dtype=torch.float64)}, "prior: its rows must sum"),
        ({"scores": torch.eye(9, dtype=torch.float64)[:1]}, "scores: every probability"),
        ({"n": 3}, "scores has shape"),
    ],
)
def test_tables_that_are_no_world_are_refused(changed, message):
    world = theory.random_world(users=1)
    with pytest.raises(ConfigError, match=message):
        World(**{**vars(world), **changed})


def test_cascade_needs_noise():
    with pytest.raises(ConfigError, match="noise = 0"):
        theory.cascade(noise=0)


# The terms ------------------------------------------------------------------------------------


@pytest.mark.equation("eq-l-direct", "eq-l1", "eq-l2", "eq-dnr-terms")
@given(SEEDS, SIZES)
def test_terms_are_their_definitions(seed, sizes):
    world, q, phi = random_case(seed, sizes)
    p_x, given_x, given_z = world.p_x, world.p_z_given_x, world.p_x_given_z
    for z in range(len(world.p_z)):
        x_range = range(len(p_x))
        wanted = {
            "l_direct": -sum(p_x[x] * q[x, z].log() for x in x_range),
            "l_1": sum(p_x[x] * (q[x, z] / given_x[x, z]).log() for x in x_range),
            "l_2": -sum(p_x[x] * (p_x[x] / given_z[z, x]).log() for x in x_range),
            "l_z": -sum(phi[z, x] * q[x, z].log() for x in x_range),
            "l_adv": sum(phi[z, x] * (q[x, z] / given_x[x, z]).log() for x in x_range),
            "l_x": sum(phi[z, x] * (phi[z, x] / p_x[x]).log() for x in x_range),
            "delta_x": -sum(phi[z, x] * (phi[z, x] / given_z[z, x]).log() for x in x_range),
        }
        found = {
            "l_direct": theory.l_direct(q, world),
            "l_1": theory.l_1(q, world),
            "l_2": theory.l_2(world),
            "l_z": theory.l_z(q, phi),
            "l_adv": theory.l_adv(q, phi, world),
            "l_x": theory.l_x(phi, world),
            "delta_x": theory.delta_x(phi, world),
        }
        for name, value in wanted.items():
            assert abs(found[name][z] - value) < EXACT, name


@pytest.mark.equation("eq-first-identity")
@given(SEEDS, SIZES, st.sampled_from([0.1, 1.0, 5.0]))
def test_first_identity(seed, sizes, scale):
    world, q, _ = random_case(seed, sizes, scale)
    residual = theory.l_direct(q, world) + theory.l_1(q, world) + theory.l_2(world)
    assert (residual - world.evidence).abs().max() < EXACT


@pytest.mark.equation("eq-second-identity")
@given(SEEDS, SIZES, st.sampled_from([0.1, 1.0, 5.0]))
def test_second_identity(seed, sizes, scale):
    world, q, phi = random_case(seed, sizes, scale)
    terms = (theory.l_z(q, phi), theory.l_adv(q, phi, world), theory.l_x(phi, world))
    assert (sum(terms) + theory.delta_x(phi, world) - world.evidence).abs().max() < EXACT


@given(SEEDS, SIZES)
def test_identities_hold_for_each_request_by_itself(seed, sizes):
    world, q, phi = random_case(seed, sizes)
    one = world.of_request(sizes[0] - 1)
    first = theory.l_direct(q, one) + theory.l_1(q, one) + theory.l_2(one)
    second = theory.l_z(q, phi) + theory.l_adv(q, phi, one) + theory.l_x(phi, one)
    second = second + theory.delta_x(phi, one)
    assert (first - one.evidence).abs().max() < EXACT
    assert (second - one.evidence).abs().max() < EXACT


@pytest.mark.equation("eq-elbo", "eq-gap")
@given(SEEDS, SIZES)
def test_second_identity_is_an_evidence_bound_whose_gap_is_delta(seed, sizes):
    world, q, phi = random_case(seed, sizes)
    terms = theory.l_z(q, phi) + theory.l_adv(q, phi, world) + theory.l_x(phi, world)
    elbo = theory.negative_elbo(phi, world)
    torch.testing.assert_close(terms, elbo, rtol=0, atol=EXACT)
    gap = elbo - world.evidence
    assert (gap >= -EXACT).all()
    torch.testing.assert_close(gap, -theory.delta_x(phi, world), rtol=0, atol=EXACT)
    closed = theory.negative_elbo(world.p_x_given_z, world)
    torch.testing.assert_close(closed, world.evidence, rtol=0, atol=EXACT)


# What direct training misses ------------------------------------------------------------------


def gradient(function, table):
    logits = table.log().clone().requires_grad_()
    (found,) = torch.autograd.grad(function(logits.softmax(-1)).sum(), logits)
    return found


@pytest.mark.equation("eq-sum-free")
@given(SEEDS, SIZES)
def test_l1_depends_on_the_reranker_just_as_l_direct_does(seed, sizes):
    world, q, phi = random_case(seed, sizes)
    direct = gradient(lambda q: theory.l_direct(q, world), q)
    first = gradient(lambda q: theory.l_1(q, world), q)
    assert direct.abs().max() > 1e-6
    torch.testing.assert_close(first, -direct, rtol=0, atol=EXACT)
    adversarial = gradient(lambda q: theory.l_adv(q, phi, world), q)
    torch.testing.assert_close(
        adversarial, -gradient(lambda q: theory.l_z(q, phi), q), rtol=0, atol=EXACT
    )
    free = -world.p_x @ world.p_z_given_x.log()
    both = theory.l_direct(q, world) + theory.l_1(q, world)
    torch.testing.assert_close(both, free, rtol=0, atol=EXACT)


@pytest.mark.equation("eq-jensen")
@given(SEEDS, SIZES)
def test_true_likelihood_bounds_the_evidence_for_every_feedback(seed, sizes):
    world, _, _ = random_case(seed, sizes)
    bound = theory.l_direct(world.p_z_given_x, world)
    assert (bound - world.evidence >= -EXACT).all()


@pytest.mark.equation("eq-upper-bound")
@given(SEEDS, SIZES)
def test_bound_holds_on_average_and_is_tight_only_if_scores_are_ignored(seed, sizes):
    world, q, _ = random_case(seed, sizes)
    excess = world.p_z @ theory.l_direct(q, world) - theory.entropy(world)
    ignored = world.p_x @ theory.kl(world.p_z.expand_as(q), q)
    assert excess >= -EXACT
    assert abs(excess - ignored) < EXACT
    tight = world.p_z @ theory.l_direct(world.p_z.expand_as(q), world)
    assert abs(tight - theory.entropy(world)) < EXACT


def test_bound_fails_for_single_feedbacks():
    world = theory.random_world(seed=0)
    rerankers = (theory.random_table(*world.p_z_given_x.shape, seed, 2.0) for seed in range(50))
    below = [(theory.l_direct(q, world) < world.evidence).any() for q in rerankers]
    assert any(below)


@pytest.mark.equation("eq-paired", "eq-best-direct")
@given(SEEDS, SIZES)
def test_training_on_pairs_has_its_least_at_the_conditional_entropy(seed, sizes):
    world, q, _ = random_case(seed, sizes)
    loop = -sum(p * q[x, z].log() for (_, x, z), p in enumerated(world).items())
    assert abs(theory.paired(q, world) - loop) < EXACT
    excess = theory.paired(q, world) - theory.conditional_entropy(world)
    assert abs(excess - world.p_x @ theory.kl(world.p_z_given_x, q)) < EXACT


@pytest.mark.equation("eq-paired-is-posterior", "eq-information")
@given(SEEDS, SIZES)
def test_training_on_pairs_is_denoising_with_the_posterior_as_generator(seed, sizes):
    world, q, _ = random_case(seed, sizes)
    posterior = world.p_x_given_z
    paired = theory.paired(q, world)
    assert abs(world.p_z @ theory.l_z(q, posterior) - paired) < EXACT
    information = theory.entropy(world) - theory.conditional_entropy(world)
    assert abs(world.p_z @ theory.l_x(posterior, world) - information) < EXACT
    terms = theory.l_adv(q, posterior, world) + theory.l_x(posterior, world)
    assert abs(paired + world.p_z @ terms - theory.entropy(world)) < EXACT


@pytest.mark.parametrize("as_written", [True, False])
def test_a_table_learns_to_ignore_or_to_use_the_scores(as_written):
    world = theory.cascade(n=1, users=2)

    def written(q):
        return world.p_z @ theory.l_direct(q, world)

    def practised(q):
        return theory.paired(q, world)

    *_, q = theory.train_table(world, written if as_written else practised, steps=600)
    wanted = world.p_z.expand_as(q) if as_written else world.p_z_given_x
    torch.testing.assert_close(q, wanted, rtol=0, atol=2e-3)
    assert (q - world.p_z).abs().max() > 0.1 or as_written


@pytest.mark.equation("eq-neglected")
@given(SEEDS, SIZES)
def test_what_the_chain_leaves_out(seed, sizes):
    world, _, _ = random_case(seed, sizes)
    marginal = world.p_z_given_x
    loop = sum(
        p * math.log(world.feedback[u, x, z] / marginal[x, z])
        for (u, x, z), p in enumerated(world).items()
    )
    found = theory.information_of_request(world)
    assert abs(found - loop) < EXACT
    with_request = -(world.with_request * world.feedback.log()).sum()
    assert abs(theory.conditional_entropy(world) - with_request - found) < EXACT
    users, n, levels = sizes
    chain = theory.random_world(seed, users, n, levels, chain=True)
    assert abs(theory.information_of_request(chain)) < EXACT
    assert abs(theory.information_of_request(world.without_request())) < EXACT
    torch.testing.assert_close(world.without_request().joint, world.joint, rtol=0, atol=EXACT)


# Best responses -------------------------------------------------------------------------------


@given(SEEDS, SIZES, st.floats(0, 3))
def test_best_reranker_has_no_better_neighbour(seed, sizes, lambda_m):
    world, q, phi = random_case(seed, sizes)

    def loss(q):
        return theory.paired(q, world) + lambda_m * (world.p_z @ theory.l_z(q, phi))

    best = theory.best_reranker(world, phi, lambda_m)
    assert gradient(loss, best).abs().max() < EXACT
    assert loss(best) <= loss(q) + EXACT


def objective_of(name, q, world, weight):
    log_q = q.T.log()
    return {
        "bound": lambda phi: theory.negative_elbo(phi, world),
        "defined": lambda phi: theory.l_adv(q, phi, world) + theory.l_x(phi, world),
        "practised": lambda phi: weight * (phi * log_q).sum(1) + theory.l_x(phi, world),
        "unregularised": lambda phi: (phi * log_q).sum(1),
    }[name]


@pytest.mark.parametrize("name", ["bound", "defined", "practised"])
@given(SEEDS, SIZES, st.floats(0.1, 3))
def test_best_generator_has_no_better_neighbour(name, seed, sizes, weight):
    world, q, phi = random_case(seed, sizes)
    objective = objective_of(name, q, world, weight)
    best = theory.best_generator(world, q, name, weight)
    assert gradient(objective, best).abs().max() < EXACT
    assert (objective(best) <= objective(phi) + EXACT).all()


@given(SEEDS, SIZES)
def test_generators_without_and_with_the_truth(seed, sizes):
    world, q, phi = random_case(seed, sizes)
    truth = world.p_z_given_x
    best = {name: theory.best_generator(world, truth, name) for name in theory.OBJECTIVES}
    torch.testing.assert_close(best["bound"], world.p_x_given_z, rtol=0, atol=EXACT)
    torch.testing.assert_close(best["defined"], world.p_x.expand_as(phi), rtol=0, atol=EXACT)
    least = objective_of("unregularised", q, world, 1.0)
    collapsed = theory.best_generator(world, q, "unregularised")
    assert ((collapsed == 0) | (collapsed == 1)).all()
    assert (least(collapsed) <= least(phi) + EXACT).all()


def test_trained_noise_contradicts_the_feedback():
    world = theory.cascade(n=1, users=2)
    truth = world.p_z_given_x
    levels = world.levels
    mean = {name: theory.best_generator(world, truth, name) @ levels for name in theory.OBJECTIVES}
    real = world.p_x_given_z @ levels
    assert real[1] > real[0]
    assert mean["practised"][1] < mean["practised"][0]
    assert mean["unregularised"][1] < mean["unregularised"][0]


def test_only_the_bound_leaves_the_reranker_unharmed():
    world = theory.cascade()
    least = theory.conditional_entropy(world)
    harm = {}
    for name in theory.OBJECTIVES:
        *_, (q, _) = theory.play(world, 0.5, name, rounds=50)
        harm[name] = theory.paired(q, world) - least
    assert abs(harm.pop("bound")) < EXACT
    assert min(harm.values()) > 1e-3


def test_unknown_objective_and_negative_weight_are_refused():
    world, q, phi = random_case(0, (2, 1, 3))
    with pytest.raises(ConfigError, match="objective 'best'"):
        theory.best_generator(world, q, "best")
    with pytest.raises(ConfigError, match="lambda_m = -1"):
        theory.best_reranker(world, phi, -1)


def test_under_the_chain_nothing_beats_the_order_of_the_score():
    """Every choice of two of three candidates, for every request and score vector."""
    some = theory.random_world(n=3, levels=3, chain=True)
    liked = some.x_values**2  # each candidate's chance rises with its own score
    chances = torch.where(some.z_values == 1, liked[:, None], 1 - liked[:, None]).prod(2)
    world = World(some.prior, some.scores, chances.expand_as(some.feedback), some.levels, 3)
    expected = world.feedback @ world.z_values  # u x n
    choices = torch.combinations(torch.arange(3))
    hits = expected[..., choices].sum(-1)
    by_score = expected.gather(2, some.x_values.topk(2).indices.expand(len(some.prior), -1, -1))
    torch.testing.assert_close(by_score.sum(-1), hits.max(-1).values, rtol=0, atol=EXACT)
    assert (hits.max(-1).values - hits.min(-1).values).max() > 0.1
