"""The statistics of an online test: who gets which arm, and what their differences say.

Users are randomised, so a user is the unit of every estimate: what one user does at several
requests hangs together. Lifts are relative to the control arm and in percent, as are their errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import lambertw
from scipy.stats import chisquare, norm

from dnrlib.errors import ConfigError

MISMATCH = 0.001
"""A p-value of `sample_ratio_mismatch` below this stops the analysis (Fabijan et al. 2019)."""


# Who gets which arm -----------------------------------------------------------------------


def assign(
    users: Int[np.ndarray, " users"], salt: str, shares: Sequence[float]
) -> Int[np.ndarray, " users"]:
    """Arm of each user, by a hash of the salt and the user's id.

    The same user always gets the same arm; with another salt, an independent one.

    Args:
        salt: name of the test.
        shares: of the arms in order, positive, 1 in sum.

    Raises:
        ConfigError: the shares are not such.
    """
    ends = np.cumsum(check_shares(shares))[:-1]
    digests = (
        blake2b(f"{salt}:{user}".encode(), digest_size=8).digest() for user in users.tolist()
    )
    hashed = np.frombuffer(b"".join(digests), "<u8")
    # 53 bits are what a float holds, so that no place is rounded up to 1
    places = (hashed >> np.uint64(11)) * 2.0**-53
    return np.searchsorted(ends, places, side="right")


def sample_ratio_mismatch(
    counts: Int[np.ndarray, " arms"] | Sequence[int], shares: Sequence[float]
) -> float:
    """p-value of the arms' users being as many as the shares say, by the χ² test.

    A value below `MISMATCH` says that users were lost or added in one arm: then no lift of this
    test can be trusted.

    Raises:
        ConfigError: the shares are not positive and 1 in sum, or not as many as the counts; or
            there are no users.
    """
    expected = check_shares(shares)
    if len(counts) != len(expected):
        raise ConfigError(f"shares: {len(expected)} for {len(counts)} arms, give one for each")
    if not np.sum(counts) > 0:
        raise ConfigError(f"counts = {[*counts]}: there must be users to compare")
    return float(chisquare(counts, np.sum(counts) * expected).pvalue)


def check_shares(shares: Sequence[float]) -> Float[np.ndarray, " arms"]:
    """The shares of the arms, as they are; raises ConfigError unless positive and 1 in sum."""
    given = np.asarray(shares, dtype=np.float64)
    if not len(given) or (given <= 0).any() or not math.isclose(given.sum(), 1):
        raise ConfigError(f"shares = {[*shares]}: give positive numbers with the sum 1")
    return given


# Lifts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lift:
    """How much higher one arm's mean is than the control's, in percent of the control's.

    Attributes:
        lift: in percent.
        low: lower end of the interval, in percent.
        high: its upper end.
        error: standard error, in percentage points.
        p: two-sided p-value of no lift.
        users: in the control arm and in the other.
    """

    lift: float
    low: float
    high: float
    error: float
    p: float
    users: tuple[int, int]

    def __str__(self) -> str:
        """Lift and interval, as in ``+1.09 % [+0.40, +1.78]``."""
        # the zero that is added makes a plus of a minus before zeros alone
        lift, low, high = (round(end, 2) + 0.0 for end in (self.lift, self.low, self.high))
        return f"{lift:+.2f} % [{low:+.2f}, {high:+.2f}]"


def p_value(
    lift: Float[np.ndarray, "*looks"], error: Float[np.ndarray, "*looks"]
) -> Float[np.ndarray, "*looks"]:
    """Two-sided p-value of no lift for a normal estimate, in one look that was planned."""
    return np.asarray(2 * norm.sf(np.abs(lift) / error))


def lift(
    control: Float[np.ndarray, " controls"],
    treatment: Float[np.ndarray, " treated"],
    confidence: float = 0.95,
) -> Lift:
    """Lift of a mean over users, from a value of each; see `lifts`."""
    arms = [moments({"y": values}) for values in (control, treatment)]
    return lifts(arms, "y", confidence=confidence)[1]


@dataclass(frozen=True)
class Moments:
    """What suffices of an arm for every lift of it, with ratios and CUPED.

    Attributes:
        names: of the metrics, each a sum over what one user did.
        users: how many.
        mean: over users.
        covariance: between users, with users - 1 as divisor.
    """

    names: tuple[str, ...]
    users: int
    mean: Float[np.ndarray, " metrics"]
    covariance: Float[np.ndarray, "metrics metrics"]

    def mean_of(self, name: str) -> float:
        """Of one metric.

        Raises:
            ConfigError: there is no such metric.
        """
        return float(self.mean @ self.unit(name))

    def unit(self, name: str) -> Float[np.ndarray, " metrics"]:
        """1 at a metric's place, else 0; raises as `mean_of`."""
        if name not in self.names:
            raise ConfigError(f"metric {name!r} is not here: choose one of {', '.join(self.names)}")
        return np.eye(len(self.names))[self.names.index(name)]


