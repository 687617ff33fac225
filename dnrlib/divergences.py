"""Estimators of KL(p ‖ q) between two samples of scores, and the regularisers L_x made of them.

An estimator sees samples only, so each has to assume something of the two laws; ``assumes`` says
what. All are in nats, stateless, and differentiable in the samples of p, whose gradient is what a
generator learns from. None assumes that the estimate is positive: on small samples it need not be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Beta, kl_divergence

from dnrlib.errors import ConfigError
from dnrlib.losses import REGULARISERS, Scalar, gaussian_kl, moments

EDGE = 1e-4
"""Scores are kept so far from 0 and 1 where a logarithm is taken of them."""


@runtime_checkable
class Estimator(Protocol):
    """KL(p ‖ q) in nats from samples of p and of q.

    ``weight`` says how much each sample of p counts, by default 1. If all count 0 the estimate is
    finite, so that a label which does not occur in a batch, times its share, adds nothing.
    """

    @property
    def assumes(self) -> str:
        """What has to hold for the estimate to come near KL(p ‖ q) with more samples."""

    def __call__(
        self,
        p: Float[Tensor, " m"],
        q: Float[Tensor, " k"],
        weight: Float[Tensor, " m"] | None = None,
    ) -> Scalar: ...


def _moments(x: Float[Tensor, " m"], weight: Float[Tensor, " m"] | None) -> tuple[Scalar, Scalar]:
    return moments(x[None], torch.ones_like(x[None]) if weight is None else weight[None])


@dataclass(frozen=True)
class GaussianMoments:
    """KL of the two normal laws that have the samples' means and variances.

    Sees two moments and no more: two laws that share them are at a distance of 0.
    """

    assumes: ClassVar[str] = "both laws are normal"

    def __call__(
        self,
        p: Float[Tensor, " m"],
        q: Float[Tensor, " k"],
        weight: Float[Tensor, " m"] | None = None,
    ) -> Scalar:
        """At least 0."""
        return gaussian_kl(_moments(p, weight), _moments(q, None))


@dataclass(frozen=True)
class BetaFit:
    """KL of the two Beta laws that have the samples' means and variances.

    Scores are clamped to [``EDGE``, 1 - ``EDGE``], and outside it p has no gradient. A Beta law
    needs a variance below mean (1 - mean). A sample in the unit interval comes up to that only
    when all of it lies at the two ends; its a + b is then kept at 1e-3, nearly two points.
    """

    assumes: ClassVar[str] = "both laws are Beta"

    def __call__(
        self,
        p: Float[Tensor, " m"],
        q: Float[Tensor, " k"],
        weight: Float[Tensor, " m"] | None = None,
    ) -> Scalar:
        """At least 0. In double precision, as narrow laws have large a and b that cancel."""
        return kl_divergence(self.fit(p, weight), self.fit(q)).to(p.dtype)

    def fit(self, x: Float[Tensor, " m"], weight: Float[Tensor, " m"] | None = None) -> Beta:
        """The Beta law by the method of moments."""
        weight = None if weight is None else weight.double()
        mean, variance = _moments(x.double().clamp(EDGE, 1 - EDGE), weight)
        mean = mean.clamp(EDGE, 1 - EDGE)
        total = (mean * (1 - mean) / variance - 1).clamp(min=1e-3)
        return Beta(mean * total, (1 - mean) * total, validate_args=False)


@dataclass(frozen=True)
class NearestNeighbours:
    """Distances to the k-th neighbour: Wang, Kulkarni and Verdú (2009), in one dimension.

        mean_i log( ν_k(i) / ρ_k(i) ) + log( |q| / (|p| - 1) )

    where ρ_k(i) is the distance from p_i to the k-th nearest other sample of p and ν_k(i) to the
    k-th nearest of q. Small k has little bias and much variance, above all in the gradient: it
    holds 1 / ρ, whose variance is finite from k = 3 on only. Distances below 1e-7 (ties) count as
    1e-7 and give no gradient. With too few samples k is lowered; of fewer than two of p the
    estimate is 0. A sample of p whose weight is 0 is left out, every other counts 1.

    Raises:
        ConfigError: k below 1.
    """

    assumes: ClassVar[str] = "both laws have a density, and p lies where q does"
    k: int = 50

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"k = {self.k}: must be at least 1")

    def __call__(
        self,
        p: Float[Tensor, " m"],
        q: Float[Tensor, " k"],
        weight: Float[Tensor, " m"] | None = None,
    ) -> Scalar:
        """Of either sign."""
        if weight is not None:
            p = p[weight > 0]
        k = min(self.k, len(p) - 1, len(q))
        if k < 1:
            return 0 * p.sum()
        # the nearest sample of p to p_i is p_i itself
        ratio = distance_to_neighbour(p, q, k) / distance_to_neighbour(p, p, k + 1)
        return ratio.log().mean() + math.log(len(q) / (len(p) - 1))


def distance_to_neighbour(
    x: Float[Tensor, " m"], others: Float[Tensor, " k"], rank: int
) -> Float[Tensor, " m"]:
    """From each of x to its ``rank``-th nearest of ``others``, which is among 2 rank in order."""
    ordered = others.sort().values
    place = torch.searchsorted(ordered.detach(), x.detach().contiguous())
    window = place[:, None] + torch.arange(-rank, rank, device=x.device)
    inside = (window >= 0) & (window < len(others))
    distance = (x[:, None] - ordered[window.clamp(0, len(others) - 1)]).abs()
    return distance.masked_fill(~inside, torch.inf).kthvalue(rank, dim=1).values.clamp(min=1e-7)


def normal_features(x: Float[Tensor, " m"]) -> Float[Tensor, "m 2"]:
    """x and x²: holds the log ratio of any two normal laws."""
    return torch.stack([x, x**2], dim=1)


def beta_features(x: Float[Tensor, " m"]) -> Float[Tensor, "m 2"]:
    """log x and log(1 - x): holds the log ratio of any two Beta laws."""
    x = x.clamp(EDGE, 1 - EDGE)
    return torch.stack([x.log(), (1 - x).log()], dim=1)


def both_features(x: Float[Tensor, " m"]) -> Float[Tensor, "m 4"]:
    """Those of the normal and of the Beta laws."""
    return torch.cat([normal_features(x), beta_features(x)], dim=1)


def bump_features(x: Float[Tensor, " m"]) -> Float[Tensor, "m 16"]:
    """Sixteen bumps over the unit interval: holds any smooth log ratio, roughly."""
    centres = torch.linspace(0, 1, 16, dtype=x.dtype, device=x.device)
    return torch.exp(-0.5 * ((x[:, None] - centres) * 15) ** 2)


FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": normal_features,
    "beta": beta_features,
    "both": both_features,
    "bumps": bump_features,
}


@dataclass(frozen=True)
class Discriminator:
    """Mean over p of the log ratio that a logistic regression of p against q finds.

    With the two samples weighted alike, the log odds of "comes from p" are log p(x) / q(x). They
    are taken as linear in ``features`` of the score, fitted anew to each pair of samples, and
    held fixed: the gradient flows through the samples of p alone. That is the whole gradient. For
    x = g_φ(ε), with both the samples and the ratio moving,

        ∇_φ E log(p_φ(x) / q(x)) = E[ ∂_x log(p_φ(x) / q(x)) ∇_φ g_φ(ε) ] + E_p[ ∇_φ log p_φ(x) ]

    and the second term, the mean of the score function, is 0.

    Fitted and read on the same samples, the estimate is too high by about half the number of
    features times (1 / |p| + 1 / |q|) when p = q; where the samples do not overlap, ``ridge`` and
    ``rounds`` decide how high it is.

    Args:
        features: a name in `FEATURES`.
        ridge: of the penalty ½ ridge |w|², on standardised features.
        rounds: of iteratively reweighted least squares with the weights of Jaakkola and Jordan
            (2000) instead of Newton's: they bound the loss from above, so it falls every round.

    Raises:
        ConfigError: unknown features, or a ridge or rounds that are not positive.
    """

    assumes: ClassVar[str] = "the log ratio is linear in the features"
    features: str = "both"
    ridge: float = 1e-5
    rounds: int = 50

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise ConfigError(f"features = {self.features!r}: choose one of {', '.join(FEATURES)}")
        for name in ("ridge", "rounds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be positive")

    def __call__(
        self,
        p: Float[Tensor, " m"],
        q: Float[Tensor, " k"],
        weight: Float[Tensor, " m"] | None = None,
    ) -> Scalar:
        """Of either sign, though negative by the ridge at most."""
        weight = torch.ones_like(p) if weight is None else weight
        share = (weight / weight.sum().clamp(min=1)).double()
        of_p, of_q = (FEATURES[self.features](x.double()) for x in (p, q))
        with torch.no_grad():
            both = torch.cat([of_p, of_q])
            shares = torch.cat([share, torch.full_like(of_q[:, 0], 1 / len(q))]) / 2
            centre = shares @ both
            spread = (shares @ (both - centre) ** 2).sqrt().clamp(min=1e-6)
            target = torch.cat([torch.ones_like(share), torch.zeros_like(of_q[:, 0])])
            w = self.fit(_with_constant((both - centre) / spread), target, shares)
        return (share * (_with_constant((of_p - centre) / spread) @ w)).sum().to(p.dtype)

    def fit(
        self,
        features: Float[Tensor, "m d"],
        target: Float[Tensor, " m"],
        share: Float[Tensor, " m"],
    ) -> Float[Tensor, " d"]:
        """Coefficients of the logistic regression, the constant's last."""
        w = torch.zeros_like(features[0])
        ridge = self.ridge * torch.eye(len(w), dtype=w.dtype, device=w.device)
        right = features.T @ (share * (target - 0.5))
        for _ in range(self.rounds):
            logit = (features @ w).abs().clamp(min=1e-6)
            curvature = share * (logit / 2).tanh() / (2 * logit)
            w = torch.linalg.solve(features.T @ (curvature[:, None] * features) + ridge, right)
        return w


