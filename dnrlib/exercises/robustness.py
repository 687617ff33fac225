"""Exercises of the chapter *Robustness*."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dnrlib.exercises.core import Exercise


def noisy_scores(
    x: Float[Tensor, "lists n"], noise: Float[Tensor, "lists n"], sigma: float
) -> Float[Tensor, "lists n"]:
    """Scores whose logit is that of x plus sigma times the noise."""
    return (torch.logit(x) + sigma * noise).sigmoid()


def drop_difference(
    clean: Float[Tensor, " lists"],
    bad: Float[Tensor, " lists"],
    clean_reference: Float[Tensor, " lists"],
    bad_reference: Float[Tensor, " lists"],
) -> Float[Tensor, " 2"]:
    """Mean of the reference's drop minus the method's, and the mean's standard error."""
    difference = (clean_reference - bad_reference) - (clean - bad)
    return torch.stack([difference.mean(), difference.std() / len(difference) ** 0.5])


def _unpaired(clean: Tensor, bad: Tensor, clean_reference: Tensor, bad_reference: Tensor) -> Tensor:
    mean = drop_difference(clean, bad, clean_reference, bad_reference)[0]
    drops = torch.stack([clean - bad, clean_reference - bad_reference])
    return torch.stack([mean, (drops.var(dim=1).sum() / len(clean)).sqrt()])


def _population(clean: Tensor, bad: Tensor, reference: Tensor, bad_reference: Tensor) -> Tensor:
    lists = len(clean)
    found = drop_difference(clean, bad, reference, bad_reference)
    return torch.stack([found[0], found[1] * ((lists - 1) / lists) ** 0.5])


def _deviation(clean: Tensor, bad: Tensor, reference: Tensor, bad_reference: Tensor) -> Tensor:
    found = drop_difference(clean, bad, reference, bad_reference)
    return torch.stack([found[0], found[1] * len(clean) ** 0.5])


_SCORES = torch.tensor([[0.2, 0.5, 0.9]])
_NOISE = torch.tensor([[1.0, -0.5, 0.3]])
_CLEAN = torch.tensor([0.9, 0.6, 0.8, 0.4])
_BAD = torch.tensor([0.8, 0.5, 0.3, 0.4])
_CLEAN_REFERENCE = torch.tensor([0.8, 0.7, 0.9, 0.5])
_BAD_REFERENCE = torch.tensor([0.5, 0.4, 0.2, 0.3])

EXERCISES: list[Exercise] = [
    Exercise(
        name="noisy_scores",
        truth=noisy_scores,
        cases={
            "no noise": (_SCORES, _NOISE, 0.0),
            "sigma 1": (_SCORES, _NOISE, 1.0),
            "sigma 2": (_SCORES, _NOISE, 2.0),
        },
        mistakes={
            "The noise goes to the logit, not to the score: scores must stay between 0 and 1": (
                lambda x, noise, sigma: x + sigma * noise
            ),
            "Sigma is a standard deviation: do not take its square or its root": (
                lambda x, noise, sigma: noisy_scores(x, noise, sigma**2)
            ),
            "This is the logit; the sigmoid makes a score of it again": (
                lambda x, noise, sigma: torch.logit(x) + sigma * noise
            ),
            "The score itself went into the sigmoid; take its logit first": (
                lambda x, noise, sigma: (x + sigma * noise).sigmoid()
            ),
        },
    ),
    Exercise(
        name="drop_difference",
        truth=drop_difference,
        cases={
            "four lists": (_CLEAN, _BAD, _CLEAN_REFERENCE, _BAD_REFERENCE),
            "the same method twice": (_CLEAN, _BAD, _CLEAN, _BAD),
            "a method that does not drop": (_CLEAN, _CLEAN, _CLEAN_REFERENCE, _BAD_REFERENCE),
        },
        mistakes={
            "The sign is turned: positive is where the reference drops more": (
                lambda *given: drop_difference(*given) * torch.tensor([-1.0, 1.0])
            ),
            "The two drops are of the same lists: take the difference list by list first": (
                _unpaired
            ),
            "The variance of a sample is divided by one less than its size": _population,
            "This is the standard deviation of a list; that of the mean is smaller": _deviation,
        },
    ),
]
