"""The list of deviations: what is wrong with an entry is said, and effects are those of records."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from made_up_records import make_record
from worlds import make_lists

from dnrlib.deviations import (
    DEVIATIONS,
    Cell,
    Comparison,
    Deviation,
    check_cell,
    effects,
    load_deviations,
    setting,
)
from dnrlib.errors import ConfigError, DataError
from dnrlib.experiments import EXPERIMENTS, load_experiment, run_config

ROOT = Path(__file__).parents[1]
ENTRY = {
    "id": "one",
    "topic": "data",
    "forced": False,
    "paper": "silent",
    "ours": "this",
    "why": "that",
    "effect": {"unknown": "no runs"},
}
EFFECT = {
    "experiment": "seeds",
    "metric": "ndcg@6",
    "a": {"method": "DNR-B"},
    "b": {"experiment": "exact", "method": "DNR-B"},
}


@pytest.fixture
def written(tmp_path):
    def write(*entries):
        path = tmp_path / "deviations.yml"
        path.write_text(yaml.safe_dump(list(entries)), "utf-8")
        return load_deviations(path)

    return write


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Two experiments of made-up runs, one of which is recorded by hand."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    for name, method in (("first", "concat"), ("second", "DNR-B")):
        content = {
            "base": {"method": method, "training": {"epochs": 6, "lambda_e": 3}},
            "grid": {"seed": [0, 1]},
        }
        (folder / f"{name}.yml").write_text(yaml.safe_dump(content), "utf-8")
    monkeypatch.setattr("dnrlib.experiments.EXPERIMENTS", folder)
    return tmp_path / "results"


def record_of(seed=0, method="concat", **settings):
    return make_record(seed, method, training={"epochs": 6, "lambda_e": 3}, **settings)


def compared(a="first", b="second"):
    sides = [Cell(a, {"method": "concat"}), Cell(b, {"method": "DNR-B"})]
    return [Deviation("one", "data", False, "", "", "", Comparison(*sides, "ndcg@6"), "")]


def test_the_file_of_the_book_is_in_order():
    found = load_deviations(ROOT / DEVIATIONS)
    assert len({one.topic for one in found}) == 8
    assert any(one.forced for one in found)
    assert any(one.effect for one in found)


@pytest.mark.parametrize(
    "cell",
    {
        str(cell): cell
        for one in load_deviations(ROOT / DEVIATIONS)
        if one.effect
        for cell in (one.effect.a, one.effect.b)
    }.values(),
    ids=str,
)
def test_each_cell_of_the_file_names_one_kind_of_run(cell):
    check_cell(cell, ROOT / EXPERIMENTS, ROOT / "results")


def test_an_effect_is_a_comparison_or_a_reason(written):
    first, second = written(ENTRY | {"effect": EFFECT}, ENTRY | {"id": "two"})
    assert first.effect == Comparison(
        Cell("seeds", {"method": "DNR-B"}), Cell("exact", {"method": "DNR-B"}), "ndcg@6"
    )
    assert first.unknown == ""
    assert (second.effect, second.unknown) == (None, "no runs")


@pytest.mark.parametrize("key", ENTRY)
def test_a_missing_key_is_named_with_its_entry(written, key):
    with pytest.raises(DataError, match=rf"entry 2 \(.*\) lacks {key}"):
        written(ENTRY, {name: value for name, value in ENTRY.items() if name != key})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reason": "x"}, r"entry 1 \(one\) has the unknown key reason"),
        ({"topic": "weather"}, "topic 'weather' is none of data, "),
        ({"forced": "maybe"}, "forced must be true or false"),
        ({"effect": "large"}, "effect must have experiment, a, b, metric; or unknown"),
        ({"effect": {"unknown": ""}}, "effect must have"),
        ({"effect": EFFECT | {"c": {}}}, "effect must have"),
        ({"effect": EFFECT | {"a": "concat"}}, "a and b of its effect must be settings"),
    ],
)
def test_what_is_wrong_with_an_entry_is_said(written, change, message):
    with pytest.raises(DataError, match=message):
        written(ENTRY | change)


def test_two_entries_of_one_id_are_refused(written):
    with pytest.raises(DataError, match="one occurs twice"):
        written(ENTRY, ENTRY)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not YAML"), ("a: 1", "must be a list"), ("- 3", "entry 1 is not a mapping")],
)
def test_a_file_of_something_else_is_refused(tmp_path, text, message):
    (tmp_path / "deviations.yml").write_text(text, "utf-8")
    with pytest.raises(DataError, match=message):
        load_deviations(tmp_path / "deviations.yml")
    with pytest.raises(DataError, match="no such file"):
        load_deviations(tmp_path / "nothing.yml")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (Cell("nothing", {}), "there is no experiment 'nothing'"),
        (Cell("seeds", {"method": "DNR-X"}), "method 'DNR-X' is unknown"),
        (Cell("seeds", {"reranker": "prn"}), "reranker 'prn' is unknown"),
        (Cell("seeds", {"data.protokol": "x"}), "data.protokol is no setting of a run"),
        (Cell("seeds", {"method": "rank"}), "names 0 kinds of runs"),
        (Cell("seeds", {}), "names 4 kinds of runs"),
    ],
)
def test_a_cell_that_names_no_runs_or_several_kinds_is_refused(cell, message):
    with pytest.raises(ConfigError, match=message):
        check_cell(cell, ROOT / EXPERIMENTS, ROOT / "results")


def test_settings_are_found_by_their_path():
    config = run_config({"method": "rank", "data": {"factorisation": {"dim": 8}}})
    assert setting(config, "data.factorisation.dim") == 8
    assert setting(config, "options.score_use") == "rank"
    assert setting(config, "options.dim") is None


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (
            Cell("x", {"method": "concat", "data.protocol": "shown+sampled"}),
            Cell("x", {"method": "concat", "data.protocol": "retrieved"}),
            "protocol: shown+sampled, not retrieved",
        ),
        (Cell("x", {}), Cell("y", {"data.positive": 4.0}), "positive: 3, not 4"),
        (
            Cell("x", {}),
            Cell("y", {"reranker": "prm", "data.factorisation.epochs": 16}),
            "factorisation epochs: 4, not 16",
        ),
        (Cell("x", {}), Cell("y", {"method": "concat"}), "runs of x, not of y"),
    ],
)
def test_a_comparison_says_what_differs(a, b, words):
    assert str(Comparison(a, b, "ndcg@6")) == words


def test_every_comparison_of_the_list_has_its_own_words():
    compared = [one.effect for one in load_deviations(ROOT / DEVIATIONS) if one.effect]
    assert len({str(one) for one in compared}) == len(compared)


def test_an_effect_without_records_is_none(recorded):
    assert effects(compared(), recorded)["one"].difference is None
    record_of(0).save(recorded)
    found = effects(compared(), recorded)["one"]
    assert (found.difference, len(found.a), len(found.b)) == (None, 1, 0)


def test_runs_on_the_same_requests_are_paired_by_the_seeds_of_both(recorded):
    sides = {
        method: [record_of(seed, method, quality=quality) for seed in (0, 1)]
        for method, quality in (("concat", 0.3), ("DNR-B", 0.6))
    }
    for record in (*sides["concat"], sides["DNR-B"][1]):
        record.save(recorded)
    found = effects(compared(), recorded)["one"]
    first, second = (sides[method][1].per_list()["ndcg@6"].numpy() for method in sides)
    assert found.paired
    assert found.difference.mean == pytest.approx(np.nanmean(first - second))
    assert found.difference.seeds == 1


def test_runs_on_other_requests_are_not_paired(recorded):
    record_of(0).save(recorded)
    record_of(0, "DNR-B", lists=make_lists(seed=3)).save(recorded)
    found = effects(compared(), recorded)["one"]
    means = [one.metrics["test"]["ndcg@6"] for one in (*found.a, *found.b)]
    assert not found.paired
    assert found.difference.mean == pytest.approx(means[0] - means[1])


def test_runs_without_a_common_seed_are_compared_over_all_of_theirs(recorded):
    lists = make_lists()
    for record in (record_of(0, lists=lists), record_of(1, "DNR-B", quality=0.9, lists=lists)):
        record.save(recorded)
    found = effects(compared(), recorded)["one"]
    means = [one.metrics["test"]["ndcg@6"] for one in (*found.a, *found.b)]
    assert not found.paired
    assert found.difference.mean == pytest.approx(means[0] - means[1])


def test_an_experiment_that_waits_for_its_tuning_has_no_records(recorded, tmp_path):
    content = {"tuned": {"experiment": "first", "settings": ["seed"]}, "grid": {"seed": [0]}}
    path = tmp_path / "experiments" / "third.yml"
    path.write_text(yaml.safe_dump(content), "utf-8")
    with pytest.raises(DataError, match="has no record"):
        load_experiment("third", path.parent, recorded)
    assert effects(compared("third"), recorded)["one"].a == []
