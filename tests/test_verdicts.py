"""Every branch of every rule, and models that were broken on purpose."""

import io
import math
import shutil
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_records import make_record
from rich.console import Console
from worlds import make_lists

from dnrlib import comparisons, verdicts
from dnrlib.claims import Claim, load_claims, load_rules, rules_history
from dnrlib.errors import ConfigError, DataError
from dnrlib.experiments import compute, load_experiment
from dnrlib.identity import hash_of, plain
from dnrlib.statistics import Estimate, estimate, holm
from dnrlib.timings import Figure, Timings
from dnrlib.verdicts import (
    CONTRADICTED,
    DIRECTION,
    NOT,
    REPRODUCED,
    UNTESTABLE,
    Cell,
    Compared,
    Evidence,
    Optimum,
    Origin,
    Shelf,
    Terms,
    judged,
)

ROOT = Path(__file__).parents[1]
NOWHERE = math.nan


@pytest.fixture(autouse=True)
def caches():
    cached = (load_claims, load_rules, rules_history)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def interval(low, high, p=0.5, seeds=3):
    middle = (low + high) / 2
    return Estimate(middle, low, high, 9, 0, (high - low) / 4, 9.0, p, 0.1, seeds)


def terms(value=NOWHERE, tolerance=NOWHERE, level=0.05, bounds=(NOWHERE, NOWHERE), **p):
    return Terms(value, tolerance, level, p, bounds)


def word(rule, found, *arguments, **named):
    judgement = verdicts.RULES[rule].judge(found, terms(*arguments, **named))
    assert judgement.reason
    return judgement.verdict


# The rules --------------------------------------------------------------------------------


def test_the_rules_are_those_of_the_file_and_every_claim_has_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    written = load_rules().rules
    assert set(verdicts.RULES) == set(written)
    assert {claim.rule for claim in load_claims().values()} <= set(written)
    unused = set(written) - {claim.rule for claim in load_claims().values()}
    assert not unused


def test_the_constants_of_the_file_are_those_of_an_estimate(monkeypatch):
    monkeypatch.chdir(ROOT)
    rules, defaults = load_rules(), signature(estimate).parameters
    assert rules.confidence == defaults["confidence"].default
    assert rules.resamples == defaults["resamples"].default
    assert verdicts.SUBSTANTIAL == 0.25
    assert "0.25" in rules.rules["clusters"]


@pytest.mark.parametrize(
    ("found", "verdict"), [(1000, REPRODUCED), (1001, REPRODUCED), (1002, NOT), (998, NOT)]
)
def test_count(found, verdict):
    assert word("count", found, 1000, 0.001) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (71, 73, REPRODUCED), (74, 76, REPRODUCED), (68, 70, REPRODUCED), (74.01, 76, NOT),
        (60, 69.99, NOT), (0, 100, REPRODUCED),
    ],
)  # fmt: skip
def test_level(low, high, verdict):
    assert word("level", interval(low, high), 72, 2) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(92, 93, REPRODUCED), (91, 93, NOT), (91, 92, NOT), (90, 91.9, CONTRADICTED)],
)
def test_at_least(low, high, verdict):
    assert word("at least", interval(low, high), 92) == verdict


DIFFERENCES = [
    (interval(3, 5), 0.01, REPRODUCED),
    (interval(6, 8), 0.01, REPRODUCED),
    (interval(6.01, 8), 0.01, DIRECTION),
    (interval(0.1, 1.9), 0.049, DIRECTION),
    (interval(0.1, 2), 0.049, REPRODUCED),
    (interval(3, 5), 0.05, NOT),
    (interval(-5, -3), 0.05, NOT),
    (interval(-5, -3), 0.049, CONTRADICTED),
]


@pytest.mark.parametrize("rule", ["difference", "relative", "part"])
@pytest.mark.parametrize(("found", "p", "verdict"), DIFFERENCES)
def test_difference(rule, found, p, verdict):
    assert word(rule, found, 4, 0.5, difference=p) == verdict


