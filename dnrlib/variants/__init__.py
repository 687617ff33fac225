"""Ways of training that are not the paper's, by name: what the book tries beyond it.

One is a `Trainer` with something exchanged, in a file of its own, so that a new one makes no
recorded run old.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dnrlib.errors import ConfigError
from dnrlib.noise import MLPNoise, Noise
from dnrlib.trainers import trainer_for
from dnrlib.training import Trainer
from dnrlib.variants.behaviours import BehaviourNoise, BehaviourTrainer
from dnrlib.variants.bound import Bound, BoundOfRequest, LightBetaExact
from dnrlib.variants.light import Empirical, EmpiricalLists, LightBeta

VARIANTS: dict[str, type[Trainer]] = {
    "light-beta": LightBeta,
    "empirical": Empirical,
    "empirical-lists": EmpiricalLists,
    "light-beta-exact": LightBetaExact,
    "bound": Bound,
    "bound-request": BoundOfRequest,
    "behaviours": BehaviourTrainer,
}
"""A new one is one file and one entry here."""


def trainer_of(kind: type[nn.Module], variant: str = "") -> type[Trainer]:
    """The trainer of a class of rerankers: the variant, or "" for that of the paper.

    Raises:
        ConfigError: unknown variant, or one that cannot train such a reranker.
    """
    usual = trainer_for(kind)
    if not variant:
        return usual
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS) or "there is none"
        raise ConfigError(f"trainer = {variant!r} is unknown: choose one of {known}")
    if not issubclass(VARIANTS[variant], usual):
        raise ConfigError(
            f"trainer = {variant!r}: {kind.__name__} has a loss of its own, which it cannot train"
        )
    return VARIANTS[variant]


def hears_label_alone(variant: str) -> bool:
    """Whether what a variant generates is made of the labels and of nothing else."""
    hears_more = (BoundOfRequest, BehaviourTrainer)
    return not (variant and issubclass(VARIANTS[variant], hears_more))


def untrained_generator(
    training: Mapping[str, Any], variant: str = "", options: Mapping[str, Any] | None = None
) -> Noise:
    """A noise generator of the kind that a run with these settings trains, before it is trained."""
    kind = VARIANTS[variant] if variant else Trainer
    if issubclass(kind, BehaviourTrainer):
        given = options or {}
        kinds = given.get("noise_of") or given.get("behaviours") or [0]
        return BehaviourNoise(len(kinds), training["generator"], training["lambda_c"])
    if issubclass(kind, LightBeta):
        return kind.untrained()
    return MLPNoise(training["generator"], training["lambda_c"])
