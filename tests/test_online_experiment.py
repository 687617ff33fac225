"""The statistics of an online test, on tests whose truth is known.

Where many simulated tests are counted, the count may lie where a binomial of the true rate lies
with all but one in 10,000 (`allowed`).
"""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from dnrlib.claims import paper_value
from dnrlib.errors import ConfigError
from dnrlib.simulation import experiment
from dnrlib.simulation.experiment import (
    MISMATCH,
    always_valid,
    assign,
    cuped,
    exaggeration,
    implied_error,
    implied_users,
    lift,
    lifts,
    minimum_detectable_lift,
    mixture_scale,
    moments,
    p_value,
    sample_ratio_mismatch,
    standard_error,
    users_needed,
)

HALVES = (0.5, 0.5)


def allowed(rate, tests):
    return scipy.stats.binom.interval(1 - 1e-4, tests, rate)


def assert_rate(found, rate):
    low, high = allowed(rate, len(found))
    assert low <= np.sum(found) <= high, f"{np.mean(found):.4f}, expected {rate}"


# Who gets which arm -----------------------------------------------------------------------


def test_shares_of_the_arms_come_out():
    counts = np.bincount(assign(np.arange(100_000), "test", (0.2, 0.3, 0.5)))
    for count, share in zip(counts, (0.2, 0.3, 0.5), strict=True):
        assert_rate(np.arange(100_000) < count, share)


def test_arms_stay_whoever_else_is_there():
    users = np.arange(1000, 3000)
    whole = assign(users, "test", HALVES)
    assert (assign(users[::-7], "test", HALVES) == whole[::-7]).all()
    # a hash is the same in every process and on every machine
    assert assign(np.arange(8), "ranker-v2", HALVES).tolist() == [1, 1, 0, 0, 0, 1, 0, 1]


def test_two_salts_are_independent():
    users = np.arange(50_000)
    first, second = assign(users, "a", HALVES), assign(users, "b", HALVES)
    table = np.bincount(2 * first + second, minlength=4).reshape(2, 2)
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def test_users_whose_salt_and_id_look_alike_are_told_apart():
    users = np.arange(2000)
    assert (assign(users, "a1", HALVES) != assign(users + 10**6, "a", HALVES)).any()
    assert (assign(users, "a:1", HALVES) != assign(users, "a", HALVES)).any()


def test_a_larger_share_keeps_those_who_had_the_arm():
    users = np.arange(5000)
    small, large = assign(users, "ramp", (0.9, 0.1)), assign(users, "ramp", (0.5, 0.5))
    assert (large[small == 1] == 1).all()


@pytest.mark.parametrize("shares", [(), (0.5, 0.4), (1.5, -0.5), (1.0, 0.0)])
def test_shares_that_are_none(shares):
    with pytest.raises(ConfigError, match="sum 1"):
        assign(np.arange(3), "test", shares)
    with pytest.raises(ConfigError, match="sum 1"):
        sample_ratio_mismatch([1] * len(shares), shares)


def test_mismatch_by_hand():
    # χ² = (60 - 50)² / 50 + (40 - 50)² / 50 = 4, one degree of freedom
    assert sample_ratio_mismatch([60, 40], HALVES) == pytest.approx(math.erfc(math.sqrt(4 / 2)))
    assert sample_ratio_mismatch([20, 80], (0.2, 0.8)) == 1
    with pytest.raises(ConfigError, match="2 for 3 arms"):
        sample_ratio_mismatch([1, 2, 3], HALVES)
    with pytest.raises(ConfigError, match="there must be users"):
        sample_ratio_mismatch([0, 0], HALVES)


def test_mismatch_has_the_false_alarms_that_it_says():
    counts = np.random.default_rng(0).multinomial(40_000, (0.5, 0.3, 0.2), size=2000)
    p = np.array([sample_ratio_mismatch(row, (0.5, 0.3, 0.2)) for row in counts])
    assert_rate(p < 0.05, 0.05)
    assert_rate(p < MISMATCH, MISMATCH)


def test_mismatch_finds_one_user_in_fifty_lost():
    lost = [60_000, 58_800]
    assert sample_ratio_mismatch(lost, HALVES) < MISMATCH
    assert sample_ratio_mismatch([500, 490], HALVES) > 0.5


