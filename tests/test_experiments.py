"""A run is done once, survives a kill, and is what its configuration says."""

import math
import re
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from safetensors.torch import load_file
from worlds import field_of

from dnrlib import experiments
from dnrlib.costs import Rates, predicted_against_actual
from dnrlib.data import DATASETS
from dnrlib.errors import ConfigError, DataError
from dnrlib.experiments import (
    METHODS,
    evaluate,
    load_experiment,
    load_generator,
    load_reranker,
    merge,
    nested,
    run,
    run_config,
    run_name,
    took,
)
from dnrlib.identity import hash_of, plain
from dnrlib.losses import REGULARISERS
from dnrlib.parallel import Hardware
from dnrlib.prepare import prepare
from dnrlib.records import Record, load_records

SETTINGS = {
    "data": {
        "dataset": "simulated",
        "retriever": "noisy-truth",
        "train_lists": 400,
        "evaluation_lists": 100,
    },
    "options": {"dim": 8, "layers": 1, "feed_forward": 8},
    "training": {"epochs": 3, "lambda_e": 1},
}
KILLED = """
import os, signal, torch
from dnrlib.experiments import run, run_config
torch.set_num_threads(1)

def kill(progress):
    if progress.epoch == 2 and progress.validation is None:
        os.kill(os.getpid(), signal.SIGKILL)

run(run_config({settings}), on_progress=kill)
"""


def configured(**settings):
    return run_config(merge(SETTINGS, settings))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which the lists are prepared."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(configured().data, folder)
    return folder