@pytest.mark.parametrize(
    ("found", "p", "verdict"),
    [
        (interval(0.1, 5), 0.01, REPRODUCED),
        (interval(-1, 5), 0.06, NOT),
        (interval(-5, -1), 0.01, CONTRADICTED),
    ],
)
def test_a_difference_without_a_size(found, p, verdict):
    assert word("difference", found, difference=p) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1, 2.9, REPRODUCED), (-2, -1, REPRODUCED), (2, 3, NOT), (3.1, 5, CONTRADICTED)],
)
def test_gain_below(low, high, verdict):
    assert word("gain below", interval(low, high), 3) == verdict


AHEAD, BEHIND = interval(0.1, 0.5), interval(-0.5, -0.1)


@pytest.mark.parametrize(
    ("best", "p", "other", "verdict"),
    [
        (0.4, 0.01, AHEAD, REPRODUCED),
        (0.3, 0.01, AHEAD, REPRODUCED),
        (0.4, 0.05, AHEAD, DIRECTION),
        (0.4, 0.01, BEHIND, DIRECTION),
        (0.1, 0.01, AHEAD, CONTRADICTED),
        (0.1, 0.2, AHEAD, NOT),
        (0.1, 0.01, BEHIND, NOT),
    ],
)
def test_optimum(best, p, other, verdict):
    settings = (0.1, 0.3, 0.4, 0.7)
    validation = {setting: float(setting == best) for setting in settings}
    found = Optimum(validation, {setting: other for setting in settings if setting != best})
    p_values = {f"{best:g} over {setting:g}": p for setting in settings}
    assert word("optimum", found, bounds=(0.3, 0.5), **p_values) == verdict


def test_an_optimum_with_nothing_to_compare_is_not_reproduced():
    found = Optimum({0.3: 0.7, 0.4: 0.8}, {0.3: AHEAD})
    assert word("optimum", found, bounds=(0.3, 0.5)) == NOT


@pytest.mark.parametrize(
    ("seeds", "verdict"),
    [
        ([("generator", "generator")] * 2, REPRODUCED),
        ([("generator", "generator"), ("generator", "Beta")], DIRECTION),
        ([("generator", "Beta"), ("Beta", "Beta")], NOT),
        ([("Beta", "generator")] * 2, CONTRADICTED),
    ],
)
def test_closest(seeds, verdict):
    found = [{"pooled": pooled, "z = 0": given} for pooled, given in seeds]
    assert word("closest", found) == verdict


@pytest.mark.parametrize(
    ("reranker", "retriever", "verdict"),
    [
        ([0.4, 0.41, 0.42], [0.1, 0.1, 0.1], REPRODUCED),
        ([0.4, 0.41, 0.42], [0.3, 0.3, 0.3], DIRECTION),
        ([0.2, 0.21, 0.22], [0.1, 0.1, 0.1], DIRECTION),
        ([0.1, 0.5, 0.9], [0.1, 0.1, 0.1], NOT),
        ([0.0, 0.01, 0.02], [0.1, 0.1, 0.1], CONTRADICTED),
    ],
)
def test_clusters(reranker, retriever, verdict):
    assert word("clusters", Compared(np.array(reranker), np.array(retriever))) == verdict


@pytest.mark.parametrize(
    ("reranker", "retriever", "calibrated", "verdict"),
    [
        ([0.2, 0.2], [0.3, 0.3], [0.25, 0.21], REPRODUCED),
        ([0.2, 0.2], [0.3, 0.3], [0.25, 0.2], DIRECTION),
        ([0.2, 0.4], [0.3, 0.3], [0.3, 0.3], NOT),
        ([0.3, 0.4], [0.3, 0.3], [0.5, 0.5], NOT),
        ([0.4, 0.4], [0.3, 0.3], [0.5, 0.5], CONTRADICTED),
    ],
)
def test_narrower(reranker, retriever, calibrated, verdict):
    found = Compared(*map(np.array, (reranker, retriever, calibrated)))
    assert word("narrower", found) == verdict