def moments(columns: Mapping[str, Float[np.ndarray, " users"]]) -> Moments:
    """Moments of the users of one arm, from metric -> its sum over what each user did.

    Raises:
        ConfigError: there are fewer than two users.
    """
    values = np.stack([*columns.values()]).astype(np.float64)
    if values.shape[1] < 2:
        raise ConfigError(f"users: {values.shape[1]} in an arm, which needs two or more")
    covariance = np.atleast_2d(np.cov(values))
    return Moments((*columns,), values.shape[1], values.mean(1), covariance)


def lifts(
    arms: Sequence[Moments],
    y: str,
    per: str = "",
    before: str = "",
    before_per: str = "",
    control: int = 0,
    confidence: float = 0.95,
) -> dict[int, Lift]:
    """Lift of each other arm over the control, by its place among the arms.

    A ratio Σ y / Σ per over an arm's users has by the delta method the variance of a mean of
    (y - ratio · per) / mean(per) over users (Deng et al. 2018), without ``per`` that of y. With R
    the ratio of two arms' values a_t / a_c, and v their variances, R has the variance
    (v_t + R² v_c) / a_c², by the same method.

    With ``before``, both arms are adjusted for what a metric of the time before the test explains
    (CUPED, Deng et al. 2013), with one slope for all arms, from the differences within them.

    Args:
        y, per: metrics of the test, as likes and requests.
        before, before_per: the same of the time before.
        control: the arm that the others are compared with.
        confidence: coverage aimed at, in (0, 1).

    Raises:
        ConfigError: a metric is not there, or is not positive where it is divided by.
    """
    whole = _pooled(arms)
    past = _explained(whole, (y, per), (before, before_per)) if before else 0 * whole.mean
    summaries = [_summary(arm, y, per, past, whole.mean) for arm in arms]
    if not summaries[control].value > 0:
        raise ConfigError(f"{y} is not positive in the control arm: no lift is relative to it")
    return {
        place: _lift(summaries[control], one, confidence)
        for place, one in enumerate(summaries)
        if place != control
    }


class _Summary(NamedTuple):
    """An arm's mean or ratio, the variance of that, and its users."""

    value: float
    variance: float
    users: int


def _summary(
    arm: Moments,
    y: str,
    per: str,
    past: Float[np.ndarray, " metrics"],
    mean: Float[np.ndarray, " metrics"],
) -> _Summary:
    """Of an arm, less ``past`` times what its metrics lie above their mean over all arms."""
    value = _value(arm, y, per) - float(past @ (arm.mean - mean))
    weights = _weights(arm, y, per) - past
    return _Summary(value, float(weights @ arm.covariance @ weights) / arm.users, arm.users)


def _lift(control: _Summary, arm: _Summary, confidence: float) -> Lift:
    ratio = arm.value / control.value
    error = 100 * math.sqrt(arm.variance + ratio**2 * control.variance) / control.value
    half = float(norm.ppf((1 + confidence) / 2)) * error
    found = 100 * (ratio - 1)
    p = 2 * float(norm.sf(abs(found) / error)) if error else float(found == 0)
    return Lift(found, found - half, found + half, error, p, (control.users, arm.users))


