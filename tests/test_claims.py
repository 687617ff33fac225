"""The paper's numbers are read from its claims, all of which are there."""

import shutil
import subprocess
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest

from dnrlib.claims import (
    NEEDS,
    Claim,
    claims_history,
    contradictions,
    first_committed,
    judged_since,
    load_claims,
    load_rules,
    paper_value,
    rules_history,
    standing_since,
)
from dnrlib.errors import ConfigError, DataError

ROOT = Path(__file__).parents[1]
KINDS = {
    "main": 21, "data": 9, "ablation": 6, "theory": 5, "online": 4, "denoising": 3,
    "hyperparameter": 3, "naive use": 3, "retriever": 3, "cost": 4, "backbone": 2, "noise": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def project_folder(monkeypatch):
    monkeypatch.chdir(ROOT)
    load_claims.cache_clear()
    yield
    load_claims.cache_clear()


def test_every_claim_of_the_paper_is_there():
    claims = load_claims()
    lines = (ROOT / "data/claims.csv").read_text("utf-8").splitlines()
    assert len(claims) == len(lines) - 1 == 64
    assert all(claim.id and claim.kind and claim.statement for claim in claims.values())
    assert Counter(claim.kind for claim in claims.values()) == KINDS


def test_a_value_is_a_number_in_the_papers_unit():
    assert paper_value("data-ml1m-users") == 6022
    assert load_claims()["data-ml1m-users"].unit == "count"


def test_a_claim_without_a_number_and_an_unknown_one_are_refused():
    without = next(claim for claim in load_claims().values() if not is_number(claim))
    for id in (without.id, "nosuch"):
        with pytest.raises(ConfigError, match=f"no number for '{id}'"):
            paper_value(id)


def is_number(claim: Claim) -> bool:
    try:
        float(claim.value)
    except ValueError:
        return False
    return True


def test_a_missing_file_and_other_columns_are_refused(tmp_path):
    with pytest.raises(DataError, match="run from the project's folder"):
        load_claims(tmp_path / "claims.csv")
    other = tmp_path / "other.csv"
    other.write_text("id,kind\na,b\n")
    with pytest.raises(DataError, match="columns differ"):
        load_claims(other)


# Rules ----------------------------------------------------------------------------------------

RULES = """
confidence: 0.95
family_level: 0.05
resamples: 2000
rules:
  level: >-
    {level}
  count: Ours is the paper's.
""" + "".join(f"  {name}: As is.\n" for name in NEEDS if name not in ("level", "count"))


@pytest.fixture
def history(tmp_path, monkeypatch):
    """A repository in which a rule and, later, a comment were changed."""
    for name, day in {"GIT_AUTHOR_DATE": 1, "GIT_COMMITTER_DATE": 1}.items():
        monkeypatch.setenv(name, f"2020-01-0{day}T00:00:00+00:00")
    path = tmp_path / "rules.yml"
    git(tmp_path, "init", "-q")
    for day, text in enumerate(
        (
            RULES.format(level="Old."),
            RULES.format(level="New."),
            "# said better" + RULES.format(level="New."),
        ),
        1,
    ):
        path.write_text(text)
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"2020-01-0{day}T00:00:00+00:00")
        git(tmp_path, "add", "rules.yml")
        git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "-m", "text")
    clear()
    yield path
    clear()


def git(folder, *arguments):
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def clear():
    load_rules.cache_clear()
    claims_history.cache_clear()
    rules_history.cache_clear()


def test_a_rule_stands_since_its_wording_did(history):
    assert [version.date.day for version in rules_history(history)] == [3, 2, 1]
    assert standing_since("level", history).date.day == 2
    assert standing_since("count", history).date.day == 1
    rules = load_rules(history).rules
    assert (rules["level"], rules["count"]) == ("New.", "Ours is the paper's.")


def test_what_is_not_committed_stands_since_never(history):
    history.write_text(RULES.format(level="Newer."))
    clear()
    assert standing_since("level", history) is None
    assert standing_since("count", history).date.day == 1
    history.write_text(RULES.format(level="New.").replace("0.05", "0.1"))
    clear()
    assert standing_since("count", history) is None


def test_without_the_whole_history_nothing_is_known(history, tmp_path):
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{tmp_path}", "shallow")
    assert len(rules_history(history)) == 3
    assert rules_history(tmp_path / "shallow/rules.yml") == ()
    outside = tmp_path.parent / "outside"
    outside.mkdir(exist_ok=True)
    shutil.copy(history, outside)
    assert rules_history(outside / "rules.yml") == ()