# Lifts ------------------------------------------------------------------------------------


def linearised(y, per):
    """Users' values whose mean is the ratio, and whose variance that of the delta method."""
    ratio = y.sum() / per.sum()
    return ratio + (y - ratio * per) / per.mean()


def by_arm(arm, **columns):
    return [
        moments({name: values[arm == one] for name, values in columns.items()})
        for one in np.unique(arm)
    ]


@pytest.mark.equation("eq-online-lift")
def test_lift_by_hand():
    found = lift(np.array([1.0, 3.0]), np.array([2.0, 3.0, 4.0]))
    # means 2 and 3; their variances 2 / 2 = 1 and 1 / 3; R = 1.5
    error = 100 * math.sqrt(1 / 3 + 1.5**2 * 1) / 2
    assert found.lift == pytest.approx(50)
    assert found.error == pytest.approx(error)
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * error)
    assert found.p == pytest.approx(math.erfc(50 / error / math.sqrt(2)))
    assert found.users == (2, 3)


def test_lift_has_no_unit():
    rng = np.random.default_rng(0)
    control, treatment = rng.exponential(size=(2, 100))
    seconds, hours = lift(control, treatment), lift(control / 3600, treatment / 3600)
    assert seconds.lift == pytest.approx(hours.lift)
    assert seconds.error == pytest.approx(hours.error)


def test_lift_reads_as_written():
    found = experiment.Lift(1.089, 0.4, 1.778, 0.35, 0.01, (9, 9))
    assert str(found) == "+1.09 % [+0.40, +1.78]"
    assert str(experiment.Lift(-0.001, -1, 1, 0.5, 0.9, (9, 9))) == "+0.00 % [-1.00, +1.00]"


def test_nothing_varies():
    same, other = np.full(5, 2.0), np.full(5, 3.0)
    assert lift(same, same).p == 1
    assert lift(same, other).p == 0


def test_a_lift_that_cannot_be():
    with pytest.raises(ConfigError, match="two or more"):
        lift(np.ones(1), np.ones(5))
    with pytest.raises(ConfigError, match="y is not positive"):
        lift(np.zeros(5), np.ones(5))
    arms = by_arm(np.arange(6) % 2, y=np.ones(6), per=np.zeros(6))
    with pytest.raises(ConfigError, match="divide y by"):
        lifts(arms, "y", "per")
    with pytest.raises(ConfigError, match=r"'z' is not here: choose one of y, per"):
        lifts(arms, "z")
    with pytest.raises(ConfigError, match="same metrics"):
        lifts([arms[0], moments({"y": np.arange(3.0)})], "y")


def heavy_tailed(rng, users, effect=0.0):
    """Counts of users who differ, coefficient of variation 1.4: as views a week."""
    return rng.poisson(5 * rng.lognormal(0, 1, users) * (1 + effect)).astype(float)


@pytest.mark.parametrize("effect", [0.0, 0.1])
def test_intervals_cover_the_true_lift(effect):
    rng = np.random.default_rng(0)
    found = [lift(heavy_tailed(rng, 1500), heavy_tailed(rng, 1500, effect)) for _ in range(800)]
    covered = [one.low <= 100 * effect <= one.high for one in found]
    assert_rate(covered, 0.95)
    if not effect:
        assert_rate([one.p < 0.05 for one in found], 0.05)
    spread = np.std([one.lift for one in found])
    assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.06)


def rates(rng, users, effect=0.0):
    """Likes and requests of users whose own rates and numbers of requests vary together."""
    active = rng.lognormal(0, 0.8, users)
    requests = 1 + rng.poisson(6 * active)
    own = np.minimum(0.1 * active * (1 + effect), 0.9)
    return rng.binomial(requests, own).astype(float), requests.astype(float)


