"""What was expected is judged by its rule: made-up runs move every verdict."""

from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_records import make_record
from worlds import make_lists

from dnrlib import expectations, robustness, studies
from dnrlib.errors import DataError
from dnrlib.expectations import (
    LIST_RERANKERS,
    NOT_ASKED,
    OPEN,
    judged,
    lost_by_patience,
    of_game,
    of_multiverse,
    of_protocol_study,
    of_regimes,
    of_rerankers,
    of_robustness,
    of_sequence,
    older_than_file,
    share_true,
    with_patience,
)
from dnrlib.statistics import Estimate
from dnrlib.training import Trainer, TrainingConfig

ROOT = Path(__file__).parents[1]
LISTS = make_lists(lists=600)
DNR = {"epochs": 6, "lambda_e": 3}


def runs(quality, seeds=(0, 1, 2), **settings):
    """Records whose NDCG grows with their quality."""
    return [make_record(seed, quality=quality, lists=LISTS, **settings) for seed in seeds]


@pytest.fixture
def known(monkeypatch):
    """Experiment -> its records; those that are not given are not begun."""
    records = {}

    def present(experiment, results=None):
        found = records.get(experiment, [])
        return found, [] if found else ["a run"]

    monkeypatch.setattr(expectations, "present", present)
    return records


def rerankers(prm=0.4, sasrec=0.4, pier=0.4, others=0.4, dnr=0.0, none=0.0):
    quality = dict.fromkeys(LIST_RERANKERS, others) | {"prm": prm, "sasrec": sasrec, "pier": pier}
    found = [record for name, one in quality.items() for record in runs(one, reranker=name)]
    found += runs(prm + none, method="none", reranker="prm")
    for name in ("prm", "pier"):
        for method in ("DNR-G", "DNR-B"):
            found += runs(quality[name] + dnr, method=method, reranker=name, training=DNR)
    return found


@pytest.mark.parametrize(
    ("world", "verdicts"),
    [
        ({}, ["undecided", "undecided", "undecided", "true"]),
        ({"sasrec": -0.4}, ["true", "undecided", "undecided", "true"]),
        ({"sasrec": -0.4, "pier": -0.8}, ["false", "false", "undecided", "true"]),
        ({"pier": 1.2, "sasrec": 0.0}, ["true", "true", "undecided", "true"]),
        ({"dnr": 0.8}, ["undecided", "undecided", "true", "true"]),
        ({"dnr": -0.8}, ["undecided", "undecided", "false", "true"]),
        ({"none": 0.8}, ["undecided", "undecided", "undecided", "false"]),
    ],
    ids=str,
)
def test_the_order_of_rerankers(known, world, verdicts):
    known["rerankers"] = rerankers(**world)
    told = of_rerankers()
    assert [one.verdict for one in told] == verdicts
    assert [one.by for one in told] == [*["the paper"] * 3, "this book"]


@pytest.mark.parametrize(
    ("qualities", "verdict"),
    [((1.2, 0.4), "true"), ((1.2, 1.1), "false"), ((0.4, 0.4), "false"), ((0.1, 0.9), "false")],
)
def test_most_of_the_lead_must_go(known, qualities, verdict):
    known["rerankers"] = runs(0.3, reranker="prm")
    known["sequence"] = [
        record
        for quality, weight in zip(qualities, (1.0, 0.0), strict=True)
        for record in runs(quality, reranker="sasrec", options={"sequence_weight": weight})
    ]
    [one] = of_sequence()
    assert one.verdict == verdict


@pytest.mark.parametrize(
    ("full", "pooled", "without", "verdicts"),
    [
        (0.48, 0.40, 0.50, ["true", "true", "true"]),
        (0.60, 0.70, 0.60, ["false", "false", "false"]),
        (0.48, 0.48, 0.475, ["true", "undecided", "false"]),
    ],
)
def test_the_generators_of_the_games(known, monkeypatch, full, pooled, without, verdicts):
    games = {
        "full": ({}, full),
        "pooled": ({"regulariser": "pooled"}, pooled),
        "no L_adv": ({"adversarial_weight": 0.0}, without),
        "no L_x": ({"regulariser_weight": 0.0}, 0.9),
    }
    known["game"], measured = [], []
    for name, (training, auc) in games.items():
        for seed, record in enumerate(runs(0.4, method="DNR-B", training=DNR | training)):
            object.__setattr__(record, "run", f"{name}.{seed}")
            known["game"].append(record)
            spread = 0.001 * (seed - 1) * (-1 if name == "pooled" else 1)
            rows = [
                {"noise": noise, "given": given, "auc": value}
                for noise, value in (("real", 0.8), ("generator", auc + spread))
                for given in ("z = 0", "pooled")
            ]
            measured.append({"run": record.run, "rows": rows})
    measurement = SimpleNamespace(runs=measured)
    monkeypatch.setattr(expectations, "load_measurement", lambda *given: measurement)
    assert [one.verdict for one in of_game()] == verdicts