def _with_constant(features: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)


ESTIMATORS: dict[str, Estimator] = {
    "moments": GaussianMoments(),
    "beta": BetaFit(),
    "neighbours": NearestNeighbours(),
    "discriminator": Discriminator(),
}


@dataclass(frozen=True)
class Conditional:
    """L_x = KL( p_φ(x' | z) ‖ p_x(x) ) / n: each label's synthetic scores against all real ones.

    As `dnrlib.losses.conditional_regulariser`, which is this with `GaussianMoments`.
    """

    estimator: Estimator

    def __call__(
        self,
        synthetic: Float[Tensor, "lists n"],
        labels: Bool[Tensor, "lists n"],
        scores: Float[Tensor, "others n"],
    ) -> Scalar:
        """The labels' divergences, weighted by how often each label occurs."""
        positive = labels.to(scores.dtype)
        liked, disliked = (
            weight.mean() * self.estimator(synthetic.flatten(), scores.flatten(), weight.flatten())
            for weight in (positive, 1 - positive)
        )
        return liked + disliked


@dataclass(frozen=True)
class Pooled:
    """KL( p_φ(x') ‖ p_x(x) ) over both labels together.

    As `dnrlib.losses.pooled_regulariser`, which is this with `GaussianMoments`.
    """

    estimator: Estimator

    def __call__(
        self,
        synthetic: Float[Tensor, "lists n"],
        labels: Bool[Tensor, "lists n"],
        scores: Float[Tensor, "others n"],
    ) -> Scalar:
        """The divergence of all synthetic from all real scores; the labels are not looked at."""
        return self.estimator(synthetic.flatten(), scores.flatten())


# "conditional" and "pooled" are those with `GaussianMoments`: one name for one thing
for _name, _estimator in ESTIMATORS.items():
    if _name != "moments":
        REGULARISERS[f"conditional-{_name}"] = Conditional(_estimator)
        REGULARISERS[f"pooled-{_name}"] = Pooled(_estimator)