def test_a_ratio_is_covered_by_users_as_clusters_and_not_by_requests():
    rng = np.random.default_rng(1)
    by_user, by_request = [], []
    for _ in range(600):
        arms = [rates(rng, 600) for _ in range(2)]
        users = [moments({"like": likes, "requests": requests}) for likes, requests in arms]
        by_user.append(lifts(users, "like", "requests")[1].p < 0.05)
        rows = [
            np.repeat([1.0, 0.0], [likes.sum().astype(int), (requests - likes).sum().astype(int)])
            for likes, requests in arms
        ]
        by_request.append(lift(*rows).p < 0.05)
    assert_rate(by_user, 0.05)
    assert np.mean(by_request) > 0.1


@pytest.mark.equation("eq-online-ratio")
def test_the_error_of_a_ratio_is_that_of_the_delta_method():
    rng = np.random.default_rng(0)
    arms = [rates(rng, 500, effect) for effect in (0, 0.1)]
    found = lifts([moments({"y": y, "per": per}) for y, per in arms], "y", "per")[1]
    variances = []
    for y, per in arms:
        (v_y, covariance), (_, v_per) = np.cov(y, per) / 500
        ratio = y.mean() / per.mean()
        delta = (v_y - 2 * ratio * covariance + ratio**2 * v_per) / per.mean() ** 2
        variances.append(delta / ratio**2)
    expected = (100 + found.lift) * math.sqrt(sum(variances))
    assert found.error == pytest.approx(expected)
    by_hand = lift(*(linearised(y, per) for y, per in arms))
    assert (found.lift, found.error) == pytest.approx((by_hand.lift, by_hand.error))


@pytest.mark.equation("eq-online-cuped")
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_cuped_takes_off_what_theory_says(rho):
    rng = np.random.default_rng(0)
    before = rng.normal(size=40_000)
    y = 3 + rho * before + math.sqrt(1 - rho**2) * rng.normal(size=40_000)
    found = cuped(y, 7 * before)
    assert found.theta == pytest.approx(rho / 7, abs=0.003)
    assert found.reduction == pytest.approx(rho**2, abs=0.02)
    assert found.values.var() == pytest.approx((1 - found.reduction) * y.var())
    assert found.values.mean() == pytest.approx(y.mean())


def test_cuped_without_a_past_changes_nothing():
    y = np.arange(5.0)
    found = cuped(y, np.ones(5))
    assert (found.values == y).all()
    assert (found.theta, found.reduction) == (0, 0)


def test_cuped_keeps_the_coverage_and_narrows_the_interval():
    rng, covered, errors = np.random.default_rng(2), [], []
    arm = np.repeat([0, 1], 800)
    for _ in range(600):
        habit = rng.lognormal(0, 0.7, 1600)
        before = rng.poisson(20 * habit).astype(float)
        y = rng.poisson(20 * habit * (1 + 0.05 * arm)).astype(float)
        arms = by_arm(arm, y=y, before=before)
        plain, adjusted = lifts(arms, "y")[1], lifts(arms, "y", before="before")[1]
        covered.append(adjusted.low <= 5 <= adjusted.high)
        errors.append(adjusted.error / plain.error)
    assert_rate(covered, 0.95)
    habit_variance, noise = math.exp(0.49) * (math.exp(0.49) - 1), math.exp(0.245) / 20
    rho = habit_variance / (habit_variance + noise)
    assert np.mean(errors) == pytest.approx(math.sqrt(1 - rho**2), rel=0.05)


def test_without_a_time_before_there_is_nothing_to_adjust():
    rng = np.random.default_rng(0)
    arms = [
        moments({"y": rng.random(50), "n": 1 + rng.random(50), "b:y": none, "b:n": none})
        for none in (np.zeros(50), np.zeros(50))
    ]
    assert lifts(arms, "y", "n", "b:y", "b:n") == lifts(arms, "y", "n")


def test_cuped_of_a_ratio_keeps_the_coverage():
    rng, covered, errors = np.random.default_rng(3), [], []
    arm = np.repeat([0, 1], 500)
    for _ in range(600):
        taste = rng.beta(2, 8, 1000)
        requests, earlier = 1 + rng.poisson(15, (2, 1000))
        y, before = (rng.binomial(one, taste).astype(float) for one in (requests, earlier))
        per, before_per = requests.astype(float), earlier.astype(float)
        arms = by_arm(arm, y=y, per=per, y_0=before, per_0=before_per)
        found = lifts(arms, "y", "per", "y_0", "per_0")[1]
        covered.append(found.low <= 0 <= found.high)
        errors.append(found.error / lifts(arms, "y", "per")[1].error)
    assert_rate(covered, 0.95)
    assert np.mean(errors) < 0.9


