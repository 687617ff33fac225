"""Exercises of the chapters *Main results*, *Ablations* and *Hyper-parameters*."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dnrlib.exercises.core import Exercise


def adjusted(p: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Holm's p-values, in the order in which the others came."""
    order = p.argsort()
    weights = torch.arange(len(p), 0, -1)
    stepped = (p[order] * weights).cummax(0).values.clamp(max=1)
    return stepped[order.argsort()]


def interaction(
    plain: Float[Tensor, "backbones lists"], treated: Float[Tensor, "backbones lists"]
) -> Float[Tensor, ""]:
    """By how much the second backbone gains more than the first, in the mean over lists."""
    gain = (treated - plain).mean(dim=1)
    return gain[1] - gain[0]


def flatness(values: Float[Tensor, "settings seeds"]) -> Float[Tensor, ""]:
    """Range of the settings' means over the standard deviation between seeds of one setting."""
    means = values.mean(dim=1)
    return (means.max() - means.min()) / values.var(dim=1).mean().sqrt()


def rank_agreement(first: Float[Tensor, " m"], second: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """Kendall's tau of two columns without ties."""
    i, j = torch.triu_indices(len(first), len(first), offset=1)
    return ((first[i] - first[j]).sign() * (second[i] - second[j]).sign()).mean()


def excluded_size(mean: float, error: float, quantile: float) -> float:
    """The smallest size, either way, that two one-sided tests exclude."""
    return abs(mean) + quantile * error


def chosen_by_validation(
    validation: Float[Tensor, "settings seeds"], test: Float[Tensor, "settings seeds"]
) -> Float[Tensor, ""]:
    """Mean test value of the setting whose mean validation value is the highest."""
    return test[validation.mean(dim=1).argmax()].mean()


def _times_rank(p: Tensor) -> Tensor:
    order = p.argsort()
    stepped = (p[order] * torch.arange(len(p), 0, -1)).clamp(max=1)
    return stepped[order.argsort()]


def _not_capped(p: Tensor) -> Tensor:
    order = p.argsort()
    stepped = (p[order] * torch.arange(len(p), 0, -1)).cummax(0).values
    return stepped[order.argsort()]


def _relative(plain: Tensor, treated: Tensor) -> Tensor:
    gain = treated.mean(dim=1) / plain.mean(dim=1)
    return gain[1] - gain[0]


EXERCISES: list[Exercise] = [
    Exercise(
        name="adjusted",
        truth=adjusted,
        cases={
            "three in order": (torch.tensor([0.01, 0.02, 0.03]),),
            "out of order": (torch.tensor([0.04, 0.001, 0.03, 0.2]),),
            "large ones": (torch.tensor([0.9, 0.6]),),
            "one alone": (torch.tensor([0.04]),),
        },
        mistakes={
            "This is Bonferroni: only the smallest is multiplied by their number": (
                lambda p: (p * len(p)).clamp(max=1)
            ),
            "An adjusted value is never below that of a smaller one": _times_rank,
            "A p-value is never above 1": _not_capped,
            "Give them back in the order in which they came": (
                lambda p: adjusted(p).sort().values
            ),
            "These are the p-values as they were": lambda p: p,
        },
    ),
    Exercise(
        name="rank_agreement",
        truth=rank_agreement,
        cases={
            "the same order": (torch.tensor([0.1, 0.5, 0.9]), torch.tensor([3.0, 4.0, 8.0])),
            "one pair turned": (
                torch.tensor([0.7, 0.1, 0.3, 0.9]), torch.tensor([0.2, 0.1, 0.3, 0.8])
            ),
            "the reverse": (torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.4])),
        },
        mistakes={
            "This is the share of pairs in the same order; take those in opposite order from it": (
                lambda first, second: (rank_agreement(first, second) + 1) / 2
            ),
            "Ranks are asked for: how far values lie apart does not count": (
                lambda first, second: torch.corrcoef(torch.stack([first, second]))[0, 1]
            ),
            "A pair counts once: divide by m (m - 1) / 2": (
                lambda first, second: rank_agreement(first, second) * 2
            ),
            "A row makes no pair with itself: divide by m (m - 1) / 2, not by half of m times m": (
                lambda first, second: rank_agreement(first, second) * (len(first) - 1) / len(first)
            ),
        },
        tolerance=1e-5,
    ),
    Exercise(
        name="excluded_size",
        truth=excluded_size,
        cases={
            "above zero": (0.3, 0.2, 1.65),
            "below zero": (-0.5, 0.1, 1.7),
            "at zero": (0.0, 0.4, 2.0),
        },
        mistakes={
            "A difference below zero excludes as much as one above: take its absolute value": (
                lambda mean, error, quantile: mean + quantile * error
            ),
            "This end of the interval is near zero: the other end is the size": (
                lambda mean, error, quantile: abs(abs(mean) - quantile * error)
            ),
            "What is excluded begins beyond the mean, not beyond zero": (
                lambda mean, error, quantile: quantile * error
            ),
        },
    ),
    Exercise(
        name="interaction",
        truth=interaction,
        cases={
            "the second gains more": (
                torch.tensor([[0.4, 0.6], [0.5, 0.7]]), torch.tensor([[0.5, 0.6], [0.7, 0.8]])
            ),
            "both gain the same": (
                torch.tensor([[0.2, 0.4, 0.6], [0.3, 0.6, 0.9]]),
                torch.tensor([[0.3, 0.5, 0.7], [0.6, 0.6, 1.2]]) - torch.tensor([[0.0], [0.1]]),
            ),
            "the first gains more": (
                torch.tensor([[0.1, 0.3], [0.5, 0.5]]), torch.tensor([[0.5, 0.5], [0.4, 0.4]])
            ),
        },
        mistakes={
            "The sign is turned: the second backbone's gain comes first": (
                lambda plain, treated: -interaction(plain, treated)
            ),
            "This is the second backbone's gain; take the first one's from it": (
                lambda plain, treated: (treated - plain).mean(dim=1)[1]
            ),
            "This is the mean gain over the backbones, which asks another question": (
                lambda plain, treated: (treated - plain).mean()
            ),
            "Differences of shares are asked for, not ratios": _relative,
            "An interaction has a sign": lambda plain, treated: interaction(plain, treated).abs(),
        },
        tolerance=1e-5,
    ),
    Exercise(
        name="chosen_by_validation",
        truth=chosen_by_validation,
        cases={
            "three settings, two seeds": (
                torch.tensor([[0.50, 0.60], [0.70, 0.66], [0.90, 0.40]]),
                torch.tensor([[0.80, 0.70], [0.61, 0.63], [0.50, 0.40]]),
            ),
            "one seed": (torch.tensor([[0.3], [0.4]]), torch.tensor([[0.9], [0.2]])),
        },
        mistakes={
            "The test lists chose the setting: they may only report it": (
                lambda validation, test: test.mean(dim=1).max()
            ),
            "This is the validation value on which the setting was chosen": (
                lambda validation, test: validation.mean(dim=1).max()
            ),
            "One lucky seed chose the setting: take the mean over seeds first": (
                lambda validation, test: test[validation.max(dim=1).values.argmax()].mean()
            ),
            "Report the setting's mean over seeds, not its best seed": (
                lambda validation, test: test[validation.mean(dim=1).argmax()].max()
            ),
        },
    ),
    Exercise(
        name="flatness",
        truth=flatness,
        cases={
            "three settings, two seeds": (torch.tensor([[0.5, 0.6], [0.7, 0.7], [0.4, 0.6]]),),
            "two settings, three seeds": (torch.tensor([[0.2, 0.4, 0.3], [0.9, 0.3, 0.3]]),),
        },
        mistakes={
            "Take the mean over seeds first: extremes of single runs are luck": (
                lambda values: (values.max() - values.min()) / values.var(dim=1).mean().sqrt()
            ),
            "The spread of all runs also holds what the settings do: take it within settings": (
                lambda values: flatness(values) * values.var(dim=1).mean().sqrt() / values.std()
            ),
            "Two or three seeds understate their spread: divide by one less than their number": (
                lambda values: flatness(values)
                * values.var(dim=1).mean().sqrt()
                / values.var(dim=1, correction=0).mean().sqrt()
            ),
            "Average the variances, then take the root": (
                lambda values: flatness(values)
                * values.var(dim=1).mean().sqrt()
                / values.std(dim=1).mean()
            ),
        },
        tolerance=1e-4,
    ),
]  # fmt: skip