HEADER = ",".join(field.name for field in fields(Claim))
ROW = "a,main,x,ml-1m,ndcg@6,4,points,a table,difference,full/a - full/b,50 %"


def write_claims(path, *rows):
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    load_claims.cache_clear()
    return path


def test_a_claim_is_judged_since_its_row_and_its_rule_stand(history, tmp_path, monkeypatch):
    path = tmp_path / "claims.csv"
    for day, row in enumerate((ROW, ROW.replace("50 %", "60 %"), ROW.replace("x", "y")), 4):
        write_claims(path, row)
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"2020-01-0{day}T00:00:00+00:00")
        git(tmp_path, "add", "claims.csv")
        git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "-m", "text")
    now = load_claims(path)["a"]
    assert judged_since(now, history, path).day == 6
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "--amend",
        "--allow-empty", "-m", "text")  # fmt: skip
    write_claims(path, ROW.replace("x", "z"))
    assert judged_since(load_claims(path)["a"], history, path).day == 6
    for column, other in {
        "rule": "relative", "evidence": "full/a - full/c", "tolerance": "70 %", "value": "5",
        "metric": "auc", "dataset": "simulated",
    }.items():  # fmt: skip
        assert judged_since(replace(now, **{column: other}), history, path) is None
    assert judged_since(replace(now, id="b"), history, path) is None
    assert first_committed(path).day == 4
    assert first_committed(tmp_path / "nosuch.csv") is None
    assert first_committed(tmp_path / "nosuch/claims.csv") is None


def test_a_rule_that_is_younger_than_the_row_counts(history, tmp_path, monkeypatch):
    path = write_claims(tmp_path / "claims.csv", ROW)
    for day, file in ((4, "claims.csv"), (8, "rules.yml")):
        if file == "rules.yml":
            history.write_text(history.read_text().replace("difference: As is", "difference: New"))
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"2020-01-0{day}T00:00:00+00:00")
        git(tmp_path, "add", file)
        git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "-m", "text")
    clear()
    assert judged_since(load_claims(path)["a"], history, path).day == 8
    assert judged_since(replace(load_claims(path)["a"], rule="level"), history, path) is None


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("difference,", "diference,", "rule 'diference' is unknown: choose one of none, count"),
        (" - full/b", "", "evidence 'full/a' is not what rule 'difference' looks at"),
        ("full/b", "full/b - full/c", "write it as 'full/DNR-B - full/concat'"),
        ("50 %", "two", "tolerance 'two': rule 'difference' needs a share such as '50 %'"),
        ("50 %", "50", "needs a share"),
        ("50 %", "-1 %", "not below zero"),
        ("50 %", "nan %", "needs a share"),
        ("50 %", "", "tolerance '': rule 'difference' needs a share"),
        (",4,", ",abc,", "value 'abc' must be a number"),
        (",4,", ",nan,", "value 'nan' must be a number"),
        ("points", "pts", "unit 'pts' is unknown"),
        ("points", "qualitative", "value '4' has unit qualitative"),
        (",4,points", ",4.5,count", "a whole number"),
        ("a,main", ",main", "has no id"),
        ("difference,full/a - full/b,50 %", "level,full/a,2 %", "needs a number, without %"),
        ("difference,full/a - full/b,50 %", "level,full/a,", "needs a number, without %"),
        ("difference,full/a - full/b,50 %", "level,full/a - full/b,2", "what rule 'level' looks"),
        (",4,points,a table,difference,full/a - full/b,50 %",
         ",,points,a table,level,full/a,2", "value '' must be a number"),
        ("difference,full/a - full/b,50 %", "at least,full/a,2", "'at least' has none"),
        (",4,points,a table,difference,full/a - full/b,50 %",
         ",0.5-0.3,range,a table,optimum,full/seed,", "value '0.5-0.3' must be a range"),
        ("difference,full/a - full/b,50 %", "optimum,full/seed,", "value '4' must be a range"),
        ("difference,full/a - full/b,50 %", "closest,a-noise/b,", "'closest' has no value"),
        ("difference,", "part,", "rule 'part' needs a claim 'ablation-full'"),
        (",50 %", "", "the row is too short"),
        ("50 %", "50 %,more", "columns differ"),
    ],
)  # fmt: skip
def test_a_row_that_its_rule_cannot_use_is_refused_with_its_line(tmp_path, old, new, told):
    good = ROW.replace("a,main", "good,main")
    path = write_claims(tmp_path / "claims.csv", good)
    assert list(load_claims(path)) == ["good"]
    assert old in ROW
    with pytest.raises(DataError, match=told) as caught:
        load_claims(write_claims(path, good, ROW.replace(old, new)))
    assert caught.value.line == 3


