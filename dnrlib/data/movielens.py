"""MovieLens (Harper and Konstan 2015): the files that GroupLens publishes, read and checked.

Archives are read in place: nothing is ever extracted, so nothing is left behind by a bad one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

import polars as pl

from dnrlib.data.download import md5
from dnrlib.data.interactions import SCHEMA, Source
from dnrlib.data.tables import reject
from dnrlib.errors import DataError


@dataclass(frozen=True)
class Publication:
    """A data set as GroupLens publishes it: ``<name>.zip`` and two of its members.

    Args:
        md5: of the zip, as published.
        ratings: the member whose lines are user, item, rating, time.
        titles: the member whose lines begin with item, title (Latin-1).
        separator, titles_separator: between the columns of these members.
    """

    name: str
    md5: str
    ratings: str
    titles: str
    separator: str
    titles_separator: str

    @property
    def url(self) -> str:
        """Where the archive is published."""
        return f"https://files.grouplens.org/datasets/movielens/{self.archive}"

    @property
    def archive(self) -> str:
        """The file's name in a folder of data."""
        return f"{self.name}.zip"


ML_1M = Publication(
    name="ml-1m",
    md5="c4d9eecfca2ab87c1945afe126590906",
    ratings="ml-1m/ratings.dat",
    titles="ml-1m/movies.dat",
    separator="::",
    titles_separator="::",
)
ML_100K = Publication(
    name="ml-100k",
    md5="0e33842e24a9c977be4e0107933c0723",
    ratings="ml-100k/u.data",
    titles="ml-100k/u.item",
    separator="\t",
    titles_separator="|",
)
PUBLICATIONS = {publication.name: publication for publication in (ML_1M, ML_100K)}


def find(publication: Publication, folders: Iterable[Path]) -> Path | None:
    """The first zip, or folder that holds it unpacked, in ``folders``; None if there is none."""
    names = (publication.archive, publication.name)
    paths = (folder / name for folder in folders for name in names)
    return next((path for path in paths if path.exists()), None)


def read(publication: Publication, path: Path) -> Source:
    """Read a zip or an unpacked folder of that layout.

    Raises:
        DataError: naming file and line, if anything is not as published.
    """
    load = _from_folder if path.is_dir() else _from_zip
    ratings, titles = load(path, publication.ratings), load(path, publication.titles)
    return Source(
        name=publication.name,
        frame=parse_ratings(ratings, f"{path} ({publication.ratings})", publication.separator),
        note=_note(publication, path),
        titles=parse_titles(titles, f"{path} ({publication.titles})", publication.titles_separator),
    )


def parse_ratings(data: bytes, where: str, separator: str) -> pl.DataFrame:
    """Lines of user, item, rating, time to a frame in the schema of ``Source.frame``.

    Args:
        where: the file's name, for errors.

    Raises:
        DataError: naming the first line with a wrong number of columns, something that is no
            whole number, a negative id, a rating outside 1 … 5, or a pair of user and item that
            occurred before; or bytes that are not ASCII; or an empty file.
    """
    columns = _split(data, where, separator, [*SCHEMA, "surplus"], encoding="ascii")
    frame = columns.with_columns(
        pl.col(*SCHEMA).cast(pl.Int64, strict=False),
        misshapen=pl.col("time").is_null() | pl.col("surplus").is_not_null(),
    )
    expected = f"the {len(SCHEMA)} columns {', '.join(SCHEMA)}, separated by {separator!r}"
    rules = [
        (pl.col("misshapen"), f"does not have {expected}"),
        (pl.any_horizontal(pl.col(*SCHEMA).is_null()), "a column is not a whole number"),
        ((pl.col("user") < 0) | (pl.col("item") < 0), "an id is negative"),
        (~pl.col("rating").is_between(1, 5), "the rating is not in 1 … 5"),
        (~pl.struct("user", "item").is_first_distinct(), "this user has rated this item before"),
    ]
    reject(frame, rules, where)
    return frame.select(*SCHEMA).cast(SCHEMA)


def parse_titles(data: bytes, where: str, separator: str) -> dict[int, str]:
    """Lines that begin with item, title to {raw item id: title}.

    Raises:
        DataError: naming the first line that does not begin so.
    """
    columns = _split(data, where, separator, ["item", "title"], encoding="latin-1")
    frame = columns.with_columns(pl.col("item").cast(pl.Int64, strict=False))
    broken = pl.col("item").is_null() | pl.col("title").is_null()
    reject(frame, [(broken, "does not begin with an item's number and its title")], where)
    return dict(frame.select("item", "title").iter_rows())


def _split(
    data: bytes, where: str, separator: str, names: list[str], encoding: str
) -> pl.DataFrame:
    """One row a line, its columns as text; null where a line is too short."""
    if not data:
        raise DataError(where, "is empty")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(where, f"holds bytes that are not {encoding}", line) from error
    lines = pl.Series(text.removesuffix("\n").split("\n"))
    columns = lines.str.split_exact(separator, len(names) - 1)
    return columns.struct.rename_fields(names).struct.unnest()


def _from_folder(folder: Path, member: str) -> bytes:
    try:
        return (folder.parent / member).read_bytes()
    except OSError as error:
        raise DataError(folder.parent / member, f"cannot be read ({error.strerror})") from error


def _from_zip(path: Path, member: str) -> bytes:
    try:
        with ZipFile(path) as archive:
            for name in archive.namelist():
                member_path = PurePosixPath(name.replace("\\", "/"))
                if member_path.is_absolute() or ".." in member_path.parts:
                    raise DataError(path, f"the member {name!r} climbs out of the archive")
            return archive.read(member)
    except KeyError as error:
        raise DataError(path, f"has no member {member}") from error
    except (BadZipFile, EOFError, RuntimeError, zlib.error) as error:
        raise DataError(path, f"cannot be unpacked ({error}): replace or delete it") from error


def _note(publication: Publication, path: Path) -> str:
    if path.is_dir():
        digest = md5(path.parent / publication.ratings)
        return f"{publication.ratings} unpacked, MD5 {digest}; only the zip's is published"
    actual = md5(path)
    if actual == publication.md5:
        return ""
    return f"{path.name} has MD5 {actual}, not the publisher's {publication.md5}"
