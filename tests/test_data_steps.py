"""The steps from interactions to an exposure log, against plain Python on small random data."""

from itertools import groupby

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dnrlib.data import Source, count_steps, prepare_log, stages, steps
from dnrlib.data.interactions import SCHEMA
from dnrlib.errors import ConfigError


def interactions(ids=8, times=6, max_size=60):
    """Frames in the schema of a source, with many ties in time and gaps in the ids."""
    row = st.tuples(
        st.integers(0, ids).map(lambda user: 10 * user),
        st.integers(0, ids).map(lambda item: 7 * item),
        st.integers(1, 5),
        st.integers(0, times),
    )
    rows = st.lists(row, min_size=1, max_size=max_size, unique_by=lambda row: row[:2])
    return rows.map(lambda rows: pl.DataFrame(rows, schema=SCHEMA, orient="row"))


def rows_of(frame, *columns):
    return list(frame.select(columns).iter_rows())


def prepared(frame, core=2, length=3):
    """The frame after every step."""
    *_, (_, last) = stages(Source("made-up", frame), core=core, list_length=length)
    return last


@given(interactions(), st.sampled_from([1.0, 3.0, 3.5, 5.0]))
def test_label_is_rating_at_least_positive(frame, positive):
    labelled = steps.label(frame, positive)
    assert labelled["label"].to_list() == [rating >= positive for rating in frame["rating"]]


def peel(rows, k):
    """The k-core by taking away one row at a time."""
    while True:
        for row in rows:
            of_user = sum(other[0] == row[0] for other in rows)
            of_item = sum(other[1] == row[1] for other in rows)
            if min(of_user, of_item) < k:
                rows = [other for other in rows if other is not row]
                break
        else:
            return rows


@given(interactions(max_size=40), st.integers(1, 4))
def test_k_core_is_the_one_that_peeling_leaves_in_file_order(frame, k):
    assert rows_of(steps.k_core(frame, k), *SCHEMA) == peel(rows_of(frame, *SCHEMA), k)


@given(interactions(), st.integers(1, 4), st.randoms())
def test_k_core_is_a_fixpoint_and_does_not_depend_on_the_order(frame, k, random):
    core = steps.k_core(frame, k)
    shuffled = frame[random.sample(range(frame.height), frame.height)]
    assert steps.k_core(core, k).equals(core)
    assert set(core.iter_rows()) == set(steps.k_core(shuffled, k).iter_rows())


def test_k_core_is_iterated():
    chain = pl.DataFrame({"user": [0, 1, 1, 2, 2, 3, 3], "item": [0, 0, 1, 1, 2, 2, 3]})
    assert steps.k_core(chain, 2).is_empty()


@given(interactions())
def test_reindex_numbers_without_gaps_and_keeps_raw_ids(frame):
    indexed = steps.reindex(frame)
    users, items = sorted(set(frame["user"])), sorted(set(frame["item"]))
    assert rows_of(indexed, "raw_user", "raw_item") == rows_of(frame, "user", "item")
    assert [users[user] for user in indexed["user"]] == frame["user"].to_list()
    assert [items[item - 1] for item in indexed["item"]] == frame["item"].to_list()


@given(interactions())
def test_raw_ids_lead_back(frame):
    indexed = steps.reindex(frame)
    users, items = steps.raw_ids(indexed)
    assert users[indexed["user"].to_list()].tolist() == frame["user"].to_list()
    assert items[(indexed["item"] - 1).to_list()].tolist() == frame["item"].to_list()


@given(interactions())
def test_time_order_is_by_user_then_time_then_file(frame):
    expected = sorted(frame.iter_rows(), key=lambda row: (row[0], row[3]))
    assert rows_of(steps.in_time_order(frame), *SCHEMA) == expected


def test_ties_in_time_keep_the_order_of_a_long_file():
    item = pl.int_range(50_000, eager=True).shuffle(seed=0)
    frame = pl.DataFrame({"user": item % 5, "item": item, "time": item % 3})
    expected = sorted(frame.iter_rows(), key=lambda row: (row[0], row[2]))
    assert rows_of(steps.in_time_order(frame), "user", "item", "time") == expected


def cut(rows, length):
    """The complete lists of each user's rows."""
    lists = []
    for _, group in groupby(rows, key=lambda row: row[0]):
        group = list(group)
        whole = range(0, len(group) - length + 1, length)
        lists += [group[first : first + length] for first in whole]
    return lists


def lists_of(frame, *columns):
    """The rows of each list, in the order of the lists' numbers."""
    groups = frame.drop_nulls("list").partition_by("list", maintain_order=True)
    groups.sort(key=lambda group: group["list"][0])
    return [rows_of(group, *columns) for group in groups]


