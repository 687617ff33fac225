"""The rerankers, by name. A new one is one file and one entry here."""

from __future__ import annotations

from typing import Any, get_type_hints

from dnrlib.errors import ConfigError
from dnrlib.identity import fitted
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.base import SCORE_USES, Reranker, ScoreInput
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.rerankers.prm import PRM
from dnrlib.rerankers.score import RetrieverScore, ReversedScore

RERANKERS: dict[str, type[Reranker]] = {
    "score": RetrieverScore,
    "score-reversed": ReversedScore,
    "prm": PRM,
}

SIZES = ("users", "items", "n", "history", "return")
"""What comes from the lists and is no option."""


def class_of(name: str) -> type[Reranker]:
    """The reranker of a name.

    Raises:
        ConfigError: unknown name.
    """
    if name not in RERANKERS:
        raise ConfigError(f"reranker {name!r} is unknown: choose one of {', '.join(RERANKERS)}")
    return RERANKERS[name]


def build(name: str, lists: CandidateLists, **options: Any) -> Reranker:
    """A reranker of the sizes that the lists have.

    Raises:
        ConfigError: unknown name, an option that the reranker does not have, or a wrong value.
    """
    kind = class_of(name)
    n, history = lists.items.shape[1], lists.history.shape[1]
    known = {key: hint for key, hint in get_type_hints(kind.__init__).items() if key not in SIZES}
    for key, value in options.items():
        if key not in known:
            choices = ", ".join(known) or "it has none"
            raise ConfigError(f"unknown parameter options.{key} of {name}: {choices}")
        fitted(known[key], value, f"options.{key}")
    try:
        return kind(lists.meta["users"], lists.meta["items"], n, history, **options)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ConfigError(f"reranker {name!r}: {error}") from error


__all__ = [
    "PRM",
    "RERANKERS",
    "SCORE_USES",
    "OwnLoss",
    "Reranker",
    "ScoreInput",
    "build",
    "class_of",
]
