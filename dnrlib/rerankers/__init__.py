"""The rerankers, by name. A new one is one file and one entry here."""

from __future__ import annotations

from typing import Any

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.base import SCORE_USES, Reranker, ScoreInput
from dnrlib.rerankers.prm import PRM
from dnrlib.rerankers.score import RetrieverScore, ReversedScore

RERANKERS: dict[str, type[Reranker]] = {
    "score": RetrieverScore,
    "score-reversed": ReversedScore,
    "prm": PRM,
}


def build(name: str, lists: CandidateLists, **options: Any) -> Reranker:
    """A reranker of the sizes that the lists have.

    Raises:
        ConfigError: unknown name, or an option that the reranker does not have.
    """
    if name not in RERANKERS:
        raise ConfigError(f"reranker {name!r} is unknown: choose one of {', '.join(RERANKERS)}")
    n, history = lists.items.shape[1], lists.history.shape[1]
    try:
        return RERANKERS[name](lists.meta["users"], lists.meta["items"], n, history, **options)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"reranker {name!r}: {error}") from error


__all__ = ["PRM", "RERANKERS", "SCORE_USES", "Reranker", "ScoreInput", "build"]
