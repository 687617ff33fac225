"""Predictions are arithmetic on measured rates, and the rates are measured once."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from made_up_records import make_record
from worlds import make_lists

from dnrlib import costs
from dnrlib.costs import (
    Place,
    Rates,
    Sizes,
    Work,
    choose,
    epochs_done,
    known_sizes,
    measure,
    note_sizes,
    predict,
    predicted_against_actual,
    random_lists,
    rates,
    side_by_side,
)
from dnrlib.errors import ConfigError
from dnrlib.parallel import Hardware
from dnrlib.prepare import DataConfig
from dnrlib.training import Trainer, TrainingConfig
from dnrlib.units import duration

SIZES = Sizes(1000, 100, 200, users=20, items=40, candidates=12, history=5)
DNR = TrainingConfig(epochs=5, lambda_e=2, batch_size=64, noise="beta", generator="scores")
WORK = Work("prm", {"score_use": "concat", "dim": 8, "layers": 1}, DNR, SIZES)
RATES = Rates(
    phase_one=0.001, phase_two=0.002, validating=0.01, evaluating=0.1, fixed=7, training_mib=50
)
PLACE = Place(Hardware(), threads=2)


# Arithmetic -------------------------------------------------------------------------------


def test_a_prediction_is_fixed_time_epochs_validation_and_evaluation():
    estimate = predict(WORK, RATES, PLACE, start_mib=100)
    assert estimate.seconds == pytest.approx(7 + 2 * 1 + 3 * 2 + 5 * 1 + 30)
    assert estimate.memory_mib == pytest.approx(100 + 50 + costs.lists_mib(SIZES))


@pytest.mark.parametrize(("done", "left"), [(1, 1 + 6 + 4), (2, 6 + 3), (4, 2 + 1), (5, 0)])
def test_a_resumed_run_predicts_only_what_is_left(done, left):
    assert predict(WORK, RATES, PLACE, done).seconds == pytest.approx(7 + left + 30)


def test_the_epochs_done_are_those_of_the_checkpoint(tmp_path):
    lists, path = make_lists(), tmp_path / "checkpoint.pt"
    assert epochs_done(None) == epochs_done(path) == 0
    reranker = torch.nn.Module()
    reranker.forward = lambda batch, scores: scores * weight
    weight = reranker.weight = torch.nn.Parameter(torch.ones(1))
    train, validation = lists.of_split("train"), lists.of_split("validation")
    trainer = Trainer(reranker, train, validation, TrainingConfig(epochs=3, lambda_e=0))
    trainer.run(path)
    assert epochs_done(path) == 3
    path.write_bytes(b"damaged")
    assert epochs_done(path) == 0


def test_what_is_not_trained_costs_its_evaluation():
    known = measure(Work("score", {}, TrainingConfig(), SIZES), Hardware())
    assert replace(known, evaluating=0.0) == Rates(0, 0, 0, 0, 0, 0)
    assert known.evaluating > 0


def test_every_process_has_the_lists():
    one = predict(WORK, RATES, PLACE, start_mib=0).memory_mib
    two = predict(WORK, RATES, replace(PLACE, hardware=Hardware(devices=2)), start_mib=0).memory_mib
    assert two == pytest.approx(3 * one + 2 * costs.bare_mib())


def test_memory_of_lists_is_that_of_their_tensors():
    lists = make_lists()
    tensors = [value for value in vars(lists).values() if isinstance(value, torch.Tensor)]
    there = sum(tensor.nbytes for tensor in tensors) / 2**20
    assert costs.lists_mib(Sizes.of_lists(lists)) == pytest.approx(there, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "workers", "total"),
    [([], 2, 0), ([3, 1, 1, 1], 2, 3), ([1, 1, 3], 2, 4), ([1, 2, 3], 1, 6), ([5], 4, 5)],
)
def test_runs_side_by_side_start_when_a_worker_is_free(seconds, workers, total):
    assert side_by_side(seconds, workers) == total


def test_durations_read_well():
    seconds = (0.04, 9.9, 9.96, 119, 120, 7100, 7200)
    assert [duration(one) for one in seconds] == [
        "0.0 s", "9.9 s", "10 s", "119 s", "2.0 min", "118.3 min", "2.0 h",
    ]  # fmt: skip


# Rates ------------------------------------------------------------------------------------


def measured(monkeypatch):
    """Count what is measured; it takes no time."""
    calls = []

    def count(work, hardware):
        calls.append(work)
        return replace(RATES, fixed=float(len(calls)))

    monkeypatch.setattr(costs, "measure", count)
    return calls


def test_a_kind_of_work_is_measured_once(tmp_path, monkeypatch):
    calls = measured(monkeypatch)
    assert rates(WORK, PLACE, tmp_path) == rates(WORK, PLACE, tmp_path)
    longer = replace(DNR, epochs=50, learning_rate=1e-4, lambda_c=0.2)
    more = replace(SIZES, train=9999, test=1)
    assert rates(replace(WORK, training=longer, sizes=more), PLACE, tmp_path).fixed == 1
    assert len(calls) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"options": {"score_use": "add", "dim": 8, "layers": 1}},
        *[{"training": replace(DNR, **{name: value})} for name, value in {
            "batch_size": 32, "estimator": "exact", "generator": "none", "lambda_m": 0.1,
        }.items()],
        *[{"sizes": replace(SIZES, **{name: 30})} for name in (
            "train", "users", "items", "candidates", "history"
        )],
    ],
)  # fmt: skip
def test_another_kind_is_measured_anew(tmp_path, monkeypatch, changed):
    calls = measured(monkeypatch)
    for work in (WORK, replace(WORK, **changed), WORK):
        rates(work, PLACE, tmp_path)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "place",
    [
        replace(PLACE, threads=1),
        replace(PLACE, workers=2),
        replace(PLACE, hardware=Hardware(devices=2)),
        replace(PLACE, hardware=Hardware(precision="bf16-mixed")),
    ],
)
def test_another_place_is_measured_anew(tmp_path, monkeypatch, place):
    calls = measured(monkeypatch)
    rates(WORK, PLACE, tmp_path)
    rates(WORK, place, tmp_path)
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["machine", "code_hash"])
def test_another_machine_or_code_is_measured_anew(tmp_path, monkeypatch, name):
    calls = measured(monkeypatch)
    rates(WORK, PLACE, tmp_path)
    monkeypatch.setattr(costs, name, lambda *_: "another")
    rates(WORK, PLACE, tmp_path)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[1]",
        lambda text: text.replace("phase_two", "phase_too"),
        lambda text: text.replace("50", '"many"'),
        lambda text: json.dumps(dict.fromkeys(json.loads(text), 3)),
    ],
)
def test_a_damaged_cache_is_measured_anew_and_replaced(tmp_path, monkeypatch, spoil):
    calls, path = measured(monkeypatch), tmp_path / "rates.json"
    rates(WORK, PLACE, tmp_path)
    path.write_text(spoil(path.read_text()))
    assert rates(WORK, PLACE, tmp_path) == rates(WORK, PLACE, tmp_path)
    assert len(calls) == 2
    assert len(json.loads(path.read_text())) == 1


def test_memory_that_the_measuring_needed_counts(monkeypatch):
    peaks = iter([500.0, 800.0, 800.0])
    monkeypatch.setattr(costs, "resident_mib", lambda: 400.0)
    monkeypatch.setattr(costs, "peak_mib", lambda: next(peaks))
    costs.bare_mib()
    assert measure(WORK, Hardware()).training_mib == 400
    monkeypatch.setattr(costs, "peak_mib", lambda: 900.0)  # as large before: nothing is known
    assert 0 < measure(WORK, Hardware()).training_mib < 10


@pytest.mark.parametrize("generator", ["none", "scores"])
def test_measuring_gives_rates_and_leaves_the_random_numbers_alone(generator):
    work = replace(WORK, training=replace(DNR, generator=generator))
    before = torch.get_rng_state()
    found = asdict(measure(work, Hardware()))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(0 <= value < math.inf for value in found.values())
    assert min(value for name, value in found.items() if name != "fixed") > 0
    assert (found["phase_one"] == found["phase_two"]) == (generator == "none")


@pytest.mark.parametrize(
    ("reranker", "trainer", "options"),
    [
        ("prm-text", "", {"text_dim": 5}),
        ("text-similarity", "", {}),
        ("prm-behaviours", "behaviours", {"behaviours": [0, 1]}),
        ("prm", "bound", {"score_use": "concat"}),
    ],
)
def test_what_wants_more_of_the_lists_can_be_measured_too(reranker, trainer, options):
    sizes = {} if reranker == "text-similarity" else {"dim": 8, "layers": 1}
    work = replace(WORK, reranker=reranker, trainer=trainer, options={**options, **sizes})
    assert measure(work, Hardware()).evaluating > 0


def test_random_lists_are_lists_of_the_shape():
    lists = random_lists(30, SIZES)
    assert Sizes.of_lists(lists) == replace(SIZES, train=30, validation=0, test=0)
    assert lists.items.dtype == make_lists().items.dtype


def test_impossible_work_is_refused_as_the_run_would(tmp_path):
    work = replace(WORK, options={"dim": 9})
    with pytest.raises(ConfigError, match="dim = 9 is not a multiple of heads = 4"):
        rates(work, PLACE, tmp_path)
    assert not (tmp_path / "rates.json").exists()


# Hardware ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds_a_list", "batch", "devices"),
    [(0.001, 128, 1), (1.0, 128, 4), (1.0, 48, 3), (1.0, 31, 1), (1.0, 8, 1)],
)
def test_a_long_run_takes_all_cores_with_enough_lists_each(
    tmp_path, monkeypatch, seconds_a_list, batch, devices
):
    known = Rates(seconds_a_list, seconds_a_list, 0, 0, 0, 0)
    monkeypatch.setattr(costs, "measure", lambda *_: known)
    monkeypatch.setattr(costs, "cores", lambda: 4)
    work = replace(WORK, training=replace(DNR, batch_size=batch))
    assert choose(work, "cpu", cache=tmp_path) == Hardware("cpu", devices)


@pytest.mark.parametrize(("batch", "there", "devices"), [(128, 8, 8), (128, 3, 2), (96, 8, 6)])
def test_gpus_divide_the_batch(monkeypatch, batch, there, devices):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    work = replace(WORK, training=replace(DNR, batch_size=batch))
    chosen = choose(work, precision="16-mixed", compile=True)
    assert chosen == Hardware("cuda", devices, "16-mixed", True)


def test_chosen_devices_are_taken_as_they_are_and_wrong_ones_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose(WORK, "cpu", "3") == Hardware("cpu", 3)
    for wrong, message in {
        ("cpu", "many"): "devices = 'many': must be auto or a whole number",
        ("cpu", "-1"): "devices = '-1': must be auto or a whole number",
        ("cpu", "0"): "devices = 0: must be at least 1",
        ("tpu", "1"): "accelerator = 'tpu': choose one of cpu, cuda",
        ("cuda", "1"): "1 GPUs are asked for and 0 are there",
    }.items():
        with pytest.raises(ConfigError, match=message):
            choose(WORK, *wrong)


# Sizes of lists that are not at hand ------------------------------------------------------


def test_sizes_are_remembered_with_the_lists(tmp_path):
    data, lists = DataConfig(train_lists=70), make_lists()
    assert known_sizes(data, cache=tmp_path) == (None, None)
    note_sizes(data, lists, tmp_path)
    found, start = known_sizes(data, cache=tmp_path)
    assert found == Sizes.of_lists(lists)
    assert start > 50
    assert known_sizes(DataConfig(), cache=tmp_path) == (None, None)
    assert known_sizes(DataConfig(dataset="ml-100k", train_lists=9), cache=tmp_path)[0] is None
    like = known_sizes(DataConfig(train_lists=50, evaluation_lists=3), cache=tmp_path)[0]
    assert like == replace(found, train=50, validation=3, test=3, candidates=50, history=20)
    (tmp_path / "sizes.json").write_text('{"a": 3, "b": {"dataset": "ml-1m", "sizes": 1}}')
    assert known_sizes(data, cache=tmp_path) == (None, None)


def test_sizes_come_from_a_record_of_the_same_lists(tmp_path):
    record = make_record(data={"train_lists": 1000, "history": 5})
    data = DataConfig(train_lists=1000, history=5)
    assert known_sizes(data, [record], tmp_path) == (None, None)
    told = replace(record, data={**record.data, **asdict(SIZES)})
    assert known_sizes(data, [record, told], tmp_path) == (SIZES, None)


# Afterwards -------------------------------------------------------------------------------


def test_predicted_and_actual_stand_side_by_side():
    cost = {
        "seconds": 12.0, "predicted_seconds": 10.0,
        "peak_memory_mib": 300.0, "predicted_memory_mib": 400.0,
    }  # fmt: skip
    records = [make_record(), replace(make_record(seed=1), cost=cost)]
    (row,) = predicted_against_actual(records)
    assert (row["method"], row["seed"], row["lists"]) == ("concat", 1, None)
    assert (row["predicted s"], row["s"], row["s / predicted"]) == (10, 12, 1.2)
    assert (row["predicted MiB"], row["MiB"], row["MiB / predicted"]) == (400, 300, 0.75)
