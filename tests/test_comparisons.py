"""Tables are made of the right records, paired as they must be."""

import numpy as np
import pytest
from made_up_records import make_record
from worlds import make_lists

from dnrlib import comparisons
from dnrlib.errors import DataError
from dnrlib.statistics import Interval, estimate

EXPERIMENT = """
base: {data: {dataset: simulated}, training: {beta: [1, 2]}}
grid: {method: [score, none, concat], seed: [0, 1]}
"""
SETTINGS = {"data": {"dataset": "simulated"}, "training": {"beta": [1, 2]}}
LISTS = make_lists(lists=200)


def record(method="concat", seed=0, **changes):
    return make_record(seed, method, **{"lists": LISTS, **changes})


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """An experiment whose runs are all recorded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/small.yml").write_text(EXPERIMENT)
    for method, seed in (("none", 1), ("concat", 0), ("score", 0), ("none", 0), ("concat", 1)):
        record(method, seed, **SETTINGS).save(tmp_path / "results/small")


def test_an_experiments_records_come_in_its_order(experiment):
    found = [(one.method, one.seed) for one in comparisons.recorded("small")]
    assert found == [("score", 0), ("none", 0), ("none", 1), ("concat", 0), ("concat", 1)]


def test_of_several_records_the_newest_counts(experiment, tmp_path):
    for date, quality in (("2019-12-31", 0.5), ("2020-01-02", 2.0), ("2019-01-01", 0.7)):
        record(date=date, quality=quality, **SETTINGS).save(tmp_path / "results/small")
    (found,) = comparisons.of(comparisons.recorded("small"), method="concat", seed=0)
    assert found.made["date"] == "2020-01-02"


def test_records_of_other_settings_do_not_count(experiment, tmp_path):
    for path in (tmp_path / "results/small").glob("concat.1.*"):
        path.unlink()
    record(seed=1).save(tmp_path / "results/small")
    missing = (
        r"1 of 5 runs have no record, the first is concat \(simulated, shown\+sampled, earlier "
        r"scores, seed 1\): do them with `dnr reproduce --experiment small`"
    )
    with pytest.raises(DataError, match=missing):
        comparisons.recorded("small")


def test_the_age_of_records_is_that_of_their_code(monkeypatch):
    records = [record(), record(seed=1)]
    assert comparisons.age(records) == "the code as it is now"
    monkeypatch.setattr("dnrlib.experiments.run_code", lambda *parts: "changed")
    assert comparisons.age(records) == "an earlier version of the training code"


def test_a_gain_is_first_minus_second_in_pairs():
    better, worse = record(quality=2.0), record(method="none", quality=0.1)
    gain, loss = comparisons.gain([better], [worse]), comparisons.gain([worse], [better])
    difference = better.metrics["test"]["ndcg@6"] - worse.metrics["test"]["ndcg@6"]
    assert gain.mean == pytest.approx(difference)
    assert gain.mean == -loss.mean > 0.1
    assert gain.low > 0 > loss.high
    assert comparisons.gain([better], [worse], "auc").mean == pytest.approx(
        better.metrics["test"]["auc"] - worse.metrics["test"]["auc"]
    )


def test_a_difference_is_an_estimate_with_the_given_confidence_and_resamples():
    better, worse = ([record(name, seed) for seed in range(3)] for name in ("concat", "none"))
    better = [record("concat", seed, quality=0.6) for seed in range(3)]
    rows = comparisons.per_seed(better, "auc") - comparisons.per_seed(worse, "auc")
    assert comparisons.difference(better, worse, "auc") == estimate(rows)
    for given in ({"confidence": 0.8}, {"resamples": 50}, {"resamples": None}):
        found = comparisons.difference(better, worse, "auc", **given)
        assert found == estimate(rows, **given)
        assert found != estimate(rows)


def test_seeds_pair_whatever_the_order_of_the_records():
    first, second = ([record(name, seed) for seed in range(3)] for name in ("none", "concat"))
    gain = comparisons.gain([first[i] for i in (2, 0, 1)], [second[i] for i in (1, 2, 0)])
    assert gain.mean == gain.low == gain.high == 0


def test_what_is_not_trained_pairs_with_every_seed():
    trained, score = [record(seed=seed) for seed in (4, 5)], [record("score")]
    gain, loss = comparisons.gain(trained, score), comparisons.gain(score, trained)
    rows = [one.per_list()["ndcg@6"].numpy() for one in (*trained, *score)]
    assert gain.mean == pytest.approx(np.mean([rows[0] - rows[2], rows[1] - rows[2]]))
    assert gain.mean == pytest.approx(-loss.mean)
    assert comparisons.gain(score, score).mean == 0


@pytest.mark.parametrize(
    ("first", "second"), [([0, 1], [0, 2]), ([0, 1], [0]), ([0, 0], [0, 0]), ([], [0])]
)
def test_other_seeds_are_refused(first, second):
    groups = [
        [record(name, seed) for seed in seeds]
        for name, seeds in (("none", first), ("concat", second))
    ]
    with pytest.raises(DataError, match="cannot be paired"):
        comparisons.gain(*groups)


def test_other_lists_and_no_records_are_refused():
    other = record(method="none", lists=make_lists(lists=200, seed=1))
    for compare in (comparisons.gain, lambda a, b: comparisons.mean([*a, *b])):
        with pytest.raises(DataError, match="records of different lists cannot be paired"):
            compare([record()], [other])
    with pytest.raises(DataError, match="no record"):
        comparisons.mean([])


def test_a_mean_is_over_seeds_and_lists():
    records = [record(seed=seed) for seed in range(3)]
    mean = comparisons.mean(records)
    assert mean.mean == pytest.approx(np.mean([r.metrics["test"]["ndcg@6"] for r in records]))
    assert mean.low < mean.mean < mean.high
    assert comparisons.per_seed(records).shape == (3, records[0].data["test"])


def test_a_table_has_a_row_a_method_and_a_column_a_protocol():
    protocols = {"retrieved": make_lists(seed=1), "shown+sampled": make_lists(seed=2)}
    records = [
        make_record(seed, method, quality, lists, data={"protocol": protocol})
        for protocol, lists in protocols.items()
        for method, quality in (("none", 0.1), ("concat", 1.0))
        for seed in range(2)
    ]
    means = comparisons.means(records)
    table = comparisons.table(means)
    assert [row["method"] for row in table] == ["none", "concat"]
    assert table[1]["retrieved"] == f"{means['retrieved']['concat']}"
    assert list(table[0]) == ["method", *protocols]
    gains = comparisons.gains(records, "none")
    assert all(list(row) == ["concat"] and row["concat"].low > 0 for row in gains.values())


def test_no_difference_has_a_minus_before_zeros_alone():
    found = Interval(-0.0004, -0.0031, 0.0004, 10, 0)
    assert f"{found}" == "0.000 [-0.003, 0.000]"
    assert f"{found:+}" == "+0.000 [-0.003, +0.000]"
    assert comparisons.in_words({"a": found}, "for") == "not told apart for a (+0.000)"


def test_differences_in_words_follow_the_intervals():
    found = {
        "a": Interval(0.02, 0.01, 0.03, 9, 0),
        "b": Interval(-0.02, -0.03, -0.01, 9, 0),
        "c": Interval(0.01, -0.01, 0.03, 9, 0),
        "d": Interval(0.04, 0.02, 0.05, 9, 0),
    }
    words = comparisons.in_words(found, "for")
    assert words == (
        "above for a (+0.020) and d (+0.040); below for b (-0.020); not told apart for c (+0.010)"
    )


def test_settings_other_than_the_protocol_group_a_table():
    few, many = make_lists(seed=1), make_lists(seed=2)
    records = [
        make_record(0, method, quality, lists, data={"train_lists": size})
        for size, lists in ((100, few), (200, many))
        for method, quality in (("none", 0.1), ("concat", 1.0))
    ]
    gains = comparisons.gains(
        records, "none", setting=lambda record: f"{record.config['data']['train_lists']} lists"
    )
    assert list(gains) == ["100 lists", "200 lists"]
    table = comparisons.table(gains, "+")
    assert table[0]["100 lists"] == f"{gains['100 lists']['concat']:+}"
    assert table[0]["100 lists"].startswith("+")


def test_a_gain_over_seeds_pairs_the_seeds():
    better = [record(seed=seed, quality=0.6) for seed in (1, 0, 2)]
    worse = [record(seed=seed) for seed in (0, 1, 2)]
    found = comparisons.gain_over_seeds(better, worse)
    assert found.mean == pytest.approx(comparisons.gain(better, worse).mean)
    assert found.low < found.mean < found.high
    with pytest.raises(DataError, match="cannot be paired"):
        comparisons.gain_over_seeds(better, worse[:2])