def _value(arm: Moments, y: str, per: str) -> float:
    below = arm.mean_of(per) if per else 1.0
    if not below > 0:
        raise ConfigError(f"{per} is {below:g} in the mean: nothing is there to divide {y} by")
    return arm.mean_of(y) / below


def _weights(arm: Moments, y: str, per: str) -> Float[np.ndarray, " metrics"]:
    """Of a user's metrics in the linear part of a mean or ratio."""
    if not per:
        return arm.unit(y)
    return (arm.unit(y) - _value(arm, y, per) * arm.unit(per)) / arm.mean_of(per)


def _pooled(arms: Sequence[Moments]) -> Moments:
    """Mean over all users, and covariance within the arms."""
    if any(arm.names != arms[0].names for arm in arms):
        raise ConfigError("arms: each must have the same metrics in the same order")
    users = np.array([arm.users for arm in arms])
    mean = np.average([arm.mean for arm in arms], axis=0, weights=users)
    covariance = np.average([arm.covariance for arm in arms], axis=0, weights=users - 1)
    return Moments(arms[0].names, int(users.sum()), mean, covariance)


def _explained(
    whole: Moments, now: tuple[str, str], before: tuple[str, str]
) -> Float[np.ndarray, " metrics"]:
    """CUPED's slope times the weights of what was before; 0 where that does not vary."""
    _, per = before
    if per and not whole.mean_of(per):  # nobody did anything before
        return 0 * whole.mean
    past = _weights(whole, *before)
    variance = float(past @ whole.covariance @ past)
    covariance = float(_weights(whole, *now) @ whole.covariance @ past)
    return past * (covariance / variance if variance > 0 else 0.0)


@dataclass(frozen=True)
class Cuped:
    """Values of users less what their past explains.

    Attributes:
        values: y - θ (before - its mean), with the mean of y.
        theta: θ, the slope of y in what was before.
        reduction: share of the variance of y that is gone, their squared correlation.
    """

    values: Float[np.ndarray, " users"]
    theta: float
    reduction: float


def cuped(y: Float[np.ndarray, " users"], before: Float[np.ndarray, " users"]) -> Cuped:
    """CUPED by hand, user by user, for the users of all arms together (Deng et al. 2013).

    Where all users have the same past there is nothing to take off.
    """
    (variance, covariance), (_, spread) = np.cov(y, before)
    theta = float(covariance / spread) if spread > 0 else 0.0
    values = y - theta * (before - before.mean())
    return Cuped(values, theta, float(theta * covariance / variance) if variance > 0 else 0.0)


# Looking while it runs --------------------------------------------------------------------


@dataclass(frozen=True)
class Looks:
    """What may be said at each look, however often one looks and whenever one stops.

    Attributes:
        p: always-valid p-value; it never rises.
        low: lower ends of the confidence sequence, in percent.
        high: its upper ends.
    """

    p: Float[np.ndarray, "... looks"]
    low: Float[np.ndarray, "... looks"]
    high: Float[np.ndarray, "... looks"]


def always_valid(
    lift: Float[np.ndarray, "*tests looks"],
    error: Float[np.ndarray, "*tests looks"],
    scale: float,
    level: float = 0.05,
) -> Looks:
    """Confidence sequence of the normal mixture, and the p-value that belongs to it.

    With z = lift / error and x = (scale / error)², the likelihood ratio of lifts drawn from
    N(0, scale²) to none is Λ = (1 + x)^-½ exp(½ z² x / (1 + x)); p is the least 1 / Λ so far. The
    interval is lift ± error √((1 + x) / x · log((1 + x) / level²)).

    It is the asymptotic confidence sequence of Waudby-Smith et al. (2024), which asks for a finite
    variance alone, written in the estimate and its error; as a test, it is the mixture sequential
    probability ratio test of Johari et al. (2017). One needs independent increments in the
    information 1 / error²: new users, or more of the same users whose days are exchangeable.

    Args:
        lift, error: the estimate at each look, looks in order of time.
        scale: standard deviation of the lifts that are mixed, in percent, see `mixture_scale`.
        level: one minus the coverage over all looks together.

    Raises:
        ConfigError: the scale or an error is not positive.
    """
    if not np.all(error > 0):
        raise ConfigError("error: must be positive at each look, begin to look when users vary")
    if not scale > 0:
        raise ConfigError(f"scale = {scale}: must be positive, a lift in percent to be expected")
    x = (scale / error) ** 2
    log_ratio = 0.5 * ((lift / error) ** 2 * x / (1 + x) - np.log1p(x))
    p = np.exp(-np.maximum(np.maximum.accumulate(log_ratio, axis=-1), 0))
    half = error * np.sqrt((1 + x) / x * np.log((1 + x) / level**2))
    return Looks(p, lift - half, lift + half)


