"""A finite cascade in which every term of the theory is a sum over tables, in float64 and nats.

A request u, a vector x of n scores and a vector z of n feedbacks have finitely many values, so that
laws are tables: a reranker q_θ(z | x) is ``q[x, z]``, a generator p_φ(x | z) is ``phi[z, x]``, rows
sum to one. All functions can be differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor
from torch.special import ndtr, xlogy

from dnrlib.errors import ConfigError

Law = Float[Tensor, " z"]
"""A probability for each feedback vector."""
Reranker = Float[Tensor, "x z"]
"""q_θ(z | x): a row for each score vector."""
Generator = Float[Tensor, "z x"]
"""p_φ(x | z): a row for each feedback vector."""

OBJECTIVES = ("bound", "defined", "practised", "unregularised")
"""What a generator can be trained for; see `best_generator`."""


@dataclass(frozen=True)
class World:
    """p(u), p(x | u) and p(z | x, u).

    Args:
        prior: p(u).
        scores: p(x | u); the score vectors are numbered as in `x_values`.
        feedback: p(z | x, u); the feedback vectors are numbered as in `z_values`.
        levels: the values that a single score can have.
        n: candidates in a list, so that there are ``len(levels) ** n`` score vectors and ``2 ** n``
            feedback vectors.

    Raises:
        ConfigError: a table is of another shape, has an entry that is not positive, or does not
            sum to one.
    """

    prior: Float[Tensor, " u"]
    scores: Float[Tensor, "u x"]
    feedback: Float[Tensor, "u x z"]
    levels: Float[Tensor, " level"]
    n: int

    def __post_init__(self) -> None:
        users, many = len(self.prior), len(self.levels) ** self.n
        shapes = {"prior": (users,), "scores": (users, many), "feedback": (users, many, 2**self.n)}
        for name, shape in shapes.items():
            table = getattr(self, name)
            if tuple(table.shape) != shape:
                raise ConfigError(f"{name} has shape {tuple(table.shape)}: must be {shape}")
            if not (table > 0).all():
                raise ConfigError(f"{name}: every probability must be positive")
            if not torch.allclose(table.sum(-1), table.new_ones(()), atol=1e-9):
                raise ConfigError(f"{name}: its rows must sum to one")

    @property
    def x_values(self) -> Float[Tensor, "x n"]:
        """The score vectors."""
        return torch.cartesian_prod(*[self.levels] * self.n).view(-1, self.n)

    @property
    def z_values(self) -> Float[Tensor, "z n"]:
        """The feedback vectors."""
        return torch.tensor(list(product((0.0, 1.0), repeat=self.n)), dtype=torch.float64)

    @property
    def with_request(self) -> Float[Tensor, "u x z"]:
        """p(u, x, z)."""
        return self.prior[:, None, None] * self.scores[:, :, None] * self.feedback

    @property
    def joint(self) -> Reranker:
        """p(x, z), whatever the request."""
        return self.with_request.sum(0)

    @property
    def p_x(self) -> Float[Tensor, " x"]:
        """The law p_x of the retriever's scores."""
        return self.joint.sum(1)

    @property
    def p_z(self) -> Law:
        """The law of the feedback."""
        return self.joint.sum(0)

    @property
    def p_z_given_x(self) -> Reranker:
        """p_{z|x}, the reranker that knows everything but the request."""
        return self.joint / self.p_x[:, None]

    @property
    def p_x_given_z(self) -> Generator:
        """p_{x|z}, the posterior: the scores of lists with a given feedback."""
        return (self.joint / self.p_z).T

    @property
    def evidence(self) -> Law:
        """-log p(z)."""
        return -self.p_z.log()

    def of_request(self, u: int) -> World:
        """The world of a single request, where p_x is p(x | u)."""
        here = slice(u, u + 1)
        one = torch.ones(1, dtype=torch.float64)
        return World(one, self.scores[here], self.feedback[here], self.levels, self.n)

    def without_request(self) -> World:
        """The same p(x, z) with a request that says nothing: all that the chain u → x → z keeps."""
        one = torch.ones(1, dtype=torch.float64)
        return World(one, self.p_x[None], self.p_z_given_x[None], self.levels, self.n)


# The terms ------------------------------------------------------------------------------------


def kl(p: Float[Tensor, "*rows x"], q: Float[Tensor, "*#rows x"]) -> Float[Tensor, "*rows"]:
    """KL(p ‖ q) of each row; p may have zeros."""
    return (xlogy(p, p) - p * q.log()).sum(-1)


def l_direct(q: Reranker, world: World) -> Law:
    """L_direct = -E_{x ~ p_x} log q_θ(z | x) as it is written: x is drawn without regard to z."""
    return -(world.p_x @ q.log())


