"""The book's exercises in code: a chapter's cell calls ``check`` with the reader's function."""

from __future__ import annotations

from dnrlib.errors import ConfigError
from dnrlib.exercises import (
    baselines,
    behaviours,
    bound,
    bring_your_own,
    cascade,
    claims,
    embeddings,
    failures,
    game,
    light,
    neighbours,
    noise,
    online,
    own_cascade,
    phases,
    protocol_study,
    results,
    robustness,
    semantics,
    theory,
)
from dnrlib.exercises.core import Answer, Exercise, Feedback

EXERCISES = {
    exercise.name: exercise
    for module in (
        cascade,
        theory,
        noise,
        game,
        phases,
        embeddings,
        bring_your_own,
        baselines,
        neighbours,
        failures,
        results,
        protocol_study,
        claims,
        robustness,
        own_cascade,
        online,
        light,
        bound,
        behaviours,
        semantics,
    )
    for exercise in module.EXERCISES
}
"""Name -> exercise, of all chapters."""


def check(name: str, answer: Answer) -> Feedback:
    """Whether the reader's function is right and, if not, what is wrong with it.

    Raises:
        ConfigError: no exercise has that name.
    """
    if name not in EXERCISES:
        raise ConfigError(f"no exercise {name!r}: there are {', '.join(EXERCISES)}")
    return EXERCISES[name].check(answer)


__all__ = ["EXERCISES", "Exercise", "Feedback", "check"]