@pytest.mark.parametrize("rule", ["identity", "independent"])
def test_worlds(rule):
    assert word(rule, np.array([1e-12, 1e-9]), tolerance=1e-9) == REPRODUCED
    assert word(rule, np.array([1e-12, 2e-9]), tolerance=1e-9) == CONTRADICTED


def test_bound():
    assert word("bound", np.array([-0.3, 0.0])) == REPRODUCED
    assert word("bound", np.array([-0.3, 1e-3])) == CONTRADICTED


@pytest.mark.parametrize(
    ("percent", "verdict"),
    [(20, REPRODUCED), (40, REPRODUCED), (41, DIRECTION), (1, DIRECTION), (-1, CONTRADICTED)],
)
def test_overhead(percent, verdict):
    assert word("overhead", percent, 30, 10) == verdict


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ((0.95, 1.05), REPRODUCED), ((0.9, 1.04), NOT), ((0.96, 1.2), NOT), ((0.5, 2.0), NOT),
        ((1.06, 1.2), CONTRADICTED), ((0.5, 0.94), CONTRADICTED),
    ],
)  # fmt: skip
def test_same_ratio(found, verdict):
    assert word("same ratio", found, 1.0, 0.05) == verdict


def test_nothing_to_look_at():
    assert word("none", None) == UNTESTABLE


# Reading a claim --------------------------------------------------------------------------


def claim(id="made-up", **changed):
    plain = Claim(
        id, "main", "DNR over PRM", "simulated", "ndcg@6 difference", "", "points", "a table",
        "difference", "small/concat - small/none", "50 %",
    )  # fmt: skip
    return replace(plain, **changed)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        ("161646", "count", "161,646"),
        ("77.12", "percent", "77.12 %"),
        ("", "qualitative", "no number"),
        ("-0.011", "percent", "−0.011 %"),
        ("0.3-0.5", "range", "0.3 to 0.5"),
        ("1.0", "ratio", "1.0 x"),
    ],
)
def test_the_papers_value_has_its_unit(value, unit, text):
    assert text in verdicts.paper_text(claim(value=value, unit=unit), terms())


def test_a_part_is_told_as_what_is_missing_to_the_whole():
    part = claim(rule="part", value="76.90", unit="percent")
    assert verdicts.paper_text(part, terms(0.22)) == "76.90 %, 0.22 points below the whole"


def test_cells_are_read():
    assert Cell.read("main/pier-DNR-B@amazon-books-2023 ", "ml-1m") == Cell(
        "main", "pier-DNR-B", "amazon-books-2023"
    )
    assert Cell.read(" full/concat", "ml-1m") == Cell("full", "concat", "ml-1m")


def test_terms_are_in_the_papers_unit():
    claims = {"ablation-full": claim(value="77.12", rule="level", tolerance="2")}
    part = claim(value="76.90", rule="part", tolerance="50 %")
    found = verdicts._terms(part, claims, 0.05, 1.0, {})
    assert (found.value, found.tolerance) == (0.22, 0.5)
    wider = verdicts._terms(claims["ablation-full"], claims, 0.05, 2.0, {})
    assert (wider.value, wider.tolerance) == (77.12, 4)
    ranged = verdicts._terms(claim(value="0.3-0.5", unit="range"), claims, 0.05, 1.0, {})
    assert ranged.bounds == (0.3, 0.5)
    assert math.isnan(ranged.value)


def test_p_values_are_adjusted_within_a_kind():
    kinds = {"a": "main", "b": "main", "c": "ablation", "d": "main"}
    claims = {id: claim(id, kind=kind) for id, kind in kinds.items()}
    raw = {"a": 0.03, "b": 0.04, "c": 0.04}
    evidence = {
        id: Evidence(found=interval(1, 2), p={"difference": p}) for id, p in raw.items()
    } | {"d": Evidence(missing="not run")}
    found = judged(evidence, ROOT_RULES, claims=claims)
    assert holm({"a": 0.03, "b": 0.04}) == {id: found[id].p for id in ("a", "b")}
    assert [found[id].verdict for id in "abcd"] == [NOT, NOT, REPRODUCED, UNTESTABLE]
    assert [found[id].family for id in "abcd"] == [2, 2, 1, 0]
    assert found["d"].reason == "not run"
    looser = judged(evidence, replace(ROOT_RULES, family_level=0.1), claims=claims)
    assert [looser[id].verdict for id in "abcd"] == [*[REPRODUCED] * 3, UNTESTABLE]


