"""From runs, measurements and benchmarks to a verdict, also of models broken on purpose."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_claims import claim, forget
from made_up_records import make_record
from worlds import make_lists

from dnrlib import comparisons
from dnrlib.claims import load_claims, load_rules
from dnrlib.errors import ConfigError, DataError
from dnrlib.evidence import Cell, Shelf, _sweep, gathered
from dnrlib.experiments import compute, load_experiment
from dnrlib.identity import hash_of, plain
from dnrlib.records import Record
from dnrlib.timings import Figure, Timings
from dnrlib.verdicts import CONTRADICTED, DIRECTION, NOT, REPRODUCED, UNTESTABLE, redo, verdicts

ROOT = Path(__file__).parents[1]
SETTINGS = {"data": {"dataset": "simulated"}, "training": {"beta": [1, 2]}}
LISTS = make_lists(lists=300)
SMALL = """
base: {data: {dataset: simulated}, training: {beta: [1, 2]}}
grid: {method: [score, none, concat, DNR-B], seed: [0, 1, 2]}
"""
MOVED = """
base: {method: DNR-B, data: {dataset: simulated}, training: {lambda_c: 0.4, lambda_m: 0.5}}
grid:
  - {seed: [0, 1], training.lambda_c: [0.1, 0.3, 0.4]}
  - {seed: [0, 1], training.lambda_m: [0.1, 0.5]}
