"""Light generators: their laws against closed forms, and what their trainers refuse."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training import DNR, HEURISTIC, LISTS, TRAIN, VALIDATION, prm, same_run, untimed, weights
from worlds import field_of, make_lists

from dnrlib import theory
from dnrlib.distances import Sample, list_correlation
from dnrlib.errors import ConfigError
from dnrlib.experiments import load_generator, run, run_config
from dnrlib.noise import MLPNoise
from dnrlib.training import Trainer
from dnrlib.variants import untrained_generator
from dnrlib.variants.bound import RequestBeta
from dnrlib.variants.light import (
    Empirical,
    EmpiricalListNoise,
    EmpiricalLists,
    EmpiricalNoise,
    LearnedBeta,
    LightBeta,
)

LIGHT = replace(DNR, generator="scores", generator_learning_rate=3e-2)
EMPIRICAL = replace(HEURISTIC, noise="beta")


def tiny(labels, scores):
    lists, n = labels.shape
    return field_of(make_lists(lists=lists, n=n), labels=labels, scores=scores)


def trained(kind, config, seed=0, checkpoint=None):
    made = kind(prm(), TRAIN, VALIDATION, config, seed=seed)
    curves = untimed(made.run(checkpoint))
    return weights(made.reranker), curves


# A learned Beta law ---------------------------------------------------------------------------


def test_a_learned_beta_is_uniform_before_it_is_trained():
    torch.manual_seed(0)
    x = LearnedBeta()(torch.arange(2).bool().expand(40_000, 2)).detach()
    assert x.min() >= 0
    assert x.max() <= 1
    for column in x.T:
        assert column.mean() == pytest.approx(1 / 2, abs=0.01)
        assert column.var().item() == pytest.approx(1 / 12, abs=0.003)


@pytest.mark.equation("eq-light-beta")
def test_each_label_has_a_law_of_its_own_and_samples_pull_at_its_numbers():
    noise = LearnedBeta()
    with torch.no_grad():
        noise.raw += torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    labels = torch.tensor([[False, True, True]])
    a, b = noise.law(labels.float()).concentration1, noise.law(labels.float()).concentration0
    expected = 0.1 + torch.nn.functional.softplus(noise.raw)
    assert a[0].tolist() == [expected[i, 0].item() for i in (0, 1, 1)]
    assert b[0].tolist() == [expected[i, 1].item() for i in (0, 1, 1)]
    torch.manual_seed(0)
    many = torch.ones(100_000, 1, dtype=torch.bool)
    (gradient,) = torch.autograd.grad(noise(many).mean(), noise.raw)
    a, b = expected[1].tolist()
    slope = torch.sigmoid(noise.raw[1]).tolist()  # of softplus
    # d/da of the mean a / (a + b) is b / (a + b)², d/db is -a / (a + b)²
    assert gradient[0].tolist() == [0, 0]
    assert gradient[1, 0].item() == pytest.approx(slope[0] * b / (a + b) ** 2, rel=0.03)
    assert gradient[1, 1].item() == pytest.approx(-slope[1] * a / (a + b) ** 2, rel=0.03)


def test_gradients_stay_finite_where_the_law_is_narrowest():
    noise = LearnedBeta()
    with torch.no_grad():
        noise.raw.fill_(-20)
    torch.manual_seed(0)
    noise(torch.ones(1000, 50, dtype=torch.bool)).sum().backward()
    assert noise.raw.grad.isfinite().all()


def test_phase_one_is_that_of_the_paper_s_training_to_the_last_bit():
    ours, theirs = (trained(kind, LIGHT)[1] for kind in (LightBeta, Trainer))
    assert ours[:2] == theirs[:2]
    assert ours[2] != theirs[2]


def test_four_numbers_are_trained_by_the_papers_losses():
    made = LightBeta(prm(), TRAIN, VALIDATION, LIGHT)
    before = weights(made.generator)
    curves = made.run()
    assert len(before) == 4
    assert (weights(made.generator) != before).all()
    assert {"L_direct", "L_z", "L_adv", "L_x"} == curves[-1].losses.keys()


@pytest.mark.parametrize(("kind", "config"), [(LightBeta, LIGHT), (EmpiricalLists, EMPIRICAL)])
def test_a_killed_training_ends_with_the_same_bits(kind, config, tmp_path):
    path = tmp_path / "checkpoint.pt"
    whole = trained(kind, config)
    part = kind(prm(), TRAIN, VALIDATION, config)
    part.curves.append(part.epoch(1, lambda progress: None))
    part.best = {name: tensor.clone() for name, tensor in part.reranker.state_dict().items()}
    part.curves.append(part.epoch(2, lambda progress: None))
    if part.curves[1].validation > part.curves[0].validation:
        part.best = {name: tensor.clone() for name, tensor in part.reranker.state_dict().items()}
    part.save(path)
    assert same_run(trained(kind, config, checkpoint=path), whole)


@pytest.mark.parametrize("generator", ["none", "epsilon"])
def test_a_learned_beta_makes_scores_and_nothing_else(generator):
    with pytest.raises(ConfigError, match=f"generator = '{generator}'.*use generator = 'scores'"):
        LightBeta(prm(), TRAIN, VALIDATION, replace(LIGHT, generator=generator))


def test_a_recorded_run_gives_its_generator_back(tmp_path):
    data = {"dataset": "simulated", "retriever": "noisy-truth", "train_lists": 100}
    settings = {"data": data | {"evaluation_lists": 50}, "options": {"dim": 8}}
    training = {"epochs": 2, "lambda_e": 1}
    config = run_config({"method": "bound", **settings, "training": training})
    record = run(config, tmp_path / "results", tmp_path / "runs")
    assert isinstance(load_generator(record, tmp_path / "runs"), LearnedBeta)
    training = {"generator": "scores", "lambda_c": 0.4}
    assert isinstance(untrained_generator(training), MLPNoise)
    assert isinstance(untrained_generator(training, "light-beta"), LearnedBeta)
    assert isinstance(untrained_generator(training, "bound-request"), RequestBeta)


# Real scores ----------------------------------------------------------------------------------


@pytest.mark.equation("eq-light-empirical")
def test_empirical_noise_draws_each_score_of_a_label_equally_often():
    labels = torch.tensor([[True, False, False], [True, False, False]])
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.3, 0.1]])
    noise = EmpiricalNoise(tiny(labels, scores))
    torch.manual_seed(0)
    x = noise(labels[:1].expand(40_000, 3))
    shares = {
        round(value.item(), 1): (x[:, 1:] == value).float().mean().item() for value in scores[0][1:]
    }
    assert set(x[:, 0].tolist()) == set(scores[:, 0].tolist())
    assert (x[:, 0] == scores[0, 0]).float().mean().item() == pytest.approx(1 / 2, abs=0.01)
    assert shares == pytest.approx({0.1: 1 / 2, 0.2: 1 / 4}, abs=0.01)


def test_candidates_of_a_list_are_drawn_apart_or_from_one_donor():
    kind = torch.rand(200, 1, generator=torch.Generator().manual_seed(0))
    labels = torch.rand(200, 12, generator=torch.Generator().manual_seed(1)) < 0.4
    within = torch.rand(200, 12, generator=torch.Generator().manual_seed(2))
    lists = field_of(
        make_lists(lists=200), labels=labels, scores=0.8 * kind + 0.1 * within + 0.1 * labels
    )
    torch.manual_seed(0)
    asked = torch.zeros(2000, 12, dtype=torch.bool)
    apart, together = (
        list_correlation(Sample(make(lists)(asked).numpy()))
        for make in (EmpiricalNoise, EmpiricalListNoise)
    )
    assert abs(apart) < 0.02
    assert together > 0.9


def test_all_scores_of_a_list_come_from_one_list_with_both_labels():
    labels = torch.tensor([[True, False, False], [False] * 3, [True] * 3, [False, True, True]])
    scores = torch.arange(12).view(4, 3) / 12
    noise = EmpiricalListNoise(tiny(labels, scores))
    torch.manual_seed(0)
    wanted = torch.tensor([True, False, True, False])
    x = noise(wanted.expand(500, 4))
    donor = (x * 12).round().int() // 3
    assert set(donor.unique().tolist()) == {0, 3}
    assert (donor == donor[:, :1]).all()
    column = (x * 12).round().int() % 3
    assert (labels[donor.long(), column.long()] == wanted).all()


@pytest.mark.parametrize("kind", [Empirical, EmpiricalLists])
def test_scores_that_know_their_labels_are_refused(kind):
    known = field_of(TRAIN, meta={**TRAIN.meta, "retriever": "in-sample"})
    with pytest.raises(ConfigError, match=r"in-sample.*use retriever = 'earlier' or 'crossfit'"):
        kind(prm(), known, VALIDATION, EMPIRICAL)
    for scheme in ("earlier", "crossfit"):
        there = field_of(TRAIN, meta={**TRAIN.meta, "retriever": scheme})
        assert isinstance(kind(prm(), there, VALIDATION, EMPIRICAL).heuristic, kind.kind)


@pytest.mark.parametrize("config", [LIGHT, replace(EMPIRICAL, noise="none")])
def test_real_scores_stand_in_place_of_a_heuristic_noise(config):
    with pytest.raises(ConfigError, match="use noise = 'beta' and generator = 'none'"):
        Empirical(prm(), TRAIN, VALIDATION, config)


@pytest.mark.parametrize(
    ("make", "words"), [(EmpiricalNoise, "one label"), (EmpiricalListNoise, "both labels")]
)
def test_a_label_without_scores_is_an_error(make, words):
    with pytest.raises(ConfigError, match=words):
        make(field_of(LISTS, labels=torch.zeros_like(LISTS.labels)))


def test_training_on_real_scores_draws_from_the_training_lists_alone():
    made = Empirical(prm(), TRAIN, VALIDATION, EMPIRICAL)
    drawn = set(made.heuristic(TRAIN.labels).flatten().tolist())
    assert drawn <= set(TRAIN.scores.flatten().tolist())
    losses = made.run()[-1].losses
    assert losses.keys() == {"L_direct", "L_z"}


# What a noise of the label alone teaches ------------------------------------------------------


@pytest.mark.equation("eq-light-naive-bayes")
@pytest.mark.parametrize("seed", range(5))
def test_the_best_reranker_on_noise_of_the_label_is_naive_bayes(seed):
    """p(u) and p(z | u) with x drawn from p_φ(x | z): Bayes' rule over the whole table."""
    rng = np.random.default_rng(seed)
    prior, liked = rng.dirichlet(np.ones(4)), rng.uniform(0.05, 0.95, 4)
    phi = theory.random_table(2, 6, seed).numpy()
    joint = prior[:, None, None] * np.stack([1 - liked, liked], 1)[:, :, None] * phi  # u z x
    odds = np.log(joint[:, 1] / joint[:, 0])
    formula = np.log(liked / (1 - liked))[:, None] + np.log(phi[1] / phi[0])
    np.testing.assert_allclose(odds, formula, atol=1e-12)


@pytest.mark.equation("eq-light-overlap")
def test_the_papers_heuristic_beta_noise_tells_the_label_without_fail():
    """With λ_c < 1/2 the supports of the labels do not meet."""
    made = Trainer(prm(), TRAIN, VALIDATION, replace(EMPIRICAL, lambda_c=0.4))
    torch.manual_seed(0)
    x = made.heuristic(TRAIN.labels)
    assert x[~TRAIN.labels].max() <= 0.4 < 0.6 <= x[TRAIN.labels].min()
