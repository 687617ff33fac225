"""Published tables of comma-separated text: read some lines at a time, and every line checked.

No field of such a table is quoted, so a line is a row and a fault has a line number.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

import polars as pl

from dnrlib.errors import DataError

BYTES_AT_ONCE = 2**26
"""Of lines that wait to be split."""
COLUMNS = {
    int: (pl.Int64, "a whole number"),
    float: (pl.Float32, "a number"),
    str: (pl.String, "text"),
}
"""Type -> its column, and how to say so."""

Rules = Sequence[tuple[pl.Expr, str]]
"""What is true of a row that is not as published, and how to say so."""


@contextmanager
def opened(path: Path) -> Iterator[BufferedIOBase]:
    """A file as it is or, if its name ends in .gz, unpacked.

    Raises:
        DataError: it cannot be read, now or later.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(path, f"cannot be read ({error}): replace or delete it") from error


def read_header(file: BufferedIOBase, where: str, needed: Iterable[str], remedy: str) -> list[str]:
    """The names in the first line of a file.

    Raises:
        DataError: the file is empty, or a column that is needed has no name there.
    """
    line = file.readline()
    if not line:
        raise DataError(where, f"is empty: {remedy}")
    names = line.decode("utf-8", "replace").rstrip("\r\n").split(",")
    if missing := [name for name in needed if name not in names]:
        raise DataError(where, f"the header has no column {', '.join(missing)}: {remedy}", 1)
    return names


def read_rows(
    file: BufferedIOBase,
    where: str,
    names: Sequence[str],
    types: Mapping[str, type],
    rules: Rules,
    remedy: str,
    first_line: int = 1,
) -> pl.DataFrame:
    """The rows that are left in a file.

    Args:
        where: the file's name, for errors.
        names: of all columns, in their order.
        types: of the columns to return.
        rules: what else is wrong with a row, by these columns.
        remedy: what to do about a row that is not as published.
        first_line: the number of the line that comes next.

    Raises:
        DataError: naming the first line that is no text, has a wrong number of columns, does not
            fit a type, or breaks a rule; or there is no row.
    """
    expected = f"the {len(names)} columns {','.join(names)}"
    kinds = {name: COLUMNS[kind] for name, kind in types.items()}
    all_rules = [
        (pl.col("misshapen"), f"does not have {expected}"),
        *((pl.col(name).is_null(), f"{name} is not {kind}") for name, (_, kind) in kinds.items()),
        *rules,
    ]
    frames = []
    while lines := file.readlines(BYTES_AT_ONCE):
        _check_text(lines, where, remedy, first_line)
        frame = _split(lines, names).with_columns(
            pl.col(name).cast(dtype, strict=False) for name, (dtype, _) in kinds.items()
        )
        reject(frame, all_rules, where, f": {remedy}", first_line)
        frames.append(frame.select(*types))
        first_line += len(lines)
    if not frames:
        raise DataError(where, f"holds no rows: {remedy}")
    return pl.concat(frames)


def reject(
    frame: pl.DataFrame, rules: Rules, where: str, remedy: str = "", first_line: int = 1
) -> None:
    """Raise DataError for the first row that breaks a rule; of its rules the first is named.

    Args:
        where: the file's name.
        remedy: what follows the reason.
        first_line: the number of the frame's first row.
    """
    first = [broken.arg_true().first().alias(reason) for broken, reason in rules]
    found = frame.select(first).row(0, named=True)
    rows = {reason: row for reason, row in found.items() if row is not None}
    if rows:
        reason = min(rows, key=rows.__getitem__)
        raise DataError(where, f"{reason}{remedy}", first_line + rows[reason])


def _check_text(lines: Sequence[bytes], where: str, remedy: str, first_line: int) -> None:
    data = b"".join(lines)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise DataError(where, f"is not text: {remedy}", line) from error


def _split(lines: Sequence[bytes], names: Sequence[str]) -> pl.DataFrame:
    """One row a line, its columns as text, and whether they are too few or too many."""
    text = pl.Series("line", lines, pl.Binary).cast(pl.String)
    columns = text.str.strip_chars_end("\r\n").str.split_exact(",", len(names))
    frame = columns.struct.rename_fields([*names, "surplus"]).struct.unnest()
    misshapen = pl.col(names[-1]).is_null() | pl.col("surplus").is_not_null()
    return frame.with_columns(misshapen=misshapen)
