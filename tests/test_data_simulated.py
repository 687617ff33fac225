"""The simulated world keeps its promises: the truth is known, and data and noise follow it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from dnrlib.data import SimulatedWorld, Source, prepare_log, stages, steps
from dnrlib.data.interactions import SCHEMA
from dnrlib.data.simulated import NOISES
from dnrlib.errors import ConfigError


@pytest.fixture(scope="module")
def world():
    return SimulatedWorld()


def auc(world, logits):
    return roc_auc_score(world.liked.ravel(), logits.ravel())


def shown_mask(world):
    mask = np.zeros_like(world.liked)
    np.put_along_axis(mask, world.shown.reshape(world.users, -1), True, axis=1)
    return mask


def test_the_same_seed_gives_the_same_world(world):
    assert SimulatedWorld().frame().equals(world.frame())
    assert not SimulatedWorld(seed=1).frame().equals(world.frame())


def test_truth_does_not_depend_on_what_is_logged(world):
    other = replace(world, lists=20, temperature=3.0, hype=0.0)
    assert (other.logits == world.logits).all()
    assert (other.liked == world.liked).all()


def test_logits_are_the_stated_sum(world):
    plain = replace(world, leniency=0.0, quality=0.0)
    affinity = plain.user_factors @ plain.item_factors.T / np.sqrt(plain.factors)
    np.testing.assert_allclose(plain.logits, plain.bias + plain.taste * affinity, rtol=1e-4)
    biases = world.logits - plain.logits
    by_user, by_item = biases.mean(1, keepdims=True), biases.mean(0)
    np.testing.assert_allclose(biases, by_user + by_item - biases.mean(), atol=1e-4)
    np.testing.assert_allclose(world.probability, 1 / (1 + np.exp(-world.logits)), rtol=1e-4)
    assert by_user.std() == pytest.approx(world.leniency, rel=0.15)
    assert by_item.std() == pytest.approx(world.quality, rel=0.15)


def test_feedback_has_the_stated_probability(world):
    by_probability = np.argsort(world.probability, axis=None)
    for part in np.array_split(by_probability, 10):
        p, liked = world.probability.ravel()[part], world.liked.ravel()[part]
        deviation = (liked - p).sum() / np.sqrt((p * (1 - p)).sum())
        assert abs(deviation) < 4


def test_frame_says_what_was_shown_and_liked(world):
    frame = world.frame()
    assert frame.schema == SCHEMA
    assert frame.select("user", "item").is_duplicated().sum() == 0
    assert (frame["item"].to_numpy() == world.shown.ravel()).all()
    liked = world.liked[frame["user"], frame["item"]]
    assert (frame["rating"].to_numpy() == np.where(liked, 5, 1)).all()
    assert steps.in_time_order(frame).equals(frame)
    assert frame.select("user", "time").is_duplicated().sum() == 0


def test_log_leads_back_to_the_truth():
    world = SimulatedWorld(users=40, items=200, lists=4)
    *_, (_, frame) = stages(world.source())
    log = prepare_log(world.source())
    users, items = (ids.numpy() for ids in steps.raw_ids(frame))
    assert log.items < world.items
    liked = world.liked[users[log.user], items[log.item - 1]]
    assert torch.equal(log.label, torch.from_numpy(liked))


def test_default_world_survives_filtering(world):
    log = prepare_log(world.source())
    positives = log.label[log.rows()].sum(1).float()
    assert (log.users, log.items) == (600, 400)
    assert len(log) / log.users == pytest.approx(12, abs=0.5)
    assert positives.quantile(0.15) >= 2
    assert positives.quantile(0.85) <= 5


def test_taste_matters_more_than_popularity(world):
    popularity = np.bincount(world.shown.ravel(), minlength=world.items)
    assert auc(world, world.logits) > 0.8
    assert auc(world, np.tile(popularity, (world.users, 1))) < 0.65


def test_a_hot_logging_policy_shows_what_is_liked_less(world):
    means = [
        shown.probability[shown_mask(shown)].mean()
        for shown in (replace(world, temperature=t) for t in (0.5, 2.0, 5.0, 1e6))
    ]
    assert means == sorted(means, reverse=True)
    assert means[-1] == pytest.approx(world.probability.mean(), abs=0.01)


def test_hype_makes_items_popular_whatever_they_are_worth(world):
    hyped = replace(world, hype=3.0, temperature=0.3)
    popularity = np.bincount(hyped.shown.ravel(), minlength=hyped.items)
    assert np.corrcoef(popularity, hyped.hypes)[0, 1] > 0.7
    assert abs(np.corrcoef(hyped.hypes, hyped.logits.mean(0))[0, 1]) < 0.15


def test_no_list_of_a_user_is_better_by_design(world):
    rates = np.take_along_axis(world.probability[:, None], world.shown, axis=2).mean((0, 2))
    assert np.ptp(rates) < 0.03


@pytest.mark.parametrize("kind", NOISES)
def test_noise_has_the_stated_size(world, kind):
    noise = world.noisy_logits(kind, scale=2.0) - world.logits
    assert noise.std() == pytest.approx(2.0, rel=0.15)
    assert (world.noisy_logits(kind, scale=0.0) == world.logits).all()


@pytest.mark.parametrize("kind", NOISES)
def test_more_noise_is_less_information_down_to_none(world, kind):
    aucs = [auc(world, world.noisy_logits(kind, scale)) for scale in (0.0, 1.0, 3.0, 1e5)]
    assert aucs == sorted(aucs, reverse=True)
    assert aucs[-1] == pytest.approx(0.5, abs=0.02)


def test_kinds_of_noise_differ_as_named(world):
    noise = {kind: world.noisy_logits(kind) - world.logits for kind in NOISES}
    extreme = {kind: (np.abs(values) > 5).mean() for kind, values in noise.items()}
    assert extreme["gaussian"] < 1e-5 < 1e-3 < extreme["heavy-tailed"]
    assert noise["popularity"].std(0).max() < 1e-4


def test_noise_has_its_own_seed(world):
    first, again, other = (world.noisy_logits(seed=seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_optimism_tells_the_feedback_of_seen_pairs_only(world):
    seen = shown_mask(world)
    plain = world.noisy_logits(scale=2.0)
    biased = world.noisy_logits(scale=2.0, optimism=1.5, seen=seen)
    np.testing.assert_allclose((biased - plain)[seen & world.liked], 1.5, atol=1e-5)
    np.testing.assert_allclose((biased - plain)[seen & ~world.liked], -1.5, atol=1e-5)
    assert (biased == plain)[~seen].all()


@pytest.mark.parametrize(
    ("setting", "named"), [({"items": 71}, "items is 71"), ({"temperature": 0.0}, "temperature")]
)
def test_impossible_worlds_are_refused(setting, named):
    with pytest.raises(ConfigError, match=named):
        SimulatedWorld(**setting)


def test_unknown_noise_is_refused(world):
    with pytest.raises(ConfigError, match="gaussian, heavy-tailed, popularity"):
        world.noisy_logits("pink")


def test_source_states_the_world():
    source = SimulatedWorld(users=30, seed=7).source()
    assert isinstance(source, Source)
    assert "users=30" in source.note
    assert "seed=7" in source.note