def test_of_two_rows_with_one_id_neither_wins(tmp_path):
    path = write_claims(tmp_path / "claims.csv", ROW, ROW.replace("a,", "b,"), ROW)
    with pytest.raises(DataError, match="line 4: claim 'a' is in line 2 already"):
        load_claims(path)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("family_level: 0.05", "family_level: 5", "family_level = 5: must be a number between"),
        ("family_level: 0.05", "family_level: five", "family_level = 'five'"),
        ("family_level: 0.05", "family_level: .nan", "family_level = nan"),
        ("confidence: 0.95", "confidence: 95", "confidence = 95"),
        ("confidence: 0.95", "confidence: true", "confidence = True"),
        ("resamples: 2000", "resamples: 1", "resamples = 1: must be a whole number"),
        ("resamples: 2000", "resamples: 2e3", "resamples = '2e3'"),
        ("resamples: 2000", "resamples: null", "resamples = None"),
        ("resamples: 2000", "resamples: 2000\nlevel: 3", "unknown constant level"),
        ("part: As is.", "part: 3", "each needs its wording"),
        ("  part: As is.\n", "", "has no rule part: the rules are none, count"),
        ("  part:", "  parts: More.\n  part:", "has an unknown rule parts"),
    ],
)
def test_constants_out_of_range_and_missing_rules_are_refused(tmp_path, old, new, told):
    text, path = RULES.format(level="New."), tmp_path / "rules.yml"
    path.write_text(text)
    assert load_rules(path).family_level == 0.05
    load_rules.cache_clear()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=told):
        load_rules(path)


@pytest.mark.parametrize("text", ["", "a: [", "rules: 3", "rules: {}", "other: 1\nrules: {}"])
def test_what_is_no_file_of_rules_is_refused(tmp_path, text):
    path = tmp_path / "rules.yml"
    path.write_text(text)
    with pytest.raises(DataError, match="not a file of rules"):
        load_rules(path)
    with pytest.raises(DataError, match="run from the project's folder"):
        load_rules(tmp_path / "other.yml")


def test_the_rules_of_the_project_are_read():
    rules = load_rules()
    assert (rules.confidence, rules.family_level, rules.resamples) == (0.95, 0.05, 2000)
    assert rules.rules["gain below"].startswith("First minus second in percent")


# Contradictions -------------------------------------------------------------------------------


def made_up(**values):
    plain = next(iter(load_claims().values()))
    return {
        id.replace("_", "-"): replace(plain, value=value, unit="percent")
        for id, value in values.items()
    }


@pytest.mark.parametrize(
    ("values", "arithmetic"),
    [
        (
            {"cost_epoch": "66", "cost_epoch_extra": "5", "cost_training": "30"},
            "5 / (66 − 5) = 8.2 %",
        ),
        ({"main_dnrg_ml1m": "77.67", "main_dnrb_ml1m": "77.12"}, "77.67 − 77.12 = +0.55 points"),
        ({"ablation_no_adv": "76.90", "ablation_w_b": "76.90"}, "76.90 − 76.90 = 0.00 points"),
        (
            {
                "main_dnrb_books": "75.54", "main_pier_books": "71.62", "gain_pier_books": "5.47",
                "gain_pier_books_text": "8.90",
            },
            "75.54 / 71.62 − 1 = 5.47 %",
        ),
        (
            {"main_dnrb_kuai": "50.30", "main_dnrb_kuai_ndcg": "70.15"},
            "50.30 < 70.15, but a hit ratio is never below NDCG",
        ),
    ],
)  # fmt: skip
def test_a_contradiction_is_computed_once_its_numbers_are_claims(values, arithmetic):
    (found,) = contradictions(made_up(**values))
    assert found.arithmetic == arithmetic
    least = dict(list(values.items())[:-1])
    assert contradictions(made_up(**least)) == []


def test_the_contradictions_of_the_claims_hold():
    found = {one.one: one.arithmetic for one in contradictions()}
    assert "75.99 + 1.68 = 77.67, DNR-G's; 72.85 + 4.27 = 77.12, DNR-B's" in found.values()
    assert found["DNR gains 4.82 points over PRM."].startswith("77.67 − 72.85 = 4.82")
    assert "50.30 / 45.35 − 1 = 10.92 %" in found.values()
