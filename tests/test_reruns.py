"""What it takes is read off the records; a run done again is held against a tolerance."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_records import make_record
from scipy.stats import t as student
from worlds import make_lists

from dnrlib.errors import ConfigError, DataError
from dnrlib.experiments import load_experiment, merge, run, run_config
from dnrlib.identity import plain
from dnrlib.measurements import SAME_RUN
from dnrlib.records import ranked_record
from dnrlib.reruns import (
    CONTRADICTION,
    METRICS,
    ROUNDING,
    Again,
    again,
    cell,
    cells,
    differing,
    of_seed,
    seconds,
    tolerance,
    what_it_takes,
)

EXPERIMENT = """
base:
  data: {dataset: simulated, retriever: noisy-truth, train_lists: 300, evaluation_lists: 100}
  options: {dim: 8, layers: 1}
  training: {epochs: 3, lambda_e: 1}
grid: {method: [score, concat, DNR-B], seed: [0, 1]}
"""
TUNED = "tuned: {experiment: small, settings: [training.learning_rate]}\ngrid: {seed: [0]}\n"
LISTS = make_lists(lists=600)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder with an experiment, and one that is tuned on it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/small.yml").write_text(EXPERIMENT)
    (tmp_path / "experiments/tuned.yml").write_text(TUNED)
    return tmp_path


def table(experiment, **options):
    return {row["what"]: row["here"] for row in what_it_takes(experiment, **options)}


def recorded(config, number):
    """A made-up record of a configuration, which took `number` minutes."""
    record = make_record(config.seed, config.method, lists=LISTS, data=plain(config.data))
    return replace(
        record, run=f"run-{number}", config=plain(config), code=config.code,
        cost={"seconds": 60.0 * number, "training_seconds": 50.0 * number},
        made={"date": f"2026-01-0{number}T00:00:00", "commit": f"c{number % 2}", "machine": "m"},
    )  # fmt: skip


# What it takes ----------------------------------------------------------------------------


def test_an_experiment_that_is_not_begun_says_what_it_would_do(workplace):
    found = table("small")
    assert found["command"] == "dnr reproduce --experiment small"
    assert (found["runs"], found["recorded"]) == ("5", "0")
    assert found["time of the recorded runs"] == "none recorded yet"
    assert found["models"] == "score, concat, DNR-B"
    assert found["seeds"] == "0, 1"
    assert found["one cell"].endswith("--cell DNR-B@simulated@shown+sampled@noisy-truth")


def test_time_commits_and_machines_are_those_of_the_records(workplace):
    configs = load_experiment("small")
    for number, config in enumerate(configs[:4], start=1):
        recorded(config, number).save()
    found = table("small", workers=2)
    assert (found["runs"], found["recorded"]) == ("5", "4")
    # Of 1, 2, 3 and 4 minutes one worker has the first and the third, the other the rest.
    assert found["time of the recorded runs"].startswith(
        "10.0 min one after the other, 6.0 min with 2 side by side"
    )
    assert (found["commits"], found["machines"]) == ("c1, c0", "m")
    assert found["made"] == "2026-01-01 to 2026-01-04"
    assert found["code"] == "the code as it is now"
    recorded(configs[4], 5).save()
    assert table("small")["recorded"] == "5"
    assert all(set(row) == {"what", "here"} for row in what_it_takes("small"))


def test_epochs_before_an_interruption_count_too():
    record = make_record()
    assert seconds(replace(record, cost={"seconds": 3.0, "training_seconds": 8.0})) == 8.0
    assert seconds(replace(record, cost={"seconds": 9.0, "training_seconds": 8.0})) == 9.0


def test_what_is_tuned_on_runs_that_are_not_there_says_so(workplace):
    found = table("tuned")
    assert found["runs"] == "not known yet"
    assert "do it with `dnr reproduce --experiment small`" in found["why"]


def test_an_experiment_that_is_not_there_is_an_error(workplace):
    with pytest.raises(DataError, match="no such experiment; there are: small, tuned"):
        what_it_takes("nosuch")


# Cells of a table -------------------------------------------------------------------------


def grid(**settings):
    return [run_config({"seed": seed, **settings}) for seed in (3, 4)]


def test_a_cell_is_named_by_what_tells_it_from_the_others():
    few = grid(method="concat", training={"epochs": 6})
    many = grid(method="concat", training={"epochs": 8, "weight_decay": 0.1})
    other = grid(method="concat", data={"protocol": "retrieved"})
    known = cells([*few, *many, *other])
    place = "concat@ml-1m@shown+sampled@earlier"
    weak, strong = "training.weight_decay=0.01", "training.weight_decay=0.1"
    assert known == {
        f"{place}@training.epochs=6@{weak}": few,
        f"{place}@training.epochs=8@{strong}": many,
        "concat@ml-1m@retrieved@earlier": other,
    }
    for name, group in known.items():
        assert cell([*few, *many, *other], name) == group
    assert cell([*few, *other], "concat@ml-1m@shown+sampled") == few
    assert cell([*few, *many, *other], "training.epochs=8") == many
    with pytest.raises(ConfigError, match=r"'concat' fits 2 cells, say more: choose one of .*, "):
        cell([*few, *other], "concat")
    with pytest.raises(ConfigError, match="'x' is no cell .*: choose one of concat@ml-1m@shown"):
        cell([*few, *other], "x")


def test_the_first_seed_is_done_unless_another_is_asked_for():
    configs = grid(method="concat")
    assert of_seed(configs) == configs[:1]
    assert of_seed(configs, "4") == configs[1:]
    assert of_seed(configs, "all") == configs
    with pytest.raises(ConfigError, match="seed = '9': choose one of 3, 4 or all"):
        of_seed(configs, "9")


# A run once more --------------------------------------------------------------------------


def test_the_same_run_comes_out_and_nothing_is_touched(workplace):
    record = run(load_experiment("small")[-1])
    (workplace / "results/copy").mkdir()
    files = {path: path.stat().st_mtime_ns for path in workplace.rglob("*.*") if path.is_file()}
    torch.manual_seed(5)
    found = again(record)
    assert found.other == []
    assert [found.verdict(metric) for metric in found.tolerance] == ["same"] * len(METRICS)
    assert found.holds
    after = {path: path.stat().st_mtime_ns for path in workplace.rglob("*.*") if path.is_file()}
    assert after == files
    assert not (workplace / "runs/again").exists()


def test_a_falsified_ranking_does_not_pass_though_all_metrics_come_out_again(workplace):
    record = run(load_experiment("small")[0])
    labels, shown = (part.clone() for part in record.ranked())
    labels[:50], shown[:50] = labels[:50].roll(1, 1), shown[:50].roll(1, 1)
    said = []
    found = again(replace(record, **ranked_record(labels, shown)), say=said.append)
    assert found.difference() == 0
    assert found.verdict() == CONTRADICTION == "contradiction"
    assert not found.holds
    assert said[0].startswith("The record contradicts itself: ")
    assert Again(record, found.again, found.tolerance, "", []).holds


def test_a_contradiction_in_what_is_not_compared_counts_too():
    record = make_record()
    metrics = {**record.metrics, "test": {**record.metrics["test"], "auc:defined": 0.5}}
    wrong = replace(record, metrics=metrics)
    found = Again(wrong, record, {"ndcg@6": ROUNDING}, "", [])
    assert found.verdict() == "same"
    assert not found.holds


def test_an_interrupted_one_goes_on(workplace):
    record = run(load_experiment("small")[-1])

    def interrupt(progress):
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(record, on_progress=interrupt)
    epochs, said = [], []
    found = again(record, on_progress=lambda one: epochs.append(one.epoch), say=said.append)
    assert set(epochs) == {2, 3}
    assert any(text.startswith("Going on from runs/again/") for text in said)
    assert found.verdict() == "same"


def test_what_is_not_as_it_was_is_said_with_the_lists_first():
    record = replace(
        make_record(), made={"machine": "old", "versions": {"torch": "1"}},
        cost={"threads": 1, "precision": "32-true"},
    )  # fmt: skip
    assert differing(record, record) == []
    now = replace(
        record, made={"machine": "new", "versions": {"torch": "2"}}, code="else",
        data=record.data | {"fingerprint": "f"}, cost={"threads": 4, "precision": "32-true"},
    )  # fmt: skip
    names = [text.split(":")[0] for text in differing(record, now)]
    assert names == ["candidate lists", "training code", "machine", "versions", "threads"]
    assert differing(record, now)[3] == "versions: torch 1, now torch 2"


def of_cells(*cells_of_values, method="concat"):
    """Records of cells of the same kind, with made-up NDCG@6."""
    found = []
    for weight, values in enumerate(cells_of_values):
        for seed, value in enumerate(values):
            one = make_record(seed, method, training={"regulariser_weight": float(weight)})
            one.metrics["test"]["ndcg@6"] = value
            found.append(one)
    return found


def test_the_tolerance_is_students_with_the_spread_pooled_over_cells():
    records = of_cells([0.50, 0.52, 0.51], [0.40, 0.44, 0.40, 0.44])
    allowed, why = tolerance(records[0], records)
    pooled = math.sqrt((2 * np.var([0.50, 0.52, 0.51], ddof=1) + 3 * np.var(
        [0.40, 0.44, 0.40, 0.44], ddof=1)) / 5)  # fmt: skip
    factor = student.ppf(0.995, 5) * math.sqrt(2)
    assert allowed["ndcg@6"] == pytest.approx(factor * pooled)
    assert why.startswith(f"{factor:.1f} standard deviations over seeds, pooled over 2 cells")
    assert list(allowed) == list(METRICS)


def test_the_tolerance_holds_for_the_share_of_pairs_that_it_says():
    random, records = np.random.default_rng(0), of_cells([0.0] * 4, [0.0] * 4)
    outside = []
    for _ in range(1500):
        for record, value in zip(records, random.normal(0, 0.01, len(records)), strict=True):
            record.metrics["test"]["ndcg@6"] = value
        allowed, _ = tolerance(records[0], records)
        outside.append(abs(np.subtract(*random.normal(0, 0.01, 2))) > allowed["ndcg@6"])
    assert np.mean(outside) == pytest.approx(0.01, abs=0.006)


@pytest.mark.parametrize("change", ["lists", "reranker", "epochs"])
def test_the_spread_of_other_lists_rerankers_or_lengths_does_not_count(change):
    records = of_cells([0.5, 0.6, 0.5, 0.6, 0.5])
    record = records[0]
    if change == "lists":
        record = replace(record, data=record.data | {"fingerprint": "other"})
    elif change == "reranker":
        record = replace(record, config=record.config | {"reranker": "dlcm"})
    else:
        training = record.config["training"] | {"epochs": 99}
        record = replace(record, config=record.config | {"training": training})
    allowed, why = tolerance(record, records)
    assert set(allowed.values()) == {SAME_RUN}
    assert "fewer than 5 seeds" in why
    assert tolerance(records[0], records)[0]["ndcg@6"] > SAME_RUN


def test_what_is_not_trained_must_be_the_same_on_the_same_lists():
    record = make_record(method="score")
    assert set(tolerance(record, [record])[0].values()) == {ROUNDING}
    assert set(tolerance(record, [record], other_lists=True)[0].values()) == {SAME_RUN}


def test_a_difference_is_same_within_or_outside():
    record = make_record()
    now = replace(record, metrics={"test": dict(record.metrics["test"])})
    now.metrics["test"] |= {"ndcg@6": record.metrics["test"]["ndcg@6"] + 0.05, "auc": math.nan}
    metrics = ("ndcg@6", "map@6", "auc")
    wide = Again(record, now, dict.fromkeys(metrics, 0.06), "", [])
    assert wide.difference() == pytest.approx(0.05)
    assert [wide.verdict(metric) for metric in metrics] == ["within", "same", "-"]
    assert wide.holds
    narrow = replace(wide, tolerance=dict.fromkeys(metrics, 0.04))
    assert narrow.verdict() == "outside"
    assert not narrow.holds


def test_a_broken_run_is_outside(workplace):
    base = merge(
        plain(load_experiment("small")[1]), {"data": {"train_lists": 1000}, "options": {"dim": 32}}
    )
    quick = {"epochs": 4, "learning_rate": 1e-2}
    records = [run(run_config(merge(base, {"training": quick, "seed": seed}))) for seed in range(5)]
    allowed, why = tolerance(records[0], records)
    assert why.startswith("6.5 standard deviations")
    stuck = merge(base, {"training": quick | {"learning_rate": 1e-9}})
    found = Again(records[0], run(run_config(stuck)), allowed, why, [])
    assert found.difference() < 0
    assert found.verdict() == "outside"
    same = Again(records[0], records[1], allowed, why, [])
    assert same.holds
