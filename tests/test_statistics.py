import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from dnrlib.errors import ConfigError
from dnrlib.statistics import (
    Estimate,
    Interval,
    equivalence,
    estimate,
    false_alarms,
    holm,
    mean_interval,
    paired_difference,
    seed_difference,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def ends(interval):
    return interval.low, interval.high


def test_agrees_with_all_resamples_of_a_small_case():
    values = np.array([0.0, 1.0, 3.0, 7.0, 20.0])
    means = [np.mean(draw) for draw in itertools.product(values, repeat=5)]
    interval = mean_interval(values, confidence=0.8, resamples=40_000)
    assert interval.mean == 6.2
    assert ends(interval) == pytest.approx(np.quantile(means, [0.1, 0.9]), abs=0.15)


def test_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=200)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=0
    ).confidence_interval
    ours = mean_interval(values, resamples=20_000)
    assert ends(ours) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_sign_is_positive_where_the_first_is_higher():
    common, gain = normal(500), 0.2 + 0.1 * normal(500, seed=1)
    better = paired_difference(common + gain, common)
    assert better.mean == pytest.approx(gain.mean())
    assert 0 < better.low < better.mean < better.high
    worse = paired_difference(common, common + gain)
    assert worse.mean == pytest.approx(-better.mean)
    assert worse.low < worse.high < 0


def test_pairing_removes_what_the_lists_share():
    common = 10 * normal(500)
    a, b = common + 0.1 * normal(500, seed=1), common + 0.1 * normal(500, seed=2)
    interval = paired_difference(a, b)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * math.sqrt(0.02 / 500), rel=0.2)


def test_no_difference_has_an_interval_of_no_width():
    values = normal(50)
    assert paired_difference(values, values) == Interval(0, 0, 0, lists=50, dropped=0)


def test_undefined_pairs_are_dropped_and_counted():
    a, b = np.array([1.0, np.nan, 3.0, 4.0]), np.array([0.0, 1.0, np.nan, 0.0])
    interval = paired_difference(a, b)
    assert (interval.mean, interval.lists, interval.dropped) == (2.5, 2, 2)
    assert interval == Interval(**{**vars(paired_difference(a[[0, 3]], b[[0, 3]])), "dropped": 2})


def test_a_list_undefined_under_one_seed_is_dropped_under_all():
    values = np.array([[1.0, 2.0, np.nan], [1.0, 4.0, 5.0]])
    interval = mean_interval(values)
    assert (interval.mean, interval.lists, interval.dropped) == (2.0, 2, 1)


def test_same_seed_same_interval():
    values = normal(100)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_float32_is_averaged_in_double_precision():
    values = np.full(100_003, 0.1, dtype=np.float32)
    assert mean_interval(values, resamples=10).mean == pytest.approx(float(values[0]), abs=1e-12)


def test_resamples_drawn_in_parts_are_as_wide_as_at_once(monkeypatch):
    values = normal(300)
    at_once = mean_interval(values)
    monkeypatch.setattr("dnrlib.statistics._DRAWS_AT_ONCE", 1000)
    assert ends(mean_interval(values)) == pytest.approx(ends(at_once), abs=0.01)


def test_copies_within_clusters_add_no_certainty():
    values = normal(40)
    clusters = np.array([f"user {user}" for user in range(40)])
    copied = mean_interval(values.repeat(9), clusters.repeat(9))
    alone = mean_interval(values)
    assert sorted(ends(copied)) == pytest.approx(ends(alone), abs=0.05)
    naive = mean_interval(values.repeat(9))
    assert naive.high - naive.low < 0.5 * (copied.high - copied.low)


def test_clusters_of_unequal_size_weigh_each_list_alike():
    clusters = np.repeat([0, 1, 2], [1, 5, 30])
    assert ends(mean_interval(np.ones(36), clusters)) == (1, 1)


def test_every_seed_alike_is_one_seed():
    values = normal(40)
    once, twice = mean_interval(values), mean_interval(np.stack([values] * 4))
    assert ends(twice) == pytest.approx(ends(once), abs=0.03)


