"""What every source of data gives: interactions in one schema."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

SCHEMA = pl.Schema(
    {"user": pl.Int64(), "item": pl.Int64(), "rating": pl.Float32(), "time": pl.Int64()}
)


@dataclass(frozen=True)
class Source:
    """Interactions as published, before any filtering.

    Args:
        name: the data set.
        frame: user, item (raw ids), rating and time (seconds), in file order; a pair of user and
            item occurs once.
        note: how the data differ from the publisher's file, or "".
        titles: raw item id -> title, where the source has titles.
        core: the k of the k-core filtering that is customary for this data set.
    """

    name: str
    frame: pl.DataFrame
    note: str = ""
    titles: dict[int, str] = field(default_factory=dict)
    core: int = 20
