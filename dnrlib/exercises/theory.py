"""Exercises of *The denoising view* and *What direct training misses*."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dnrlib import theory
from dnrlib.exercises.core import Exercise
from dnrlib.theory import Generator, Reranker, World


def posterior(p_x: Float[Tensor, " x"], p_z_given_x: Reranker) -> Generator:
    """p_{x|z} from Bayes' rule."""
    joint = p_x[:, None] * p_z_given_x
    return (joint / joint.sum(0)).T


def bound_gap(phi: Generator, world: World) -> Float[Tensor, " z"]:
    """-δ_x."""
    return theory.kl(phi, world.p_x_given_z)


def paired_loss(q: Reranker, world: World) -> Float[Tensor, ""]:
    """What training on pairs minimises."""
    return theory.paired(q, world)


def neglected(world: World) -> Float[Tensor, ""]:
    """I(z ; u | x)."""
    return theory.information_of_request(world)


def _of_each_request(world: World) -> Float[Tensor, ""]:
    """I(z ; x | u): the score and the request have changed places."""
    found = torch.zeros((), dtype=torch.float64)
    for u, weight in enumerate(world.prior):
        one = world.of_request(u)
        found = found + weight * (theory.entropy(one) - theory.conditional_entropy(one))
    return found


WORLDS = {"a random world": theory.random_world(1), "a cascade": theory.cascade(n=1)}
TABLES = {
    name: theory.random_table(len(world.p_x), len(world.p_z), 2) for name, world in WORLDS.items()
}
GENERATORS = {name: (table / table.sum(0)).T for name, table in TABLES.items()}

EXERCISES = [
    Exercise(
        "posterior",
        posterior,
        {name: (world.p_x, world.p_z_given_x) for name, world in WORLDS.items()},
        {
            "This is the joint law p(x, z): divide it by p(z).": lambda p_x, given: (
                (p_x[:, None] * given).T
            ),
            "The prior p_x is missing: p(z | x) alone says nothing of how common x is.": (
                lambda p_x, given: (given / given.sum(0)).T
            ),
            "The rows should be z: transpose it.": lambda p_x, given: posterior(p_x, given).T,
        },
    ),
    Exercise(
        "bound_gap",
        bound_gap,
        {name: (GENERATORS[name], world) for name, world in WORLDS.items()},
        {
            "The sign is wrong: the gap is -δ_x, which is never negative.": theory.delta_x,
            "The two laws have changed places: the average is over p_φ.": lambda phi, world: (
                theory.kl(world.p_x_given_z, phi)
            ),
            "This is L_x, the divergence from p_x: the gap is the one from p_{x|z}.": theory.l_x,
        },
    ),
    Exercise(
        "paired_loss",
        paired_loss,
        {name: (TABLES[name], world) for name, world in WORLDS.items()},
        {
            "You draw x without regard to z, as L_direct is written: weigh with the joint law.": (
                lambda q, world: world.p_z @ theory.l_direct(q, world)
            ),
            "That is in bits: take the natural logarithm.": lambda q, world: (
                theory.paired(q, world) / torch.tensor(2.0).log()
            ),
            "The sign is wrong: a loss is minus the log-likelihood.": lambda q, world: (
                -theory.paired(q, world)
            ),
        },
    ),
    Exercise(
        "neglected",
        neglected,
        {name: (world,) for name, world in WORLDS.items()},
        {
            "This is I(z ; x | u), what the score adds to the request; wanted is what the request "
            "adds to the score.": _of_each_request,
            "This is I(z ; x): it does not look at the request at all.": lambda world: (
                theory.entropy(world) - theory.conditional_entropy(world)
            ),
        },
    ),
]
