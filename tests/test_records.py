"""A record holds all that a table or a paired test needs, and comes back as it went."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up_records import make_record
from worlds import field_of, make_lists

from dnrlib.errors import ConfigError, DataError
from dnrlib.metrics import per_list, summarise
from dnrlib.records import Record, load_records, ranked_record


def test_a_record_comes_back_as_it_went(tmp_path):
    record = make_record(seed=3)
    path = record.save(tmp_path / "group")
    assert path == tmp_path / "group" / f"{record.run}.json"
    again = Record.load(path)
    assert again == replace(record, config=json.loads(json.dumps(record.config)))
    assert (again.seed, again.protocol) == (3, "shown+sampled")
    assert not list(tmp_path.rglob("*.part"))


def test_the_means_follow_from_the_packed_rankings(tmp_path):
    lists = make_lists()
    record = Record.load(make_record(lists=lists).save(tmp_path))
    labels, shown = record.ranked()
    test = lists.of_split("test")
    assert torch.equal(labels.sum(1), test.labels.sum(1))
    assert torch.equal(shown.sum(1), test.shown.sum(1))
    assert not (labels & ~shown).any()
    for name, values in record.per_list().items():
        assert values.shape == (len(test),)
        assert float(values.nanmean()) == pytest.approx(record.metrics["test"][name], abs=0)
        share = float((~values.isnan()).double().mean())
        assert record.metrics["test"][f"{name}:defined"] == share


def falsified(record):
    """The record with each liked candidate of its test lists moved up by one place."""
    labels, shown = record.ranked()
    return replace(record, **ranked_record(labels.roll(-1, 1), shown.roll(-1, 1)))


def test_a_record_whose_ranking_is_another_contradicts_itself(tmp_path):
    record = Record.load(make_record().save(tmp_path))
    assert record.contradictions() == {}
    other = falsified(record)
    found = other.contradictions()
    assert {"ndcg@6", "map@6", "auc"} <= found.keys()
    means = summarise(*other.ranked())
    assert found["ndcg@6"] == (record.metrics["test"]["ndcg@6"], means["ndcg@6"])


@pytest.mark.parametrize("value", [0.123, math.nan, None])
def test_a_test_metric_that_does_not_follow_from_the_ranking_is_found(value):
    record = make_record()
    changed = {name: x for name, x in record.metrics["test"].items() if name != "map@6"}
    metrics = {**record.metrics, "test": changed | ({"map@6": value} if value else {})}
    found = replace(record, metrics=metrics).contradictions()
    assert found.keys() == {"map@6"}
    assert found["map@6"][1] == record.metrics["test"]["map@6"]


def test_what_is_undefined_in_ranking_and_record_is_no_contradiction(tmp_path):
    all_liked = field_of(make_lists(), labels=make_lists().shown)
    record = Record.load(make_record(lists=all_liked).save(tmp_path))
    assert math.isnan(record.metrics["test"]["auc_shown"])
    assert record.contradictions() == {}


def test_no_record_of_the_project_contradicts_itself():
    records = [*load_records(Path(__file__).parents[1] / "results")]
    assert {one.run: one.contradictions() for one in records if one.contradictions()} == {}
    assert len(records) > 1


def test_other_cut_offs_follow_too():
    record = make_record()
    for name, values in record.per_list(k=3).items():
        assert torch.equal(values.nan_to_num(), per_list(*record.ranked(), 3)[name].nan_to_num())


def test_what_is_undefined_is_null_in_the_file_and_nan_in_python(tmp_path):
    lists = make_lists()
    all_liked = field_of(lists, labels=lists.shown)
    path = make_record(lists=all_liked).save(tmp_path)
    content = json.loads(path.read_text("utf-8"), parse_constant=pytest.fail)
    assert content["metrics"]["test"]["auc_shown"] is None
    record = Record.load(path)
    assert math.isnan(record.metrics["test"]["auc_shown"])
    assert record.metrics["test"]["auc_shown:defined"] == 0
    assert record.per_list()["auc_shown"].isnan().all()
    assert not record.per_list()["auc"].isnan().any()


def test_all_records_below_a_folder_are_read_in_order(tmp_path):
    for seed, group in ((2, "b"), (1, "b"), (0, "a"), (3, "")):
        make_record(seed=seed).save(tmp_path / group)
    assert [record.seed for record in load_records(tmp_path)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "text", ["", "{", "3", "[1]", "{}", '{"run": "x"}', '{"nosuch": 1}', "\x00", "null"]
)
def test_a_damaged_record_is_named(tmp_path, text):
    path = tmp_path / "damaged.json"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError, match=r"damaged\.json: not a record"):
        Record.load(path)
    with pytest.raises(DataError, match=r"damaged\.json: not a record"):
        list(load_records(tmp_path))


def test_a_truncated_record_is_named(tmp_path):
    path = make_record().save(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a record"):
        Record.load(path)


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nosuch\.json: cannot be read \(No such file"):
        Record.load(tmp_path / "nosuch.json")


def test_damaged_rankings_are_refused():
    with pytest.raises(ConfigError, match="not a packed ranking"):
        replace(make_record(), ranked_labels="damaged").ranked()
