"""Several kinds of feedback of one exposure, joined to candidate lists that have one.

The lists stay as they are: cut, filtered and split by the first kind, with one retriever's
scores. A user meets an item at most once in a log, so that the pair says which exposure it was.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import torch
from jaxtyping import Bool
from torch import Tensor

from dnrlib.behaviours import BehaviourLists
from dnrlib.data import SimulatedWorld, load, stages
from dnrlib.data.interactions import Source
from dnrlib.data.steps import to_log
from dnrlib.errors import ConfigError, DataError
from dnrlib.lists import CandidateLists
from dnrlib.prepare import DataConfig

RATINGS = ("rating ≥ 3", "rating ≥ 4", "rating = 5")
"""Of MovieLens."""
ACTIONS = ("is_click", "long_view", "is_like")
"""Of KuaiRand: those that enough people do."""
SIMULATED = ("liked", "loved", "fitting")
KINDS: dict[str, tuple[str, ...]] = {
    "ml-1m": RATINGS,
    "ml-100k": RATINGS,
    "kuairand-pure": ACTIONS,
    "kuairand-1k": ACTIONS,
    "simulated": SIMULATED,
}
"""Data set -> its kinds of feedback, the first being that of its lists.

Of KuaiRand's other actions the part of KuaiRand-Pure that this book uses has too few: 83 comments
and 31 forwards in the training lists of its log. Simulated users have liked what they liked, loved
what they liked and would like more often than not, and it fits them what they would like more
often than not, whether they did or not: the last is the truth without chance.
"""


def kinds_of(dataset: str) -> tuple[str, ...]:
    """The kinds of feedback of a data set.

    Raises:
        ConfigError: it has but one.
    """
    if dataset not in KINDS:
        known = ", ".join(KINDS)
        raise ConfigError(f"dataset = {dataset!r} has one kind of feedback: choose one of {known}")
    return KINDS[dataset]


def interactions(dataset: str) -> Source:
    """A data set as `dnrlib.data.load` reads it, with a column for each kind of its feedback.

    Raises:
        ConfigError: the data set has one kind.
        DataError: as ``load`` does.
    """
    kinds = kinds_of(dataset)
    source = load(dataset)
    if kinds == ACTIONS:
        ratings = [load(dataset, feedback=kind).frame["rating"] for kind in kinds]
        columns = [rating.alias(kind) >= 1 for kind, rating in zip(kinds, ratings, strict=True)]
    elif kinds == RATINGS:
        columns = [source.frame["rating"].alias(kind) >= 3 + i for i, kind in enumerate(kinds)]
    else:
        columns = _simulated(source.frame)
    return replace(source, frame=source.frame.with_columns(columns))


def _simulated(frame: pl.DataFrame) -> list[pl.Series]:
    truth = SimulatedWorld().probability[frame["user"].to_numpy(), frame["item"].to_numpy()]
    liked, fitting = frame["rating"] >= 3, pl.Series(truth) >= 0.5
    kinds = (liked, liked & fitting, fitting)
    return [kind.alias(name) for name, kind in zip(SIMULATED, kinds, strict=True)]


def exposures(config: DataConfig) -> tuple[Source, pl.DataFrame]:
    """The data set, and the rows of its log: user and item as in lists, kinds, list and split.

    Raises:
        ConfigError: another kind than the first is to be what is liked.
        ConfigError, DataError: as `interactions` and the steps do.
    """
    plain = DataConfig(dataset=config.dataset)
    if (config.feedback, config.positive) != (plain.feedback, plain.positive):
        raise ConfigError(
            f"feedback = {config.feedback!r}, positive = {config.positive:g}: several kinds of "
            "feedback are joined to lists of the first, which is the default"
        )
    source = interactions(config.dataset)
    *_, (_, frame) = stages(source, config.core or None, config.positive, config.list_length)
    return source, frame


def with_behaviours(lists: CandidateLists, config: DataConfig) -> BehaviourLists:
    """The same lists with all kinds of feedback that their data set has.

    Raises:
        DataError: they are of another log than the one that is read now.
        DnrError: the first kind is not what the lists have as their label.
        ConfigError, DataError: as `exposures` does.
    """
    kinds = kinds_of(config.dataset)
    source, frame = exposures(config)
    log = to_log(frame, source.name, source.note, config.list_length)
    if lists.meta["log"] != log.fingerprint:
        raise DataError(config.dataset, "the lists are of other data: delete and prepare them anew")
    wanted = lists.users.long()[:, None] * (log.items + 1) + lists.items
    found = _of_pairs(log.user * (log.items + 1) + log.item, _flags(frame, kinds), wanted)
    return BehaviourLists(
        **lists._tensors(),
        behaviours=found & lists.shown[:, :, None],
        meta=lists.meta | {"behaviours": [*kinds]},
    ).validate()


def _flags(frame: pl.DataFrame, kinds: tuple[str, ...]) -> Bool[Tensor, "rows b"]:
    return torch.tensor(frame.select(kinds).to_numpy())


def _of_pairs(keys: Tensor, flags: Bool[Tensor, "rows b"], wanted: Tensor) -> Tensor:
    """The flags of each wanted key, which occurs once among the keys; false where it does not."""
    ordered, order = keys.sort()
    place = torch.searchsorted(ordered, wanted).clamp(max=len(keys) - 1)
    return flags[order[place]] & (ordered[place] == wanted)[..., None]
