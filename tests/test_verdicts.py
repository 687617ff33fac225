"""Every branch of every rule, and what is said of a verdict."""

import io
import math
import shutil
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_claims import claim, forget
from rich.console import Console

from dnrlib import verdicts
from dnrlib.claims import load_claims, load_rules
from dnrlib.errors import ConfigError
from dnrlib.evidence import LOOK, Evidence, Optimum, Origin, Silhouettes, Spreads, gathered
from dnrlib.statistics import Estimate, estimate, holm
from dnrlib.verdicts import (
    CONTRADICTED,
    DIRECTION,
    NOT,
    REPRODUCED,
    UNTESTABLE,
    Terms,
    judged,
)

ROOT = Path(__file__).parents[1]
NOWHERE = math.nan


@pytest.fixture(autouse=True)
def caches():
    forget()
    yield
    forget()


def interval(low, high, p=0.5, seeds=3):
    middle = (low + high) / 2
    return Estimate(middle, low, high, 9, 0, (high - low) / 4, 9.0, p, 0.1, seeds)


def terms(value=NOWHERE, tolerance=NOWHERE, level=0.05, **p):
    return Terms(value, tolerance, level, p)


def word(rule, found, *arguments, **named):
    judgement = verdicts.JUDGE[rule](found, terms(*arguments, **named))
    assert judgement.reason
    return judgement.verdict


# The rules --------------------------------------------------------------------------------


def test_the_rules_are_those_of_the_file_and_every_claim_has_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    written = load_rules().rules
    assert set(LOOK) == set(written)
    assert set(verdicts.JUDGE) == set(written) - {"none"}
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
    behind = {setting: other for setting in settings if setting != best}
    found = Optimum(best, behind, (0.3, 0.5))
    p_values = {f"{best:g} over {setting:g}": p for setting in settings}
    assert word("optimum", found, **p_values) == verdict


def test_an_optimum_with_nothing_to_compare_is_not_reproduced():
    assert word("optimum", Optimum(0.4, {0.3: AHEAD}, (0.3, 0.5))) == NOT


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
    assert word("clusters", Silhouettes(np.array(reranker), np.array(retriever))) == verdict


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
    found = Spreads(*map(np.array, (reranker, retriever, calibrated)))
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
    claims = {
        id: claim(id, rule="none", evidence=why) for id, why in {"a": "no data", "b": ""}.items()
    }
    found = judged(gathered(claims=claims), ROOT_RULES, claims=claims)
    assert {one.verdict for one in found.values()} == {UNTESTABLE}
    assert [one.reason for one in found.values()] == ["no data", "there is nothing to look at"]


# Reading a claim --------------------------------------------------------------------------


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


def test_terms_are_in_the_papers_unit():
    claims = {"ablation-full": claim(value="77.12", rule="level", tolerance="2")}
    part = claim(value="76.90", rule="part", tolerance="50 %")
    other = replace(ROOT_RULES, family_level=0.1, confidence=0.9)
    found = verdicts._terms(part, claims, other, 1.0, {})
    assert (found.value, found.tolerance) == (0.22, 0.5)
    assert (found.level, found.confidence) == (0.1, 0.9)
    wider = verdicts._terms(claims["ablation-full"], claims, other, 2.0, {})
    assert (wider.value, wider.tolerance) == (77.12, 4)
    ranged = verdicts._terms(claim(value="0.3-0.5", unit="range"), claims, other, 1.0, {})
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


def of_p(**p):
    return {
        id: Evidence(awaited=1, missing="not run")
        if value is None
        else Evidence(found=interval(1, 2), p={"difference": value})
        for id, value in p.items()
    }


def test_comparisons_that_are_not_recorded_count_as_one():
    claims = {id: claim(id) for id in "abc"}
    found = judged(of_p(a=0.02, b=None, c=None), ROOT_RULES, claims=claims)
    assert [found[id].verdict for id in "abc"] == [NOT, UNTESTABLE, UNTESTABLE]
    assert found["a"].p == pytest.approx(0.06)
    assert (found["a"].family, found["a"].awaited) == (3, 2)
    complete = judged(of_p(a=0.02, b=0.5, c=1.0), ROOT_RULES, claims=claims)
    assert (complete["a"].p, complete["a"].awaited) == (found["a"].p, 0)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.data())
def test_what_is_told_apart_stays_so_when_more_is_recorded(values, data):
    claims = {str(place): claim(str(place)) for place in range(len(values))}
    whole = dict(zip(claims, values, strict=True))
    part = {id: p if data.draw(st.booleans()) else None for id, p in whole.items()}
    first, last = (judged(of_p(**p), ROOT_RULES, claims=claims) for p in (part, whole))
    held = {id for id, one in first.items() if one.verdict == REPRODUCED}
    assert held <= {id for id, one in last.items() if one.verdict == REPRODUCED}


def test_a_wider_interval_meets_more():
    """What the page Claims says of fewer lists and seeds."""
    narrow, wide = interval(7, 8), interval(5, 10)
    assert word("level", narrow, 4, 2) == NOT
    assert word("level", wide, 4, 2) == REPRODUCED
    assert word("difference", narrow, 4, 0.5, difference=0.01) == DIRECTION
    assert word("difference", wide, 4, 0.5, difference=0.01) == REPRODUCED


def test_the_confidence_of_the_rules_is_that_of_intervals_over_seeds():
    found = Silhouettes(np.array([0.26, 0.3, 0.34]), np.array([0.1, 0.1, 0.1]))
    evidence, claims = {"a": Evidence(found=found)}, {"a": claim(rule="clusters")}
    words = [
        judged(evidence, replace(ROOT_RULES, confidence=level), claims=claims)["a"].verdict
        for level in (0.5, 0.99)
    ]
    assert words == [REPRODUCED, DIRECTION]


def test_a_wider_tolerance_changes_a_verdict():
    claims = {"a": claim(rule="level", value="72", tolerance="2")}
    evidence = {"a": Evidence(found=interval(75, 76))}
    assert judged(evidence, ROOT_RULES, claims=claims)["a"].verdict == NOT
    assert judged(evidence, ROOT_RULES, 1.5, claims)["a"].verdict == REPRODUCED


def test_runs_before_the_rule_are_counted(monkeypatch):
    monkeypatch.setattr(verdicts, "rules_history", lambda: ("something",))
    monkeypatch.setattr(verdicts, "claims_history", lambda: ("something",))
    now = datetime(2030, 1, 1, tzinfo=timezone.utc)
    runs = [
        Origin("run", "experiments/x.yml", {"date": (now + timedelta(days=day)).isoformat()})
        for day in (-2, -1, 1)
    ]
    monkeypatch.setattr(verdicts, "judged_since", lambda claim: now)
    assert verdicts._before(claim(), runs) == 2
    monkeypatch.setattr(verdicts, "judged_since", lambda claim: None)
    assert verdicts._before(claim(), runs) == 3
    for history in ("claims_history", "rules_history"):
        monkeypatch.setattr(verdicts, history, tuple)
        assert verdicts._before(claim(), runs) is None


# For people -------------------------------------------------------------------------------


def test_every_claim_of_the_paper_has_a_verdict_that_is_printed(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for name in ("rules.yml", "claims.csv"):
        shutil.copy(ROOT / "data" / name, tmp_path / "data")
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
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
