"""Corrupted scores are what they are said to be, and what is measured with them can be unpacked."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from worlds import make_lists

from dnrlib import experiments
from dnrlib.errors import ConfigError
from dnrlib.experiments import load_experiment, run
from dnrlib.identity import hash_of
from dnrlib.measurements import load_measurement
from dnrlib.measurements import measure as measure_all
from dnrlib.metrics import ndcg, rank
from dnrlib.rerankers import build
from dnrlib.robustness import (
    CLEAN,
    LEVELS,
    by_method,
    corrupted,
    differences,
    drop,
    measure,
    per_list,
    sides,
    smaller_drops,
    verdict,
)
from dnrlib.statistics import estimate

LISTS = make_lists(lists=2000, signal=0.5)
SCORE = build("score", LISTS)
EXPERIMENT = """
base:
  data: {dataset: simulated, retriever: noisy-truth, train_lists: 300, evaluation_lists: 100}
  options: {dim: 8, layers: 1}
  training: {epochs: 2, lambda_e: 1}
grid: {method: [score, none, concat], seed: [0, 1]}
"""


def logit(x):
    return torch.logit(x.double(), 1e-4)


# Corruptions ------------------------------------------------------------------------------


@pytest.mark.equation("eq-robustness-noise")
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_noise_is_normal_on_the_logit_and_the_same_for_everyone(sigma):
    noise = logit(corrupted(LISTS, "noise", sigma).scores) - logit(LISTS.scores)
    inner = (LISTS.scores > 0.05) & (LISTS.scores < 0.95)
    inner &= noise.abs() < 2.5 * sigma  # float32 and the clamp cut the tails
    assert stats.kstest(noise[inner] / sigma, stats.truncnorm(-2.5, 2.5).cdf).pvalue > 0.001
    again = corrupted(LISTS, "noise", sigma).scores
    assert torch.equal(again, corrupted(LISTS, "noise", sigma).scores)
    half = logit(corrupted(LISTS, "noise", sigma / 2).scores) - logit(LISTS.scores)
    assert torch.allclose(2 * half[inner], noise[inner], atol=0.01 * sigma)


def test_permuted_scores_are_the_same_scores_of_a_share_of_the_lists():
    moved = {}
    for share in (0.0, 0.1, 0.5, 1.0):
        found = corrupted(LISTS, "permuted", share).scores
        assert torch.equal(found.sort(1).values, LISTS.scores.sort(1).values)
        moved[share] = (found != LISTS.scores).any(1)
        assert int(moved[share].sum()) == round(share * len(LISTS))
    assert not (moved[0.1] & ~moved[0.5]).any()
    everything = corrupted(LISTS, "permuted", 1.0).scores
    places = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(4000, 4)
    drawn = corrupted(make_like(places), "permuted", 1.0).scores
    assert torch.allclose(drawn.mean(0), torch.full((4,), 1.5), atol=0.1)
    assert everything.shape == LISTS.scores.shape


def make_like(scores):
    lists = make_lists(lists=len(scores), n=scores.shape[1], shown=2)
    return type(lists)(**{**vars(lists), "scores": scores})


def test_the_other_corruptions_on_numbers_that_can_be_checked_by_hand():
    lists = make_like(torch.tensor([[0.2, 0.5, 0.8, 0.1], [0.9, 0.3, 0.6, 0.6]]))
    mean = corrupted(lists, "constant", 1.0).scores
    assert torch.allclose(mean, torch.full((2, 4), 0.5))
    turned = corrupted(lists, "reversed", 1.0).scores
    assert torch.equal(turned[0], torch.tensor([0.5, 0.2, 0.1, 0.8]))
    squared = corrupted(lists, "scaled", 2.0).scores  # the odds are squared
    assert torch.allclose(squared[0], torch.tensor([1 / 17, 0.5, 16 / 17, 1 / 82]), atol=1e-6)
    up = corrupted(lists, "shifted", np.log(3)).scores  # the odds are tripled
    assert torch.allclose(up[0], torch.tensor([3 / 7, 0.75, 12 / 13, 0.25]), atol=1e-6)


def test_scaled_and_shifted_scores_keep_the_order_of_the_score_alone():
    for row in measure(LISTS, SCORE):
        if row["kind"] in ("scaled", "shifted"):
            assert row["ndcg@6"] == pytest.approx(ndcg_alone(), abs=2e-3), row["kind"]


def ndcg_alone():
    test = LISTS.of_split("test")
    return float(ndcg(rank(test.scores, test.labels), 6).mean())


def test_everything_but_the_scores_stays_as_it_is():
    for kind, levels in LEVELS.items():
        found = corrupted(LISTS, kind, levels[-1])
        assert torch.equal(found.labels, LISTS.labels)
        assert torch.equal(found.items, LISTS.items)
        assert float(found.scores.min()) >= 0
        assert float(found.scores.max()) <= 1
        assert not torch.equal(found.scores, LISTS.scores)
    assert corrupted(LISTS, *CLEAN) is LISTS


@pytest.mark.parametrize(
    ("kind", "level", "message"),
    [
        ("nosuch", 1.0, "corruption 'nosuch' is unknown: choose one of noise, permuted"),
        ("noise", -1.0, "level = -1.0 of noise"),
        ("permuted", 1.5, "level = 1.5 of permuted"),
    ],
)
def test_wrong_corruptions_are_named(kind, level, message):
    with pytest.raises(ConfigError, match=message):
        corrupted(LISTS, kind, level)


# The measure ------------------------------------------------------------------------------


def test_ndcg_of_each_list_follows_from_what_is_stored():
    many = make_lists(lists=300, n=20, shown=15)  # more than six liked candidates in some lists
    assert int(many.labels.sum(1).max()) > 6
    rows = measure(many, build("score", many))
    assert [(row["kind"], row["level"]) for row in rows] == [
        CLEAN, *((kind, level) for kind, levels in LEVELS.items() for level in levels)
    ]  # fmt: skip
    test = many.of_split("test")
    for row in rows:
        scores = corrupted(test, row["kind"], row["level"]).scores
        wanted = ndcg(rank(scores, test.labels), 6)
        assert np.allclose(per_list(row, rows[0]["liked"]), wanted, atol=1e-12)
        assert row["ndcg@6"] == pytest.approx(float(wanted.mean()))


def test_a_measurement_of_an_experiment_has_the_score_alone_and_a_flat_line(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "EXPERIMENTS", tmp_path)
    (tmp_path / "small.yml").write_text(EXPERIMENT)
    folders = {"results": tmp_path / "results", "runs": tmp_path / "runs"}
    for config in load_experiment("small"):
        run(config, **folders)
    path = measure_all("robustness", "small", folder=tmp_path, **folders)
    assert path.read_text() == json.dumps(json.loads(path.read_text()), indent=1) + "\n"
    levels = by_method(load_measurement("small", "robustness", tmp_path).runs)
    assert set(levels) == {"none", "concat", "score"}
    assert levels["score"][CLEAN].shape == (1, 100)
    assert levels["concat"][CLEAN].shape == (2, 100)
    assert all(np.array_equal(one, levels["none"][CLEAN]) for one in levels["none"].values())
    assert drop(levels["score"], "reversed", 1.0).mean() > 0.1


def test_the_runs_are_those_of_the_protocol_study():
    shared = {hash_of(config) for config in load_experiment("protocol-study")}
    own = {config.method: hash_of(config) in shared for config in load_experiment("robustness")}
    assert [method for method, there in own.items() if not there] == ["noise-G", "DNR-G"]


# Comparisons ------------------------------------------------------------------------------


def made_up(clean, by_level, lists=400):
    """Levels of a method whose NDCG is as given, plus noise that its seeds share in part."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.05, (1, lists)) + random.normal(0, 0.01, (3, lists))
    return {CLEAN: clean + noise} | {
        ("noise", level): value + noise for level, value in by_level.items()
    }


