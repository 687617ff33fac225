"""What some rerankers want of the lists besides what all lists have."""

from __future__ import annotations

from collections.abc import Callable

from dnrlib.feedback import with_behaviours
from dnrlib.lists import CandidateLists
from dnrlib.prepare import DataConfig
from dnrlib.semantics import with_words

Enrich = Callable[[CandidateLists, DataConfig], CandidateLists]
"""From lists, and how they were made, to the same lists with more."""

ENRICHED: dict[str, Enrich] = {
    "prm-behaviours": with_behaviours,
    "behaviours-score": with_behaviours,
    "behaviours-score-reversed": with_behaviours,
    "behaviours-popularity": with_behaviours,
    "behaviours-oracle": with_behaviours,
    "prm-text": with_words,
    "text-similarity": with_words,
}
"""Reranker -> what adds to the lists what it wants."""
