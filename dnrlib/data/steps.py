"""From interactions to an exposure log: one small pure function a step.

A frame begins with the columns user, item, rating, time (``interactions.SCHEMA``); each step says
which columns it adds.
"""

from __future__ import annotations

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from dnrlib.errors import ConfigError
from dnrlib.log import TEST, TRAIN, VALIDATION, ExposureLog

ROWS_AT_ONCE = 2**21
"""Of a frame that is read from a file."""


def label(frame: pl.DataFrame, positive: float = 3.0) -> pl.DataFrame:
    """Add ``label``: the feedback z, true where the rating is at least ``positive``."""
    return frame.with_columns(label=pl.col("rating") >= positive)


def k_core(frame: pl.DataFrame, k: int) -> pl.DataFrame:
    """Keep the largest part in which every user and every item has at least ``k`` rows.

    Rows keep their order. The result does not depend on it: the k-core is unique.
    """
    return within(frame.lazy(), *core_ids(frame.lazy(), k)).collect()


def core_ids(frame: pl.LazyFrame, k: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Users and items of the k-core, each with ``rows``, its number of rows there.

    One pass over the frame a round, ``ROWS_AT_ONCE`` rows at a time, and the counts are all that
    stays in memory.
    """
    users, items = _rows_of_each(frame)
    while (users["rows"] < k).any() or (items["rows"] < k).any():
        enough = pl.col("rows") >= k
        users, items = _rows_of_each(frame, users.filter(enough), items.filter(enough))
    return users, items


def within(frame: pl.LazyFrame, users: pl.DataFrame, items: pl.DataFrame) -> pl.LazyFrame:
    """The rows of the given users and items, in their order."""
    for column, ids in {"user": users, "item": items}.items():
        frame = frame.join(ids.lazy(), on=column, how="semi", maintain_order="left")
    return frame


def _rows_of_each(frame: pl.LazyFrame, *ids: pl.DataFrame) -> list[pl.DataFrame]:
    """The number of rows of each user and of each item, among the given ids or all.

    Polars could group the whole stream by itself, but then keeps partial counts of about the size
    of the data until the end.
    """
    totals: list[list[pl.DataFrame]] = [[], []]
    for first in range(0, max(frame.select(pl.len()).collect().item(), 1), ROWS_AT_ONCE):
        some = frame.slice(first, ROWS_AT_ONCE)
        some = within(some, *ids) if ids else some
        counts = [some.group_by(column).agg(rows=pl.len()) for column in ("user", "item")]
        for total, count in zip(totals, pl.collect_all(counts, engine="streaming"), strict=True):
            total[:] = [_added_up([*total, count])]
    return [total for (total,) in totals]


def _added_up(counts: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(counts).group_by(counts[0].columns[0]).agg(pl.col("rows").sum())


def reindex(frame: pl.DataFrame) -> pl.DataFrame:
    """Number users 0, 1, … and items 1, 2, … in the order of their raw ids.

    The raw ids stay in ``raw_user`` and ``raw_item``.
    """
    return frame.with_columns(
        raw_user="user",
        raw_item="item",
        user=pl.col("user").rank("dense").cast(pl.Int64) - 1,
        item=pl.col("item").rank("dense").cast(pl.Int64),
    )


def in_time_order(frame: pl.DataFrame) -> pl.DataFrame:
    """Sort by user, then time; rows of the same time keep the order of the file."""
    return frame.sort("user", "time", maintain_order=True)


def cut_into_lists(frame: pl.DataFrame, length: int = 6) -> pl.DataFrame:
    """Add ``list``: each user's rows, as they stand, cut into lists of ``length``, numbered from 0.

    The rows left over at a user's end get null. The frame must be in time order.

    Raises:
        ConfigError: ``length`` is below 1.
    """
    if length < 1:
        raise ConfigError(f"list_length is {length}, but a list needs at least one row")
    place = pl.int_range(pl.len()).over("user")
    complete = place < pl.len().over("user") // length * length
    first = complete & (place % length == 0)
    number = first.cum_sum().cast(pl.Int64) - 1
    return frame.with_columns(list=pl.when(complete).then(number))


def drop_lists_without_positive(frame: pl.DataFrame) -> pl.DataFrame:
    """Set ``list`` to null where no row of the list is positive; the rows stay, as history."""
    return frame.with_columns(list=pl.when(pl.col("label").any().over("list")).then("list"))


def split_in_time(frame: pl.DataFrame) -> pl.DataFrame:
    """Add ``split``: of each user's lists the last is 2 (test), the one before 1 (validation).

    Earlier lists are 0 (train); rows outside every list get null.
    """
    from_the_end = pl.col("list").rank("dense", descending=True).over("user")
    split = (
        pl.when(from_the_end == 1)
        .then(TEST)
        .when(from_the_end == 2)
        .then(VALIDATION)
        .when(from_the_end > 2)
        .then(TRAIN)
    )
    return frame.with_columns(split=split.cast(pl.Int8))


def to_log(
    frame: pl.DataFrame,
    name: str,
    note: str = "",
    list_length: int = 6,
    whole: tuple[int, int] | None = None,
) -> ExposureLog:
    """Tensors of a frame that has been through all the steps; lists are renumbered without gaps.

    Args:
        whole: if the frame is a part of a log, how many users and items all of it has; then no
            list may be left.

    Raises:
        ConfigError: no list is left.
    """
    number = pl.col("list").rank("dense").cast(pl.Int64) - 1
    frame = frame.with_columns(list=number.fill_null(-1)).with_row_index("row")
    first_rows = frame.filter(pl.col("list") >= 0).unique("list", keep="first").sort("list")
    if first_rows.is_empty() and whole is None:
        raise ConfigError(f"{name}: no list is left; lower core, positive or list_length")
    users, items = whole or (frame["user"].n_unique(), frame["item"].n_unique())
    return ExposureLog(
        user=_tensor(frame["user"]),
        item=_tensor(frame["item"]),
        label=_tensor(frame["label"]),
        list=_tensor(frame["list"]),
        start=_tensor(first_rows["row"].cast(pl.Int64)),
        split=_tensor(first_rows["split"]),
        users=users,
        items=items,
        list_length=list_length,
        name=name,
        note=note,
    )


def raw_ids(frame: pl.DataFrame) -> tuple[Int[Tensor, " users"], Int[Tensor, " items"]]:
    """The raw id of each user 0, 1, … and of each item 1, 2, … of a reindexed frame."""
    users = frame.select("user", "raw_user").unique().sort("user")["raw_user"]
    items = frame.select("item", "raw_item").unique().sort("item")["raw_item"]
    return _tensor(users), _tensor(items)


def _tensor(column: pl.Series) -> Tensor:
    return torch.tensor(column.to_numpy())