def l_1(q: Reranker, world: World) -> Law:
    """L_1 = E_{x ~ p_x} log( q_θ(z | x) / p_{z|x}(z | x) )."""
    return world.p_x @ (q / world.p_z_given_x).log()


def l_2(world: World) -> Law:
    """L_2 = -KL( p_x ‖ p_{x|z} ), never positive."""
    return -kl(world.p_x.expand_as(world.p_x_given_z), world.p_x_given_z)


def l_z(q: Reranker, phi: Generator) -> Law:
    """L_z = -E_{x ~ p_φ(x | z)} log q_θ(z | x)."""
    return -(phi * q.T.log()).sum(1)


def l_adv(q: Reranker, phi: Generator, world: World) -> Law:
    """L_adv = E_{x ~ p_φ(x | z)} log( q_θ(z | x) / p_{z|x}(z | x) )."""
    return (phi * (q / world.p_z_given_x).T.log()).sum(1)


def l_x(phi: Generator, world: World) -> Law:
    """L_x = KL( p_φ(x | z) ‖ p_x )."""
    return kl(phi, world.p_x)


def delta_x(phi: Generator, world: World) -> Law:
    """δ_x = -KL( p_φ(x | z) ‖ p_{x|z} ), never positive: minus the gap of the bound."""
    return -kl(phi, world.p_x_given_z)


def negative_elbo(phi: Generator, world: World) -> Law:
    """-E_{x ~ p_φ} log p_{z|x}(z | x) + KL( p_φ ‖ p_x ): variational inference of x given z."""
    return l_z(world.p_z_given_x, phi) + l_x(phi, world)


# What training on pairs does ------------------------------------------------------------------


def paired(q: Reranker, world: World) -> Float[Tensor, ""]:
    """-E_{(x, z) ~ p} log q_θ(z | x): what code minimises, each score with the feedback it got."""
    return -(world.joint * q.log()).sum()


def entropy(world: World) -> Float[Tensor, ""]:
    """H(z)."""
    return (world.p_z * world.evidence).sum()


def conditional_entropy(world: World) -> Float[Tensor, ""]:
    """H(z | x), the least that `paired` can be for a reranker without the request."""
    return paired(world.p_z_given_x, world)


def information_of_request(world: World) -> Float[Tensor, ""]:
    """I(z ; u | x) = E log( p(z | x, u) / p(z | x) ): what the chain u → x → z leaves out.

    So much less can a reranker lose that sees the request. Zero if and only if the chain holds.
    """
    return (world.with_request * (world.feedback / world.p_z_given_x).log()).sum()