@given(interactions(ids=4), st.integers(1, 5))
def test_lists_are_whole_of_one_user_and_consecutive(frame, length):
    frame = steps.in_time_order(frame)
    result = steps.cut_into_lists(frame, length)
    assert rows_of(result, *SCHEMA) == rows_of(frame, *SCHEMA)
    assert lists_of(result, *SCHEMA) == cut(rows_of(frame, *SCHEMA), length)


def test_a_list_needs_a_row():
    with pytest.raises(ConfigError, match="list_length is 0"):
        steps.cut_into_lists(pl.DataFrame(schema=SCHEMA), 0)


@given(interactions(ids=4), st.integers(1, 5))
def test_lists_without_positive_are_dropped_but_their_rows_stay(frame, length):
    labelled = steps.label(steps.in_time_order(frame), positive=4.0)
    before = steps.cut_into_lists(labelled, length)
    after = steps.drop_lists_without_positive(before)
    expected = [rows for rows in lists_of(before, "item", "label") if any(row[1] for row in rows)]
    assert lists_of(after, "item", "label") == expected
    assert after.height == frame.height


@given(interactions(ids=4))
def test_split_takes_each_users_last_two_lists(frame):
    result = prepared(frame, core=1, length=2)
    for _, group in groupby(lists_of(result, "user", "split"), key=lambda rows: rows[0][0]):
        splits = [{split for _, split in rows} for rows in group]
        assert splits == [*[{0}] * (len(splits) - 2), {1}, {2}][-len(splits) :]
    assert result.filter(pl.col("list").is_null())["split"].is_null().all()


@given(interactions(ids=4))
def test_log_holds_the_frame(frame):
    last = prepared(frame)
    if last["list"].is_null().all():
        return
    log = steps.to_log(last, "made-up", "a note", list_length=3)
    lists = lists_of(last, "user", "item", "label", "split")
    columns = torch.stack([log.user, log.item, log.label.long()], dim=1)
    assert columns.tolist() == [list(row) for row in rows_of(last, "user", "item", "label")]
    assert columns[log.rows()].tolist() == [[list(row[:3]) for row in rows] for rows in lists]
    assert log.split.tolist() == [rows[0][3] for rows in lists]
    assert log.list[log.rows()].tolist() == [[number] * 3 for number in range(len(log))]
    assert (log.list >= 0).sum() == 3 * len(log)
    assert (log.users, log.items) == (last["user"].n_unique(), last["item"].n_unique())


@given(interactions(ids=4))
def test_history_is_what_the_user_did_before_the_list(frame):
    last = prepared(frame)
    if last["list"].is_null().all():
        return
    log = steps.to_log(last, "made-up", list_length=3)
    items, times = log.item.tolist(), last["time"].to_list()
    for number, start in enumerate(log.start.tolist()):
        before = [row for row in range(start) if log.user[row] == log.user[start]]
        history = log.history(torch.tensor([number]), 100)[0]
        assert history[history > 0].tolist() == [items[row] for row in before]
        assert all(times[row] <= times[start] for row in before)


def ratings(user=0, items=6, rating=5.0):
    columns = {"user": user, "rating": rating}
    frame = pl.DataFrame({"item": range(items), "time": range(items)}).with_columns(
        **{name: pl.lit(value) for name, value in columns.items()}
    )
    return frame.select(*SCHEMA).cast(SCHEMA)


def test_parameters_reach_the_log():
    source = Source("made-up", ratings(items=8), note="n", core=1)
    log = prepare_log(source, list_length=4)
    assert (len(log), log.list_length, log.name, log.note) == (2, 4, "made-up", "n")
    assert log.split.tolist() == [1, 2]


def test_positive_reaches_the_log():
    source = Source("made-up", ratings(rating=2.0), core=1)
    assert len(prepare_log(source, positive=2.0)) == 1
    with pytest.raises(ConfigError, match="no list is left"):
        prepare_log(source)


def test_core_is_the_sources_unless_given():
    source = Source("made-up", ratings(), core=2)
    with pytest.raises(ConfigError, match="no list is left"):
        prepare_log(source)
    assert len(prepare_log(source, core=1)) == 1


def test_fingerprint_covers_data_and_note():
    logs = [
        prepare_log(Source("made-up", frame, note, core=1))
        for frame in (ratings(items=6), ratings(items=12))
        for note in ("", "another file")
    ]
    assert len({log.fingerprint for log in logs}) == 4
    assert logs[0].fingerprint == prepare_log(Source("made-up", ratings(), core=1)).fingerprint


def test_count_steps():
    frame = pl.concat([ratings(0, 7), ratings(1, 6, rating=1.0), ratings(2, 1)])
    counts = count_steps(Source("made-up", frame, core=2))
    last = {"users": 2, "items": 6, "interactions": 12, "positives": 6}
    assert counts["step"].to_list()[2] == "2-core"
    assert counts.row(0, named=True)["interactions"] == 14
    assert counts.row(-1, named=True) == {"step": "split in time", **last, "lists": 1}
    assert counts["lists"].to_list() == [None, None, None, None, 2, 1, 1]
