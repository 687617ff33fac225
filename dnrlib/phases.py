"""When denoising training helps: a world of single candidates with exact losses and finite data.

A candidate comes with a context c, which is all that the reranker knows of user and item, with a
hidden state that only the retriever's score has seen, and with feedback z. Scores have finitely
many levels, so that the laws of test and of training are tables, and nothing is random but which
pairs are drawn for training. Candidates are independent: lists, and a reranker that compares the
candidates of a list, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import brentq
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import beta

from dnrlib.errors import ConfigError, TrainingError
from dnrlib.lists import CandidateLists
from dnrlib.metrics import auc as list_auc
from dnrlib.metrics import rank
from dnrlib.statistics import Interval, seed_difference

Joint = Float[np.ndarray, "contexts levels 2"]
"""p(c, x, z), sums to one."""
Generator = Float[np.ndarray, "2 levels"]
"""p_φ(x' | z), one row for each z."""
Weights = Float[np.ndarray, "sets contexts levels 2"]
"""How much each (c, x, z) counts in training, for many data sets at once."""
Logits = Float[np.ndarray, "sets contexts levels"]
"""log q(1 | x, c) - log q(0 | x, c)."""

GENERATORS = ("gaussian", "beta", "oracle", "uninformed", "practised")
"""Kinds of synthetic scores; see `generator`."""
STEPS, LARGEST_STEP, TOLERANCE = 200, 2.0, 1e-9
INTERCEPT = 0.01
NEAR_ONE = 0.999


@dataclass(frozen=True)
class Candidates:
    """The law of a candidate's context c, score level x and feedback z, in test and in training.

    The log-odds of the feedback are mean + spread · m_c + hidden · h_s, with m and h standard
    normal (quantiles, nodes of a quadrature). The score is sigmoid(bias + width · r), cut into
    levels of equal width, where r has unit variance and the correlation ρ with the log-odds. The
    remaining 1 - ρ² of its variance is the retriever's noise.

    Args:
        contexts, levels, states: how many there are.
        mean, spread, hidden: of the log-odds; the reranker can learn what varies with the context.
        zipf: p(c) falls as 1 / rank^zipf; 0 is uniform. Ranks are shuffled by ``seed``.
        rho: ρ in (-1, 1); negative where a high score means *not* liked.
        width, bias: standard deviation and mean of the score's logit.
        optimism: added to the logit of a *training* score where z = 1 and taken off where z = 0, as
            for scores of interactions that the retriever has learnt.

    Raises:
        ConfigError: a parameter is out of its range.
    """

    contexts: int = 40
    levels: int = 12
    states: int = 21
    mean: float = -4.0
    spread: float = 2.0
    hidden: float = 2.5
    zipf: float = 0.0
    rho: float = 0.7
    width: float = 1.5
    bias: float = -1.5
    optimism: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {"contexts": 1, "levels": 2, "states": 1}.items():
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"{name} = {value}: must be at least {least}")
        if not -1 < self.rho < 1:
            raise ConfigError(f"rho = {self.rho}: must lie between -1 and 1")
        if self.width <= 0:
            raise ConfigError(f"width = {self.width}: must be positive")

    @cached_property
    def p_context(self) -> Float[np.ndarray, " contexts"]:
        """p(c)."""
        rank = 1 + np.random.default_rng(self.seed).permutation(self.contexts)
        weight = rank**-self.zipf
        return weight / weight.sum()

    @cached_property
    def p_state(self) -> Float[np.ndarray, " states"]:
        """p(s), the weights of Gauss and Hermite."""
        return np.polynomial.hermite_e.hermegauss(self.states)[1] / np.sqrt(2 * np.pi)

    @cached_property
    def log_odds(self) -> Float[np.ndarray, "contexts states"]:
        """Of z = 1 given context and state."""
        m = ndtri((np.arange(self.contexts) + 0.5) / self.contexts)
        h = np.polynomial.hermite_e.hermegauss(self.states)[0]
        return self.mean + self.spread * m[:, None] + self.hidden * h

    @cached_property
    def test(self) -> Joint:
        """p(c, x, z) where the reranker serves."""
        return self._joint(0.0)

    @cached_property
    def train(self) -> Joint:
        """p(c, x, z) where it is trained; differs from `test` by the optimism alone."""
        return self._joint(self.optimism)

    def _joint(self, optimism: float) -> Joint:
        p_cs = self.p_context[:, None] * self.p_state
        centred = self.log_odds - (p_cs * self.log_odds).sum()
        deviation = np.sqrt((p_cs * centred**2).sum())
        signal = centred / max(deviation, 1e-12)  # no signal where the log-odds do not vary
        means = self.bias + self.width * self.rho * signal[..., None] + optimism * np.array([-1, 1])
        noise = self.width * np.sqrt(1 - self.rho**2)
        cdf = ndtr((logit(edges(self.levels)) - means[..., None]) / noise)
        p_z = np.stack([expit(-self.log_odds), expit(self.log_odds)], axis=-1)
        return np.einsum("cs,csz,cszx->cxz", p_cs, p_z, np.diff(cdf))


