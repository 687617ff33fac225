"""The paper's numbers are read from its claims, all of which are there."""

from collections import Counter
from pathlib import Path

import pytest

from dnrlib.claims import Claim, load_claims, paper_value
from dnrlib.errors import ConfigError, DataError

ROOT = Path(__file__).parents[1]
KINDS = {
    "main": 19, "data": 9, "ablation": 6, "theory": 5, "online": 4, "denoising": 3,
    "hyperparameter": 3, "naive use": 3, "retriever": 3, "cost": 3, "backbone": 2, "noise": 1,
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
    assert len(claims) == len(lines) - 1 == 61
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