@pytest.fixture(autouse=True)
def workplace(prepared, tmp_path, monkeypatch):
    """An empty folder for records and checkpoints, with the prepared lists."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/prepared").symlink_to(prepared)


# Configurations ---------------------------------------------------------------------------


def test_a_method_gives_defaults_that_settings_change():
    config = configured(method="DNR-G", training={"lambda_c": 0.2})
    assert (config.training.noise, config.training.generator) == ("gaussian", "scores")
    assert config.training.lambda_c == 0.2
    assert config.options == {"score_use": "concat", **SETTINGS["options"]}
    assert configured(method="DNR-G", training={"noise": "beta"}).training.noise == "beta"
    assert configured(method="add").options["score_use"] == "add"
    assert len({hash_of(configured(method=method)) for method in METHODS}) == len(METHODS)


@pytest.mark.parametrize("method", ["score", "score-reversed"])
def test_what_is_not_trained_has_no_settings_of_training(method):
    config = configured(method=method, seed=5)
    assert config == run_config({"method": method, "data": SETTINGS["data"]})
    assert (config.reranker, config.options, config.seed) == (method, {}, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "nosuch"}, "method 'nosuch' is unknown: choose one of score, score-reversed"),
        ({"method": "score", "training": {"nosuch": 1}}, "unknown parameter training.nosuch"),
        ({"method": "concat", "reranker": "score"}, "method = 'concat' and reranker = 'score'"),
        ({"method": "score", "reranker": "prm"}, "method = 'score' and reranker = 'prm' exclude"),
        ({"method": "score", "reranker": "score-reversed"}, "exclude each other"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        run_config(settings)


def test_merging_is_deep_and_changes_nothing():
    first, second = {"a": {"x": 1, "y": 2}, "b": 3}, nested("a.y", {"z": 4})
    assert merge(first, second) == {"a": {"x": 1, "y": {"z": 4}}, "b": 3}
    assert (first, second) == ({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": {"z": 4}}})


# A run ------------------------------------------------------------------------------------


def trained(config, **arguments):
    """The record, and the epochs that were trained for it."""
    epochs = []

    def note(progress):
        if progress.validation is not None:
            epochs.append(progress.epoch)

    return run(config, on_progress=note, **arguments), epochs


def test_a_run_is_done_once(tmp_path):
    said = []
    record, epochs = trained(configured(), group="some group")
    assert epochs == [1, 2, 3]
    (path,) = tmp_path.glob("results/some group/*.json")
    written = path.read_bytes()
    again, epochs = trained(configured(), say=said.append)
    assert epochs == []
    assert said[-1] == f"{record.run} is recorded already"
    assert hash_of(again) == hash_of(Record.load(path))
    assert path.read_bytes() == written
    assert len(list(tmp_path.rglob("results/**/*.json"))) == 1


def test_the_seed_alone_decides_what_is_random(tmp_path):
    torch.manual_seed(1)
    first = run(configured(method="DNR-G"))
    torch.manual_seed(2)
    elsewhere = run(configured(method="DNR-G"), tmp_path / "other", tmp_path / "other")
    assert first.metrics == elsewhere.metrics
    assert run(configured(method="DNR-G", seed=1)).metrics != first.metrics


def test_other_settings_lists_and_code_are_other_runs(monkeypatch):
    lists = prepare(configured().data)
    changed = [
        configured(),
        configured(seed=1),
        configured(training={"lambda_m": 0.1}),
        configured(options={"dim": 16}),
        configured(data={"train_lists": 300}),
    ]
    names = {experiments.run_name(config, lists) for config in changed}
    names.add(experiments.run_name(configured(), lists[:-1]))
    monkeypatch.setattr(experiments, "run_code", lambda *parts: "changed")
    names.add(experiments.run_name(configured(), lists))
    assert len(names) == len(changed) + 2


@pytest.mark.parametrize("name", [name for name in REGULARISERS if "-" in name])
def test_every_estimator_of_l_x_can_train_a_generator(name):
    training = {"regulariser": name, "epochs": 2}
    config = configured(method="DNR-B", training=training, data={"train_lists": 100})
    assert config.code != configured(method="DNR-B").code
    record = run(config)
    assert math.isfinite(record.curves[-1]["losses"]["L_x"])


def test_two_processes_know_every_estimator():
    config = configured(
        method="DNR-B",
        training={"regulariser": "pooled-beta", "epochs": 2},
        data={"train_lists": 100},
    )
    assert run(config, hardware=Hardware(devices=2)).cost["devices"] == 2


def test_a_record_says_what_came_out():
    record = run(configured(method="DNR-B"))
    assert [row["phase"] for row in record.curves] == [1, 2, 2]
    best = max(record.curves, key=lambda row: row["validation"])
    assert record.best_epoch == best["epoch"]
    assert record.metrics["validation"]["ndcg@6"] == best["validation"]
    assert record.metrics["test"]["ndcg@6"] == float(record.per_list()["ndcg@6"].nanmean())
    assert (record.data["train"], record.data["test"]) == (400, 100)
    assert record.cost["parameters"] > 0
    assert record.cost["peak_memory_mib"] > 50
    assert record.made["versions"]["torch"] == version("torch")


HARDWARE = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "compiled": False}


def test_a_run_says_and_records_what_it_was_predicted_to_take_and_took():
    said = []
    record = run(configured(), say=said.append)
    cost = record.cost
    assert HARDWARE.items() <= cost.items()
    assert cost["predicted_seconds"] > 0
    assert cost["predicted_memory_mib"] > 50
    before, after = said[-2:]
    assert re.fullmatch(r"Predicted: [\d.]+ s and [\d,]+ MiB on 1 x cpu", before)
    assert after == f"Took {took(record)}"
    expected = before.removeprefix("Predicted: ").removesuffix(" on 1 x cpu")
    assert after.endswith(f" (predicted: {expected})")
    (row,) = predicted_against_actual([record])
    assert row["predicted s"] == cost["predicted_seconds"]


def test_a_resumed_run_predicts_only_what_is_left(tmp_path, monkeypatch):
    def stop(progress):
        if progress.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "rates", lambda *_: Rates(1.0, 1.0, 0.0, 0.0, 5.0, 9.0))
    with pytest.raises(KeyboardInterrupt):
        run(configured(), on_progress=stop)
    assert run(configured()).cost["predicted_seconds"] == 5 + 2 * 400
    assert run(configured(seed=1)).cost["predicted_seconds"] == 5 + 3 * 400


def test_what_cannot_be_predicted_fails_by_itself():
    said = []
    with pytest.raises(ConfigError, match="dim = 8 is not a multiple of heads = 3"):
        run(configured(options={"heads": 3}), say=said.append)
    assert said[-1] == "Not predicted: dim = 8 is not a multiple of heads = 3"


@pytest.mark.slow
def test_the_hardware_is_recorded_but_is_no_part_of_the_run(tmp_path):
    """So a run can be begun on one and go on on another."""
    low = Hardware(precision="bf16-mixed")
    one = run(configured(), hardware=lambda work: low)
    two = run(configured(), tmp_path / "other", tmp_path / "other", hardware=Hardware(devices=2))
    assert one.run == two.run
    assert (one.cost["precision"], one.cost["devices"]) == ("bf16-mixed", 1)
    assert (two.cost["precision"], two.cost["devices"]) == ("32-true", 2)
    assert two.metrics["test"]["auc"] == pytest.approx(one.metrics["test"]["auc"], abs=0.1)


def test_the_score_alone_needs_no_training(tmp_path):
    record, epochs = trained(configured(method="score"))
    turned = run(configured(method="score-reversed"))
    assert (epochs, record.curves, record.best_epoch) == ([], [], 0)
    assert record.metrics["test"]["auc"] == pytest.approx(1 - turned.metrics["test"]["auc"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    settings = {**SETTINGS, "method": "DNR-B"}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.replace("{settings}", repr(settings))], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not list(load_records(tmp_path / "results"))
    record, epochs = trained(run_config(settings))
    assert epochs == [2, 3]
    whole = run(run_config(settings), tmp_path / "results of another", tmp_path / "other runs")
    for field in ("run", "metrics", "ranked_labels", "ranked_shown", "best_epoch"):
        assert getattr(record, field) == getattr(whole, field)
    for ours, theirs in zip(record.curves, whole.curves, strict=True):
        assert ours["losses"] == theirs["losses"]
        assert ours["validation"] == theirs["validation"]
    for part in ("reranker", "generator"):
        weights = [
            load_file(folder / record.run / f"{part}.safetensors")
            for folder in (tmp_path / "runs", tmp_path / "other runs")
        ]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    other = run(configured(seed=1))
    lists = prepare(configured().data)
    folder = tmp_path / "runs" / experiments.run_name(configured(), lists)
    folder.mkdir()
    (tmp_path / "runs" / other.run / "checkpoint.pt").rename(folder / "checkpoint.pt")
    with pytest.raises(DataError, match=r"checkpoint\.pt: the checkpoint is of another run; del"):
        run(configured())


def test_shuffled_training_labels_show(monkeypatch):
    """A broken pipeline must not look like a working one."""
    config = configured(
        data={"train_lists": 3000, "noisy_truth": {"scale": 0.5}}, options={"dim": 16}
    )

    def broken(*args, **kwargs):
        lists = prepare(*args, **kwargs)
        order = torch.rand(lists.labels.shape, generator=torch.Generator().manual_seed(0))
        mixed = lists.labels.gather(1, order.argsort(dim=1))
        return field_of(lists, labels=torch.where(lists.split[:, None] == 0, mixed, lists.labels))

    proper = run(config).metrics["validation"]["ndcg@6"]
    monkeypatch.setattr(experiments, "prepare", broken)
    shuffled = run(config).metrics["validation"]["ndcg@6"]
    assert proper > shuffled + 0.1


# Weights ----------------------------------------------------------------------------------


def test_the_weights_give_the_recorded_metrics_again():
    record = run(configured(method="DNR-B"))
    lists = prepare(configured().data)
    again = evaluate(load_reranker(record, lists), lists)
    assert again["metrics"] == record.metrics
    assert again["ranked_labels"] == record.ranked_labels
    generator = load_generator(record)
    assert generator(lists.labels).shape == lists.labels.shape


def test_missing_damaged_and_unfit_weights_are_named(tmp_path):
    record = run(configured())
    lists = prepare(configured().data)
    with pytest.raises(DataError, match=r"generator\.safetensors: the weights are not on this mac"):
        load_generator(record)
    larger = replace(lists, meta=lists.meta | {"items": 9999})
    with pytest.raises(DataError, match="the weights are of other users, items or n"):
        load_reranker(record, larger)
    path = tmp_path / "runs" / record.run / "reranker.safetensors"
    path.write_bytes(path.read_bytes()[:99])
    with pytest.raises(DataError, match="the weights are damaged"):
        load_reranker(record, lists)
    path.unlink()
    with pytest.raises(
        DataError, match=rf"{re.escape(record.run)}.*are not on this machine; to do the run ag"
    ):
        load_reranker(record, lists)


# Grids ------------------------------------------------------------------------------------


def experiment(folder, text):
    (folder / "experiments").mkdir(exist_ok=True)
    (folder / "experiments/some.yml").write_text(text)


def test_a_grid_is_every_combination_over_the_base(tmp_path):
    experiment(
        tmp_path,
        """
        base: {training: {epochs: 9, lambda_e: 1}, data: {dataset: simulated}}
        grid: {data.protocol: [retrieved, shown+sampled], seed: [1, 2], method: [none, DNR-B]}
        """,
    )
    configs = load_experiment("some")
    assert [(c.data.protocol, c.seed, c.method) for c in configs] == [
        (protocol, seed, method)
        for protocol in ("retrieved", "shown+sampled")
        for seed in (1, 2)
        for method in ("none", "DNR-B")
    ]
    assert all((c.training.epochs, c.data.dataset) == (9, "simulated") for c in configs)


def test_a_value_of_a_grid_may_be_settings(tmp_path):
    experiment(
        tmp_path,
        """
        base: {method: DNR-B, training: {epochs: 9, lambda_e: 1}}
        grid: {training: [{}, {regulariser: pooled}, {adversarial_weight: 0.0}]}
        """,
    )
    training = [config.training for config in load_experiment("some")]
    assert [t.regulariser for t in training] == ["conditional", "pooled", "conditional"]
    assert [t.adversarial_weight for t in training] == [1.0, 1.0, 0.0]
    assert {t.epochs for t in training} == {9}


def test_the_same_run_is_there_once(tmp_path):
    experiment(tmp_path, "base: {}\ngrid: {method: [score, none], seed: [0, 1, 2]}")
    assert [(c.method, c.seed) for c in load_experiment("some")] == [
        ("score", 0), ("none", 0), ("none", 1), ("none", 2),
    ]  # fmt: skip


def test_each_of_several_grids_is_laid_over_the_base(tmp_path):
    experiment(
        tmp_path,
        """
        base: {data: {dataset: simulated}}
        grid:
          - {method: [none, concat], seed: [0, 1]}
          - {method: [DNR-B], seed: [0]}
        """,
    )
    assert [(c.method, c.seed) for c in load_experiment("some")] == [
        ("none", 0), ("none", 1), ("concat", 0), ("concat", 1), ("DNR-B", 0),
    ]  # fmt: skip


def tuning(folder, found):
    """Records of two methods at two learning rates, with the validation NDCG@6 that is given."""
    experiment(
        folder,
        """
        base: {data: {dataset: simulated}}
        grid: {method: [none, concat], training.learning_rate: [0.1, 0.2]}
        """,
    )
    (folder / "experiments/chosen.yml").write_text(
        "tuned: {experiment: some, settings: [training.learning_rate]}\ngrid: {seed: [0, 3]}"
    )
    for config in load_experiment("some"):
        value = found[config.method, config.training.learning_rate]
        metrics = {"validation": {"ndcg@6": value}, "test": {"ndcg@6": -value}}
        record = Record(
            run=hash_of(config), method=config.method, config=plain(config), code="", data={},
            metrics=metrics, ranked_labels="", ranked_shown="", curves=[], best_epoch=1, cost={},
            made={"date": "2026-01-01"},
        )  # fmt: skip
        record.save(folder / "results/some")


FOUND = {("none", 0.1): 0.5, ("none", 0.2): 0.4, ("concat", 0.1): 0.3, ("concat", 0.2): 0.6}


def test_an_experiment_takes_the_settings_that_are_best_on_validation_lists(tmp_path):
    tuning(tmp_path, FOUND)
    chosen = load_experiment("chosen")
    assert [(c.method, c.training.learning_rate, c.seed) for c in chosen] == [
        ("none", 0.1, 0), ("none", 0.1, 3), ("concat", 0.2, 0), ("concat", 0.2, 3),
    ]  # fmt: skip
    assert chosen[0] == load_experiment("some")[0]
    tuning(tmp_path, {**FOUND, ("none", 0.2): 0.5})
    assert load_experiment("chosen")[0].training.learning_rate == 0.1  # the first of equals


def test_an_experiment_takes_only_the_methods_that_it_asks_for(tmp_path):
    tuning(tmp_path, FOUND)
    path = tmp_path / "experiments/chosen.yml"
    only = "only: {method: [concat], reranker: [prm]}"
    path.write_text(
        f"tuned: {{experiment: some, settings: [training.learning_rate], {only}}}\n"
        "grid: [{seed: [3]}, {seed: [0, 3], data.protocol: [retrieved]}]"
    )
    chosen = load_experiment("chosen")
    assert [(c.method, c.training.learning_rate, c.data.protocol, c.seed) for c in chosen] == [
        ("concat", 0.2, "shown+sampled", 3),
        ("concat", 0.2, "retrieved", 0),
        ("concat", 0.2, "retrieved", 3),
    ]
    path.write_text(path.read_text().replace("method:", "nosuch:"))
    with pytest.raises(ConfigError, match=r"tuned\.only\.nosuch: choose one of reranker, method"):
        load_experiment("chosen")


TUNED = "tuned: {experiment: some, settings: [training.learning_rate]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TUNED + "}\nbase: {}", "`base` counts for nothing beside `tuned`: delete one"),
        (TUNED + "}\nonly: {method: [concat]}", "unknown parameter only: choose one of base, t"),
        (TUNED + ", olny: {}}", r"parameter tuned\.olny: choose one of experiment, settings, only"),
        (TUNED + ", only: {method: concat}}", r"method = 'concat': must be a list, as in \[conc"),
        (TUNED + ", only: {method: [concta, x]}}", "no run of some has concta, x; choose from n"),
        (TUNED + ", only: {method: []}}", "leaves no run of some"),
        ("tuned: {experiment: some, settings: [training.learning_rat]}", "has the setting trai"),
        ("tuned: {experiment: some, settings: [learning_rate]}", "has the setting learning_rate"),
        ("tuned: {experiment: some, settings: [seed.x]}", "has the setting seed.x"),
        ("tuned: {experiment: some, settings: seed}", "settings = 'seed': must be a list, as in"),
        ("tuned: {experiment: some, settings: []}", "must be a list, as in"),
        ("tuned: {experiment: chosen, settings: [seed]}", "chosen is tuned on chosen, so that"),
        ("tuned: {experiment: circle, settings: [seed]}", "chosen is tuned on circle is tuned on"),
    ],
)
def test_tuning_that_would_be_ignored_or_endless_is_refused(tmp_path, text, message):
    tuning(tmp_path, FOUND)
    (tmp_path / "experiments/chosen.yml").write_text(text + "\ngrid: {seed: [0]}")
    circle = "tuned: {experiment: chosen, settings: [seed]}\ngrid: {seed: [0]}"
    (tmp_path / "experiments/circle.yml").write_text(circle)
    with pytest.raises(ConfigError, match=message) as error:
        load_experiment("chosen")
    assert str(error.value).startswith("experiments/chosen.yml: ")
    assert "\n" not in str(error.value)


def test_a_setting_that_only_some_runs_have_and_one_with_its_default_can_be_tuned(tmp_path):
    tuning(tmp_path, FOUND)
    path = tmp_path / "experiments/chosen.yml"
    for setting in ("options.score_use", "data.calibration", "training"):
        path.write_text(f"tuned: {{experiment: some, settings: [{setting}]}}\ngrid: {{seed: [0]}}")
        assert load_experiment("chosen")


def test_of_several_grids_each_is_done_for_all_methods_before_the_next(tmp_path):
    experiment(
        tmp_path,
        """
        base: {data: {dataset: simulated}}
        grid: [{seed: [0], method: [none, concat]}, {seed: [1], method: [none, concat]}]
        """,
    )
    assert [(c.seed, c.method) for c in load_experiment("some")] == [
        (0, "none"), (0, "concat"), (1, "none"), (1, "concat"),
    ]  # fmt: skip


def test_what_an_experiment_is_tuned_on_must_be_recorded(tmp_path):
    tuning(tmp_path, FOUND)
    next((tmp_path / "results/some").iterdir()).unlink()
    with pytest.raises(DataError, match="no record, and it is tuned on that.*--experiment some"):
        load_experiment("chosen")


def test_a_run_s_name_says_which_reranker_it_is():
    lists = prepare(configured().data)
    names = [
        run_name(configured(**settings), lists).rsplit(".", 2)[0]
        for settings in ({}, {"reranker": "setrank", "options": {}}, {"method": "score"})
    ]
    assert [name.split(".")[-1] for name in names] == ["concat", "setrank-concat", "score"]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("base: {", DataError, "not an experiment: needs `base`"),
        ("3", DataError, "not an experiment"),
        ("", DataError, "not an experiment"),
        ("base: {}", DataError, "not an experiment.*grid"),
        ("base: 3\ngrid: {seed: [1]}", DataError, "not an experiment"),
        ("base:\ngrid: {seed: [1]}", DataError, "not an experiment"),
        ("base: {}\ngrid: [1]", DataError, "not an experiment"),
        ("tuned: 3\ngrid: {seed: [1]}", DataError, "not an experiment"),
        ("tuned: {experiment: some}\ngrid: {seed: [1]}", DataError, "not an experiment.*settings"),
        ("base: {}\ngrid: {seed: 3}", DataError, "a value of `grid` is not a list"),
        ("base: {}\ngrid: {data.dataset: ml-1m}", DataError, "a value of `grid` is not a list"),
        ("base: {}\ngrid: {seed: []}", ConfigError, "some.yml: comes to no run: give every list"),
        ("base: {}\ngrid: []", ConfigError, "some.yml: comes to no run"),
        ("base: {}\ngird: {seed: [1]}", ConfigError, "some.yml: unknown parameter gird: choose"),
        ("base: {x: 1}\ngrid: {seed: [1]}", ConfigError, "some.yml: unknown parameter x"),
        ("base: {}\ngrid: {training.x: [1]}", ConfigError, "some.yml: unknown parameter training"),
        ("base: {}\ngrid: {method: [x]}", ConfigError, "some.yml: method 'x' is unknown"),
    ],
)
def test_a_bad_experiment_is_named(tmp_path, text, kind, message):
    experiment(tmp_path, text)
    with pytest.raises(kind, match=message) as error:
        load_experiment("some")
    assert "\n" not in str(error.value)


def test_an_unknown_experiment_lists_the_known(tmp_path):
    experiment(tmp_path, "")
    with pytest.raises(DataError, match=r"nosuch\.yml: no such experiment; there are: some"):
        load_experiment("nosuch")


def test_the_experiments_of_the_project_are_whole():
    root = experiments.Path(__file__).parents[1]
    for path in root.glob("experiments/*.yml"):
        configs = load_experiment(path.stem, path.parent, root / "results")
        assert {config.data.dataset for config in configs} <= {*DATASETS}
        assert len(configs) > 1