def edges(levels: int) -> Float[np.ndarray, " levels_plus_1"]:
    """Where the levels of a score in [0, 1] begin and end."""
    return np.linspace(0, 1, levels + 1)


def auc(
    values: Float[np.ndarray, "sets some"], joint: Float[np.ndarray, "some 2"]
) -> Float[np.ndarray, " sets"]:
    """P(value of a liked candidate > of a disliked one), ties counted as one half, exactly.

    Also the mean AUC of lists, if their candidates are independent draws.

    Args:
        values: by which one orders, for each of the joint's rows.
        joint: p(row, z).
    """
    rounded = np.round(values, 9)
    order = rounded.argsort(axis=1)
    ordered, (p_0, p_1) = np.take_along_axis(rounded, order, 1), joint.T
    below = np.pad(p_0[order].cumsum(axis=1), ((0, 0), (1, 0)))
    new = np.diff(ordered, axis=1, prepend=-np.inf) > 0
    last = np.pad(new[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    places = np.arange(ordered.shape[1])
    first_of_tie = np.maximum.accumulate(np.where(new, places, 0), axis=1)
    backwards = np.where(last, places + 1, ordered.shape[1])[:, ::-1]
    end_of_tie = np.minimum.accumulate(backwards, axis=1)[:, ::-1]
    wins = (
        np.take_along_axis(below, first_of_tie, 1) + np.take_along_axis(below, end_of_tie, 1)
    ) / 2
    return (p_1[order] * wins).sum(axis=1) / (p_0.sum() * p_1.sum())


def score_auc(joint: Joint) -> float:
    """The AUC of the score alone."""
    levels = np.arange(joint.shape[1], dtype=float)
    return float(auc(levels[None], joint.sum(axis=0))[0])


def context_auc(joint: Joint) -> float:
    """The AUC of the best reranker that knows the context alone."""
    p_cz = joint.sum(axis=1)
    return float(auc((p_cz[:, 1] / p_cz.sum(axis=1))[None], p_cz)[0])


def attainable(world: Candidates) -> tuple[float, float]:
    """The lowest and the highest AUC of the score: feedback is a toss, so neither is 0 or 1."""
    low, high = (score_auc(replace(world, rho=sign * NEAR_ONE).test) for sign in (-1, 1))
    return low, high


def at_auc(world: Candidates, test_auc: float, gap: float | None = None) -> Candidates:
    """The world with the ρ that gives the score an AUC, and the optimism that gives a gap.

    Args:
        gap: AUC in training minus AUC in test; None leaves the optimism as it is.

    Raises:
        ConfigError: no ρ or no optimism gives that.
    """

    low, high = attainable(world)
    if not low < test_auc < high:
        raise ConfigError(f"auc = {test_auc}: must lie between {low:.3f} and {high:.3f}")

    def noisier(rho: float) -> float:
        return score_auc(replace(world, rho=rho).test) - test_auc

    world = replace(world, rho=brentq(noisier, -NEAR_ONE, NEAR_ONE))
    if gap is None:
        return world

    def further(optimism: float) -> float:
        return score_auc(replace(world, optimism=optimism).train) - test_auc - gap

    if not further(-10) < 0 < further(10):
        raise ConfigError(f"gap = {gap}: the AUC in training would be {test_auc + gap:.3f}")
    return replace(world, optimism=brentq(further, -10, 10))


def at_context_auc(world: Candidates, wanted: float) -> Candidates:
    """The world in which the context alone gives an AUC: more of the log-odds' variance is known.

    Raises:
        ConfigError: no share of the variance gives that.
    """
    deviation = np.hypot(world.spread, world.hidden)

    def turned(angle: float) -> Candidates:
        return replace(world, spread=deviation * np.sin(angle), hidden=deviation * np.cos(angle))

    low, high = (context_auc(turned(angle).test) for angle in (0, np.pi / 2))
    if not low < wanted < high:
        raise ConfigError(f"wanted = {wanted}: must lie between {low:.3f} and {high:.3f}")
    return turned(brentq(lambda angle: context_auc(turned(angle).test) - wanted, 0, np.pi / 2))


def generator(kind: str, world: Candidates, lambda_c: float = 0.4) -> Generator:
    """p_φ(x' | z) on the levels.

    - ``gaussian``, ``beta``: x' = (1 - λ_c) z + λ_c ε with ε ~ N(0, 1) or Beta(0.5, 0.5). What
      falls outside [0, 1] goes to the end levels.
    - ``oracle``: the test scores' own p(x | z), what a perfect generator would learn.
    - ``uninformed``: the training scores' p(x) whatever z, where L_x as written would lead. It is
      also score dropout: a pair that carries the score of another.
    - ``practised``: proportional to p(x) / p(z | x) in training, where min log q plus L_x leads
      against a reranker that reads the score rightly.

    Raises:
        ConfigError: unknown kind, or λ_c outside (0, 1].
    """
    if kind not in GENERATORS:
        raise ConfigError(f"generator {kind!r} is unknown: choose one of {', '.join(GENERATORS)}")
    if not 0 < lambda_c <= 1:
        raise ConfigError(f"lambda_c = {lambda_c}: must be positive and at most 1")
    if kind in ("gaussian", "beta"):
        inner = edges(world.levels)[1:-1]
        epsilon = (inner - (1 - lambda_c) * np.array([[0.0], [1.0]])) / lambda_c
        cdf = ndtr(epsilon) if kind == "gaussian" else beta(0.5, 0.5).cdf(epsilon)
        return np.diff(cdf, prepend=0, append=1)
    p_xz = world.test.sum(axis=0).T if kind == "oracle" else world.train.sum(axis=0).T
    p_x = p_xz.sum(axis=0)
    table = {"oracle": p_xz, "uninformed": np.stack([p_x, p_x]), "practised": p_x**2 / p_xz}[kind]
    return table / table.sum(axis=1, keepdims=True)


def draw(
    joint: Joint, pairs: int, replicates: int, seed: int | Sequence[int] = 0
) -> Int[np.ndarray, "sets contexts levels 2"]:
    """How often each (c, x, z) occurs in data sets of so many independent draws."""
    law = joint.ravel() / joint.sum()
    counts = np.random.default_rng(seed).multinomial(pairs, law, size=replicates)
    return counts.reshape(replicates, *joint.shape)


def with_denoising(weights: Weights, phi: Generator, lambda_m: float) -> Weights:
    """Direct training's weights plus λ_m times those of L_z, with x' summed out exactly.

    A pair (c, x, z) counts once with its own x and, in parts p_φ(x' | z), with every level x'.
    """
    return weights + lambda_m * weights.sum(axis=-2, keepdims=True) * phi.T


def fit(
    weights: Weights,
    ridge: float = 1.0,
    score_ridge: float = 1.0,
    basis: str = "table",
    offset: Float[np.ndarray, " levels"] | float = 0.0,
) -> Logits:
    """Rerankers logit q = offset + a_c + f_x, by penalised maximum likelihood (Newton's method).

    The penalty is ridge/2 · Σ a_c², the same for the coefficients of f with ``score_ridge``, and a
    hundredth of the ridge for a common intercept, so that data of one label have an answer too. A
    step is shortened so that no logit moves by more than two.

    Args:
        weights: non-negative.
        ridge, score_ridge: positive.
        basis: ``table`` has a free value for each level, ``linear`` is proportional to its centre.
        offset: what the logit of each level is before anything is learnt.

    Raises:
        ConfigError: a penalty is not positive, or the basis is unknown.
        TrainingError: no optimum is found.
    """
    if min(ridge, score_ridge) <= 0:
        raise ConfigError(f"ridge = {ridge}, score_ridge = {score_ridge}: both must be positive")
    g = _basis(basis, weights.shape[2])
    total, liked = weights.sum(axis=-1), weights[..., 1]
    penalty = np.array([INTERCEPT * ridge, *[score_ridge] * (g.shape[1] - 1)])
    a, w = np.zeros(total.shape[:2]), np.zeros((len(total), g.shape[1]))
    enough = TOLERANCE * np.maximum(total.sum(axis=(1, 2)), ridge)
    for _ in range(STEPS):
        logits = offset + a[..., None] + (w @ g.T)[:, None]
        q = expit(logits)
        error, curvature = liked - total * q, total * q * (1 - q)
        up_a = error.sum(axis=2) - ridge * a
        up_w = error.sum(axis=1) @ g - penalty * w
        largest = np.maximum(np.abs(up_a).max(axis=1), np.abs(up_w).max(axis=1))
        if (largest <= enough).all():
            return logits
        step_a, step_w = _newton(up_a, up_w, curvature, g, ridge, penalty)
        moved = np.abs(step_a[..., None] + (step_w @ g.T)[:, None]).max(axis=(1, 2))
        shorter = np.minimum(1, LARGEST_STEP / np.maximum(moved, LARGEST_STEP))[:, None]
        a, w = a + shorter * step_a, w + shorter * step_w
    raise TrainingError(f"no optimum after {STEPS} steps of Newton's method: raise the ridge")


def _basis(name: str, levels: int) -> Float[np.ndarray, "levels columns"]:
    """The intercept, then what f is made of."""
    centres = (np.arange(levels) + 0.5) / levels
    bases = {"table": np.eye(levels), "linear": centres[:, None]}
    if name not in bases:
        raise ConfigError(f"basis {name!r} is unknown: choose one of {', '.join(bases)}")
    return np.column_stack([np.ones(levels), bases[name]])


def _newton(
    up_a: Float[np.ndarray, "sets contexts"],
    up_w: Float[np.ndarray, "sets columns"],
    curvature: Float[np.ndarray, "sets contexts levels"],
    g: Float[np.ndarray, "levels columns"],
    ridge: float,
    penalty: Float[np.ndarray, " columns"],
) -> tuple[np.ndarray, np.ndarray]:
    """The step; the contexts' block is diagonal and is eliminated first."""
    of_a = curvature.sum(axis=2) + ridge
    mixed = curvature @ g
    of_w = (g.T * curvature.sum(axis=1)[:, None]) @ g + np.diag(penalty)
    scaled = mixed / of_a[..., None]
    schur = of_w - mixed.transpose(0, 2, 1) @ scaled
    right = up_w - (scaled * up_a[..., None]).sum(axis=1)
    step_w = np.linalg.solve(schur, right[..., None])[..., 0]
    return up_a / of_a - (scaled @ step_w[..., None])[..., 0], step_w


def loss(
    logits: Logits, weights: Float[np.ndarray, "*sets contexts levels 2"]
) -> Float[np.ndarray, " sets"]:
    """-Σ weights · log q(z | x, c): with a joint law exact, in nats a candidate."""
    terms = weights[..., 0] * np.logaddexp(0, logits) + weights[..., 1] * np.logaddexp(0, -logits)
    return terms.sum(axis=(-2, -1))


def best_loss(joint: Joint) -> float:
    """The conditional entropy of z given c and x, below which no reranker gets."""
    return float(loss(best_logits(joint)[None], joint)[0])


def best_logits(
    joint: Joint, phi: Generator | None = None, lambda_m: float = 0.0
) -> Float[np.ndarray, "contexts levels"]:
    """The unrestricted reranker that minimises L_pairs + λ_m L_z with unlimited data.

    q(z | x, c) is proportional to p(c, x, z) + λ_m p(c, z) p_φ(x | z); without φ to p(c, x, z).
    """
    law = joint if phi is None else with_denoising(joint[None], phi, lambda_m)[0]
    return np.log(law[..., 1]) - np.log(law[..., 0])


def limit(
    joint: Joint, phi: Generator | None = None, lambda_m: float = 0.0, basis: str = "table"
) -> Logits:
    """What `fit` tends to with ever more data, a batch of one."""
    law = joint[None] if phi is None else with_denoising(joint[None], phi, lambda_m)
    return fit(law, 1e-6, 1e-6, basis)


@dataclass(frozen=True)
class Outcome:
    """What rerankers are worth in test, one for each data set."""

    loss: Float[np.ndarray, " sets"]
    """Nats a candidate."""
    auc: Float[np.ndarray, " sets"]


def judge(logits: Logits, test: Joint) -> Outcome:
    """Loss and AUC under the law of test, exactly."""
    flat = logits.reshape(len(logits), -1)
    return Outcome(loss(logits, test), auc(flat, test.reshape(-1, 2)))


@dataclass(frozen=True, eq=False)
class Recipe:
    """A way of training. Of several values the validation loss chooses, for each data set.

    Args:
        phi: the generator of denoising training; None is direct training.
        lambda_m: λ_m.
        ridge: the penalty on contexts and score.
        score_ridge: times the ridge, the penalty on the score; very large is to leave it out.
        basis: see `fit`.
        offset: begin from the score's own logit instead of from zero.
    """

    phi: Generator | None = None
    lambda_m: Sequence[float] = (0.5,)
    ridge: Sequence[float] = (1.0,)
    score_ridge: Sequence[float] = (1.0,)
    basis: str = "table"
    offset: bool = False

    def options(self, counts: Weights) -> list[Logits]:
        """Rerankers fitted with every combination of the values."""
        centres = (np.arange(counts.shape[2]) + 0.5) / counts.shape[2]
        offset = logit(centres) if self.offset else 0.0
        return [
            fit(
                counts if self.phi is None else with_denoising(counts, self.phi, weight),
                ridge,
                ridge * factor,
                self.basis,
                offset,
            )
            for weight, ridge, factor in product(
                self.lambda_m if self.phi is not None else (0.0,), self.ridge, self.score_ridge
            )
        ]


def chosen(options: Sequence[Logits], validation: Weights) -> Logits:
    """Of each data set the option with the lowest loss on its validation pairs."""
    best = np.argmin([loss(option, validation) for option in options], axis=0)
    return np.stack(options)[best, np.arange(len(best))]


def trial(
    world: Candidates,
    pairs: int,
    recipes: Mapping[str, Recipe],
    replicates: int = 50,
    seed: int = 0,
    place: int = 0,
) -> dict[str, Outcome]:
    """What each recipe is worth on the same data sets.

    As many pairs again are drawn for validation, with scores as in test: the retriever has not seen
    them. Only recipes with several values look at them.

    Args:
        pairs: drawn for training.
        place: of the trial among others of the same seed, so that no two share their data.
    """
    counts = draw(world.train, pairs, replicates, [seed, place, 0]).astype(float)
    validation = draw(world.test, pairs, replicates, [seed, place, 1]).astype(float)
    return {
        name: judge(chosen(recipe.options(counts), validation), world.test)
        for name, recipe in recipes.items()
    }


def gain(outcome: Outcome, reference: Outcome, measure: str = "loss") -> Interval:
    """How much better than the reference, with Student's interval over the data sets, in pairs.

    Args:
        measure: ``loss``, nats a candidate *below* the reference's, or ``auc``, above it.

    Raises:
        ConfigError: unknown measure, or fewer than two data sets.
    """
    if measure not in ("loss", "auc"):
        raise ConfigError(f"measure = {measure!r}: choose loss or auc")
    first, second = (getattr(part, measure)[:, None] for part in (outcome, reference))
    return seed_difference(second, first) if measure == "loss" else seed_difference(first, second)


def sweep(
    cells: Sequence[Sequence[tuple[Candidates, int] | None]],
    recipes: Callable[[Candidates], Mapping[str, Recipe]],
    replicates: int,
    seed: int = 0,
) -> dict[tuple[str, str], Float[np.ndarray, "rows columns 3"]]:
    """Gains over the first recipe in every cell of a map: mean and ends of the interval.

    Args:
        cells: rows of worlds, each with its number of training pairs; None is left NaN.
        recipes: those of a world.

    Returns:
        (recipe, measure) -> map.
    """
    shape = (len(cells), len(cells[0]), 3)
    maps: dict[tuple[str, str], np.ndarray] = {}
    for place, (row, column) in enumerate(np.ndindex(*shape[:2])):
        if (cell := cells[row][column]) is None:
            continue
        world, pairs = cell
        found = trial(world, pairs, recipes(world), replicates, seed, place)
        reference, *names = found
        for name, measure in product(names, ("loss", "auc")):
            interval = gain(found[name], found[reference], measure)
            values = maps.setdefault((name, measure), np.full(shape, np.nan))
            values[row, column] = interval.mean, interval.low, interval.high
    return maps


@dataclass(frozen=True)
class Observed:
    """Of candidate lists, what a place on the map is read from."""

    test_auc: float
    """Of the score alone, the mean over test lists."""
    gap: float
    """The same in training, minus that."""
    bias: float
    """Mean of the test scores' logit."""
    width: float
    """Standard deviation of the test scores' logit."""
    pairs: int
    """Candidates of all training lists."""
    contexts: int
    """Users and items together."""


def observe(lists: CandidateLists) -> Observed:
    """Measure lists that have training and test lists; of the feedback only through the AUC."""
    train, test = (lists.of_split(split) for split in ("train", "test"))
    own, test_auc = (
        float(list_auc(rank(part.scores, part.labels)).nanmean()) for part in (train, test)
    )
    logits = test.scores.double().logit(eps=1e-6)
    return Observed(
        test_auc=test_auc,
        gap=own - test_auc,
        bias=float(logits.mean()),
        width=float(logits.std()),
        pairs=train.labels.numel(),
        contexts=lists.meta["users"] + lists.meta["items"],
    )


def like(observed: Observed, base: Candidates) -> Candidates:
    """The world whose scores look like those observed; the rest is the base's.

    An AUC that this world cannot have is brought to within a hundredth of the nearest that it can,
    and a gap likewise.
    """
    world = replace(base, bias=observed.bias, width=observed.width)
    low, high = attainable(world)
    nearest = min(max(observed.test_auc, low + 0.01), high - 0.01)
    return at_auc(world, nearest, min(observed.gap, 0.99 - nearest))