def train_table(
    world: World,
    loss: Callable[[Reranker], Float[Tensor, ""]],
    steps: int = 200,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> Iterator[Reranker]:
    """Gradient descent (Adam) on the logits of a table q_θ: q before each step and after the last.

    Args:
        loss: of the table, such as ``lambda q: paired(q, world)``.
        seed: of the first logits, standard normal.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = world.p_z_given_x.shape
    logits = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=learning_rate)
    for _ in range(steps):
        q = logits.softmax(1)
        yield q.detach()
        optimiser.zero_grad()
        loss(q).backward()
        optimiser.step()
    yield logits.softmax(1).detach()


# Best responses -------------------------------------------------------------------------------


def best_reranker(world: World, phi: Generator, lambda_m: float) -> Reranker:
    """The minimiser of `paired` + λ_m E_{z ~ p(z)} L_z, of all tables.

    q(z | x) ∝ p(x, z) + λ_m p(z) p_φ(x | z): the feedback's law in a mixture of real and
    synthetic pairs.

    Raises:
        ConfigError: ``lambda_m`` is negative.
    """
    if lambda_m < 0:
        raise ConfigError(f"lambda_m = {lambda_m}: must not be negative")
    pairs = world.joint + lambda_m * (world.p_z[:, None] * phi).T
    return pairs / pairs.sum(1, keepdim=True)


def best_generator(world: World, q: Reranker, objective: str, weight: float = 1.0) -> Generator:
    """The minimiser over all tables p_φ(x | z) of one of four objectives, for each z.

    With f(x) what the objective averages over p_φ, min E f + KL(p_φ ‖ p_x) is reached by
    p_φ ∝ p_x exp(-f) (Gibbs' variational principle).

    - ``bound``: L_z + L_adv + L_x, f = -log p_{z|x}. The posterior p_{x|z}, whatever θ is.
    - ``defined``: L_adv as defined, and L_x. ∝ p_x p_{z|x} / q_θ.
    - ``practised``: ``weight`` · E log q_θ + L_x, as in training. ∝ p_x q_θ^-weight.
    - ``unregularised``: E log q_θ alone. All mass on a score vector of least q_θ(z | x).

    Raises:
        ConfigError: unknown ``objective``.
    """
    if objective not in OBJECTIVES:
        raise ConfigError(f"objective {objective!r}: choose one of {', '.join(OBJECTIVES)}")
    if objective == "unregularised":
        worst = q.argmin(0)
        return torch.nn.functional.one_hot(worst, len(q)).to(q.dtype)
    minus_f = {
        "bound": world.p_z_given_x.log(),
        "defined": world.p_z_given_x.log() - q.log(),
        "practised": -weight * q.log(),
    }[objective]
    return (world.p_x.log()[:, None] + minus_f).softmax(0).T


def play(
    world: World, lambda_m: float, objective: str, weight: float = 1.0, rounds: int = 100
) -> Iterator[tuple[Reranker, Generator]]:
    """Reranker and generator answer each other by turns; the pair after each round.

    The generator begins with p_x, which says nothing of the feedback.
    """
    phi = world.p_x.expand_as(world.p_x_given_z)
    for _ in range(rounds):
        q = best_reranker(world, phi, lambda_m)
        phi = best_generator(world, q, objective, weight)
        yield q, phi


# Worlds ---------------------------------------------------------------------------------------


def random_table(rows: int, columns: int, seed: int, scale: float = 1.0) -> Float[Tensor, "a b"]:
    """Laws in rows, with normal logits of standard deviation ``scale``: a reranker or generator."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return (scale * logits).softmax(-1)


def random_world(
    seed: int = 0, users: int = 3, n: int = 2, levels: int = 3, chain: bool = False
) -> World:
    """Tables whose logits are standard normal.

    Args:
        chain: p(z | x, u) is the same for every request, so that u → x → z holds.
    """
    generator = torch.Generator().manual_seed(seed)

    def law(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).softmax(-1)

    many, feedback = levels**n, 2**n
    given = law(1 if chain else users, many, feedback).expand(users, many, feedback)
    return World(law(users), law(users, many), given, _grid(levels), n)


def cascade(
    users: int = 3,
    n: int = 2,
    levels: int = 5,
    noise: float = 1.0,
    bias: float = 0.0,
    taste: float = 1.0,
    mood: float = 1.5,
    moods: int = 6,
    seed: int = 0,
) -> World:
    """A retriever that sees what a user likes, through noise, and a hidden mood of the moment.

    Given the user u and a mood s, candidate i is liked with log-odds
    a = taste · t_ui + mood · m_si, t and m standard normal, and the retriever's score is
    σ(a + bias + noise · ε), ε standard normal, rounded to a level. Candidates are independent
    given u and s, moods equally likely.
    Summed over moods, the score tells of the mood what the request cannot, and the request tells
    of the taste what the noise hides from the score.

    Args:
        noise: of the retriever, in logits, positive.
        bias: of the retriever, in logits.

    Raises:
        ConfigError: ``noise`` is not positive.
    """
    if noise <= 0:
        raise ConfigError(f"noise = {noise}: must be positive")
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    affinity = taste * normal(users, 1, n) + mood * normal(1, moods, n)
    liked = torch.stack([(-affinity).sigmoid(), affinity.sigmoid()], dim=3)  # u s n 2
    edges = torch.arange(1, levels, dtype=torch.float64).div(levels).logit()
    below = ndtr((edges - affinity[..., None] - bias) / noise)  # u s n levels-1
    ends = below.new_tensor([0.0, 1.0]).expand(*below.shape[:-1], 2)
    score = torch.cat([ends[..., :1], below, ends[..., 1:]], dim=3).diff(dim=3) + 1e-12
    score = score / score.sum(-1, keepdim=True)
    x, z = (_outer(table[:, :, i] for i in range(n)) for table in (score, liked))
    pairs = (x[..., None] * z[:, :, None]).mean(1)
    p_x_given_u = pairs.sum(2)
    prior = torch.full((users,), 1 / users, dtype=torch.float64)
    return World(prior, p_x_given_u, pairs / p_x_given_u[..., None], _grid(levels), n)


def _outer(laws: Iterator[Float[Tensor, "u s k"]]) -> Float[Tensor, "u s vectors"]:
    """The law of independent candidates' vector, the last candidate running fastest."""
    vector, *others = laws
    for law in others:
        vector = (vector[..., None] * law[..., None, :]).flatten(2)
    return vector


def _grid(levels: int) -> Float[Tensor, " level"]:
    """The middles of equal parts of [0, 1]."""
    return (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
