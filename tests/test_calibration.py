import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from worlds import field_of, make_lists

from dnrlib.calibration import calibrated, probabilities
from dnrlib.errors import ConfigError
from dnrlib.metrics import ndcg, rank

LISTS = make_lists(lists=400, signal=0.5)


def lists_of(scores, labels, split=1):
    """Lists of two candidates for given scores and labels, all in one split."""
    count = len(scores) // 2
    some = make_lists(lists=count, n=2, shown=2)
    return field_of(
        some,
        scores=torch.tensor(scores, dtype=torch.float32).view(count, 2),
        labels=torch.tensor(labels, dtype=torch.bool).view(count, 2),
        split=torch.full((count,), split, dtype=torch.int8),
    )


def optimistic(lists=2000, sharpness=3.0, seed=0):
    """Probabilities p as scores in validation and test; in training, of the same p, too extreme."""
    some = make_lists(lists=lists, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    p = 0.05 + 0.9 * torch.rand(some.scores.shape, generator=generator)
    labels = torch.rand(p.shape, generator=generator) < p
    extreme = (sharpness * p.logit()).sigmoid()
    scores = torch.where((some.split == 0)[:, None], extreme, p)
    shown = torch.ones_like(labels)
    return field_of(some, scores=scores, labels=labels, shown=shown), p


def test_blocks_and_lines_between_their_centres_by_hand():
    """Labels 0 0 1 0 1 1 by score: blocks of 0, 1/2 and 1 with centres 0.15, 0.4 and 0.7."""
    known = lists_of([0.1, 0.2, 0.3, 0.5, 0.6, 0.8], [0, 0, 1, 0, 1, 1])
    asked = torch.tensor([[0.0, 0.15], [0.275, 0.4], [0.55, 0.65], [0.7, 1.0]])
    wanted = torch.tensor([[0.0, 0.0], [0.25, 0.5], [0.75, 11 / 12], [1.0, 1.0]])
    torch.testing.assert_close(probabilities(known, asked), wanted)


def test_equal_scores_count_as_one_with_their_weight():
    known = lists_of([0.2, 0.2, 0.2, 0.2, 0.9, 0.9], [1, 0, 0, 0, 1, 0])
    asked = torch.tensor([[0.2, 0.9]])
    torch.testing.assert_close(probabilities(known, asked), torch.tensor([[0.25, 0.5]]))
    falling = lists_of([0.2, 0.2, 0.2, 0.2, 0.9, 0.9], [1, 1, 1, 0, 0, 0])
    torch.testing.assert_close(probabilities(falling, asked), torch.tensor([[0.75, 0.0]]))


def test_each_regime_is_calibrated_by_itself():
    lists, p = optimistic()
    after = calibrated(lists)
    for name in ("train", "test"):
        part, truth = after.of_split(name), p[lists.split == lists.of_split(name).split[0]]
        before = lists.of_split(name)
        assert float((part.scores - truth).abs().mean()) < 0.05
        for low, high in ((0.1, 0.4), (0.4, 0.7), (0.7, 0.95)):
            here = (part.scores >= low) & (part.scores < high)
            liked = float(part.labels[here].float().mean())
            assert liked == pytest.approx(float(part.scores[here].mean()), abs=0.05)
        assert torch.equal(part.labels, before.labels)


def test_one_map_for_all_would_not_do():
    """What the two maps are for: the same score means another probability in training."""
    lists, _ = optimistic()
    asked = torch.tensor([[0.9]])
    train, other = (float(probabilities(lists.of_split(s), asked)) for s in ("train", "test"))
    assert train == pytest.approx(1 / (1 + (1 / 9) ** (1 / 3)), abs=0.06)
    assert other == pytest.approx(0.9, abs=0.06)


def test_no_test_label_is_read():
    test = (LISTS.split == 2)[:, None]
    turned = field_of(LISTS, labels=torch.where(test, ~LISTS.labels, LISTS.labels))
    assert torch.equal(calibrated(LISTS).scores, calibrated(turned).scores)


@pytest.mark.parametrize(("fitted_on", "moved"), [(0, {0}), (1, {1, 2})])
def test_which_labels_move_which_scores(fitted_on, moved):
    here = (LISTS.split == fitted_on)[:, None]
    turned = field_of(LISTS, labels=torch.where(here, ~LISTS.labels, LISTS.labels))
    change = (calibrated(LISTS).scores != calibrated(turned).scores).any(dim=1)
    assert set(LISTS.split[change].tolist()) == moved


def test_the_order_stays_but_for_few_ties():
    lists, _ = optimistic()
    after = calibrated(lists).scores
    steps = after.gather(1, lists.scores.argsort(dim=1, stable=True)).diff(dim=1)
    assert (steps >= 0).all()
    assert float((steps == 0).float().mean()) < 0.02
    before = ndcg(rank(lists.scores, lists.labels), 6).nanmean()
    assert ndcg(rank(after, lists.labels), 6).nanmean() == pytest.approx(float(before), abs=0.005)


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_probabilities_rise_with_the_score_and_stay_between_0_and_1(seed, digits):
    generator = np.random.default_rng(seed)
    scores = generator.random(40).round(digits)
    known = lists_of(scores, generator.random(40) < scores)
    asked = torch.linspace(0, 1, 101)[None]
    p = probabilities(known, asked)
    assert (p.diff() >= 0).all()
    assert p.min() >= 0
    assert p.max() <= 1


@pytest.mark.parametrize("liked", [False, True])
def test_equal_labels_make_a_constant(liked):
    known = lists_of([0.1, 0.4, 0.6, 0.9], [liked] * 4)
    assert (probabilities(known, torch.rand(3, 2)) == float(liked)).all()


def test_only_scores_and_one_word_of_meta_change():
    after = calibrated(LISTS).validate()
    assert after.meta == LISTS.meta | {"calibration": "isotonic"}
    assert after.scores.dtype == LISTS.scores.dtype
    same = field_of(after, scores=LISTS.scores, meta=LISTS.meta)
    assert same.fingerprint == LISTS.fingerprint
    assert "calibration" not in LISTS.meta


@pytest.mark.parametrize("missing", ["train", "validation"])
def test_what_there_is_nothing_to_fit_on_is_refused(missing):
    split = ("train", "validation", "test").index(missing)
    with pytest.raises(ConfigError, match=f"there are no {missing} lists"):
        calibrated(LISTS[LISTS.split != split])


def test_where_a_higher_score_means_less_liked_the_map_falls_and_turns_the_order():
    lists = make_lists(200, n=12, seed=3)
    turned = field_of(lists, scores=1 - lists.scores)
    found, expected = calibrated(turned).scores, calibrated(lists).scores
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