def mixture_scale(error: float, level: float = 0.05) -> float:
    """The scale of `always_valid` whose interval is the narrowest at this standard error.

    Where x = (scale / error)² solves x = log(1 + x) - log level², by Lambert's W.
    """
    x = -float(lambertw(-(level**2) / math.e, -1).real) - 1
    return error * math.sqrt(x)


# How many users ---------------------------------------------------------------------------


def standard_error(users: float, cv: float) -> float:
    """Of a small lift between two arms of so many users each, in percentage points.

    Args:
        users: in each arm.
        cv: coefficient of variation, a user's standard deviation over the mean.
    """
    return 100 * cv * math.sqrt(2 / users)


def users_needed(lift: float, cv: float, level: float = 0.05, power: float = 0.8) -> int:
    """Users in each of two arms with which a lift is found with this probability.

    Args:
        lift: in percent, not 0.
        cv: as in `standard_error`; with CUPED, times √(1 - its variance reduction).
        level: of the two-sided test.
        power: probability, in (level, 1).

    Raises:
        ConfigError: the lift is 0, or level and power are not such.
    """
    if lift == 0:
        raise ConfigError("lift = 0: no number of users finds it, give the least that matters")
    return math.ceil(implied_users(abs(lift) / _detectable(level, power), cv))


def minimum_detectable_lift(
    users: float, cv: float, level: float = 0.05, power: float = 0.8
) -> float:
    """The lift in percent that so many users in each arm find with this probability.

    Args, raises: as for `users_needed`.
    """
    return _detectable(level, power) * standard_error(users, cv)


def _detectable(level: float, power: float) -> float:
    """In standard errors, which with two users in each arm are one standard deviation."""
    if not 0 < level < power < 1:
        raise ConfigError(f"level = {level}, power = {power}: must be 0 < level < power < 1")
    from statsmodels.stats.power import NormalIndPower  # slow to import

    return float(NormalIndPower().solve_power(nobs1=2, alpha=level, power=power))


def implied_error(lift: float, p: float = 0.05) -> float:
    """The standard error with which a lift has exactly this two-sided p-value.

    A lift reported with a smaller p-value had at most this error; with a larger one ("not
    significant"), at least this.
    """
    return abs(lift) / float(norm.isf(p / 2))


def implied_users(error: float, cv: float = 1.0) -> float:
    """Users in each of two equal arms that give a standard error: `standard_error` solved.

    With the coefficient of variation unknown, times its square.
    """
    return 2 * (100 * cv / error) ** 2


def exaggeration(lift: float, error: float, level: float = 0.05) -> float:
    """How many times too large a lift looks on average among the significant ones.

    The expectation of |estimate| / |lift| given significance, for a normal estimate: the winner's
    curse, or error of type M (Gelman and Carlin 2014).

    Args:
        lift: the true one, not 0.

    Raises:
        ConfigError: the lift is 0.
    """
    if lift == 0:
        raise ConfigError("lift = 0: nothing is so many times as large, give the true lift")
    d, c = abs(lift) / error, float(norm.isf(level / 2))
    found = norm.sf(c - d) + norm.sf(c + d)
    size = norm.pdf(c - d) + norm.pdf(c + d) + d * (norm.sf(c - d) - norm.sf(c + d))
    return float(size / found / d)
