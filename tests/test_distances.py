"""Distances between samples: SciPy, closed forms, and intervals that know of lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dnrlib.distances import NAMES, Sample, distances, floor, intervals, list_correlation
from dnrlib.errors import ConfigError

SEEDS = st.integers(0, 2**32 - 1)


def flat(sample):
    return sample.values[sample.mask]


def normal(rng, mean=0.0, lists=100, n=5, correlation=0.5):
    """Standard normal values around a mean; candidates of a list are correlated."""
    common, own = rng.normal(size=(lists, 1)), rng.normal(size=(lists, n))
    return Sample(mean + np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own)


def drawn(seed, lists=12, n=6, ties=True):
    """A small sample with a mask, and with values that occur several times."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(lists, n))
    kept = rng.random((lists, n)) < 0.5
    kept[0, 0] = True
    return Sample(values.round(1) if ties else values, kept)


# The distances ----------------------------------------------------------------------------


@pytest.mark.equation("eq-noise-ks", "eq-noise-wasserstein", "eq-noise-energy")
@given(SEEDS, SEEDS, st.booleans())
def test_the_distances_are_scipys(first, second, ties):
    a, b = drawn(first, ties=ties), drawn(second, lists=7, ties=ties)
    found = distances(a, b)
    assert found["KS"] == pytest.approx(stats.ks_2samp(flat(a), flat(b)).statistic)
    assert found["Wasserstein"] == pytest.approx(stats.wasserstein_distance(flat(a), flat(b)))
    assert found["energy"] == pytest.approx(stats.energy_distance(flat(a), flat(b)))


@pytest.mark.equation("eq-noise-ks", "eq-noise-wasserstein", "eq-noise-energy")
def test_shifted_uniforms_have_their_closed_forms():
    """F - G rises over the shift, stays at the shift, and falls again."""
    shift, rows = 0.3, np.linspace(0, 1, 20001)[:, None]
    found = distances(Sample(rows), Sample(rows + shift))
    integral = shift**2 * (1 - shift) + 2 * shift**3 / 3
    wanted = {"KS": shift, "Wasserstein": shift, "energy": np.sqrt(2 * integral)}
    assert found == pytest.approx(wanted, abs=1e-3)


def test_shifted_normals_have_their_closed_forms():
    shift = 1.0
    quantiles = stats.norm.ppf((np.arange(20000) + 0.5) / 20000)[:, None]
    found = distances(Sample(quantiles), Sample(quantiles + shift))
    assert found["KS"] == pytest.approx(2 * stats.norm.cdf(shift / 2) - 1, abs=1e-3)
    assert found["Wasserstein"] == pytest.approx(shift, abs=1e-6)


@given(SEEDS)
def test_equal_samples_are_no_distance_apart(seed):
    sample = drawn(seed)
    assert distances(sample, sample) == dict.fromkeys(NAMES, 0.0)
    assert all(found.high == 0 for found in intervals(sample, sample, True, resamples=5).values())


def test_one_single_value_against_another():
    one, other = Sample(np.zeros((3, 2))), Sample(np.full((4, 2), 2.0))
    assert distances(one, other) == pytest.approx({"KS": 1, "Wasserstein": 2, "energy": 2})


# Pooled and given z -----------------------------------------------------------------------


def parts(seed, low, high):
    """Labels and the noise x' - z of scores in a range: pooled, given z = 0, given z = 1."""
    labels = np.random.default_rng(0).random((20, 10)) < 0.2
    noise = np.random.default_rng(seed).uniform(low, high, (20, 10)) - labels
    share = labels.mean()
    return share, [Sample(noise), Sample(noise, ~labels), Sample(noise, labels)]


@pytest.mark.equation("eq-noise-mixture", "eq-noise-pooled-bound")
@given(SEEDS, SEEDS)
def test_the_pooled_distance_is_at_most_the_weighted_mean_of_those_given_z(first, second):
    """For scores of any range, at equal labels."""
    share, real = parts(first, 0, 1)
    _, synthetic = parts(second, -1, 2)
    pooled, unliked, liked = (distances(a, b) for a, b in zip(real, synthetic, strict=True))
    for name in NAMES:
        assert pooled[name] <= (1 - share) * unliked[name] + share * liked[name] + 1e-9


@pytest.mark.equation("eq-noise-pooled-parts")
@given(SEEDS, SEEDS)
def test_scores_in_the_unit_interval_add_up_exactly(first, second):
    share, real = parts(first, 0, 1)
    _, synthetic = parts(second, 0, 0.7)
    pooled, unliked, liked = (distances(a, b) for a, b in zip(real, synthetic, strict=True))
    weighted = {name: ((1 - share) * unliked[name], share * liked[name]) for name in NAMES}
    assert pooled["KS"] == pytest.approx(max(weighted["KS"]))
    assert pooled["Wasserstein"] == pytest.approx(sum(weighted["Wasserstein"]))
    assert pooled["energy"] == pytest.approx(np.hypot(*weighted["energy"]))


def test_scores_beyond_the_unit_interval_can_match_pooled_and_fail_given_z():
    """The example of the chapter's exercise: the noises of the two labels trade places."""
    labels = np.tile([True, False], (50, 1))
    real = np.where(labels, -0.5, 0.5)
    pooled = distances(Sample(real), Sample(-real))
    given_liked = distances(Sample(real, labels), Sample(-real, labels))
    assert pooled == dict.fromkeys(NAMES, 0.0)
    assert given_liked["KS"] == 1


# Intervals --------------------------------------------------------------------------------