def regimes(gaining, losing):
    """Runs of every setting; noises gain or lose in the settings that are named."""
    found = []
    for scale in (0.5, 2.0, 8.0):
        for optimism in (0.0, 2.0):
            for lists in (300, 2000):
                truth = {"scale": scale, "optimism": optimism}
                data = {
                    "dataset": "simulated", "retriever": "noisy-truth",
                    "noisy_truth": truth, "train_lists": lists,
                }  # fmt: skip
                for method in ("concat", "noise-G", "noise-B"):
                    place = (method, scale, optimism, lists)
                    quality = 0.4 + 0.8 * gaining(*place) - 0.8 * losing(*place)
                    found += runs(quality, method=method, data=data)
    return found


def test_the_regimes_are_judged_in_every_setting_that_they_name(known):
    def gaining(method, scale, optimism, lists):
        return method == "noise-G" and optimism == 2 and scale < 8

    def losing(method, scale, optimism, lists):
        return method == "noise-B" and scale == 8

    known["regimes"] = regimes(gaining, losing)
    assert [one.verdict for one in of_regimes()] == ["true", "true", "true"]
    one_off = regimes(
        lambda *place: (
            gaining(*place) ^ (place in [("noise-G", 2, 2, 300), ("noise-B", 2, 0, 2000)])
        ),
        lambda *place: losing(*place) and place[3] == 300,
    )
    known["regimes"] = one_off
    told = of_regimes()
    assert [one.verdict for one in told] == ["false", "false", "false"]
    assert [one.found for one in told] == [
        "in 3 of 4 settings", "in 5 of 6 settings", "in 2 of 4 settings"
    ]  # fmt: skip


def test_what_the_studies_tell_is_told_on(monkeypatch):
    found = [
        studies.Finding("H1", "retrieved", estimate_of(0.1), "true"),
        studies.Finding("H4", "retrieved · earlier", None, "false"),
        studies.Finding("H4", "all cells", None, "open"),
    ]
    monkeypatch.setattr(studies, "load_study", lambda results: None)
    monkeypatch.setattr(studies, "findings", lambda study: found)
    told = of_protocol_study()
    assert [one.verdict for one in told] == ["true", OPEN]
    assert told[0].found.startswith("+0.10000 [")


def test_what_is_true_for_want_of_precision_says_so(monkeypatch):
    found = [
        studies.Finding("H3", "retrieved", estimate_of(0.0), "true"),
        studies.Finding("H3", "shown+sampled", estimate_of(0.1), "false"),
        studies.Finding("H4", "all cells", None, "not asked"),
    ]
    monkeypatch.setattr(studies, "load_study", lambda results: None)
    monkeypatch.setattr(studies, "findings", lambda study: found)
    told = of_protocol_study()
    assert told[0].found.endswith("; not excluded: gains up to +0.0100")
    assert "excluded" not in told[1].found
    assert told[2].verdict == NOT_ASKED
    assert share_true([one.verdict for one in told])[:2] == (1, 2)


@pytest.mark.parametrize(("first", "older"), [("2025-12-31", 0), ("2026-06-15", 2), (None, None)])
def test_runs_that_are_older_than_their_file_are_counted(known, monkeypatch, first, older):
    known["game"] = [make_record(seed, lists=LISTS) for seed in (0, 1, 2)]
    for record, month in zip(known["game"], (1, 5, 9), strict=True):
        record.made["date"] = f"2026-{month:02}-01T12:00:00+00:00"
    date = first and datetime.fromisoformat(f"{first}T00:00:00+00:00")
    asked = []
    monkeypatch.setattr(expectations, "first_committed", lambda path: asked.append(path) or date)
    assert older_than_file("game") == older
    assert asked == [Path("experiments/game.yml")]


