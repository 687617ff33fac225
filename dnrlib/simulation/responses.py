"""What a simulated user does with an item that is shown: known, or fitted on a real log."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from dnrlib.data import SimulatedWorld
from dnrlib.files import replacing
from dnrlib.simulation.exposures import CHECK, CHOOSE, FIT, Behaviour, Exposures

RANK = 4
"""Factors of the shared affinity, if there is any."""
RIDGES = (1.0, 3.0, 10.0, 30.0)
FACTOR_RIDGES = (2.5, 5.0, 10.0, 20.0)
"""What validation chooses from: precisions (1/variance, in logits^-2) of the effects, and then of
the factors; without any affinity is one more choice. Of log seconds the unit is their variance."""
ITERATIONS = 200
"""Of L-BFGS, at most."""
BINS = 10
QUANTILES = 1000
"""Of the residuals from which seconds are drawn."""
KNOWN = (
    Behaviour("realshow", "liked in the known truth"),
    Behaviour("like", "assumed", given=0),
    Behaviour("share", "assumed", given=0),
    Behaviour("comment", "assumed", given=0),
)
KNOWN_DEPTH = (0.0, -2.0, -4.0, -4.0)
"""Added to the true logit for each behaviour of `KNOWN`: assumed, so that each is rarer."""
KNOWN_SECONDS, KNOWN_SLOPE, KNOWN_SPREAD = 15.0, 0.3, 0.8
"""Watch time where the truth is known, assumed: its median in seconds at a logit of 0, and of its
logarithm the slope in the true logit and the standard deviation."""


@dataclass(frozen=True)
class Check:
    """How a model's probabilities fit later exposures; the curve has bins of equal count.

    Args:
        rows: exposures that it was checked on.
        rate: how often the behaviour happened in them.
        auc: over all of them, 0.5 is chance.
        log_loss, log_loss_constant: nats an exposure, of the model and of the earlier rate.
        ece: expected calibration error, the mean over the bins of | predicted - observed |.
        predicted, observed, count: mean probability, share and exposures of each bin.
    """

    rows: int
    rate: float
    auc: float
    log_loss: float
    log_loss_constant: float
    ece: float
    predicted: list[float]
    observed: list[float]
    count: list[int]


@dataclass(frozen=True)
class TimeCheck:
    """How well watch time is predicted on later exposures that were watched.

    Args:
        rows: exposures that it was checked on.
        r2: of the logarithm of the seconds, against the earlier mean.
        predicted, observed, count: mean seconds and exposures of bins of equal count.
    """

    rows: int
    r2: float
    predicted: list[float]
    observed: list[float]
    count: list[int]


@dataclass(frozen=True)
class ResponseModel:
    """Probabilities of behaviours, and seconds watched, of each user and item.

    The logit of behaviour b, given whether the behaviour on which it depends happened (g), is

        constant_bg + user_ub + item_ib + weight_b · p_u·q_i

    so that one affinity is shared by all behaviours. With a column more, the last, the logarithm of
    the seconds watched is the same sum plus a residual drawn from ``residuals``.

    Args:
        behaviours: what may happen, each after the one on which it depends.
        constant: if the behaviour that it is given did not happen, and if it did.
        user, item: effects; row 0 of the items is padding.
        weight: of the affinity.
        user_factors, item_factors: p and q.
        residuals: of the logarithm of the seconds, at equal steps of probability; or None.
        checks, time_check: on later exposures; of a known truth there are none.
        chosen: the ridge of each outcome, and of the factors, that validation chose.
    """

    behaviours: tuple[Behaviour, ...]
    constant: Float[Tensor, "outcomes 2"]
    user: Float[Tensor, "users outcomes"]
    item: Float[Tensor, "items_plus_1 outcomes"]
    weight: Float[Tensor, " outcomes"]
    user_factors: Float[Tensor, "users factors"]
    item_factors: Float[Tensor, "items_plus_1 factors"]
    residuals: Float[Tensor, " quantiles"] | None = None
    checks: dict[str, Check] = field(default_factory=dict)
    time_check: TimeCheck | None = None
    chosen: dict[str, float] = field(default_factory=dict)

    @property
    def outcomes(self) -> int:
        """Behaviours, and one more if watch time is known."""
        return len(self.weight)

    def sums(
        self, users: Int[Tensor, " some"], items: Int[Tensor, "some n"]
    ) -> Float[Tensor, "some n outcomes"]:
        """Effects and affinity, without the constants."""
        affinity = (self.item_factors[items] @ self.user_factors[users][:, :, None])[..., 0]
        return self.user[users][:, None] + self.item[items] + affinity[..., None] * self.weight

    def probabilities(
        self, users: Int[Tensor, " some"], items: Int[Tensor, "some n"]
    ) -> Float[Tensor, "some n behaviours"]:
        """Of each behaviour, whatever else happens: Σ_g P(g) P(b | g)."""
        sums = self.sums(users, items)
        found: list[Tensor] = []
        for b, behaviour in enumerate(self.behaviours):
            without, following = (sums[..., b, None] + self.constant[b]).sigmoid().unbind(-1)
            given = found[behaviour.given] if behaviour.given >= 0 else torch.ones_like(following)
            found.append(following * given + without * (1 - given))
        return torch.stack(found, dim=2)

    def liking(
        self, users: Int[Tensor, " some"], items: Int[Tensor, "some n"]
    ) -> Float[Tensor, "some n"]:
        """Logit of the first behaviour, ``realshow``."""
        affinity = (self.item_factors[items] @ self.user_factors[users][:, :, None])[..., 0]
        effects = self.user[users, None, 0] + self.item[:, 0][items]
        return self.constant[0, 1] + effects + self.weight[0] * affinity

    def draw(
        self,
        users: Int[Tensor, " some"],
        items: Int[Tensor, "some n"],
        effects: Float[Tensor, "some outcomes"],
        uniform: Float[Tensor, "some n outcomes"],
    ) -> tuple[Bool[Tensor, "some n behaviours"], Float[Tensor, "some n"] | None]:
        """What happens with items that are looked at, and the seconds watched, if they are known.

        Args:
            effects: added to the logits of each user; the last, of the seconds, counts for nothing.
            uniform: in [0, 1), one for each thing that may happen.
        """
        sums = self.sums(users, items)
        found: list[Tensor] = []
        for b, behaviour in enumerate(self.behaviours):
            given = found[behaviour.given].long() if behaviour.given >= 0 else torch.tensor(1)
            logit = sums[..., b] + self.constant[b][given] + effects[:, b, None]
            found.append(uniform[..., b] < logit.sigmoid())
        happened = torch.stack(found, dim=2)
        if self.residuals is None:
            return happened, None
        residual = self.residuals[(uniform[..., -1] * len(self.residuals)).long()]
        return happened, found[0] * (sums[..., -1] + self.constant[-1, 1] + residual).exp()


def known_truth(
    world: SimulatedWorld, users: Int[Tensor, " users"], items: Int[Tensor, " items"]
) -> ResponseModel:
    """The responses of a world whose truth is known.

    ``realshow`` has the world's own probability of a like. Like, share, comment and watch time,
    which that world does not have, follow from the same logit by assumed constants.

    Args:
        users, items: raw ids, the world's own numbers, of a log's users and items.
    """
    size = len(KNOWN) + 1
    slopes = torch.tensor([1.0] * len(KNOWN) + [KNOWN_SLOPE])
    affinities = torch.tensor(world.logits)[users][:, items]
    quality = torch.tensor(world.item_factors)[items]
    taste = torch.tensor(world.user_factors)[users]
    rest = affinities - world.taste / world.factors**0.5 * taste @ quality.T
    user = rest.mean(dim=1) - rest.mean()
    constant = torch.full((size, 2), -torch.inf)
    constant[:, 1] = torch.tensor([*KNOWN_DEPTH, np.log(KNOWN_SECONDS)])
    steps = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return ResponseModel(
        behaviours=KNOWN,
        constant=constant,
        user=user[:, None] * slopes,
        item=F.pad(rest.mean(dim=0), (1, 0))[:, None] * slopes,
        weight=world.taste / world.factors**0.5 * slopes,
        user_factors=taste,
        item_factors=F.pad(quality, (0, 0, 1, 0)),
        residuals=torch.tensor(KNOWN_SPREAD * norm.ppf(steps), dtype=torch.float32),
    )


# Fitted on a log --------------------------------------------------------------------------


def fit(
    seen: Exposures,
    users: int,
    items: int,
    ridges: Sequence[float] = RIDGES,
    factor_ridges: Sequence[float] = FACTOR_RIDGES,
    say: Callable[[str], None] = lambda text: None,
) -> ResponseModel:
    """A model of the earlier exposures, checked on the later ones.

    Ridges are those with the least loss on the exposures in between: first of each behaviour's
    effects, which without an affinity have nothing to do with another's, then of the factors. The
    model is then fitted again with these exposures among what it learns from. Later ones choose
    nothing.

    Args:
        ridges: precisions of the effects.
        factor_ridges: precisions of the factors; without any affinity is always tried.
    """
    first, middle = seen[seen.part == FIT], seen[seen.part == CHOOSE]
    earlier, later = seen[seen.part != CHECK], seen[seen.part == CHECK]
    outcomes = len(seen.behaviours) + (seen.seconds is not None)

    def losses(ridge: Tensor, factors: float) -> Tensor:
        found = _losses(_fitted(first, users, items, ridge, factors), first, middle)
        named = "none" if math.isinf(factors) else f"ridge {factors:g}"
        say(f"Responses, ridges {_listed(ridge)}, affinity {named}: loss {found.sum():.4f}")
        return found

    alone = torch.stack([losses(torch.full((outcomes,), ridge), math.inf) for ridge in ridges])
    ridge = torch.tensor(ridges)[alone.argmin(dim=0)]
    totals = {math.inf: float(alone.min(dim=0).values.sum())}
    totals |= {factors: float(losses(ridge, factors).sum()) for factors in factor_ridges}
    factors = min(totals, key=totals.__getitem__)
    model = _fitted(earlier, users, items, ridge, factors)
    names = [*(behaviour.name for behaviour in seen.behaviours), "app_time"]
    return replace(
        model,
        checks=_checks(model, earlier, later),
        time_check=_time_check(model, earlier, later),
        chosen={**dict(zip(names, ridge.tolist(), strict=False)), "factors": factors},
    )


def _listed(ridge: Tensor) -> str:
    return ", ".join(f"{one:g}" for one in ridge)


def kept(path: Path, fitted: Callable[[], ResponseModel]) -> ResponseModel:
    """What ``fitted`` returns, kept in a file."""
    if not path.exists():
        model = fitted()
        tensors = {name: value for name, value in vars(model).items() if isinstance(value, Tensor)}
        rest = {k: v for k, v in asdict(model).items() if not isinstance(v, Tensor)}
        with replacing(path) as partial:
            save_file(tensors, partial, metadata={"model": json.dumps(rest)})
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        rest = json.loads(file.metadata()["model"])
    return ResponseModel(
        behaviours=tuple(Behaviour(**one) for one in rest["behaviours"]),
        checks={name: Check(**check) for name, check in rest["checks"].items()},
        time_check=TimeCheck(**rest["time_check"]) if rest["time_check"] else None,
        chosen=rest["chosen"],
        **tensors,
    )


def _given(seen: Exposures) -> Int[Tensor, "rows behaviours"]:
    """Whether the behaviour that each is given happened."""
    first = torch.ones(len(seen.user), 1, dtype=torch.bool)
    happened = torch.cat([first, seen.happened], dim=1)
    return happened[:, [one.given + 1 for one in seen.behaviours]].long()


def _fitted(
    seen: Exposures, users: int, items: int, ridge: Float[Tensor, " outcomes"], factors: float
) -> ResponseModel:
    """Penalised maximum likelihood: Gaussian priors on all but the constants and the weights.

    Args:
        ridge: precisions of the effects on each outcome.
        factors: precision of the factors; infinite: there are none.
    """
    watched = seen[seen.happened[:, 0]]
    logs = None if watched.seconds is None else watched.seconds.double().log()
    mean, deviation = (0.0, 1.0) if logs is None else (float(logs.mean()), float(logs.std()))
    rank = 0 if math.isinf(factors) else RANK
    start = _start(users, items, len(seen.behaviours) + (logs is not None), rank)
    start["constant"][: len(seen.behaviours)] = _log_odds(seen)
    priors = {"user": ridge, "item": ridge}
    if rank:
        priors |= {name: torch.tensor(factors) for name in ("user_factors", "item_factors")}
    standard = None if logs is None else (logs - mean) / deviation
    cost = _cost(seen, standard)
    found: dict[str, Any] = _minimised(
        lambda model: cost(model) + sum((p / 2 * model[n] ** 2).sum() for n, p in priors.items()),
        start,
    )
    found["weight"] = _bounded(found["weight"])
    model = ResponseModel(seen.behaviours, **found)
    return model if logs is None else _with_seconds(model, watched, logs, mean, deviation)


def _cost(seen: Exposures, seconds: Tensor | None) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Negative log likelihood of the behaviours, and of the standardised log seconds as normal."""
    given, happened = _given(seen), seen.happened.double()
    watched = seen.happened[:, 0].nonzero()[:, 0]
    places = torch.arange(len(seen.behaviours))

    def cost(model: Mapping[str, Tensor]) -> Tensor:
        p, q = model["user_factors"][seen.user], model["item_factors"][seen.item]
        affinity = (p * q).sum(dim=1, keepdim=True) * _bounded(model["weight"])
        sums = model["user"][seen.user] + model["item"][seen.item] + affinity
        logits = sums[:, : len(places)] + model["constant"][places, given]
        total = F.binary_cross_entropy_with_logits(logits, happened, reduction="sum")
        if seconds is None:
            return total
        error = seconds - sums[watched, -1] - model["constant"][-1, 1]
        return total + 0.5 * error.square().sum()

    return cost