def test_the_interval_covers_the_true_distance():
    """Lists of correlated candidates, far above the floor; the nominal 95 % is approximate."""
    shift, repetitions = 1.0, 150
    true = {"KS": 2 * stats.norm.cdf(shift / 2) - 1, "Wasserstein": shift}
    covered = dict.fromkeys(true, 0)
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        found = intervals(normal(rng), normal(rng, shift), seed=seed)
        for name, value in true.items():
            covered[name] += found[name].low <= value <= found[name].high
    assert all(0.88 <= count / repetitions <= 0.99 for count in covered.values())


def test_candidates_that_are_all_the_same_count_once():
    """Fifty copies of a value are one observation: as wide as with one candidate a list."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 1)), rng.normal(1, 1, size=(200, 1))
    copies = [Sample(np.repeat(values, 50, axis=1)) for values in (a, b)]
    one = intervals(Sample(a), Sample(b))
    lists = intervals(*copies)
    candidates = intervals(*(Sample(copy.values.reshape(-1, 1)) for copy in copies))
    for name in NAMES:
        width = {key: found[name].high - found[name].low for key, found in
                 {"one": one, "lists": lists, "candidates": candidates}.items()}  # fmt: skip
        assert width["lists"] == pytest.approx(width["one"])
        assert width["lists"] > 4 * width["candidates"]


def test_a_user_whose_lists_are_all_the_same_counts_once():
    rng = np.random.default_rng(0)
    a, b = Sample(rng.normal(size=(150, 4))), Sample(rng.normal(1, 1, size=(150, 4)))
    users = np.arange(150).repeat(10)
    copies = [Sample(one.values.repeat(10, axis=0), users=users) for one in (a, b)]
    assert intervals(*copies)["KS"].high == pytest.approx(intervals(a, b)["KS"].high)
    assert floor(copies[0]) == pytest.approx(floor(a))
    lists = [Sample(copy.values) for copy in copies]
    assert floor(lists[0])["KS"] < floor(a)["KS"] / 2


def test_pairs_share_what_varies_between_lists():
    rng = np.random.default_rng(0)
    a = normal(rng, correlation=0.9)
    b = Sample(a.values + 0.5)
    paired, apart = intervals(a, b, paired=True), intervals(a, b)
    assert paired["Wasserstein"].high - paired["Wasserstein"].low == pytest.approx(0, abs=1e-9)
    assert apart["Wasserstein"].high - apart["Wasserstein"].low > 0.1


def test_lists_without_a_kept_candidate_add_nothing():
    rng = np.random.default_rng(0)
    a, b = normal(rng), normal(rng, 0.5)
    values = np.concatenate([a.values, np.full((30, 5), np.nan)])
    padded = Sample(values, ~np.isnan(values))
    assert distances(padded, b) == distances(a, b)
    assert all(np.isfinite(found.high) for found in intervals(padded, b, resamples=20).values())


def test_one_seed_gives_one_interval():
    a, b = drawn(1), drawn(2)
    assert intervals(a, b, seed=3) == intervals(a, b, seed=3) != intervals(a, b, seed=4)


# The floor --------------------------------------------------------------------------------


def test_the_floor_falls_with_the_number_of_lists():
    rng = np.random.default_rng(0)
    few, many = (floor(normal(rng, lists=lists)) for lists in (50, 5000))
    assert all(0 < many[name] < few[name] / 3 for name in NAMES)


def test_two_samples_of_one_law_lie_about_as_far_apart_as_the_floor():
    rng = np.random.default_rng(0)
    low, found = floor(normal(rng, lists=800)), [
        distances(normal(rng, lists=400), normal(rng, lists=400)) for _ in range(40)
    ]  # fmt: skip
    for name in NAMES:
        assert 0.5 < low[name] / np.mean([one[name] for one in found]) < 2


# Correlation within lists -----------------------------------------------------------------


def test_the_correlation_is_that_of_the_law():
    rng = np.random.default_rng(0)
    for correlation in (0.0, 0.3, 0.9):
        sample = normal(rng, lists=3000, n=8, correlation=correlation)
        assert list_correlation(sample) == pytest.approx(correlation, abs=0.03)
        kept = Sample(sample.values, rng.random(sample.values.shape) < 0.4)
        assert list_correlation(kept) == pytest.approx(correlation, abs=0.05)


def test_copies_are_fully_correlated():
    assert list_correlation(Sample(np.arange(6.0)[:, None].repeat(3, axis=1))) == pytest.approx(1)


# What cannot be used ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kept", "message"),
    [
        ([[0.0, np.nan]], None, "values must be finite; list 0, candidate 1"),
        ([[0.0, np.inf]], None, "values must be finite"),
        ([[0.0, 1.0]], [[False, False]], "kept: no candidate is left"),
    ],
)
def test_samples_that_cannot_be_compared(values, kept, message):
    with pytest.raises(ConfigError, match=message):
        Sample(np.array(values), None if kept is None else np.array(kept))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 1.0}, "confidence must lie between 0 and 1"),
        ({"resamples": 0}, "resamples must be at least 1"),
        ({"paired": True}, "must keep the same candidates"),
    ],
)
def test_options_that_cannot_be_used(options, message):
    with pytest.raises(ConfigError, match=message):
        intervals(drawn(0), drawn(1), **options)


def test_too_few_lists():
    with pytest.raises(ConfigError, match="cannot be halved"):
        floor(Sample(np.zeros((1, 3))))
    with pytest.raises(ConfigError, match="two candidates in one of them"):
        list_correlation(Sample(np.zeros((3, 1))))