"""


@pytest.fixture(autouse=True)
def caches():
    forget()
    yield
    forget()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two experiments without a run, and the rules."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "experiments/small.yml").write_text(SMALL)
    (tmp_path / "experiments/moved.yml").write_text(MOVED)
    for name in ("rules.yml", "claims.csv"):
        shutil.copy(ROOT / "data" / name, tmp_path / "data")
    return tmp_path


def save(method, seed, quality, **changes):
    settings = SETTINGS | changes
    record = make_record(seed, method, quality, LISTS, **settings)
    record = replace(record, run=f"{record.run}.{hash_of(record.config)}")
    record.save(Path("results"))
    return record


def small_runs():
    """In which concat is ahead of none, and DNR-B is concat."""
    qualities = {"score": 0.2, "none": 0.1, "concat": 0.5, "DNR-B": 0.5}
    return {
        (method, seed): save(method, seed, quality)
        for method, quality in qualities.items()
        for seed in ([0] if method == "score" else range(3))
    }


def verdict_on(one):
    return verdicts(claims={one.id: one})[one.id]


# Evidence from records --------------------------------------------------------------------


def test_a_difference_is_that_of_the_records_in_points(project):
    runs = small_runs()
    found = verdict_on(claim())
    groups = [[runs[method, seed] for seed in range(3)] for method in ("concat", "none")]
    wanted = comparisons.difference(*groups)
    assert found.verdict == REPRODUCED
    assert found.estimate.mean == pytest.approx(100 * wanted.mean)
    assert found.estimate.high == pytest.approx(100 * wanted.high)
    assert (found.estimate.p, found.estimate.size) == (wanted.p, wanted.size)
    assert found.p == wanted.p
    assert found.ours.startswith(f"{100 * wanted.mean:+.2f} [")
    assert set(found.runs) == {run.run for group in groups for run in group}
    assert (found.seeds, found.lists) == ([0, 1, 2], wanted.lists)
    assert found.fingerprints == [LISTS.fingerprint]
    assert found.sources == ["experiments/small.yml"]
    assert redo(found) == ["dnr reproduce --experiment small"]


def test_the_other_way_round_it_is_contradicted_and_the_same_is_not_reproduced(project):
    small_runs()
    assert verdict_on(claim(evidence="small/none - small/concat")).verdict == CONTRADICTED
    assert verdict_on(claim(evidence="small/DNR-B - small/concat")).verdict == NOT


def test_relative_differences_are_percent_of_the_second(project):
    runs = small_runs()
    points = verdict_on(claim()).estimate
    base = 100 * np.mean([runs["none", seed].metrics["test"]["ndcg@6"] for seed in range(3)])
    found = verdict_on(claim(rule="relative", unit="percent", metric="ndcg@6 gain", value="4"))
    assert found.estimate.mean == pytest.approx(100 * points.mean / base)
    below = claim(rule="gain below", unit="percent", value="3")
    assert verdict_on(below).verdict == CONTRADICTED
    assert (verdict_on(below).p, verdict_on(below).family) == (None, 0)
    assert verdict_on(replace(below, value="10000")).verdict == REPRODUCED


def test_levels_are_percent_and_h_is_precision(project):
    runs = small_runs()
    level = claim(rule="level", metric="h@6", value="50", unit="percent", evidence="small/score")
    found = verdict_on(level)
    wanted = 100 * runs["score", 0].metrics["test"]["precision@6"]
    assert found.estimate.mean == pytest.approx(wanted)
    assert "h@6 is read as precision@6" in found.reason
    near = replace(level, value=f"{wanted:.3f}", tolerance="0.01")
    assert verdict_on(near).verdict == REPRODUCED
    assert verdict_on(replace(near, value="99")).verdict == NOT
    above = replace(level, rule="at least", tolerance="", value="0.1")
    assert verdict_on(above).verdict == REPRODUCED


def test_runs_that_are_missing_leave_nothing_to_judge(project):
    small_runs()
    for path in Path("results").glob("concat.[12].*"):
        path.unlink()
    found = verdict_on(claim())
    assert (found.verdict, found.ours, found.runs) == (UNTESTABLE, "–", [])
    assert found.reason.endswith("1 of 3 runs are recorded: `dnr reproduce --experiment small`")
    assert verdict_on(claim(evidence="small/DNR-B - small/none")).verdict == REPRODUCED


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"evidence": "small/nosuch - small/none"}, "choose one of DNR-B@simulated, concat@sim"),
        ({"evidence": "small/concat@ml-1m - small/none"}, "small.yml has no such run"),
        ({"evidence": "other/a - small/none"}, "no experiment 'other': choose one of moved, small"),
        ({"metric": "ndgc@6 difference"}, "metric 'ndgc@6' is unknown: choose one of .*ndcg@6"),
        ({"metric": ""}, "metric '' is unknown"),
        ({"rule": "level", "evidence": "other/a"}, "no experiment 'other'"),
        ({"rule": "optimum", "evidence": "moved/training.lamda_c", "value": "0.3-0.5"}, "lamda_c"),
        ({"rule": "optimum", "evidence": "moved/training.noise", "value": "0.3-0.5"}, "numeric"),
        ({"rule": "optimum", "evidence": "moved/training.epochs", "value": "0-1"}, "one setting"),
        ({"rule": "optimum", "evidence": "moved/training.lambda_c", "value": "x"}, "a range"),
        ({"rule": "count", "evidence": "ml-2m/users"}, "data set 'ml-2m' is unknown"),
        ({"rule": "closest", "evidence": "small-noises/DNR-B"}, "measurement 'noises' is unknown"),
        ({"rule": "closest", "evidence": "smal-noise/DNR-B"}, "no experiment 'smal'"),
    ],
)
@pytest.mark.parametrize("runs", [True, False])
def test_what_there_is_not_is_told_from_what_is_not_run(project, fault, told, runs):
    if runs:
        small_runs()
    with pytest.raises(ConfigError, match=f"claim 'made-up': .*{told}"):
        verdict_on(claim(**fault))


def test_intervals_have_the_confidence_and_the_resamples_of_the_rules(project):
    small_runs()
    rules = load_rules()
    cases = {
        "difference": "small/concat - small/none",
        "relative": "small/concat - small/none",
        "level": "small/concat",
    }
    for rule, cells in cases.items():
        claims = {"a": claim("a", rule=rule, evidence=cells)}
        usual, wider, fewer, two_way = (
            gathered(claims=claims, rules=replace(rules, **changed))["a"].found
            for changed in ({}, {"confidence": 0.999}, {"resamples": 20}, {"resamples": None})
        )
        assert wider.high - wider.low > 1.5 * (usual.high - usual.low)
        assert len({one.error for one in (usual, fewer, two_way)}) == 3
    for what in ("clusters", "narrower"):
        shutil.copytree(ROOT / "measurements", "measurements", dirs_exist_ok=True)
        Path("experiments/seeds.yml").touch()
        claims = {"a": claim("a", rule=what, evidence="seeds-embeddings/DNR-B")}
        texts = {
            gathered(claims=claims, rules=replace(rules, confidence=level))["a"].ours
            for level in (0.5, 0.95)
        }
        assert len(texts) == 2


def test_missing_runs_leave_their_p_values_awaited(project):
    claims = {"a": claim("a"), "b": replace(BEST, id="b"), "c": claim("c", rule="gain below")}
    claims["d"] = claim("d", rule="level", evidence="small/concat")
    waiting = {id: one.awaited for id, one in gathered(claims=claims).items()}
    assert waiting == {"a": 1, "b": 2, "c": 0, "d": 0}
    small_runs()
    assert verdicts(claims=claims)["a"].family == 3


def test_another_data_set_is_said_with_its_note(project):
    small_runs()
    (path,) = Path("results").glob("concat.0.*")
    noted = path.read_text().replace('"fingerprint":', '"note": "a part: 3 of 9", "fingerprint":')
    path.write_text(noted)
    one = claim(dataset="ml-1m", evidence="small/concat@simulated - small/none@simulated")
    assert verdict_on(one).reason.endswith("(on simulated; a part: 3 of 9)")


BEST = claim(
    rule="optimum", evidence="moved/training.lambda_c", value="0.3-0.5", unit="range", tolerance=""
)


def moved_runs(best):
    """The setting of lambda_c that is best by far."""
    for config in load_experiment("moved"):
        training = {"lambda_c": config.training.lambda_c, "lambda_m": config.training.lambda_m}
        quality = 0.9 if config.training.lambda_c == best else 0.1
        save("DNR-B", config.seed, quality, training=training)


def test_the_best_setting_is_found_among_runs_that_differ_in_it_alone(project):
    moved_runs(best=0.4)
    found = verdict_on(BEST)
    assert found.ours == "0.4, of 0.1, 0.3, 0.4"
    assert (found.verdict, found.family) == (REPRODUCED, 1)
    assert len(found.runs) == 6
    assert _sweep(Shelf(), "moved", "training.lambda_m").keys() == {0.1, 0.5}
    for path in Path("results").glob("*.json"):
        path.unlink()
    moved_runs(best=0.1)
    contradicted = verdict_on(BEST)
    assert (contradicted.verdict, contradicted.family) == (CONTRADICTED, 2)


def test_validation_chooses_the_best_setting_whatever_the_test_lists_say(project):
    moved_runs(best=0.1)
    for path in Path("results").glob("*.json"):
        record = Record.load(path)
        chosen = record.config["training"]["lambda_c"] == 0.3
        metrics = record.metrics | {"validation": {"ndcg@6": float(chosen)}}
        replace(record, metrics=metrics).save(Path("results"))
    found = verdict_on(BEST)
    assert (found.ours, found.verdict) == ("0.3, of 0.1, 0.3, 0.4", DIRECTION)


def test_half_a_sweep_is_not_judged(project):
    moved_runs(best=0.4)
    next(Path("results").glob("DNR-B.1.*")).unlink()
    assert "of 6 runs are recorded" in verdict_on(BEST).reason


def test_a_shelf_names_the_experiment_that_has_no_record(project):
    with pytest.raises(DataError, match=r"experiments/small.yml: 0 of 1 runs are recorded"):
        Shelf().cell(Cell("small", "score", "simulated"))


def test_cells_are_read():
    assert Cell.read("main/pier-DNR-B@amazon-books-2023 ", "ml-1m") == Cell(
        "main", "pier-DNR-B", "amazon-books-2023"
    )
    assert Cell.read(" full/concat", "ml-1m") == Cell("full", "concat", "ml-1m")


# Evidence from measurements and benchmarks ------------------------------------------------


def test_the_recorded_measurements_and_benchmarks_can_be_judged(monkeypatch):
    monkeypatch.chdir(ROOT)
    kinds = ("closest", "clusters", "narrower", "overhead", "same ratio")
    claims = {id: one for id, one in load_claims().items() if one.rule in kinds}
    found = verdicts(claims=claims)
    assert Counter(one.verdict == UNTESTABLE for one in found.values()) == {False: len(claims)}
    assert all(one.runs and one.made("commit") and one.made("machine") for one in found.values())
    assert redo(found["clusters"]) == ["dnr measure embeddings --experiment seeds"]
    assert redo(found["cost-training"]) == ["make bench GROUPS=training"]


def test_counts_and_worlds_are_read(project):
    from dnrlib.measurements import Measurement, write

    made = {"date": "2020-01-01T00:00:00+00:00", "commit": "abc", "machine": "some"}
    runs = [{"run": "ml-1m", "data": "f", "note": "", "rows": [{"users": 1000}]}]
    write(Measurement("", "counts", runs, made), None)
    rows = [{"direct": 1e-12, "l1": 0.3}, {"direct": 2e-12, "l1": 0.1}]
    worlds = [
        {"run": f"world {seed}", "seed": seed, "rows": [row]} for seed, row in enumerate(rows)
    ]
    write(Measurement("", "worlds", worlds, made), None)
    counted = claim(
        rule="count", evidence="ml-1m/users", value="1001", unit="count", tolerance="0.1 %"
    )
    assert verdict_on(counted).verdict == REPRODUCED
    assert redo(verdict_on(counted)) == ["dnr measure counts"]
    assert verdict_on(replace(counted, evidence="simulated/users")).verdict == UNTESTABLE
    with pytest.raises(ConfigError, match="'user' was not measured: choose one of users"):
        verdict_on(replace(counted, evidence="ml-1m/user"))
    exact = claim(
        rule="identity", evidence="worlds/direct", value="0", tolerance="1e-9", unit="nats"
    )
    found = verdict_on(exact)
    assert (found.verdict, found.ours) == (REPRODUCED, "at most 2e-12 nats")
    assert found.runs == ["2 random worlds"]
    with pytest.raises(ConfigError, match="claim 'made-up': 'direkt' was not measured"):
        verdict_on(replace(exact, evidence="worlds/direkt"))
    slope = replace(exact, rule="independent", evidence="worlds/l1")
    assert verdict_on(slope).verdict == CONTRADICTED


def test_a_method_that_a_measurement_lacks_is_named(project):
    shutil.copytree(ROOT / "measurements", "measurements")
    Path("experiments/seeds.yml").touch()
    with pytest.raises(ConfigError, match="no run of 'DNR-X': choose one of .*DNR-B"):
        verdict_on(claim(rule="closest", evidence="seeds-noise/DNR-X"))


def test_measurements_and_benchmarks_that_are_missing_leave_nothing_to_judge(project):
    Path("experiments/seeds.yml").touch()
    for rule, evidence in {
        "count": "ml-1m/users", "identity": "worlds/direct", "closest": "seeds-noise/DNR-B",
        "narrower": "seeds-embeddings/DNR-B", "clusters": "seeds-embeddings/DNR-B",
        "overhead": "training", "same ratio": "inference",
    }.items():  # fmt: skip
        found = verdict_on(claim(rule=rule, evidence=evidence))
        assert found.verdict == UNTESTABLE
        assert "dnr measure" in found.reason or "make bench" in found.reason
    Timings("training", [], {}).save(Path("benchmarks/records"))
    Timings("inference", [Figure("serving", "other", 1, 1, 1, "x", "")], {}).save(
        Path("benchmarks/records")
    )
    for rule, evidence in {"overhead": "training", "same ratio": "inference"}.items():
        assert verdict_on(claim(rule=rule, evidence=evidence)).verdict == UNTESTABLE


# Models that were broken on purpose -------------------------------------------------------

PLANTED = """
base:
  data: {dataset: simulated}
  options: {dim: 8}
  training: {epochs: 3, batch_size: 16, learning_rate: 2e-2, lambda_m: 10}