def test_cuped_of_moments_is_cuped_of_users():
    rng = np.random.default_rng(0)
    before = heavy_tailed(rng, 2000)
    y, arm = rng.poisson(before + 3).astype(float), np.repeat([0, 1], 1000)
    values = cuped(y, before).values
    by_hand = lift(values[arm == 0], values[arm == 1])
    found = lifts(by_arm(arm, y=y, before=before), "y", before="before")[1]
    # by hand the slope is of all users together, else of users within an arm
    assert found.lift == pytest.approx(by_hand.lift, abs=0.02 * found.error)
    assert found.error == pytest.approx(by_hand.error, rel=1e-3)
    idle = lifts(by_arm(arm, y=y, before=np.ones(2000)), "y", before="before")
    assert idle == lifts(by_arm(arm, y=y, before=np.ones(2000)), "y")


def test_lifts_of_several_arms():
    rng = np.random.default_rng(0)
    (likes, requests), arm = rates(rng, 3000), np.arange(3000) % 3
    arms = by_arm(arm, like=likes, requests=requests)
    found = lifts(arms, "like", control=1)
    assert [*found] == [0, 2]
    alone = lift(likes[arm == 1], likes[arm == 2])
    assert (found[2].lift, found[2].error) == pytest.approx((alone.lift, alone.error))
    assert found[2].users == (1000, 1000)
    ratio = lifts(arms, "like", "requests")[2].lift
    means = [likes[arm == one].sum() / requests[arm == one].sum() for one in range(3)]
    assert ratio == pytest.approx(100 * (means[2] / means[0] - 1))


# Looking while it runs --------------------------------------------------------------------


def walks(tests, looks, effect=0.0, seed=0):
    """Estimates and errors after each of so many users, a user's value N(effect, 1)."""
    values = np.random.default_rng(seed).normal(effect, 1, size=(tests, looks))
    counts = np.arange(1, looks + 1)
    return values.cumsum(1) / counts, np.broadcast_to(counts**-0.5, values.shape)


def test_looking_after_every_user_is_no_harm_to_the_always_valid_and_is_to_the_naive():
    estimates, errors = walks(4000, 1000)
    scale = mixture_scale(1000**-0.5)
    found = always_valid(estimates, errors, scale)
    alarms = found.p[:, -1] < 0.05
    missed = ((found.low > 0) | (found.high < 0)).any(1)
    assert alarms.sum() <= allowed(0.05, 4000)[1]
    assert (alarms == missed).all()
    naive = p_value(estimates, errors) < 0.05
    assert_rate(naive[:, -1], 0.05)
    assert naive[:, 9::10].any(1).mean() > 0.3


def test_the_always_valid_is_no_harm_with_heavy_tails_and_estimated_errors():
    rng, looks = np.random.default_rng(4), np.arange(100, 2001, 50)
    control, treatment = heavy_tailed(rng, (2, 600, 2000)).cumsum(2)[:, :, looks - 1] / looks
    squares = (heavy_tailed(np.random.default_rng(4), (2, 600, 2000)) ** 2).cumsum(2)
    v_c, v_t = (squares[:, :, looks - 1] / looks - np.stack([control, treatment]) ** 2) / looks
    ratios = treatment / control
    estimates, errors = 100 * (ratios - 1), 100 * np.sqrt(v_t + ratios**2 * v_c) / control
    found = always_valid(estimates, errors, mixture_scale(float(errors[:, -1].mean())))
    assert (found.p[:, -1] < 0.05).sum() <= allowed(0.05, 600)[1]
    assert (p_value(estimates, errors) < 0.05).any(1).mean() > 0.12


def test_the_always_valid_finds_an_effect():
    estimates, errors = walks(500, 1000, effect=0.2)
    found = always_valid(estimates, errors, mixture_scale(1000**-0.5))
    assert (found.p[:, -1] < 0.05).mean() > 0.99
    assert ((found.low <= 0.2) & (found.high >= 0.2)).all(1).mean() > 0.95
    assert (np.diff(found.p) <= 0).all()


