"""The paper's claims, one a row of data/claims.csv; its numbers in prose come from here."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dnrlib.errors import ConfigError, DataError

CLAIMS = Path("data/claims.csv")


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, as stated; ``value`` is text, as some are ranges or have none."""

    id: str
    kind: str
    statement: str
    dataset: str
    metric: str
    value: str
    unit: str
    source: str
    """Where in the paper."""
    rule: str
    """By which of data/rules.yml it gets its verdict."""
    evidence: str
    """What the rule looks at, or why there is nothing to look at."""
    tolerance: str


@cache
def load_claims(path: Path = CLAIMS) -> dict[str, Claim]:
    """Every claim by its id.

    Raises:
        DataError: the file is missing or its columns are not those of `Claim`.
    """
    if not path.exists():
        raise DataError(path, "no such file: run from the project's folder")
    with path.open(newline="", encoding="utf-8") as file:
        try:
            return {row["id"]: Claim(**row) for row in csv.DictReader(file)}
        except (TypeError, KeyError) as error:
            raise DataError(path, f"columns differ from those of a claim ({error})") from error


def paper_value(id: str) -> float:
    """The number that the paper gives for a claim, in the paper's unit.

    Raises:
        ConfigError: no such claim, or it has no number.
    """
    claim = load_claims().get(id)
    try:
        return float(claim.value) if claim else float("")
    except ValueError:
        raise ConfigError(f"claims.csv has no number for {id!r}") from None
