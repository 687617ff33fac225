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


def label(frame: pl.DataFrame, positive: float = 3.0) -> pl.DataFrame:
    """Add ``label``: the feedback z, true where the rating is at least ``positive``."""
    return frame.with_columns(label=pl.col("rating") >= positive)


def k_core(frame: pl.DataFrame, k: int) -> pl.DataFrame:
    """Keep the largest part in which every user and every item has at least ``k`` rows.

    Rows keep their order. The result does not depend on it: the k-core is unique.
    """
    enough = (pl.len().over("user") >= k) & (pl.len().over("item") >= k)
    while (kept := frame.filter(enough)).height < frame.height:
        frame = kept
    return frame


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


def to_log(frame: pl.DataFrame, name: str, note: str = "", list_length: int = 6) -> ExposureLog:
    """Tensors of a frame that has been through all the steps; lists are renumbered without gaps.

    Raises:
        ConfigError: no list is left.
    """
    number = pl.col("list").rank("dense").cast(pl.Int64) - 1
    frame = frame.with_columns(list=number.fill_null(-1)).with_row_index("row")
    first_rows = frame.filter(pl.col("list") >= 0).unique("list", keep="first").sort("list")
    if first_rows.is_empty():
        raise ConfigError(f"{name}: no list is left; lower core, positive or list_length")
    return ExposureLog(
        user=_tensor(frame["user"]),
        item=_tensor(frame["item"]),
        label=_tensor(frame["label"]),
        list=_tensor(frame["list"]),
        start=_tensor(first_rows["row"].cast(pl.Int64)),
        split=_tensor(first_rows["split"]),
        users=frame["user"].n_unique(),
        items=frame["item"].n_unique(),
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