@pytest.mark.equation("eq-robustness-drop")
def test_a_smaller_drop_is_the_references_drop_minus_the_methods():
    method, reference = made_up(0.5, {1.0: 0.45}), made_up(0.6, {1.0: 0.4})
    found = smaller_drops(method, reference, "noise", [1.0])[1.0]
    assert found.mean == pytest.approx(0.2 - 0.05)
    random = np.random.default_rng(1)
    reference["noise", 1.0] = reference["noise", 1.0] + random.normal(0, 0.1, (3, 400))
    by_hand = (reference[CLEAN] - reference["noise", 1.0]) - (method[CLEAN] - method["noise", 1.0])
    assert smaller_drops(method, reference, "noise", [1.0])[1.0] == estimate(by_hand)
    assert differences(method, reference, "noise", [1.0])[1.0].mean == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(
    ("drops", "wanted", "told"),
    [
        ((0.1, 0.2), ["for", "for"], "holds"),
        ((0.0, 0.2), ["open", "for"], "holds"),
        ((0.0, 0.0), ["open", "open"], "not shown"),
        ((-0.1, 0.0), ["against", "open"], "contradicted"),
        ((-0.1, 0.1), ["against", "for"], "mixed"),
    ],
)
def test_the_verdict_of_a_family_follows_the_rule(drops, wanted, told):
    random = np.random.default_rng(2)
    method = made_up(0.5, {1.0: 0.4, 2.0: 0.4})
    worse = {
        level: 0.4 - more + random.normal(0, 0.1, (3, 400))
        for level, more in zip((1.0, 2.0), drops, strict=True)
    }
    found = smaller_drops(method, made_up(0.5, worse), "noise", [1.0, 2.0])
    assert list(sides(found).values()) == wanted
    assert verdict(found) == told


def test_p_values_are_adjusted_over_the_levels():
    random = np.random.default_rng(3)
    weak = random.normal(0, 0.1, (1, 400))
    weak += 0.0115 - weak.mean()  # p about 0.02 alone
    reference = made_up(0.5, dict.fromkeys((1.0, 2.0, 3.0, 4.0), 0.4))
    reference["noise", 1.0] = reference["noise", 1.0] - weak
    for level in (2.0, 3.0, 4.0):
        shuffled = random.normal(0, 0.1, (1, 400))
        reference["noise", level] = reference["noise", level] - shuffled + shuffled.mean()
    method = made_up(0.5, dict.fromkeys((1.0, 2.0, 3.0, 4.0), 0.4))
    alone = smaller_drops(method, reference, "noise", [1.0])
    assert 0.0125 < alone[1.0].p < 0.05
    assert verdict(alone) == "holds"
    assert verdict(smaller_drops(method, reference, "noise", [1.0, 2.0, 3.0, 4.0])) == "not shown"