ROOT_RULES = load_rules(ROOT / "data/rules.yml")


def test_a_wider_tolerance_changes_a_verdict():
    claims = {"a": claim(rule="level", value="72", tolerance="2")}
    evidence = {"a": Evidence(found=interval(75, 76))}
    assert judged(evidence, ROOT_RULES, claims=claims)["a"].verdict == NOT
    assert judged(evidence, ROOT_RULES, 1.5, claims)["a"].verdict == REPRODUCED


def test_runs_before_the_rule_are_counted(monkeypatch):
    monkeypatch.setattr(verdicts, "rules_history", lambda: ("something",))
    now = datetime(2030, 1, 1, tzinfo=timezone.utc)
    runs = [
        Origin("run", "experiments/x.yml", {"date": (now + timedelta(days=day)).isoformat()})
        for day in (-2, -1, 1)
    ]
    version = type("Version", (), {"date": now})
    monkeypatch.setattr(verdicts, "standing_since", lambda rule: version)
    assert verdicts._before("level", runs) == 2
    monkeypatch.setattr(verdicts, "standing_since", lambda rule: None)
    assert verdicts._before("level", runs) == 3
    monkeypatch.setattr(verdicts, "rules_history", tuple)
    assert verdicts._before("level", runs) is None


# Evidence from records --------------------------------------------------------------------

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
    return verdicts.verdicts(claims={one.id: one})[one.id]


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
    assert verdicts.redo(found) == ["dnr reproduce --experiment small"]


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


def test_cells_that_no_experiment_has_leave_nothing_to_judge(project):
    small_runs()
    nothing = verdict_on(claim(evidence="small/nosuch - small/none"))
    assert (nothing.verdict, nothing.reason[-60:]) == (
        UNTESTABLE, "0 of 0 runs are recorded: `dnr reproduce --experiment small`"[-60:],
    )  # fmt: skip
    assert "no such experiment" in verdict_on(claim(evidence="other/a - small/none")).reason


def test_another_data_set_is_said_with_its_note(project):
    small_runs()
    (path,) = Path("results").glob("concat.0.*")
    noted = path.read_text().replace('"fingerprint":', '"note": "a part: 3 of 9", "fingerprint":')
    path.write_text(noted)
    one = claim(dataset="ml-1m", evidence="small/concat@simulated - small/none@simulated")
    assert verdict_on(one).reason.endswith("(on simulated; a part: 3 of 9)")


def moved_runs(best):
    """The setting of lambda_c that is best by far."""
    for config in load_experiment("moved"):
        training = {"lambda_c": config.training.lambda_c, "lambda_m": config.training.lambda_m}
        quality = 0.9 if config.training.lambda_c == best else 0.1
        save("DNR-B", config.seed, quality, training=training)


def test_the_best_setting_is_found_among_runs_that_differ_in_it_alone(project):
    one = claim(
        rule="optimum", evidence="moved/training.lambda_c", value="0.3-0.5", unit="range",
        tolerance="",
    )  # fmt: skip
    moved_runs(best=0.4)
    found = verdict_on(one)
    assert found.ours == "0.4, of 0.1, 0.3, 0.4"
    assert (found.verdict, found.family) == (REPRODUCED, 1)
    assert len(found.runs) == 6
    shelf = Shelf()
    assert verdicts._sweep(shelf, "moved", "training.lambda_m").keys() == {0.1, 0.5}
    for path in Path("results").glob("*.json"):
        path.unlink()
    moved_runs(best=0.1)
    contradicted = verdict_on(one)
    assert (contradicted.verdict, contradicted.family) == (CONTRADICTED, 2)


