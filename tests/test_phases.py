"""The exact world of candidates: its tables, the fit, the limits, and what a gain is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dnrlib import phases
from dnrlib.errors import ConfigError
from dnrlib.noise import BetaNoise, GaussianNoise
from dnrlib.phases import Candidates, Recipe

SMALL = Candidates(contexts=5, levels=6)
HEURISTIC = {"beta": BetaNoise, "gaussian": GaussianNoise}


def entropy_gap(world, logits):
    """E KL( p(z | c, x) ‖ q(z | c, x) ) under test, from the definition."""
    p_cx = world.test.sum(axis=2)
    p = world.test / p_cx[..., None]
    q = np.stack([expit(-logits), expit(logits)], axis=-1)
    return (p_cx * (p * np.log(p / q)).sum(axis=2)).sum()


worlds = st.builds(
    Candidates,
    contexts=st.integers(1, 6),
    levels=st.integers(2, 8),
    states=st.integers(1, 9),
    mean=st.floats(-4, 2),
    spread=st.floats(0, 3),
    hidden=st.floats(0, 3),
    zipf=st.floats(0, 2),
    rho=st.floats(-0.99, 0.99),
    bias=st.floats(-3, 3),
    optimism=st.floats(-2, 3),
    seed=st.integers(0, 5),
)


@given(worlds, st.floats(0.05, 1))
def test_tables_are_laws(world, lambda_c):
    for law in (world.test, world.train):
        assert (law >= 0).all()
        assert law.sum() == pytest.approx(1)
        # optimism moves scores, and neither contexts nor feedback
        np.testing.assert_allclose(law.sum(axis=1), world.test.sum(axis=1), atol=1e-12)
        np.testing.assert_allclose(law.sum(axis=(1, 2)), world.p_context)
    for kind in ("beta", "gaussian"):
        table = phases.generator(kind, world, lambda_c)
        assert (table >= 0).all()
        np.testing.assert_allclose(table.sum(axis=1), 1)


@given(worlds)
def test_generators_from_the_world_are_laws(world):
    world = replace(world, rho=0.6 * world.rho, optimism=0.1 * world.optimism)
    for kind in ("oracle", "uninformed", "practised"):
        np.testing.assert_allclose(phases.generator(kind, world).sum(axis=1), 1)


@pytest.mark.equation("eq-phases-world", "eq-phases-optimism")
@pytest.mark.parametrize("optimism", [0.0, 0.8])
def test_tables_agree_with_drawn_candidates(optimism):
    world = replace(SMALL, optimism=optimism, zipf=1.0)
    rng, n = np.random.default_rng(0), 400_000
    c = rng.choice(world.contexts, n, p=world.p_context)
    s = rng.choice(world.states, n, p=world.p_state / world.p_state.sum())
    odds = world.log_odds[c, s]
    z = rng.random(n) < expit(odds)
    law = world.p_context[:, None] * world.p_state
    centre = (law * world.log_odds).sum()
    deviation = np.sqrt((law * (world.log_odds - centre) ** 2).sum())
    noise = rng.normal(size=n)
    r = world.rho * (odds - centre) / deviation + np.sqrt(1 - world.rho**2) * noise
    assert np.corrcoef(r, odds)[0, 1] == pytest.approx(world.rho, abs=0.01)
    x = expit(world.bias + world.width * r + optimism * np.where(z, 1, -1))
    level = np.minimum((x * world.levels).astype(int), world.levels - 1)
    counts = np.zeros(world.test.shape)
    np.add.at(counts, (c, level, z.astype(int)), 1)
    np.testing.assert_allclose(counts / n, world.train, atol=4 * 0.5 / n**0.5)


def test_more_states_change_next_to_nothing():
    few, many = (replace(SMALL, states=states).test for states in (21, 41))
    np.testing.assert_allclose(few, many, atol=1e-5)


@pytest.mark.parametrize("kind", ["beta", "gaussian"])
def test_heuristic_generator_is_the_noise_that_the_trainer_draws(kind):
    torch.manual_seed(0)
    labels = torch.tensor([[False, True]]).expand(100_000, 2)
    drawn = HEURISTIC[kind](0.4)(labels).clamp(0, 0.9999).numpy()
    levels = (drawn * SMALL.levels).astype(int)
    found = [np.bincount(levels[:, z], minlength=SMALL.levels) / 100_000 for z in (0, 1)]
    np.testing.assert_allclose(found, phases.generator(kind, SMALL, 0.4), atol=0.008)


@pytest.mark.equation("eq-phases-auc")
@given(st.integers(0, 1000), st.integers(2, 12))
def test_auc_with_ties_is_the_sum_over_pairs(seed, size):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4, (3, size)).astype(float)
    joint = rng.dirichlet(np.ones(2 * size)).reshape(size, 2)
    wins = np.sign(values[:, :, None] - values[:, None, :]) / 2 + 0.5
    pairs = joint[:, 1, None] * joint[None, :, 0]
    wanted = (wins * pairs).sum(axis=(1, 2)) / pairs.sum()
    np.testing.assert_allclose(phases.auc(values, joint), wanted)


def test_auc_agrees_with_scikit_learn():
    counts = phases.draw(SMALL.test, 500, 1)[0].sum(axis=0)
    x = np.repeat(np.tile(np.arange(6), 2), counts.T.ravel())
    z = np.repeat([0, 1], counts.sum(axis=0))
    assert phases.score_auc(counts[None] / 500) == pytest.approx(roc_auc_score(z, x))


@pytest.mark.parametrize(("wanted", "gap"), [(0.2, 0.0), (0.5, 0.05), (0.8, -0.02), (0.85, 0.1)])
def test_worlds_are_found_by_what_can_be_observed(wanted, gap):
    world = phases.at_auc(Candidates(), wanted, gap)
    assert phases.score_auc(world.test) == pytest.approx(wanted, abs=1e-6)
    assert phases.score_auc(world.train) == pytest.approx(wanted + gap, abs=1e-6)


def test_context_auc_is_set_and_the_spread_of_the_log_odds_is_kept():
    world = Candidates()
    found = phases.at_context_auc(world, 0.87)
    assert phases.context_auc(found.test) == pytest.approx(0.87, abs=1e-6)
    assert np.hypot(found.spread, found.hidden) == pytest.approx(
        np.hypot(world.spread, world.hidden)
    )


@pytest.mark.equation("eq-phases-reranker")
@pytest.mark.parametrize("basis", ["table", "linear"])
@pytest.mark.parametrize("offset", [0.0, np.linspace(-2, 2, 6)])
def test_gradient_is_zero_at_the_optimum(basis, offset):
    counts = phases.draw(SMALL.train, 80, 4).astype(float)
    logits = torch.tensor(phases.fit(counts, 0.7, 0.3, basis, offset)) - torch.tensor(offset)
    g = torch.tensor(phases._basis(basis, 6))
    columns = torch.tensor([0.007] + [0.3] * (g.shape[1] - 1), dtype=torch.float64)

    def penalised(a, w):
        found = torch.tensor(offset) + a[..., None] + (w @ g.T)[:, None]
        n = torch.tensor(counts)
        nats = (n[..., 0] * torch.nn.functional.softplus(found)).sum()
        nats = nats + (n[..., 1] * torch.nn.functional.softplus(-found)).sum()
        return nats + 0.35 * (a**2).sum() + 0.5 * (columns * w**2).sum()

    # the same loss, written anew and minimised by L-BFGS until its gradient vanishes
    a = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    w = torch.zeros(4, g.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [a, w],
        max_iter=2000,
        tolerance_grad=1e-11,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        solver.zero_grad()
        value = penalised(a, w)
        value.backward()
        return value

    solver.step(closure)
    theirs = (a[..., None] + (w @ g.T)[:, None]).detach()
    np.testing.assert_allclose(logits, theirs, atol=1e-5)


def test_agrees_with_scikit_learn_without_contexts_and_next_to_no_ridge():
    world = Candidates(contexts=1, levels=4, mean=0.0)
    counts = phases.draw(world.test, 400, 1).astype(float)
    ours = phases.fit(counts, 1e-7, 1e-7, "linear")[0, 0]
    x = np.tile((np.arange(4) + 0.5) / 4, 2)[:, None]
    z, weight = np.repeat([0, 1], 4), counts[0, 0].T.ravel()
    model = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(x, z, weight)
    np.testing.assert_allclose(ours, model.decision_function(x[:4]), atol=1e-3)


def test_data_of_one_label_and_contexts_without_data_have_an_answer():
    counts = np.zeros((1, 3, 4, 2))
    counts[0, 0, :, 0] = 5
    logits = phases.fit(counts)
    assert np.isfinite(logits).all()
    assert (logits < 0).all()
    np.testing.assert_array_equal(logits[0, 1], logits[0, 2])


@given(st.integers(0, 100), st.floats(0, 2))
@pytest.mark.equation("eq-phases-weights")
def test_invented_pairs_are_as_many_as_said_and_keep_context_and_label(seed, lambda_m):
    counts = phases.draw(SMALL.train, 60, 2, seed).astype(float)
    phi = phases.generator("beta", SMALL)
    weights = phases.with_denoising(counts, phi, lambda_m)
    np.testing.assert_allclose(weights.sum(axis=2), (1 + lambda_m) * counts.sum(axis=2))
    one_by_one = counts.copy()
    for r, c, x, z in np.ndindex(counts.shape):
        one_by_one[r, c, :, z] += lambda_m * counts[r, c, x, z] * phi[z]
    np.testing.assert_allclose(weights, one_by_one, atol=1e-12)


@pytest.mark.equation("eq-phases-weights")
def test_l_z_summed_exactly_is_what_sampling_tends_to():
    counts = phases.draw(SMALL.train, 200, 1).astype(float)
    phi, logits = phases.generator("gaussian", SMALL), phases.fit(counts)
    exact = phases.loss(logits, phases.with_denoising(counts, phi, 1.0) - counts)
    rng, total = np.random.default_rng(0), 0.0
    for c, z in np.ndindex(5, 2):
        x = rng.choice(6, 20_000, p=phi[z])
        total += counts[0, c, :, z].sum() * np.logaddexp(0, (1 - 2 * z) * logits[0, c, x]).mean()
    assert exact[0] == pytest.approx(total, rel=0.01)


@pytest.mark.equation("eq-phases-test-loss")
def test_exact_loss_is_what_drawn_pairs_tend_to():
    logits = phases.fit(phases.draw(SMALL.train, 100, 1).astype(float))
    drawn = phases.draw(SMALL.test, 400_000, 1, seed=1) / 400_000
    assert phases.loss(logits, SMALL.test) == pytest.approx(phases.loss(logits, drawn), abs=5e-3)


@pytest.mark.equation("eq-phases-optimum", "eq-phases-never")
@given(worlds, st.sampled_from(["beta", "gaussian", "uninformed"]), st.floats(0, 2))
def test_with_unlimited_data_the_loss_is_the_divergence_and_never_below(world, kind, lambda_m):
    world = replace(world, rho=0.6 * world.rho)
    phi = phases.generator(kind, world)
    logits = phases.best_logits(world.test, phi, lambda_m)
    excess = phases.loss(logits[None], world.test)[0] - phases.best_loss(world.test)
    assert excess == pytest.approx(entropy_gap(world, logits), abs=1e-10)
    assert excess >= -1e-12


@pytest.mark.equation("eq-phases-optimum")
def test_optimum_has_no_gradient():
    phi = torch.tensor(phases.generator("beta", SMALL))
    joint = torch.tensor(SMALL.test)
    start = phases.best_logits(SMALL.test, phi.numpy(), 0.5)
    logits = torch.tensor(start, requires_grad=True)
    log_q = torch.stack([-logits, logits], -1)
    log_q = torch.nn.functional.logsigmoid(log_q)
    l_z = -(joint.sum(1)[:, None] * phi.T * log_q).sum()
    (-(joint * log_q).sum() + 0.5 * l_z).backward()
    assert logits.grad.abs().max() < 1e-12


def test_a_table_for_one_context_reaches_the_unrestricted_optimum():
    world = Candidates(contexts=1, levels=5)
    phi = phases.generator("gaussian", world)
    fitted = phases.limit(world.test, phi, 0.5)[0]
    np.testing.assert_allclose(fitted, phases.best_logits(world.test, phi, 0.5), atol=1e-3)


@pytest.mark.equation("eq-phases-split")
@pytest.mark.parametrize("kind", phases.GENERATORS)
def test_with_much_data_and_no_optimism_nothing_is_gained(kind):
    recipes = {"direct": Recipe(), "DNR": Recipe(phases.generator(kind, SMALL))}
    found = phases.trial(SMALL, 10_000_000, recipes, replicates=4)
    gain = phases.gain(found["DNR"], found["direct"])
    limits = [
        phases.loss(phases.limit(SMALL.test, recipe.phi, 0.5), SMALL.test)[0]
        for recipe in recipes.values()
    ]
    assert limits[1] >= limits[0] - 1e-9
    assert gain.mean == pytest.approx(limits[0] - limits[1], abs=2e-4)
    assert gain.mean < 1e-5


def test_with_much_data_and_optimism_the_true_noise_gains():
    world = phases.at_auc(SMALL, 0.8, 0.1)
    recipes = {"direct": Recipe(), "DNR": Recipe(phases.generator("oracle", world))}
    found = phases.trial(world, 10_000_000, recipes, replicates=4)
    assert phases.gain(found["DNR"], found["direct"]).low > 0


@pytest.mark.parametrize("measure", ["loss", "auc"])
def test_without_weight_nothing_is_gained(measure):
    phi = phases.generator("beta", SMALL)
    found = phases.trial(SMALL, 50, {"direct": Recipe(), "none": Recipe(phi, lambda_m=(0.0,))}, 5)
    gain = phases.gain(found["none"], found["direct"], measure)
    assert gain.mean == gain.low == gain.high == 0


def test_sign_of_a_gain():
    bad, good = (
        phases.judge(sign * phases.best_logits(SMALL.test)[None].repeat(2, 0), SMALL.test)
        for sign in (-1, 1)
    )
    assert phases.gain(good, bad).mean > 0
    assert phases.gain(good, bad, "auc").mean > 0
    assert good.loss[0] == pytest.approx(phases.best_loss(SMALL.test))


def test_validation_chooses_for_each_data_set():
    options = [np.full((2, 1, 2), value) for value in (-1.0, 1.0)]
    validation = np.zeros((2, 1, 2, 2))
    validation[0, ..., 0] = validation[1, ..., 1] = 1
    found = phases.chosen(options, validation)
    np.testing.assert_array_equal(found[:, 0, 0], [-1, 1])


def test_recipe_tries_every_combination_and_one_is_as_plain_training():
    counts = phases.draw(SMALL.train, 50, 2).astype(float)
    phi = phases.generator("beta", SMALL)
    recipe = Recipe(phi, lambda_m=(0.1, 0.5), ridge=(1.0, 3.0), score_ridge=(1.0, 10.0))
    options = recipe.options(counts)
    assert len(options) == 8
    plain = phases.fit(phases.with_denoising(counts, phi, 0.5), 3.0, 30.0)
    np.testing.assert_array_equal(options[-1], plain)
    assert len(Recipe(lambda_m=(0.1, 0.5)).options(counts)) == 1


def test_with_next_to_no_data_an_offset_is_the_score_and_no_offset_is_a_constant():
    counts = np.zeros((1, 2, 4, 2))
    counts[0, :, :, 0] = 1e-9
    (zero,), (score,) = (Recipe(offset=offset).options(counts) for offset in (False, True))
    assert np.ptp(zero) < 1e-6
    np.testing.assert_allclose(np.diff(score[0, 0]), np.diff(np.log([1 / 7, 3 / 5, 5 / 3, 7])))


def test_draws_have_the_law_and_are_repeatable():
    counts = phases.draw(SMALL.train, 40, 500, seed=3)
    assert (counts.sum(axis=(1, 2, 3)) == 40).all()
    np.testing.assert_array_equal(counts, phases.draw(SMALL.train, 40, 500, seed=3))
    p = SMALL.train[2, 1, 0]
    assert counts[:, 2, 1, 0].mean() == pytest.approx(40 * p, abs=4 * binom(40, p).std() / 500**0.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Candidates(contexts=0), "contexts = 0"),
        (lambda: Candidates(rho=1.0), "rho"),
        (lambda: Candidates(width=0.0), "width"),
        (lambda: phases.at_auc(Candidates(), 0.99), "auc = 0.99"),
        (lambda: phases.at_auc(Candidates(), 0.9, 0.3), "gap = 0.3"),
        (lambda: phases.at_context_auc(Candidates(), 0.99), "wanted = 0.99"),
        (lambda: phases.generator("none", SMALL), "choose one of gaussian"),
        (lambda: phases.generator("beta", SMALL, 0.0), "lambda_c"),
        (lambda: phases.fit(np.ones((1, 1, 2, 2)), 0.0), "ridge = 0"),
        (lambda: phases.fit(np.ones((1, 1, 2, 2)), basis="spline"), "spline"),
    ],
)
def test_errors_name_the_parameter(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


def test_unknown_measure():
    outcome = phases.judge(np.zeros((2, 5, 6)), SMALL.test)
    with pytest.raises(ConfigError, match="choose loss or auc"):
        phases.gain(outcome, outcome, "ndcg")


def test_sweep_is_the_trials_of_its_cells():
    def recipes(world):
        return {"direct": Recipe(), "beta": Recipe(phases.generator("beta", world))}

    cells = [[(SMALL, 30), None], [(SMALL, 60), (replace(SMALL, rho=0.1), 60)]]
    maps = phases.sweep(cells, recipes, replicates=6, seed=4)
    assert set(maps) == {("beta", "loss"), ("beta", "auc")}
    alone = phases.trial(*cells[1][1], recipes(SMALL), 6, seed=4, place=3)
    wanted = phases.gain(alone["beta"], alone["direct"], "auc")
    np.testing.assert_array_equal(maps["beta", "auc"][1, 1], [wanted.mean, wanted.low, wanted.high])
    assert np.isnan(maps["beta", "loss"][0, 1]).all()
    assert not np.isnan(maps["beta", "loss"][[0, 1, 1], [0, 0, 1]]).any()


def test_lists_drawn_from_the_world_are_observed_as_it_is():
    world = phases.at_auc(Candidates(levels=40, contexts=3), 0.75, 0.08)
    rng, (n, lists) = np.random.default_rng(0), (20, 4000)
    parts = []
    for law, split in ((world.train, 0), (world.test, 2)):
        flat = rng.choice(law.size, (lists, n), p=law.ravel() / law.sum())
        _, level, z = np.unravel_index(flat, law.shape)
        parts.append(((level + rng.random(level.shape)) / world.levels, z == 1, split))
    scores, labels = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    drawn = phases.CandidateLists(
        users=torch.zeros(2 * lists, dtype=torch.int32),
        history=torch.ones(2 * lists, 1, dtype=torch.int32),
        items=torch.arange(1, n + 1, dtype=torch.int32).expand(2 * lists, n),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(labels),
        shown=torch.ones(2 * lists, n, dtype=torch.bool),
        split=torch.tensor([0, 2], dtype=torch.int8).repeat_interleave(lists),
        list=torch.arange(2 * lists, dtype=torch.int32),
        meta={"users": 1, "items": n},
    )
    found = phases.observe(drawn)
    assert found.test_auc == pytest.approx(0.75, abs=0.01)
    assert found.gap == pytest.approx(0.08, abs=0.015)
    assert (found.pairs, found.contexts) == (lists * n, 1 + n)
    assert found.bias == pytest.approx(world.bias, abs=0.1)
    assert found.width == pytest.approx(world.width, abs=0.15)
    again = phases.like(found, Candidates())
    assert phases.score_auc(again.test) == pytest.approx(found.test_auc, abs=1e-6)
    assert phases.score_auc(again.train) == pytest.approx(found.test_auc + found.gap, abs=1e-6)


def test_the_nearest_world_stands_for_what_cannot_be():
    seen = phases.Observed(test_auc=0.02, gap=0.0, bias=-1.5, width=1.5, pairs=100, contexts=5)
    world = phases.like(seen, Candidates())
    assert phases.score_auc(world.test) == pytest.approx(
        phases.attainable(world)[0] + 0.01, abs=1e-3
    )