def _bounded(weight: Float[Tensor, " others"]) -> Float[Tensor, " outcomes"]:
    """1 for the first, which sets the affinity's scale, and others in (-1, 1).

    A large weight would let small factors, which cost little, do what the ridge forbids.
    """
    return torch.cat([torch.ones_like(weight[:1]), weight.tanh()])


def _start(users: int, items: int, outcomes: int, rank: int) -> dict[str, Tensor]:
    """Small random factors, for at none at all the affinity has no gradient."""
    generator = torch.Generator().manual_seed(0)
    return {
        "constant": torch.zeros(outcomes, 2),
        "user": torch.zeros(users, outcomes),
        "item": torch.zeros(items + 1, outcomes),
        "weight": torch.ones(outcomes - 1),
        "user_factors": 0.1 * torch.randn(users, rank, generator=generator),
        "item_factors": 0.1 * torch.randn(items + 1, rank, generator=generator),
    }


def _log_odds(seen: Exposures) -> Float[Tensor, "behaviours 2"]:
    """Of each behaviour where its condition did not hold and where it did; bounded at 10^-6."""
    given = _given(seen)
    shares = [
        (seen.happened & (given == state)).sum(0) / (given == state).sum(0).clamp(min=1)
        for state in (0, 1)
    ]
    return torch.stack(shares, dim=1).logit(eps=1e-6)


