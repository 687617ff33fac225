"""What every source of data gives: interactions in one schema."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

SCHEMA = pl.Schema(
    {"user": pl.Int64(), "item": pl.Int64(), "rating": pl.Float32(), "time": pl.Int64()}
)


@dataclass(frozen=True)
class Source:
    """Interactions as published, but for what the note says, before any filtering.

    Args:
        name: the data set.
        frame: user, item (raw ids), rating and time (seconds), in file order, or in the order of
            time where the publisher's is finer than a second; a pair of user and item occurs once.
        note: how the data differ from the publisher's file, or "".
        titles: raw item id -> title, where the source has titles.
        core: the k of the k-core filtering that is customary for this data set.
        positive: the lowest rating that counts as liked, where the feedback itself says what is
            liked; None where that is a choice.
    """

    name: str
    frame: pl.DataFrame
    note: str = ""
    titles: dict[int, str] = field(default_factory=dict)
    core: int = 20
    positive: float | None = None


def first_of_each_pair(frame: pl.DataFrame, per_second: int = 1) -> tuple[pl.DataFrame, int]:
    """``Source.frame`` of rows in which a pair of user and item may occur again.

    The first row in time of a pair is kept, rows of the same time keep their order, and the frame
    is in the order of time.

    Args:
        frame: user, item, rating and time.
        per_second: units of time in a second.

    Returns:
        The frame, and how many rows were left out.
    """
    ordered = frame.sort("time", maintain_order=True)
    kept = ordered.unique(["user", "item"], keep="first", maintain_order=True)
    seconds = kept.with_columns(pl.col("time") // per_second)
    return seconds.select(*SCHEMA).cast(SCHEMA), frame.height - kept.height
