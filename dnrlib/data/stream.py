"""The same steps for interactions that do not fit into memory: from Parquet to parts of a log."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from filelock import FileLock
from jaxtyping import Int
from torch import Tensor

from dnrlib.data import steps
from dnrlib.data.interactions import SCHEMA
from dnrlib.data.prepare import cutting
from dnrlib.errors import ConfigError, DataError
from dnrlib.log import ExposureLog

ROWS_A_PART = 1_000_000
"""By default; what is in memory at once grows with it."""


@dataclass(frozen=True)
class LogParts:
    """An exposure log in parts, which are read one at a time.

    A part holds all rows of some users. One after the other, the parts are the log that
    `prepare_log` makes of the same interactions, with the same numbers of users and items; only
    the lists are numbered from 0 in each part, and the first list of a part is number
    ``sum(lists[:part])`` of the whole.

    Args:
        folder: where the parts lie.
        users, items, list_length, name, note: as of the log.
        lists: the number of kept lists of each part.
    """

    folder: Path
    users: int
    items: int
    list_length: int
    name: str
    note: str
    lists: tuple[int, ...]

    def __len__(self) -> int:
        """Number of parts."""
        return len(self.lists)

    def __iter__(self) -> Iterator[ExposureLog]:
        return (self.part(number) for number in range(len(self)))

    def part(self, number: int) -> ExposureLog:
        """One part; its users and items are numbered as in the whole."""
        frame = pl.read_parquet(_part_path(self.folder, number))
        whole = self.users, self.items
        return steps.to_log(frame, self.name, self.note, self.list_length, whole)

    def raw_ids(self) -> tuple[Int[Tensor, " users"], Int[Tensor, " items"]]:
        """The raw id of each user 0, 1, … and of each item 1, 2, …"""
        users, items = (
            torch.tensor(pl.read_parquet(self.folder / f"{name}s.parquet")[name].to_numpy())
            for name in ("user", "item")
        )
        return users, items

    @classmethod
    def load(cls, folder: Path) -> LogParts:
        """What `log_in_parts` wrote in a folder."""
        sizes = json.loads((folder / "log.json").read_text("utf-8"))
        return cls(folder, **sizes | {"lists": tuple(sizes["lists"])})


@dataclass(frozen=True)
class Cutting:
    """How interactions become a log; the parameters of `prepare_log`."""

    core: int = 20
    positive: float = 3.0
    list_length: int = 6
    parts: int = 0
    """How many, at most; 0 is one for each ``ROWS_A_PART`` rows."""

    def __post_init__(self) -> None:
        if self.parts < 0:
            raise ConfigError(f"parts = {self.parts}: must not be negative")


def log_in_parts(
    source: Path, folder: Path, cutting: Cutting, name: str = "", note: str = ""
) -> LogParts:
    """The exposure log of interactions in Parquet, of which only one part is ever in memory.

    One pass over the interactions checks them, one counts, some find the k-core, and one deals the
    rows out to the parts; then each part is sorted and cut. In memory at once are the ids and
    counts of all users and items, and one part. The folder appears when all is done; if it is
    there already, it is read.

    Args:
        source: as for `scan`; a pair of user and item occurs once.
        folder: for the parts; it belongs to this source and this cutting.
        name, note: of the log.

    Raises:
        ConfigError: no list is left.
        DataError: a column or a value is missing, or a pair of user and item occurs twice.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{folder.name}.part")
    with FileLock(f"{partial}.lock"):
        if not folder.exists():
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
            try:
                _write_parts(source, partial, cutting, name, note)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return LogParts.load(folder)


def files_of(source: Path) -> list[Path]:
    """The file itself, or the Parquet files of a folder in the order of their names.

    Raises:
        DataError: there is none.
    """
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not files or not files[0].is_file():
        raise DataError(source, "is neither a Parquet file nor a folder that holds one")
    return files


def scan(source: Path) -> pl.LazyFrame:
    """The interactions of `files_of`, in the schema of ``Source.frame``, and ``row``, their number.

    Raises:
        DataError: there is no file, it is no Parquet file, or a column or a value is missing.
    """
    try:
        found = pl.scan_parquet(files_of(source), row_index_name="row")
        frame = found.select("row", *(pl.col(name).cast(kind) for name, kind in SCHEMA.items()))
        gaps = frame.select(pl.all().null_count()).collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise DataError(source, f"cannot be read as {', '.join(SCHEMA)} ({error})") from error
    if missing := [column.name for column in gaps if column.item()]:
        raise DataError(source, f"has rows without {', '.join(missing)}")
    return frame


def _write_parts(source: Path, folder: Path, how: Cutting, name: str, note: str) -> None:
    """All files of a `LogParts`."""
    frame = scan(source)
    users, items = _numbered(*steps.core_ids(frame, how.core), how.parts)
    if users.is_empty():
        raise ConfigError(f"{name}: no user is left; lower core")
    folder.mkdir()
    users.write_parquet(folder / "users.parquet")
    items.write_parquet(folder / "items.parquet")
    _deal_out(frame, users, items, folder / "dealt")
    lists = []
    for part in range(users["part"].n_unique()):
        dealt = folder / "dealt" / f"part={part}"
        cut = _cut(pl.read_parquet(dealt / "*.parquet", hive_partitioning=False), source, how)
        cut.write_parquet(_part_path(folder, part), compression="lz4")
        shutil.rmtree(dealt)
        lists.append(cut["list"].drop_nulls().n_unique())
    if not any(lists):
        raise ConfigError(f"{name}: no list is left; lower core, positive or list_length")
    sizes = {"users": users.height, "items": items.height, "list_length": how.list_length}
    text = json.dumps({**sizes, "name": name, "note": note, "lists": lists})
    (folder / "log.json").write_text(text, "utf-8")


def _numbered(
    users: pl.DataFrame, items: pl.DataFrame, parts: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Add ``number``, as `steps.reindex` gives it, and to the users ``part``: about equal rows."""
    parts = parts or -(-int(users["rows"].sum()) // ROWS_A_PART)
    rows = pl.col("rows").cast(pl.Int64)
    part = (rows.cum_sum() - rows) * parts // rows.sum()
    number = pl.int_range(pl.len(), dtype=pl.Int64)
    users = users.sort("user").with_columns(number=number, part=part.rank("dense") - 1)
    return users, items.sort("item").with_columns(number=number + 1)


def _deal_out(frame: pl.LazyFrame, users: pl.DataFrame, items: pl.DataFrame, folder: Path) -> None:
    """Write the rows of the k-core, with their numbers, to a folder for each part."""
    numbered = frame.join(users.lazy(), on="user").join(items.lazy(), on="item", suffix="_of_item")
    columns = {"user": "number", "item": "number_of_item"}
    numbered.select("row", "rating", "time", "part", **columns).sink_parquet(
        pl.PartitionBy(folder, key="part", include_key=False),
        compression="lz4",
        row_group_size=20_000,  # of each part, so many rows wait in memory to be written
        mkdir=True,
        engine="streaming",
    )


def _cut(frame: pl.DataFrame, source: Path, how: Cutting) -> pl.DataFrame:
    """What `steps.to_log` needs of the rows of one part."""
    if (twice := frame.select("user", "item").is_duplicated()).any():
        row = frame.filter(twice)["row"].sort()[0]
        raise DataError(source, f"row {row}: its user and item occur a second time")
    labelled = steps.label(frame.sort("row"), how.positive)
    *_, (_, last) = cutting(labelled, how.list_length)
    return last.select("user", "item", "label", "list", "split")


def _part_path(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05}.parquet"