grid: {method: [none, concat, noise-B], seed: [0, 1, 2]}
"""
NAIVE = claim(evidence="planted/concat - planted/none")
DENOISING = claim(evidence="planted/noise-B - planted/concat")
GENERATOR = torch.Generator().manual_seed(1)
WORLD = make_lists(lists=200, signal=1.5)
NOISE = torch.rand(WORLD.scores.shape, generator=GENERATOR)
LOST = replace(WORLD, scores=NOISE.where(WORLD.split[:, None] == 0, WORLD.scores))
"""The training lists have lost their scores, the others have them."""


def train_planted(lists, methods, broken=lambda config: config):
    """Train runs of `PLANTED` on lists; a broken one is recorded as what it should have been."""
    Path("experiments/planted.yml").write_text(PLANTED)
    for config in load_experiment("planted"):
        if config.method in methods:
            record, _ = compute(broken(config), lists)
            replace(record, config=plain(config)).save(Path("results"))


def shuffled(lists):
    order = torch.rand(lists.labels.shape, generator=GENERATOR).argsort(1)
    return replace(lists, labels=lists.labels.gather(1, order))


@pytest.mark.parametrize(
    ("lists", "verdict"),
    [
        (WORLD, REPRODUCED),
        (shuffled(WORLD), NOT),
        (replace(WORLD, scores=torch.full_like(WORLD.scores, 0.5)), NOT),
    ],
    ids=["sound", "labels shuffled", "the score does not arrive"],
)
def test_a_planted_gain_is_reproduced_if_nothing_is_broken(project, lists, verdict):
    train_planted(lists, ("none", "concat"))
    assert verdict_on(NAIVE).verdict == verdict


def without_noise(config):
    return replace(config, training=replace(config.training, noise="none"))


@pytest.mark.parametrize(
    ("broken", "verdict"),
    [(lambda config: config, REPRODUCED), (without_noise, NOT)],
    ids=["sound", "noise off"],
)
def test_denoising_is_reproduced_until_its_noise_is_off(project, broken, verdict):
    """Only synthetic scores can teach the use of scores that the training lists have lost."""
    train_planted(LOST, ("concat", "noise-B"), broken)
    assert verdict_on(DENOISING).verdict == verdict
