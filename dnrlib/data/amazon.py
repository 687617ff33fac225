"""Ratings of books from Amazon Reviews, in the three editions of McAuley's group.

2014 (McAuley et al. 2015; He and McAuley 2016), 2018 (Ni et al. 2019), 2023 (Hou et al. 2024): each
publishes a file of ratings alone. These files are too large to be downloaded unasked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import polars as pl

from dnrlib.data.download import md5
from dnrlib.data.interactions import Source, first_of_each_pair
from dnrlib.data.tables import opened, read_rows
from dnrlib.errors import DataError

SHARED = "amazon-books"
"""A folder that any edition may lie in."""
ASIN = 10
"""Characters of a book's id."""


@dataclass(frozen=True)
class Publication:
    """An edition of the ratings of books.

    Args:
        file: the name of the file, as published or gzipped.
        url: where it is published.
        columns: of a line, in its order.
        ratings: rows of the whole file.
        user, item: the columns of the ids.
        header: whether the first line names the columns.
        per_second: units of ``timestamp`` in a second.
        md5: none is published; what cannot be checked is not downloaded.
        core: k of the k-core. Usual is 5, as in the publisher's own filtered files. In a sample of
            160,666 ratings of the 2023 edition 11,832 lists of 6 have a positive; k = 3 keeps
            99 % of them, k = 5 keeps 46 %, k = 10 none.
    """

    name: str
    file: str
    url: str
    columns: tuple[str, str, str, str]
    ratings: int
    user: str = "user"
    item: str = "item"
    header: bool = False
    per_second: int = 1
    md5: str = ""
    core: int = 5

    @property
    def archive(self) -> str:
        """Where the file belongs in a folder of data."""
        return f"{self.name}/{self.url.rsplit('/', 1)[1]}"


BOOKS_2014 = Publication(
    name="amazon-books-2014",
    file="ratings_Books.csv",
    url="http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/ratings_Books.csv",
    columns=("user", "item", "rating", "timestamp"),
    ratings=22_507_155,
)
BOOKS_2018 = Publication(
    name="amazon-books-2018",
    file="Books.csv",
    url="https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/categoryFilesSmall/Books.csv",
    columns=("item", "user", "rating", "timestamp"),
    ratings=51_311_621,
)
BOOKS_2023 = Publication(
    name="amazon-books-2023",
    file="Books.csv",
    url="https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/benchmark/0core/rating_only/"
    "Books.csv.gz",
    columns=("user_id", "parent_asin", "rating", "timestamp"),
    ratings=29_139_329,
    user="user_id",
    item="parent_asin",
    header=True,
    per_second=1000,
)
PUBLICATIONS = {edition.name: edition for edition in (BOOKS_2014, BOOKS_2018, BOOKS_2023)}


def find(publication: Publication, folders: Iterable[Path]) -> Path | None:
    """The first file in a folder of the edition's name, else in ``amazon-books``; None if none."""
    folders = list(folders)
    paths = (
        folder / place / f"{publication.file}{ending}"
        for place in (publication.name, SHARED)
        for folder in folders
        for ending in ("", ".gz")
    )
    return next((path for path in paths if path.exists()), None)


def read(publication: Publication, path: Path) -> Source:
    """Read a file of ratings, plain or gzipped.

    Ids are numbered 0, 1, … in the order of the texts. Ratings of 0, which are none, are left out,
    and of the ratings of a book by a user all but the first; the note counts them.

    Raises:
        DataError: naming file and line, if anything is not as published, or it is another edition.
    """
    with opened(path) as file:
        whole = parse_ratings(file, str(path), publication)
    given = whole.filter(pl.col("rating") > 0)
    frame, later = first_of_each_pair(given, publication.per_second)
    left_out = {
        "ratings of 0": whole.height - given.height,
        "later ratings of a book by the same user": later,
    }
    part = f"a part: {whole.height:,} of {publication.ratings:,} ratings"
    remarks = [
        *([part] if whole.height < publication.ratings else []),
        f"{path.name}: {whole.height:,} ratings, MD5 {md5(path)}; no MD5 is published",
        *(f"{rows:,} {what} left out" for what, rows in left_out.items() if rows),
    ]
    return Source(
        name=publication.name, frame=frame, note="; ".join(remarks), core=publication.core
    )


def parse_ratings(file: BufferedIOBase, where: str, publication: Publication) -> pl.DataFrame:
    """Lines of a file of ratings to user, item (both numbered), rating and time (as it is there).

    Args:
        where: the file's name, for errors.

    Raises:
        DataError: naming the first line with a wrong number of columns, an id without characters,
            a rating outside 0 … 5 or a time that is no whole number; the file is empty or of
            another edition.
    """
    remedy = f"put the file from {publication.url} at {publication.archive}"
    _check_edition(file.readline(), where, publication, remedy)
    if not publication.header:
        file.seek(0)
    user, item = publication.user, publication.item
    types = {user: str, item: str, "rating": float, "timestamp": int}
    rules = [
        ((pl.col(user) == "") | (pl.col(item) == ""), "an id is missing"),
        (~pl.col("rating").is_between(0, 5), "the rating is not in 1 … 5"),
    ]
    first_line = 2 if publication.header else 1
    rows = read_rows(file, where, publication.columns, types, rules, remedy, first_line)
    return rows.select(
        "rating",
        user=pl.col(user).rank("dense").cast(pl.Int64) - 1,
        item=pl.col(item).rank("dense").cast(pl.Int64) - 1,
        time="timestamp",
    )


def _check_edition(line: bytes, where: str, publication: Publication, remedy: str) -> None:
    """Raise DataError if a file with this first line is not of the edition."""
    if not line:
        raise DataError(where, f"is empty: {remedy}")
    edition = edition_of(line.decode("utf-8", "replace").rstrip("\r\n"))
    if edition is None:
        expected = ",".join(publication.columns)
        raise DataError(where, f"no file of {publication.name} ({expected}) begins so: {remedy}", 1)
    if edition != publication:
        advice = f"use dataset {edition.name}, or {remedy}"
        raise DataError(where, f"is of {edition.name}, not {publication.name}: {advice}", 1)


def edition_of(line: str) -> Publication | None:
    """The edition of a file by its first line: a header, or which column is as long as an ASIN."""
    columns = tuple(line.split(","))
    if columns == BOOKS_2023.columns:
        return BOOKS_2023
    lengths = [len(column) == ASIN for column in columns]
    if len(columns) != len(BOOKS_2014.columns) or lengths[0] == lengths[1]:
        return None
    return BOOKS_2018 if lengths[0] else BOOKS_2014
