"""All steps in a row: from a source to its exposure log."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from dnrlib.data import steps
from dnrlib.data.interactions import Source
from dnrlib.data.sources import load
from dnrlib.errors import ConfigError
from dnrlib.log import ExposureLog

POSITIVE = 3.0
"""The lowest rating that counts as liked, unless another is asked for."""


def prepare_log(
    source: Source | str, core: int | None = None, positive: float = POSITIVE, list_length: int = 6
) -> ExposureLog:
    """The exposure log of a source or of a named data set.

    Args:
        core: the k of the k-core; by default what is customary for the source.
        positive: the lowest rating that counts as liked; must be `POSITIVE` where
            ``source.positive`` says it.
        list_length: interactions in a list.

    Raises:
        ConfigError, DataError: as ``load`` and the steps do.
    """
    if isinstance(source, str):
        source = load(source)
    *_, (_, frame) = stages(source, core, positive, list_length)
    return steps.to_log(frame, source.name, source.note, list_length)


def stages(
    source: Source, core: int | None = None, positive: float = POSITIVE, list_length: int = 6
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Each step's name and the frame after it, in order; arguments as for ``prepare_log``.

    Raises:
        ConfigError: as the first step is asked for, if ``positive`` would count for nothing.
    """
    if source.positive is not None and positive != POSITIVE:
        raise ConfigError(
            f"positive = {positive:g}: {source.name}'s feedback says what is positive; leave "
            f"positive at {POSITIVE:g}, its default, or choose another feedback"
        )
    yield "as read", source.frame
    positive = positive if source.positive is None else source.positive
    frame = steps.label(source.frame, positive)
    yield f"positive: rating ≥ {positive:g}", frame
    core = source.core if core is None else core
    frame = steps.k_core(frame, core)
    yield f"{core}-core", frame
    yield from cutting(steps.reindex(frame), list_length)


def cutting(frame: pl.DataFrame, list_length: int) -> Iterator[tuple[str, pl.DataFrame]]:
    """The steps within each user, as in ``stages``; rows of all users or of some."""
    frame = steps.in_time_order(frame)
    yield "in time order", frame
    frame = steps.cut_into_lists(frame, list_length)
    yield f"lists of {list_length}", frame
    frame = steps.drop_lists_without_positive(frame)
    yield "lists with a positive", frame
    yield "split in time", steps.split_in_time(frame)


def count_steps(
    source: Source, core: int | None = None, positive: float = POSITIVE, list_length: int = 6
) -> pl.DataFrame:
    """One row a step: step, users, items, interactions, positives, lists (null at first)."""
    frames = stages(source, core, positive, list_length)
    return pl.DataFrame([{"step": step, **_counts(frame)} for step, frame in frames])


def _counts(frame: pl.DataFrame) -> dict[str, int | None]:
    return {
        "users": frame["user"].n_unique(),
        "items": frame["item"].n_unique(),
        "interactions": frame.height,
        "positives": frame.filter("label").height if "label" in frame.columns else None,
        "lists": frame["list"].drop_nulls().n_unique() if "list" in frame.columns else None,
    }