def test_seeds_that_differ_widen_the_interval():
    values = 0.1 * normal(8, 200) + normal(8, 1, seed=1)
    over_both, over_lists = mean_interval(values), mean_interval(values.mean(0))
    assert over_both.mean == pytest.approx(over_lists.mean)
    width = over_both.high - over_both.low
    assert width > 10 * (over_lists.high - over_lists.low)
    assert width == pytest.approx(2 * 1.96 * values.mean(1).std() / math.sqrt(8), rel=0.1)


def covers(samples, **options):
    intervals = [mean_interval(values, resamples=400, **options) for values in samples]
    return np.mean([interval.low <= 0 <= interval.high for interval in intervals])


def tolerance(runs, coverage=0.95):
    return 4 * math.sqrt(coverage * (1 - coverage) / runs)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_coverage_over_lists(confidence):
    samples = np.random.default_rng(0).exponential(size=(500, 200)) - 1
    assert covers(samples, confidence=confidence) == pytest.approx(
        confidence, abs=tolerance(500, confidence)
    )


def test_coverage_over_clusters():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(80), rng.integers(1, 12, 80))
    samples = rng.normal(size=(500, 80))[:, clusters] + rng.normal(size=(500, len(clusters)))
    assert covers(samples, clusters=clusters) == pytest.approx(0.95, abs=tolerance(500))
    assert covers(samples) < 0.8


def test_coverage_over_seeds_and_lists():
    rng = np.random.default_rng(0)
    samples = (
        rng.normal(size=(300, 20, 1))
        + 2 * rng.normal(size=(300, 1, 100))
        + rng.normal(size=(300, 20, 100))
    )
    assert covers(samples) == pytest.approx(0.95, abs=tolerance(300))
    assert covers(samples.mean(1)) < 0.87


@pytest.mark.parametrize("shape", [(4,), (1, 5), (2, 5)])
def test_shapes_must_match(shape):
    with pytest.raises(ConfigError, match="same lists"):
        paired_difference(normal(5), normal(*shape))


@pytest.mark.parametrize("values", [normal(2, 3, 4), np.array(1.0)])
def test_values_are_lists_or_seeds_by_lists(values):
    with pytest.raises(ConfigError, match=r"\[lists\] or \[seeds, lists\]"):
        mean_interval(values)


def test_clusters_must_match_the_lists():
    with pytest.raises(ConfigError, match="clusters"):
        mean_interval(normal(3, 10), np.arange(3))


@pytest.mark.parametrize("options", [{"confidence": 0.0}, {"confidence": 95.0}, {"resamples": 0}])
def test_bad_options_are_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        mean_interval(normal(10), **options)


@pytest.mark.parametrize("values", [np.array([]), np.array([np.nan]), np.zeros((2, 0))])
def test_no_list_left(values):
    with pytest.raises(ConfigError, match="no list is left"):
        mean_interval(values)


