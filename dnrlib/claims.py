"""The paper's claims, one a row of data/claims.csv, and the rules of data/rules.yml.

The paper's numbers in prose come from here.
"""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from dnrlib.errors import ConfigError, DataError

CLAIMS = Path("data/claims.csv")
RULES = Path("data/rules.yml")


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


@dataclass(frozen=True)
class Rules:
    """By what a claim gets its verdict."""

    confidence: float
    """Of every interval."""
    family_level: float
    """Of the adjusted p-values."""
    resamples: int
    rules: dict[str, str]
    """Name -> wording."""

    def same(self, other: Rules, rule: str) -> bool:
        """Whether a rule says the same in both, constants included."""
        constants = ("confidence", "family_level", "resamples")
        return self.rules.get(rule) == other.rules.get(rule) and all(
            getattr(self, name) == getattr(other, name) for name in constants
        )


@cache
def load_rules(path: Path = RULES) -> Rules:
    """The rules.

    Raises:
        DataError: the file is missing or is not one of rules.
    """
    try:
        return _rules(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(path, "no such file: run from the project's folder") from error
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(path, f"not a file of rules ({reason})") from error


def _rules(text: str) -> Rules:
    content: Any = yaml.safe_load(text)
    rules = {name: " ".join(words.split()) for name, words in content.pop("rules").items()}
    return Rules(**content, rules=rules)


@dataclass(frozen=True)
class Version:
    """One committed version of the rules."""

    commit: str
    date: datetime
    rules: Rules


@cache
def rules_history(path: Path = RULES) -> tuple[Version, ...]:
    """Every committed version of the rules, the newest first.

    None where git knows nothing, or (a shallow clone) not all.
    """
    try:
        if _git(path, "rev-parse", "--is-shallow-repository").strip() == "true":
            return ()
        lines = _git(path, "log", "--format=%h %cI", "--", path.name).splitlines()
        commits = [line.split() for line in lines]
        texts = [_git(path, "show", f"{commit}:./{path.name}") for commit, _ in commits]
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(
        Version(commit, datetime.fromisoformat(date), _rules(text))
        for (commit, date), text in zip(commits, texts, strict=True)
    )


def _git(path: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=path.parent, capture_output=True, text=True, check=True
    )
    return done.stdout


def standing_since(rule: str, path: Path = RULES) -> Version | None:
    """The oldest version from which on a rule and the constants read as they do now.

    None where git knows nothing, or where their wording is not committed yet.
    """
    now = load_rules(path)
    same = takewhile(lambda version: version.rules.same(now, rule), rules_history(path))
    return next(reversed(list(same)), None)


# Where the paper contradicts itself -------------------------------------------------------


@dataclass(frozen=True)
class Contradiction:
    """Two statements of the paper that cannot both be read as they stand."""

    one: str
    other: str
    arithmetic: str


def contradictions(claims: Mapping[str, Claim] | None = None) -> list[Contradiction]:
    """Those whose numbers are all among the claims, with their arithmetic.

    Args:
        claims: by default all of data/claims.csv.
    """
    values = {
        id: float(claim.value)
        for id, claim in (claims or load_claims()).items()
        if claim.value and claim.unit != "range"
    }
    found = []
    for build in (
        _cost, _conjugate, _adversarial, _confounded, _across_backbones, _books, _kuai, _hit_ratio
    ):  # fmt: skip
        with suppress(KeyError):
            found.append(build(values))
    return found


Values = Mapping[str, float]


def _cost(v: Values) -> Contradiction:
    epoch, extra, share = v["cost-epoch"], v["cost-epoch-extra"], v["cost-training"]
    return Contradiction(
        f"Training with DNR is about {share:.0f} % dearer.",
        f"An epoch takes {epoch:.0f} s, {extra:.0f} s more than PRM.",
        f"{extra:.0f} / ({epoch:.0f} − {extra:.0f}) = {100 * extra / (epoch - extra):.1f} %",
    )


def _conjugate(v: Values) -> Contradiction:
    gaussian, beta = v["main-dnrg-ml1m"], v["main-dnrb-ml1m"]
    return Contradiction(
        "Beta noise fits binary feedback better than Gaussian noise.",
        "On ML-1M the model with Gaussian noise has the higher NDCG@6.",
        f"{gaussian:.2f} − {beta:.2f} = {gaussian - beta:+.2f} points",
    )


def _adversarial(v: Values) -> Contradiction:
    without, heuristic = v["ablation-no-adv"], v["ablation-w-b"]
    return Contradiction(
        "The trained generator is worth more than heuristic noise.",
        "Without its adversarial loss, but with the generator, DNR-B is level with heuristic Beta.",
        f"{without:.2f} − {heuristic:.2f} = {without - heuristic:.2f} points",
    )


def _confounded(v: Values) -> Contradiction:
    pier, prm = v["main-pier-ml1m"], v["main-prm-ml1m"]
    first, second = v["backbone-pier"], v["backbone-prm"]
    return Contradiction(
        "The main table compares DNR-G with DNR-B: two noises.",
        "The backbone table has the same two figures for PIER and for PRM with DNR: two backbones.",
        f"{pier:.2f} + {first:.2f} = {pier + first:.2f}, DNR-G's; "
        f"{prm:.2f} + {second:.2f} = {prm + second:.2f}, DNR-B's",
    )


def _across_backbones(v: Values) -> Contradiction:
    gain, own = v["gain-prm-ml1m"], v["backbone-prm"]
    best, prm = v["main-dnrg-ml1m"], v["main-prm-ml1m"]
    return Contradiction(
        f"DNR gains {gain:.2f} points over PRM.",
        f"On PRM itself it gains {own:.2f}: the larger figure is of DNR on PIER.",
        f"{best:.2f} − {prm:.2f} = {best - prm:.2f}; {prm + own:.2f} − {prm:.2f} = {own:.2f}",
    )


def _books(v: Values) -> Contradiction:
    best, pier = v["main-dnrb-books"], v["main-pier-books"]
    return Contradiction(
        f"On Amazon-Books DNR gains {v['gain-pier-books-text']:.2f} % over PIER.",
        f"In another place it is {v['gain-pier-books']:.2f} %.",
        f"{best:.2f} / {pier:.2f} − 1 = {100 * (best / pier - 1):.2f} %",
    )


def _kuai(v: Values) -> Contradiction:
    best, pier = v["main-dnrb-kuai"], v["main-pier-kuai"]
    return Contradiction(
        f"On Kuaivideo DNR gains {v['gain-pier-kuai']:.2f} % over PIER.",
        "The table's figures give a little less.",
        f"{best:.2f} / {pier:.2f} − 1 = {100 * (best / pier - 1):.2f} %",
    )


def _hit_ratio(v: Values) -> Contradiction:
    hits, ndcg = v["main-dnrb-kuai"], v["main-dnrb-kuai-ndcg"]
    return Contradiction(
        f"On Kuaivideo H@6, called hit ratio, is {hits:.2f} %.",
        f"NDCG@6 of the same model on the same lists is {ndcg:.2f} %.",
        f"{hits:.2f} < {ndcg:.2f}, but a hit ratio is never below NDCG",
    )