def _minimised(
    loss: Callable[[Mapping[str, Tensor]], Tensor], start: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of the least loss, by L-BFGS."""
    sizes = [tensor.numel() for tensor in start.values()]

    def tensors(flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split(sizes)
        return {n: part.view_as(start[n]) for n, part in zip(start, parts, strict=True)}

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        flat = torch.tensor(x, requires_grad=True)
        total = loss(tensors(flat))
        (gradient,) = torch.autograd.grad(total, flat)
        return total.item(), gradient.numpy()

    x = torch.cat([tensor.flatten() for tensor in start.values()]).double().numpy()
    options = {"maxiter": ITERATIONS, "ftol": 1e-7}
    x = minimize(value, x, jac=True, method="L-BFGS-B", options=options).x
    return {name: part.clone() for name, part in tensors(torch.tensor(x).float()).items()}


def _with_seconds(
    model: ResponseModel, watched: Exposures, logs: Tensor, mean: float, deviation: float
) -> ResponseModel:
    """The last column in logarithms of seconds, with its residuals."""
    parts = {name: getattr(model, name).clone() for name in ("user", "item", "weight", "constant")}
    for name in ("user", "item", "weight"):
        parts[name][..., -1] *= deviation
    parts["constant"][-1] = mean + deviation * model.constant[-1, 1]
    rest = {name: getattr(model, name) for name in ("user_factors", "item_factors")}
    scaled = ResponseModel(model.behaviours, **parts, **rest)
    error = logs - _log_seconds(scaled, watched)
    steps = (torch.arange(QUANTILES) + 0.5) / QUANTILES
    residuals = torch.tensor(np.quantile(error.numpy(), steps.numpy()), dtype=torch.float32)
    return ResponseModel(model.behaviours, **parts, **rest, residuals=residuals)


def _log_seconds(model: ResponseModel, seen: Exposures) -> Float[Tensor, " rows"]:
    return model.sums(seen.user, seen.item[:, None])[:, 0, -1] + model.constant[-1, 1]


# Checked on later exposures ---------------------------------------------------------------


def _predicted(model: ResponseModel, seen: Exposures) -> Float[Tensor, "rows behaviours"]:
    return model.probabilities(seen.user, seen.item[:, None])[:, 0].clamp(1e-6, 1 - 1e-6)


def _log_losses(model: ResponseModel, seen: Exposures) -> Float[Tensor, " behaviours"]:
    """Mean log loss of each behaviour in nats, whatever else happened."""
    happened = seen.happened.float()
    losses = F.binary_cross_entropy(_predicted(model, seen), happened, reduction="none")
    return losses.mean(dim=0)


def _losses(
    model: ResponseModel, earlier: Exposures, seen: Exposures
) -> Float[Tensor, " outcomes"]:
    """Log losses, and of log seconds half the squared error in units of their earlier variance."""
    losses = _log_losses(model, seen)
    if seen.seconds is None or earlier.seconds is None:
        return losses
    variance = earlier.seconds[earlier.happened[:, 0]].log().var()
    watched = seen.happened[:, 0]
    errors = (seen.seconds.log() - _log_seconds(model, seen))[watched]
    half = 0.5 * errors.square().sum() / variance / len(watched)
    return torch.cat([losses, half[None]])


def _checks(model: ResponseModel, earlier: Exposures, later: Exposures) -> dict[str, Check]:
    predicted, losses = _predicted(model, later).double(), _log_losses(model, later)
    rates = earlier.happened.double().mean(dim=0).expand(len(later.user), -1)
    happened = later.happened.double()
    constant = F.binary_cross_entropy(rates, happened, reduction="none").mean(dim=0)
    return {
        behaviour.name: check(
            predicted[:, b].numpy(), later.happened[:, b].numpy(), losses[b], constant[b]
        )
        for b, behaviour in enumerate(model.behaviours)
    }


def check(
    predicted: Float[np.ndarray, " rows"],
    happened: Bool[np.ndarray, " rows"],
    log_loss: Any,
    log_loss_constant: Any,
) -> Check:
    """Discrimination and calibration of probabilities; the AUC needs both outcomes."""
    curve = _curve(predicted, happened)
    gaps = np.abs(np.subtract(curve["predicted"], curve["observed"]))
    return Check(
        rows=len(happened),
        rate=float(happened.mean()),
        auc=float(roc_auc_score(happened, predicted)),
        log_loss=float(log_loss),
        log_loss_constant=float(log_loss_constant),
        ece=float(np.average(gaps, weights=curve["count"])),
        **curve,
    )


def _curve(predicted: np.ndarray, observed: np.ndarray) -> dict[str, list[Any]]:
    """Means of both in bins of equal count, from the lowest prediction up."""
    parts = np.array_split(np.argsort(predicted, kind="stable"), BINS)
    return {
        "predicted": [float(predicted[part].mean()) for part in parts],
        "observed": [float(observed[part].mean()) for part in parts],
        "count": [len(part) for part in parts],
    }


def _time_check(model: ResponseModel, earlier: Exposures, later: Exposures) -> TimeCheck | None:
    if model.residuals is None or later.seconds is None or earlier.seconds is None:
        return None
    watched = later[later.happened[:, 0]]
    assert watched.seconds is not None
    logs, log_predicted = watched.seconds.log(), _log_seconds(model, watched)
    before = earlier.seconds[earlier.happened[:, 0]].log().mean()
    error, spread = ((logs - one).square().mean() for one in (log_predicted, before))
    seconds = (log_predicted.exp() * model.residuals.exp().mean()).numpy()
    curve = _curve(seconds, watched.seconds.numpy())
    return TimeCheck(len(logs), float(1 - error / spread), **curve)