def test_the_interval_over_seeds_is_students():
    a, b = normal(5, 40), normal(5, 40, seed=1)
    found = seed_difference(a, b, confidence=0.9)
    theirs = scipy.stats.ttest_rel(a.mean(1), b.mean(1)).confidence_interval(0.9)
    assert ends(found) == pytest.approx((theirs.low, theirs.high))
    assert (found.mean, found.lists, found.dropped) == (pytest.approx((a - b).mean()), 40, 0)
    a[0, 3] = np.nan
    found = seed_difference(a, b)
    assert (found.lists, found.dropped) == (39, 1)
    assert found.mean == pytest.approx(np.delete(a - b, 3, axis=1).mean())


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_over_few_seeds_covers_what_it_says(seeds):
    """Where the seeds vary and the lists do not: the case in which the bootstrap is too narrow."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        a = rng.normal(0.3, 1, size=(seeds, 1)) + np.zeros((seeds, 20))
        found = seed_difference(a, np.zeros_like(a))
        hits += found.low <= 0.3 <= found.high
    assert 0.92 <= hits / 400 <= 0.98


@pytest.mark.parametrize("shape", [(1, 9), (9,)])
def test_one_seed_has_no_interval(shape):
    with pytest.raises(ConfigError, match="two seeds or more"):
        seed_difference(np.zeros(shape), np.zeros(shape))


# Estimates of seeds and users ------------------------------------------------------------------


def test_an_estimate_of_one_seed_is_students():
    values = normal(60) + 0.3
    found = estimate(values, resamples=20_000)
    theirs = scipy.stats.ttest_1samp(values, 0)
    assert ends(found) == pytest.approx(tuple(theirs.confidence_interval()), abs=0.01)
    assert found.p == pytest.approx(theirs.pvalue, rel=0.2)
    assert (found.freedom, found.seeds, found.lists) == (59, 1, 60)
    assert found.size == pytest.approx(values.mean() / values.std(ddof=1))


def test_where_the_seeds_alone_differ_the_estimate_is_students_over_them():
    of_seed = np.array([0.1, 0.5, 0.2, 0.6])
    found = estimate(of_seed[:, None] + np.zeros(30), resamples=20_000)
    theirs = scipy.stats.ttest_1samp(of_seed, 0)
    assert found.freedom == pytest.approx(3)
    assert found.error == pytest.approx(scipy.stats.sem(of_seed), rel=0.02)
    assert ends(found) == pytest.approx(tuple(theirs.confidence_interval()), abs=0.01)
    assert found.p == pytest.approx(theirs.pvalue, rel=0.05)


@pytest.mark.equation("eq-claims-freedom")
def test_the_degrees_of_freedom_lie_between_those_of_seeds_and_of_users():
    seeds, users = 0.1 * normal(4, 1), normal(1, 200, seed=1)
    found = estimate(seeds + users)
    assert 3 < found.freedom < 202
    by_user, by_seed = users.var(ddof=1) / 200, seeds.var(ddof=1) / 4
    wanted = (by_user + by_seed) ** 2 / (by_user**2 / 199 + by_seed**2 / 3)
    assert found.freedom == pytest.approx(wanted)


def test_an_estimate_counts_users_and_not_their_lists():
    users = np.arange(40)
    alone = estimate(normal(40), resamples=20_000)
    copied = estimate(normal(40).repeat(9), users.repeat(9), resamples=20_000)
    assert (copied.freedom, copied.lists) == (39, 360)
    assert copied.error == pytest.approx(alone.error, rel=0.03)
    assert copied.size == pytest.approx(alone.size)


def test_an_estimate_drops_undefined_lists():
    values = normal(3, 50)
    values[1, 4] = np.nan
    found = estimate(values)
    assert (found.lists, found.dropped) == (49, 1)
    assert found.mean == pytest.approx(np.delete(values, 4, axis=1).mean())


@pytest.mark.parametrize(("constant", "p"), [(0.0, 1.0), (0.25, 0.0)])
def test_values_that_never_differ_have_an_estimate_of_no_width(constant, p):
    found = estimate(np.full((3, 10), constant))
    assert (found.mean, found.low, found.high) == (constant,) * 3
    assert (found.error, found.p, found.size) == (0, p, 0)


@pytest.mark.parametrize(
    ("values", "clusters"),
    [(np.ones(1), None), (np.full(4, np.nan), None), (np.ones((2, 5)), np.zeros(5, int))],
)
def test_an_estimate_needs_two_users(values, clusters):
    with pytest.raises(ConfigError, match="two lists or clusters"):
        estimate(values, clusters)


@pytest.mark.parametrize(("seeds", "users", "rest"), [(1, 0, 0.5), (0.1, 1, 1), (0.2, 1.5, 0.5)])
@pytest.mark.parametrize("many", [3, 5])
def test_an_estimate_covers_what_it_says_whatever_varies(seeds, users, rest, many):
    """Three seeds are enough: the degrees of freedom say how little they are."""
    rng = np.random.default_rng(0)
    shape = (250, many, 60)
    samples = seeds * rng.normal(size=(*shape[:2], 1)) + users * rng.normal(size=(250, 1, 60))
    samples = samples + rest * rng.normal(size=shape)
    found = [estimate(values, resamples=200) for values in samples]
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    assert 0.95 - tolerance(250) <= covered <= 0.985
    assert np.mean([one.p < 0.05 for one in found]) == pytest.approx(1 - covered, abs=1e-9)


def test_the_two_way_variance_is_that_of_the_mean():
    """Over many samples, and never below what varies by seed and user together."""
    rng = np.random.default_rng(0)
    samples = 0.3 * rng.normal(size=(2000, 4, 1)) + 0.5 * rng.normal(size=(2000, 1, 30))
    samples = samples + rng.normal(size=(2000, 4, 30))
    errors = np.array([estimate(values, resamples=None).error for values in samples])
    assert np.mean(errors**2) == pytest.approx(0.09 / 4 + 0.25 / 30 + 1 / 120, rel=0.05)
    bare = normal(4, 30)
    bare = bare - bare.mean(0) - bare.mean(1, keepdims=True) + bare.mean()
    assert estimate(bare, resamples=None).error ** 2 == pytest.approx((bare**2).sum() / 87 / 120)


def test_the_two_way_variance_of_one_seed_and_of_seeds_alone_is_students():
    values = normal(60) + 0.3
    found, theirs = estimate(values, resamples=None), scipy.stats.ttest_1samp(values, 0)
    assert ends(found) == pytest.approx(tuple(theirs.confidence_interval()))
    assert found.p == pytest.approx(theirs.pvalue)
    of_seed = np.array([0.1, 0.5, 0.2, 0.6])
    found = estimate(of_seed[:, None] + np.zeros(30), resamples=None)
    theirs = scipy.stats.ttest_1samp(of_seed, 0)
    assert ends(found) == pytest.approx(tuple(theirs.confidence_interval()))


def test_the_two_way_variance_counts_users_and_not_their_lists():
    values, users = normal(3, 40), np.arange(40)
    alone = estimate(values, resamples=None)
    copied = estimate(values.repeat(9, axis=1), users.repeat(9), resamples=None)
    assert copied.error == pytest.approx(alone.error)


@pytest.mark.parametrize("seeds", [3, 5])
def test_false_alarms_are_as_many_as_the_docstring_says(seeds):
    for spreads in ((1, 0, 0.5), (0.1, 1, 0)):
        assert 0.03 < false_alarms(seeds, spreads) < 0.085
        assert 0.03 < false_alarms(seeds, spreads, None) < 0.095
    for spreads in ((0, 0, 1), (0.1, 0.5, 1)):
        assert false_alarms(seeds, spreads) <= 0.03
        assert 0.02 <= false_alarms(seeds, spreads, None) < 0.095


def test_what_differs_is_no_false_alarm():
    assert false_alarms(3, (0, 0, 1), level=1.0) == 1
    assert false_alarms(3, (0, 0, 1), level=0.0) == 0


def made_up(mean, error, freedom=10.0):
    return Estimate(mean, mean - error, mean + error, 9, 0, error, freedom, 0.5, 0.1, 3)


# Families and equivalence ----------------------------------------------------------------------


def test_holm_by_hand():
    found = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06, "d": 0.02})
    assert list(found) == ["a", "b", "c", "d"]
    assert holm({}) == {}
    assert holm({"alone": 0.04}) == {"alone": 0.04}


def test_where_nothing_differs_holm_seldom_tells_anything_apart():
    """A family of which no difference exists: in 5 % of families one is told apart."""
    families = np.random.default_rng(0).uniform(size=(4000, 6))
    told = [min(holm(dict(enumerate(family))).values()) < 0.05 for family in families]
    assert np.mean(told) == pytest.approx(0.05, abs=tolerance(4000))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(values):
    p = {str(place): value for place, value in enumerate(values)}
    adjusted = holm(p)
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
            if (len(p) - rank) * p[name] > level:
                break
            rejected.add(name)
        assert {name for name, value in adjusted.items() if value <= level} == rejected
    assert all(p[name] <= value <= 1 for name, value in adjusted.items())


def test_equivalence_is_the_larger_of_two_one_sided_tests():
    rng = np.random.default_rng(0)
    values = rng.normal(0.02, 1, size=400)
    found = estimate(values, resamples=20_000)
    one_sided = [
        scipy.stats.ttest_1samp(values, -0.2, alternative="greater").pvalue,
        scipy.stats.ttest_1samp(values, 0.2, alternative="less").pvalue,
    ]
    assert equivalence(found, 0.2) == pytest.approx(max(one_sided), rel=0.1)


def test_equivalence_at_and_beyond_the_margin():
    assert equivalence(made_up(0.1, 0.05), 0.1) == pytest.approx(0.5)
    assert equivalence(made_up(-0.3, 0.05), 0.1) > 0.99
    assert equivalence(made_up(0.0, 0.0), 0.1) == 0
    assert equivalence(made_up(0.1, 0.0), 0.1) == 1
    for margin in (0.0, -0.1, math.nan):
        with pytest.raises(ConfigError, match="margin"):
            equivalence(made_up(0, 0.1), margin)
