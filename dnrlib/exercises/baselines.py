"""Exercises of the chapter *Baselines*."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dnrlib.exercises.core import Exercise


def slate_order(slate: Int[Tensor, " k"], rest: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """All candidates, the slate's first, the others by descending ``rest``."""
    others = rest.argsort(descending=True)
    return torch.cat([slate, others[~torch.isin(others, slate)]])


def honest_test(
    validation: Float[Tensor, "methods settings"], test: Float[Tensor, "methods settings"]
) -> Float[Tensor, " methods"]:
    """The test value of each method's setting with the best validation value."""
    return test.gather(1, validation.argmax(dim=1, keepdim=True))[:, 0]


def _rest_ascending(slate: Tensor, rest: Tensor) -> Tensor:
    return slate_order(slate, -rest)


def _best_of_all(validation: Tensor, test: Tensor) -> Tensor:
    return test[:, validation.mean(dim=0).argmax()]


EXERCISES: list[Exercise] = [
    Exercise(
        name="slate_order",
        truth=slate_order,
        cases={
            "a slate that goes against the rest": (
                torch.tensor([3, 0]), torch.tensor([0.1, 0.9, 0.5, 0.2, 0.7])
            ),
            "a slate of one": (torch.tensor([2]), torch.tensor([3.0, 1.0, 2.0])),
            "all chosen": (torch.tensor([1, 2, 0]), torch.tensor([0.3, 0.2, 0.1])),
        },
        mistakes={
            "Candidates of the slate come again among the others": (
                lambda slate, rest: torch.cat([slate, rest.argsort(descending=True)])
            ),
            "The others must come by descending number": _rest_ascending,
            "The slate has an order of its own: keep it": (
                lambda slate, rest: slate_order(
                    slate[rest[slate].argsort(descending=True)], rest
                )
            ),
            "The slate must come first": lambda slate, rest: rest.argsort(descending=True),
        },
    ),
    Exercise(
        name="honest_test",
        truth=honest_test,
        cases={
            "two methods, three settings": (
                torch.tensor([[0.5, 0.7, 0.6], [0.4, 0.3, 0.9]]),
                torch.tensor([[0.65, 0.55, 0.45], [0.35, 0.85, 0.75]]),
            ),
            "one setting": (torch.tensor([[0.2]]), torch.tensor([[0.3]])),
        },
        mistakes={
            "The best test value was chosen by looking at the test": (
                lambda validation, test: test.max(dim=1).values
            ),
            "This is the validation value, on which the setting was chosen": (
                lambda validation, test: validation.max(dim=1).values
            ),
            "The mean over settings is the value of no run": (
                lambda validation, test: test.mean(dim=1)
            ),
            "Each method has a best setting of its own": _best_of_all,
        },
    ),
]  # fmt: skip