@pytest.mark.parametrize(("order", "verdict"), [(0.2, "true"), (0.01, "false")])
def test_each_choice_must_move_more_than_dnr(known, monkeypatch, order, verdict):
    known["multiverse"] = runs(0.4)
    rows = [
        {"choice": name, "range": move}
        for name, move in {"DNR-B for concat": 0.05, "protocol": 0.3, "order": order}.items()
    ]
    monkeypatch.setattr(studies, "ranked_choices", lambda table: rows)
    monkeypatch.setattr(studies, "universes", lambda results: [])
    monkeypatch.setattr(studies, "frame", lambda records: None)
    [one] = of_multiverse()
    assert one.verdict == verdict


def test_robustness_is_told_by_its_own_rule(monkeypatch):
    random = np.random.default_rng(0)
    clean = random.random((3, 50))

    def levels(loss):
        points = {robustness.CLEAN: clean}
        for kind in ("noise", "permuted"):
            for level in robustness.LEVELS[kind]:
                points[kind, level] = clean - loss - 0.01 * random.random((3, 50))
        return points

    methods = {"DNR-B": levels(0.1), "concat": levels(0.3), "noise-B": levels(0.05)}
    monkeypatch.setattr(expectations, "load_measurement", lambda *given: SimpleNamespace(runs=[]))
    monkeypatch.setattr(robustness, "by_method", lambda runs: methods)
    told = {one.expected: one.verdict for one in of_robustness()}
    assert [verdict for words, verdict in told.items() if words.startswith("R1")] == ["true"]
    assert told["R3: DNR-B drops less than noise-B (noise)"] == "false"
    assert told["R3: DNR-B drops less than score-dropout (permuted)"] == OPEN


def test_what_is_not_recorded_is_not_run_yet(known, monkeypatch, tmp_path):
    monkeypatch.setattr(studies, "findings", lambda study: [])
    found = judged(tmp_path, tmp_path)
    assert {one.verdict for one in found} == {OPEN}
    assert {one.experiment for one in found} >= {"rerankers", "game", "regimes", "robustness"}


def test_an_experiment_that_waits_for_its_tuning_says_so(monkeypatch):
    def present(experiment, results=None):
        raise DataError("results", "tuned on what is not there")

    monkeypatch.setattr(expectations, "present", present)
    assert {one.found for one in of_rerankers()} == {"waits for its tuning"}


def test_each_expectation_stands_in_the_head_of_its_file(tmp_path):
    names = {one.experiment for one in judged(tmp_path, tmp_path)}
    assert "protocol-study" in names
    for name in names:
        head = (ROOT / f"experiments/{name}.yml").read_text("utf-8").split("base:")[0]
        assert "expect" in head or "ypothes" in head


def test_the_share_that_came_true_leaves_out_what_is_not_run():
    true, told, low, high = share_true(["true", "false", OPEN, "undecided", "true"])
    assert (true, told) == (2, 4)
    assert (low, high) == pytest.approx((0.0676, 0.9324), abs=1e-4)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(1, 4))
def test_patience_is_that_of_the_trainer(values, patience):
    epochs, kept = with_patience([float(value) for value in values], patience)
    config = TrainingConfig(epochs=len(values), patience=patience)

    def finished(done):
        best = max(range(done), key=lambda epoch: (values[epoch], -epoch)) + 1
        state = SimpleNamespace(
            curves=[None] * done, config=config, generator=None, best_epoch=best
        )
        return Trainer.finished(state), best

    first = next(done for done in range(1, len(values) + 1) if finished(done)[0])
    assert (epochs, kept) == (first, finished(first)[1])


def test_what_patience_loses_is_of_the_kept_epoch():
    record = make_record()
    record.curves.extend({"validation": value} for value in (0.5, 0.4, 0.7))
    assert lost_by_patience(record, 1) == pytest.approx(0.2)
    assert lost_by_patience(record, 2) == 0


def estimate_of(mean):
    return Estimate(mean, mean - 0.01, mean + 0.01, 10, 0, 0.005, 9.0, 0.01, 0.5, 3)
