"""A log in parts against the same log made in memory."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_steps import interactions, ratings

from dnrlib.data import SimulatedWorld, Source, prepare_log, stages, stream
from dnrlib.data.interactions import SCHEMA
from dnrlib.data.steps import raw_ids
from dnrlib.data.stream import Cutting, LogParts, log_in_parts, scan
from dnrlib.errors import ConfigError, DataError
from dnrlib.log import ExposureLog

WORLD = SimulatedWorld(users=60, items=90, lists=7)


def written(frame, folder, files=1):
    """A folder of Parquet files that hold the frame, in row groups of a few rows."""
    (source := folder / "source").mkdir()
    length = -(-frame.height // files) or 1
    for number, first in enumerate(range(0, max(frame.height, 1), length)):
        part = frame.slice(first, length)
        part.write_parquet(source / f"{number}.parquet", row_group_size=10)
    return source


def joined(parts):
    """The log that the parts are together."""
    logs = list(parts)
    rows = torch.tensor([0, *(len(log.user) for log in logs)]).cumsum(0)
    lists = torch.tensor([0, *(len(log) for log in logs)]).cumsum(0)
    assert parts.lists == tuple(len(log) for log in logs)
    columns = {name: torch.cat([getattr(log, name) for log in logs]) for name in ("user", "item")}
    return ExposureLog(
        **columns,
        label=torch.cat([log.label for log in logs]),
        list=torch.cat(
            [
                torch.where(log.list < 0, -1, log.list + first)
                for log, first in zip(logs, lists, strict=False)
            ]
        ),
        start=torch.cat([log.start + first for log, first in zip(logs, rows, strict=False)]),
        split=torch.cat([log.split for log in logs]),
        users=parts.users,
        items=parts.items,
        list_length=parts.list_length,
        name=parts.name,
        note=parts.note,
    )


def both(frame, core, list_length, parts, files=1):
    """The fingerprints of the log made in memory and of the log in parts; None without a list."""
    with tempfile.TemporaryDirectory() as folder:
        source = written(frame, Path(folder), files)
        cutting = Cutting(core, 3.0, list_length, parts)
        return (
            fingerprint(lambda: prepare_log(Source("x", frame, "n"), core, 3.0, list_length)),
            fingerprint(
                lambda: joined(log_in_parts(source, Path(folder) / "log", cutting, "x", "n"))
            ),
        )


def fingerprint(make):
    try:
        return make().fingerprint
    except ConfigError:
        return None


@settings(max_examples=25)
@given(interactions(max_size=50), st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 3, 7]))
def test_small_logs_are_the_same_in_parts(frame, core, list_length, parts):
    in_memory, in_parts = both(frame, core, list_length, parts)
    assert in_parts == in_memory


@pytest.mark.parametrize("parts", [1, 3, 7])
@pytest.mark.parametrize("files", [1, 4])
def test_the_simulated_log_is_the_same_in_parts(parts, files):
    shuffled = WORLD.frame().sample(fraction=1, shuffle=True, seed=0)
    in_memory, in_parts = both(shuffled, 22, 6, parts, files)
    assert in_parts == in_memory is not None


def test_the_core_and_the_raw_ids_are_those_in_memory(tmp_path):
    frame = WORLD.frame().with_columns(user=pl.col("user") * 3 + 7, item=pl.col("item") * 5)
    *_, (_, last) = stages(Source("x", frame), core=22)
    users, items = raw_ids(last)
    assert len(items) < WORLD.items
    parts = log_in_parts(written(frame, tmp_path), tmp_path / "log", Cutting(core=22, parts=3))
    assert [ids.tolist() for ids in parts.raw_ids()] == [users.tolist(), items.tolist()]


def test_a_user_is_in_one_part_and_parts_are_about_equal(tmp_path):
    parts = log_in_parts(written(WORLD.frame(), tmp_path), tmp_path / "log", Cutting(5, parts=7))
    users = [set(log.user.tolist()) for log in parts]
    assert len(parts) == 7
    assert sum(map(len, users)) == len(set.union(*users)) == parts.users
    rows = [len(log.user) for log in parts]
    assert max(rows) - min(rows) <= 2 * 42


def test_the_number_of_parts_follows_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "ROWS_A_PART", 1000)
    source = written(WORLD.frame(), tmp_path)
    assert len(log_in_parts(source, tmp_path / "log", Cutting(5))) == -(-60 * 42 // 1000)


def test_ties_in_time_keep_the_order_of_the_files(tmp_path):
    frame = ratings(0, 12).with_columns(time=pl.lit(0))
    parts = log_in_parts(written(frame.reverse(), tmp_path, 3), tmp_path / "log", Cutting(1))
    assert parts.part(0).item.tolist() == list(range(12, 0, -1))


def test_whole_numbers_of_other_widths_are_read(tmp_path):
    narrow = WORLD.frame().cast({"user": pl.Int32, "item": pl.UInt16, "rating": pl.Float64})
    narrow = narrow.with_columns(unused=pl.lit("x")).select(*reversed(narrow.columns), "unused")
    parts = log_in_parts(written(narrow, tmp_path), tmp_path / "log", Cutting(5), "simulated")
    expected = prepare_log(replace(WORLD.source(), note=""))
    assert joined(parts).fingerprint == expected.fingerprint


def test_what_is_made_is_read_again(tmp_path, monkeypatch):
    source = written(WORLD.frame(), tmp_path)
    first = log_in_parts(source, tmp_path / "log", Cutting(5, parts=2), "x", "a note")
    monkeypatch.setattr(stream, "_write_parts", lambda *args: 1 / 0)
    assert log_in_parts(source, tmp_path / "log", Cutting(5, parts=2)) == first
    assert LogParts.load(tmp_path / "log").note == "a note"


def test_an_interrupted_log_is_not_there_and_is_made_anew(tmp_path, monkeypatch):
    source = written(WORLD.frame(), tmp_path)
    cut, calls = stream._cut, []

    def killed(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return cut(*args)

    monkeypatch.setattr(stream, "_cut", killed)
    with pytest.raises(KeyboardInterrupt):
        log_in_parts(source, tmp_path / "log", Cutting(5, parts=3))
    assert {path.name for path in tmp_path.iterdir()} == {"source", "log.part.lock"}
    (tmp_path / "log.part" / "dealt").mkdir(parents=True)  # as after a power cut
    parts = log_in_parts(source, tmp_path / "log", Cutting(5, parts=3))
    assert len(parts) == 3
    assert not (tmp_path / "log" / "dealt" / "part=0").exists()
    assert json.loads((tmp_path / "log" / "log.json").read_text())["lists"] == list(parts.lists)


def refused(frame, folder, core=1):
    log_in_parts(written(frame, folder), folder / "log", Cutting(core), "made-up")


def test_a_log_without_lists_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="made-up: no list is left"):
        refused(ratings(items=5), tmp_path)


def test_a_core_without_users_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="made-up: no user is left"):
        refused(ratings(), tmp_path, core=9)


def test_a_pair_that_occurs_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match="row 2: its user and item occur a second time"):
        refused(pl.concat([ratings(), ratings().slice(2, 1)]), tmp_path)


@pytest.mark.parametrize("column", SCHEMA)
def test_a_missing_value_or_column_is_refused(tmp_path, column):
    frame = ratings()
    holes = frame.with_columns(pl.when(pl.col("item") != 3).then(column).alias(column))
    with pytest.raises(DataError, match=f"has rows without {column}"):
        refused(holes, tmp_path)
    frame.drop(column).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(DataError, match="cannot be read as user, item, rating, time"):
        scan(tmp_path / "other.parquet")


def test_a_source_that_is_not_there_or_no_parquet_is_named(tmp_path):
    for path in (tmp_path / "nosuch.parquet", tmp_path):
        with pytest.raises(DataError, match="is neither a Parquet file nor a folder"):
            scan(path)
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(DataError, match="cannot be read"):
        scan(tmp_path / "text.parquet")


def test_parts_cannot_be_negative():
    with pytest.raises(ConfigError, match="parts = -1"):
        Cutting(parts=-1)
