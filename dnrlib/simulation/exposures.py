"""What people did with what was shown to them: the columns of the logs that lists do not need."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dnrlib.data import kuairand, sources
from dnrlib.data.tables import opened, read_header, read_rows
from dnrlib.errors import ConfigError, DataError

FIT, CHOOSE, CHECK = 0, 1, 2
BOUNDS = (0.7, 0.85)
"""Shares of the exposures, in time: a model is fitted on those up to the first, its ridge is chosen
on those up to the second, and it is checked on the rest."""
SHOWN_SECONDS = 3
"""A video that was watched for so long was really shown (``realshow``): the paper's metric."""


@dataclass(frozen=True)
class Behaviour:
    """Something that a user may do with an item that is shown.

    Args:
        name: as in the online metrics.
        means: what it is in the log.
        given: the place, among the behaviours, of the one on which its probability depends; it
            stands before. -1: none.
    """

    name: str
    means: str
    given: int = -1


KUAIRAND = (
    Behaviour("realshow", f"watched for {SHOWN_SECONDS} s or longer (play_time_ms)"),
    Behaviour("click", "is_click", given=0),
    Behaviour("long_view", "long_view", given=0),
    Behaviour("like", "is_like", given=0),
    Behaviour("share", "is_forward", given=0),
    Behaviour("comment", "is_comment", given=0),
)
MOVIELENS = (
    Behaviour("realshow", "rating ≥ 3"),
    Behaviour("like", "rating ≥ 4", given=0),
    Behaviour("share", "rating = 5", given=1),
)
"""Ratings in the place of behaviours, which is an assumption: a film has neither watch time nor
comments, and people chose what they rated."""


@dataclass(frozen=True)
class Exposures:
    """Items that were shown, or chosen and rated, and what their users did with them.

    Args:
        user: 0 … users - 1 of the log.
        item: 1 … items of the log.
        happened: the behaviours, in the order of ``behaviours``.
        seconds: how long it was watched, or None where no log says so.
        part: `FIT`, `CHOOSE` or `CHECK`, in the order of time.
    """

    behaviours: tuple[Behaviour, ...]
    user: Int[Tensor, " rows"]
    item: Int[Tensor, " rows"]
    happened: Bool[Tensor, "rows behaviours"]
    seconds: Float[Tensor, " rows"] | None
    part: Int[Tensor, " rows"]

    def __getitem__(self, index: Tensor) -> Exposures:
        """The exposures at an index or a mask."""
        seconds = None if self.seconds is None else self.seconds[index]
        user, item, happened = self.user[index], self.item[index], self.happened[index]
        return Exposures(self.behaviours, user, item, happened, seconds, self.part[index])


def of_kuairand(frame: pl.DataFrame) -> Exposures:
    """First exposures of KuaiRand-Pure among the users and items of a log.

    The parts are cut by the calendar, so that a model is checked on what came after all that it
    was fitted on.

    Args:
        frame: the log's rows, with ``raw_user`` and ``raw_item``.

    Raises:
        DataError: the data are neither found nor downloaded, or they are malformed.
    """
    path = sources._obtain(kuairand, kuairand.PURE, None, True)
    shown = pl.concat(_logs(path)).filter(pl.col("is_rand") == 0).sort("time_ms")
    shown = shown.unique(["user_id", "video_id"], keep="first", maintain_order=True)
    numbers = frame.select("user", "item", user_id="raw_user", video_id="raw_item")
    shown = shown.join(numbers, on=["user_id", "video_id"], how="inner", maintain_order="left")
    seconds = pl.col("play_time_ms") / 1000
    shown = shown.select(
        "user", "item", seconds=seconds.cast(pl.Float32), realshow=seconds >= SHOWN_SECONDS,
        **{one.name: pl.col(one.means) == 1 for one in KUAIRAND[1:]},
        past=pl.int_range(pl.len()) / pl.len(),
    )  # fmt: skip
    return _exposures(shown, KUAIRAND)


def of_movielens(frame: pl.DataFrame) -> Exposures:
    """Ratings of a log. The parts are cut in each user's own time: ML-1M has no common one.

    Args:
        frame: the log's rows, each user's in the order of time.
    """
    rated = frame.select(
        "user", "item", realshow=pl.col("rating") >= 3, like=pl.col("rating") >= 4,
        share=pl.col("rating") == 5,
        past=(pl.int_range(pl.len()) / pl.len()).over("user"),
    )  # fmt: skip
    return _exposures(rated, MOVIELENS)


READERS = {"kuairand-pure": of_kuairand, "ml-1m": of_movielens, "ml-100k": of_movielens}
"""Data set -> its exposures, from the frame of its log."""


def exposures(dataset: str, frame: pl.DataFrame) -> Exposures:
    """The exposures of a data set's log.

    Raises:
        ConfigError: what users do is not known of this data set.
        DataError: as the readers do.
    """
    if dataset not in READERS:
        raise ConfigError(
            f"world = {dataset!r}: no responses can be fitted on it; choose one of simulated, "
            f"{', '.join(READERS)}"
        )
    return READERS[dataset](frame)


def _exposures(frame: pl.DataFrame, behaviours: tuple[Behaviour, ...]) -> Exposures:
    first, second = BOUNDS
    part = (pl.col("past") >= first).cast(pl.Int8) + (pl.col("past") >= second)
    user, item, parts = (
        torch.tensor(column.to_numpy()) for column in frame.select("user", "item", part)
    )
    happened = frame.select(one.name for one in behaviours).to_numpy()
    seconds = torch.tensor(frame["seconds"].to_numpy()) if "seconds" in frame else None
    return Exposures(behaviours, user, item, torch.tensor(happened), seconds, parts)


def _logs(path: Path) -> Iterator[pl.DataFrame]:
    """The standard logs of the archive or unpacked folder that `kuairand.read` takes."""
    for where, file in _files(path):
        binary = [*(one.means for one in KUAIRAND[1:]), "is_rand"]
        columns = ["user_id", "video_id", "time_ms", *binary, "play_time_ms", "tab"]
        remedy = f"take the file from {kuairand.PURE.url}"
        rules = [
            (pl.min_horizontal("user_id", "video_id") < 0, "an id is negative"),
            (pl.col("play_time_ms") < 0, "play_time_ms is negative"),
            *((~pl.col(name).is_in([0, 1]), f"{name} is not 0 or 1") for name in binary),
        ]
        names = read_header(file, where, columns, remedy)
        types = dict.fromkeys(columns, int)
        yield read_rows(file, where, names, types, rules, remedy, first_line=2)


def _files(path: Path) -> Iterator[tuple[str, BufferedIOBase]]:
    """Each log's name and its open file."""
    if path.is_dir():
        for log in kuairand.PURE.logs:
            names = (path / "data" / f"{log}{ending}" for ending in ("", ".gz"))
            if found := next((name for name in names if name.exists()), None):
                with opened(found) as file:
                    yield str(found), file
        return
    with _unpacked(path) as archive:
        for log in kuairand.PURE.logs:
            member = archive.extractfile(f"{kuairand.PURE.folder}/data/{log}")
            if isinstance(member, BufferedIOBase):
                yield f"{path} ({log})", member


@contextmanager
def _unpacked(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:gz") as archive:
            yield archive
    except (tarfile.TarError, OSError, EOFError, zlib.error, KeyError) as error:
        raise DataError(path, f"cannot be unpacked ({error}): replace or delete it") from error