def test_interval_and_p_value_of_one_look_agree():
    errors, scale = np.array([0.5]), 1.3
    found = always_valid(np.array([0.0]), errors, scale)
    edge = always_valid(found.high, errors, scale)
    assert edge.p == pytest.approx([0.05])
    assert edge.low == pytest.approx([0.0])


@pytest.mark.equation("eq-online-sequence")
def test_likelihood_ratio_is_the_mixture_that_it_says():
    z, error, scale = 2.5, 0.4, 0.7
    mixed = scipy.stats.norm.pdf(z * error, scale=math.hypot(error, scale))
    none = scipy.stats.norm.pdf(z * error, scale=error)
    found = always_valid(np.array([z * error]), np.array([error]), scale)
    assert found.p == pytest.approx([none / mixed])


def test_the_scale_makes_the_interval_the_narrowest():
    error, best = np.array([0.3]), mixture_scale(0.3)
    widths = [
        always_valid(np.zeros(1), error, best * factor).high.item() for factor in (0.9, 1, 1.1)
    ]
    assert min(widths) == widths[1]
    with pytest.raises(ConfigError, match="scale"):
        always_valid(np.zeros(1), error, 0)


# How many users ---------------------------------------------------------------------------


def test_power_comes_out_in_simulated_tests():
    users = users_needed(5, cv=0.5)
    rng = np.random.default_rng(5)
    control, treatment = (rng.normal(mean, 0.5, (800, users)) for mean in (1, 1.05))
    found = [lift(*arms).p < 0.05 for arms in zip(control, treatment, strict=True)]
    low, high = allowed(0.8, 800)
    # the delta method's error is a little larger at a lift than without: (1 + 1.05²) / 2
    assert 0.97 * low <= np.sum(found) <= high


@pytest.mark.equation("eq-online-users")
def test_users_needed_by_the_formula():
    z = scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)
    assert users_needed(1, cv=1.5) == pytest.approx(2 * (z * 1.5 / 0.01) ** 2, rel=1e-3)
    assert users_needed(-1, cv=1.5) == users_needed(1, cv=1.5)
    for needs_a_lift in (lambda: users_needed(0, cv=1), lambda: exaggeration(0, 1)):
        with pytest.raises(ConfigError, match="lift = 0"):
            needs_a_lift()
    for power in (0.04, 1.0):
        with pytest.raises(ConfigError, match=f"power = {power}: must be"):
            users_needed(1, cv=1, power=power)
        with pytest.raises(ConfigError, match=f"power = {power}: must be"):
            minimum_detectable_lift(100, cv=1, power=power)


@given(st.floats(0.1, 20), st.floats(0.2, 5))
def test_detectable_lift_undoes_users_needed(lift, cv):
    users = users_needed(lift, cv)
    assert minimum_detectable_lift(users, cv) == pytest.approx(lift, rel=1 / users)


@given(st.floats(0.01, 20), st.floats(1e-4, 0.9))
def test_the_implied_error_gives_the_p_value_back(lift, p):
    error = implied_error(lift, p)
    assert p_value(np.array(lift), np.array(error)) == pytest.approx(p)
    assert standard_error(implied_users(error, 1.7), 1.7) == pytest.approx(error)


@pytest.mark.equation("eq-online-implied")
def test_what_the_paper_implies():
    # 1.089 / 1.959964 = 0.5556; 2 · (100 / 0.5556)² = 64,784
    error = implied_error(paper_value("online-realshow"))
    assert error == pytest.approx(0.5556, abs=1e-4)
    assert implied_users(error) == pytest.approx(64_784, abs=1)


@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])
def test_exaggeration_in_simulated_tests(size):
    estimates = size + np.random.default_rng(0).normal(size=400_000)
    significant = np.abs(estimates[p_value(estimates, np.ones_like(estimates)) < 0.05])
    assert exaggeration(2 * size, 2.0) == pytest.approx(significant.mean() / size, rel=0.01)
    assert exaggeration(10 * size, 1.0) >= 1 - 1e-9
