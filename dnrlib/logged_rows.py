"""The rows of a reader's own log, Parquet or CSV, each value checked and each fault named.

What the columns mean is said in `dnrlib.logged.read_lists`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl

from dnrlib.errors import DataError

REQUIRED = ("request", "item", "score", "label")
OPTIONAL = ("time", "user", "shown")
FEATURE = "feature_"
"""How the columns begin that describe a candidate."""
ENDINGS = (".parquet", ".csv", ".csv.gz")


@dataclass(frozen=True)
class Table:
    """The rows of a file, in its order, after all checks.

    Args:
        rows: ``row`` from 0, ``request`` and ``time`` numbered in time order, ``item``, ``user``,
            ``score``, ``label``, ``shown`` and the features.
        columns: column -> what it was taken as, in words.
        ignored: columns that have no meaning here.
    """

    path: Path
    rows: pl.DataFrame
    columns: dict[str, str]
    ignored: list[str]

    @property
    def features(self) -> list[str]:
        """The columns that describe a candidate."""
        return [name for name in self.columns if name.startswith(FEATURE)]


def read_rows(path: Path) -> Table:
    """Read and check a file.

    Raises:
        DataError: the file cannot be read, or a column or a value is missing or wrong; names the
            row.
    """
    raw, ignored = _raw(path)
    names = [name for name in raw.columns if name != "row"]
    rows = raw.with_columns(_reader(name)(raw[name]).alias(name) for name in names)
    for name in names:
        _reject(path, raw, rows[name].is_null(), name, f"must be {MEANS[_reader(name)]}")
    _check_requests(path, raw, rows)
    _check_shown(path, raw, rows)
    columns = {name: _taken_as(rows[name]) for name in names}
    return Table(path, _numbered(rows), columns, ignored)


def _raw(path: Path) -> tuple[pl.DataFrame, list[str]]:
    """The columns that mean something, with ``row`` from 0, and the names of the others."""
    if not path.is_file():
        raise DataError(path, "no such file")
    if not path.name.endswith(ENDINGS):
        raise DataError(path, f"has an unknown ending: it must be one of {', '.join(ENDINGS)}")
    try:
        names, raw = _parquet(path) if _is_parquet(path) else _csv(path)
    except pl.exceptions.NoDataError as error:
        raise DataError(path, "is empty") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        kind = "Parquet" if _is_parquet(path) else "CSV"
        why = str(error).strip().split("\n")[0]
        raise DataError(path, f"cannot be read as {kind} ({why})") from error
    if raw.is_empty():
        raise DataError(path, "has columns, but no rows")
    return raw, [name for name in names if name not in raw.columns]


def _parquet(path: Path) -> tuple[list[str], pl.DataFrame]:
    lazy = pl.scan_parquet(path)
    names = lazy.collect_schema().names()
    return names, lazy.select(_used(path, names)).collect().with_row_index("row")


def _csv(path: Path) -> tuple[list[str], pl.DataFrame]:
    """All columns as text, but ids that are whole numbers as such; without blank lines."""
    names = pl.read_csv(path, infer_schema=False, n_rows=0).columns
    used = _used(path, names)
    text = pl.read_csv(path, infer_schema=False, columns=used).select(used)
    text = text.with_columns(pl.all().str.strip_chars().replace("", None))
    raw = text.with_row_index("row").filter(~pl.all_horizontal(pl.col(used).is_null()))
    # "07" and "7" are two ids, so that only plain numerals are taken for numbers
    plain = (
        name
        for name in used
        if _reader(name) is _id and raw[name].str.contains(r"^(0|-?[1-9]\d{0,17})$").all()
    )
    return names, raw.with_columns(pl.col(list(plain)).cast(pl.Int64))


def _is_parquet(path: Path) -> bool:
    return path.name.endswith(".parquet")


def _used(path: Path, names: list[str]) -> list[str]:
    for name in REQUIRED:
        if name not in names:
            near = nearest(name, names)
            advice = f"rename {near!r}, if that is it" if near else "add it"
            raise DataError(path, f"has no column {name!r}: {advice}. It has {', '.join(names)}")
    return [name for name in names if name in REQUIRED + OPTIONAL or name.startswith(FEATURE)]


def nearest(name: str, names: list[str]) -> str | None:
    """The name that is most like another, if any is."""
    lower = {other.lower(): other for other in names}
    return next((lower[near] for near in get_close_matches(name, lower, n=1)), None)


def _reject(path: Path, raw: pl.DataFrame, broken: pl.Series, column: str, what: str) -> None:
    """Raise for the first row that is broken, with what stands there in the file."""
    for place in broken.arg_true()[:1].to_list():
        (value,) = raw[column][place : place + 1].to_list()
        said = "is empty" if value is None else f"is {_shortened(value)}"
        raise _fault(path, raw["row"][place], f"{column} {said}, but {what}")


def _fault(path: Path, row: int, reason: str) -> DataError:
    """Rows of a Parquet file and lines of a CSV count from 1; the first line holds the names."""
    if _is_parquet(path):
        return DataError(path, f"row {row + 1}: {reason}")
    return DataError(path, reason, row + 2)


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


# A reader of a column gives null where it does not understand a value.


def _id(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, (pl.Categorical, pl.Enum)):
        column = column.cast(pl.String)
    if column.dtype.is_integer() or column.dtype == pl.String:
        return column
    return _nothing(column)


def _number(column: pl.Series) -> pl.Series:
    if _can_be_a_number(column):
        numbers = column.cast(pl.Float64, strict=False)
        return numbers.set(~numbers.is_finite(), None)
    return _nothing(column)


def _binary(column: pl.Series) -> pl.Series:
    if _can_be_a_number(column):
        words = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
        text = column.cast(pl.String).str.to_lowercase()
        return text.replace_strict(words, default=None, return_dtype=pl.Boolean)
    return _nothing(column)


def _can_be_a_number(column: pl.Series) -> bool:
    return column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.String)


def _moment(column: pl.Series) -> pl.Series:
    if column.dtype in (pl.Date, pl.Datetime) or column.dtype.is_integer():
        return column
    if (numbers := _number(column)).null_count() < len(column) or column.dtype != pl.String:
        return numbers
    try:
        return column.str.to_datetime(strict=False)
    except pl.exceptions.PolarsError:  # no value is like a date
        return numbers


def _nothing(column: pl.Series) -> pl.Series:
    return pl.Series(column.name, [None] * len(column), dtype=pl.Int64)


MEANS: dict[Callable[[pl.Series], pl.Series], str] = {
    _id: "text or a whole number",
    _number: "a finite number",
    _binary: "0 or 1, or true or false",
    _moment: "a number or a date such as 2024-05-01 12:30:00, of one kind in the whole file",
}
READERS = {
    "request": _id, "item": _id, "score": _number, "label": _binary,
    "time": _moment, "user": _id, "shown": _binary,
}  # fmt: skip


def _reader(name: str) -> Callable[[pl.Series], pl.Series]:
    return READERS.get(name, _number)


def _taken_as(values: pl.Series) -> str:
    """A few words on a column."""
    kind = _reader(values.name)
    if kind is _id:
        what = "text" if values.dtype == pl.String else "whole numbers"
        return f"{what}, {values.n_unique():,} different"
    if kind is _binary:
        return f"0 or 1, {values.sum() / len(values):.1%} are 1"
    least: Any = values.min()
    most: Any = values.max()
    if values.dtype.is_temporal():
        return f"dates, {least} … {most}"
    return f"numbers, {least:g} … {most:g}"


def _check_requests(path: Path, raw: pl.DataFrame, rows: pl.DataFrame) -> None:
    """An item occurs once in a request, which has one time and one user."""
    twice = ~rows.select(pl.struct("request", "item").is_first_distinct()).to_series()
    again = "stands in this request before: keep one of the two rows"
    _reject(path, raw, twice, "item", again)
    for name in ("time", "user"):
        if name in rows.columns:
            first = pl.col(name).first().over("request")
            other = rows.select(pl.col(name) != first).to_series()
            one = f"its request began with another: a request has one {name}"
            _reject(path, raw, other, name, one)


def _check_shown(path: Path, raw: pl.DataFrame, rows: pl.DataFrame) -> None:
    if "shown" in rows.columns:
        unseen = rows["label"] & ~rows["shown"]
        _reject(path, raw, unseen, "shown", "the label is 1: only what was shown can be liked")


def _numbered(rows: pl.DataFrame) -> pl.DataFrame:
    """Items from 1 and users from 0 by id, times by rank, and requests by time, then place."""
    place = pl.col("row").min().over("request")
    rows = rows.with_columns(pl.col("row").cast(pl.Int64), request=_ranks("request"))
    rows = rows.with_columns(place=place)
    rows = rows.with_columns(time=_ranks("time" if "time" in rows.columns else "place"))
    rows = rows.with_columns(request=pl.col("time") * (pl.col("row").max() + 1) + pl.col("place"))
    return rows.drop("place").with_columns(
        request=_ranks("request"),
        item=_ranks("item") + 1,
        user=_ranks("user") if "user" in rows.columns else pl.lit(0, pl.Int64),
        shown="shown" if "shown" in rows.columns else "label",
    )


def _ranks(column: str) -> pl.Expr:
    return pl.col(column).rank("dense").cast(pl.Int64) - 1