def test_half_a_sweep_is_not_judged(project):
    moved_runs(best=0.4)
    one = claim(rule="optimum", evidence="moved/training.lambda_c", value="0.3-0.5", unit="range")
    next(Path("results").glob("DNR-B.1.*")).unlink()
    assert "of 6 runs are recorded" in verdict_on(one).reason


# Evidence from measurements and benchmarks ------------------------------------------------


def test_the_recorded_measurements_and_benchmarks_can_be_judged(monkeypatch):
    monkeypatch.chdir(ROOT)
    kinds = ("closest", "clusters", "narrower", "overhead", "same ratio")
    claims = {id: one for id, one in load_claims().items() if one.rule in kinds}
    found = verdicts.verdicts(claims=claims)
    assert Counter(one.verdict == UNTESTABLE for one in found.values()) == {False: len(claims)}
    assert all(one.runs and one.made("commit") and one.made("machine") for one in found.values())
    assert verdicts.redo(found["clusters"]) == ["dnr measure embeddings --experiment seeds"]
    assert verdicts.redo(found["cost-training"]) == ["make bench GROUPS=training"]


def test_counts_and_worlds_are_read(project):
    from dnrlib.measurements import Measurement, _write

    made = {"date": "2020-01-01T00:00:00+00:00", "commit": "abc", "machine": "some"}
    runs = [{"run": "ml-1m", "data": "f", "note": "", "rows": [{"users": 1000}]}]
    _write(Measurement("", "counts", runs, made), None)
    rows = [{"direct": 1e-12, "l1": 0.3}, {"direct": 2e-12, "l1": 0.1}]
    worlds = [
        {"run": f"world {seed}", "seed": seed, "rows": [row]} for seed, row in enumerate(rows)
    ]
    _write(Measurement("", "worlds", worlds, made), None)
    counted = claim(
        rule="count", evidence="ml-1m/users", value="1001", unit="count", tolerance="0.1 %"
    )
    assert verdict_on(counted).verdict == REPRODUCED
    assert verdicts.redo(verdict_on(counted)) == ["dnr measure counts"]
    assert verdict_on(replace(counted, evidence="other/users")).verdict == UNTESTABLE
    exact = claim(
        rule="identity", evidence="worlds/direct", value="0", tolerance="1e-9", unit="nats"
    )
    found = verdict_on(exact)
    assert (found.verdict, found.ours) == (REPRODUCED, "at most 2e-12 nats")
    assert found.runs == ["2 random worlds"]
    slope = replace(exact, rule="independent", evidence="worlds/l1")
    assert verdict_on(slope).verdict == CONTRADICTED


def test_measurements_and_benchmarks_that_are_missing_leave_nothing_to_judge(project):
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


# For people -------------------------------------------------------------------------------


def test_every_claim_of_the_paper_has_a_verdict_that_is_printed(project, monkeypatch):
    found = verdicts.verdicts()
    assert len(found) == len(load_claims())
    assert {one.verdict for one in found.values()} == {UNTESTABLE}
    text = io.StringIO()
    verdicts.print_verdicts(Console(file=text, width=200))
    assert text.getvalue().count(UNTESTABLE) == len(found)
    with pytest.raises(ConfigError, match="id = 'nosuch': choose one of data-ml1m-users"):
        verdicts.print_verdicts(Console(file=text), "nosuch")


def test_one_claim_is_printed_with_its_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = io.StringIO()
    verdicts.print_verdicts(Console(file=text, width=200), "clusters")
    printed = text.getvalue()
    assert "rule, clusters: Silhouette of liked" in printed
    assert "of: measurements/seeds-embeddings.json" in printed
    assert printed.count("ml-1m.shown+sampled.DNR-B.") == 5
    assert "dnr measure embeddings --experiment seeds" in printed
    verdicts.print_verdicts(Console(file=text, width=200), "online-like")
    assert "needs the platform and its users" in text.getvalue()


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


def test_a_shelf_names_the_experiment_that_has_no_record(project):
    with pytest.raises(DataError, match=r"experiments/small.yml: 0 of 1 runs are recorded"):
        Shelf().cell(Cell("small", "score", "simulated"))
