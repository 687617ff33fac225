"""The rerankers, by name. A new one is one file and one entry here."""

from __future__ import annotations

from typing import Any, get_type_hints

from dnrlib.errors import ConfigError
from dnrlib.identity import fitted
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.advir import AdvIR
from dnrlib.rerankers.base import SCORE_USES, Reranker, ScoreInput
from dnrlib.rerankers.caser import Caser
from dnrlib.rerankers.copr import COPR
from dnrlib.rerankers.dcdr import DCDR
from dnrlib.rerankers.diffurec import DiffuRec
from dnrlib.rerankers.disturbed import DisturbedPRM
from dnrlib.rerankers.dlcm import DLCM
from dnrlib.rerankers.egrerank import EGRerank
from dnrlib.rerankers.gru4rec import GRU4Rec
from dnrlib.rerankers.hetcomp import HetComp
from dnrlib.rerankers.irgan import IRGAN
from dnrlib.rerankers.midnn import MiDNN
from dnrlib.rerankers.mir import MIR
from dnrlib.rerankers.nar4rec import NAR4Rec
from dnrlib.rerankers.oracle import Oracle
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.rerankers.pier import PIER
from dnrlib.rerankers.placed import PlacedPRM
from dnrlib.rerankers.popularity import Popularity
from dnrlib.rerankers.prm import PRM
from dnrlib.rerankers.rankflow import RankFlow
from dnrlib.rerankers.sasrec import SASRec
from dnrlib.rerankers.score import RetrieverScore, ReversedScore
from dnrlib.rerankers.setrank import SetRank
from dnrlib.rerankers.several import BehaviourOracle, BehaviourPopularity, SeveralPRM
from dnrlib.rerankers.text import TextPRM, TextSimilarity

RERANKERS: dict[str, type[Reranker]] = {
    # no learning
    "score": RetrieverScore,
    "score-reversed": ReversedScore,
    "popularity": Popularity,
    "oracle": Oracle,
    # the history scores the candidates
    "sasrec": SASRec,
    "caser": Caser,
    "gru4rec": GRU4Rec,
    "diffurec": DiffuRec,
    # each candidate beside the list
    "midnn": MiDNN,
    # the whole list
    "dlcm": DLCM,
    "setrank": SetRank,
    "prm": PRM,
    "mir": MIR,
    # slates
    "egrerank": EGRerank,
    "pier": PIER,
    "nar4rec": NAR4Rec,
    "dcdr": DCDR,
    # relatives of DNR: ways of training a PRM
    "rankflow": RankFlow,
    "copr": COPR,
    "hetcomp": HetComp,
    "irgan": IRGAN,
    "advir": AdvIR,
    # PRM with one thing changed, to see what that alone does
    "prm-disturbed": DisturbedPRM,
    "prm-placed": PlacedPRM,
    # several kinds of feedback
    "prm-behaviours": SeveralPRM,
    "behaviours-score": RetrieverScore,
    "behaviours-score-reversed": ReversedScore,
    "behaviours-popularity": BehaviourPopularity,
    "behaviours-oracle": BehaviourOracle,
    # words about the items
    "text-similarity": TextSimilarity,
    "prm-text": TextPRM,
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

    One that only counts, and so is not trained, has ``learn_from`` and counts the training lists
    here, wherever it is built again.

    Raises:
        ConfigError: unknown name, an option that the reranker does not have, or a wrong value; no
            training list for one that counts them.
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
        reranker = kind(lists.meta["users"], lists.meta["items"], n, history, **options)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ConfigError(f"reranker {name!r}: {error}") from error
    if callable(learn_from := getattr(reranker, "learn_from", None)):
        learn_from(lists.of_split("train"))
    return reranker


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
