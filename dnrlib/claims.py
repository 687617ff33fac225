"""The paper's claims, one a row of data/claims.csv, and the rules of data/rules.yml.

The paper's numbers in prose come from here.
"""

from __future__ import annotations

import csv
import math
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

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
        DataError: the file is missing, its columns are not those of `Claim`, an id is there twice,
            or a row lacks what its rule needs.
    """
    if not path.exists():
        raise DataError(path, "no such file: run from the project's folder")
    claims: dict[str, Claim] = {}
    lines: dict[str, int] = {}
    for line, claim in _rows(path):
        if claim.id in claims:
            raise DataError(path, f"claim {claim.id!r} is in line {lines[claim.id]} already", line)
        if fault := _fault(claim):
            raise DataError(path, f"claim {claim.id!r}: {fault}", line)
        claims[claim.id], lines[claim.id] = claim, line
    _check_whole(claims, lines, path)
    return claims


def _rows(path: Path) -> Iterator[tuple[int, Claim]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if None in row.values():
                raise DataError(path, "columns differ: the row is too short", reader.line_num)
            try:
                yield reader.line_num, Claim(**row)
            except TypeError as error:
                reason = f"columns differ from those of a claim ({error})"
                raise DataError(path, reason, reader.line_num) from error


def _check_whole(claims: Mapping[str, Claim], lines: Mapping[str, int], path: Path) -> None:
    """A part needs the whole that it is a part of."""
    for id, claim in claims.items():
        if claim.rule == "part" and number(getattr(claims.get(WHOLE), "value", "")) is None:
            reason = f"claim {id!r}: rule 'part' needs a claim {WHOLE!r} with a number as value"
            raise DataError(path, reason, lines[id])


# What a rule needs ------------------------------------------------------------------------

WHOLE = "ablation-full"
"""The claim that the rule `part` takes its own value from."""
UNITS = (
    "percent", "points", "ratio", "seconds", "nats", "count", "range", "qualitative",
)  # fmt: skip
CELL = r"[^\s/@]+/[^\s/@]+(@[^\s/@]+)?"
MEASURED = r"[^\s/]+-[^\s/]+/[^\s/]+"


class Needs(NamedTuple):
    """What a row of data/claims.csv must hold for its rule."""

    evidence: str
    """A regular expression."""
    example: str
    """Of the evidence."""
    value: str = "number"
    """``number``, ``range``, ``none`` or ``any``."""
    tolerance: str = ""
    """``share`` (as ``50 %``), ``number``, or nothing."""


_TWO = (rf"{CELL} - {CELL}", "full/DNR-B - full/concat")
_WORLDS = (r"worlds/\w+", "worlds/direct")
_MEASURED = (MEASURED, "seeds-noise/DNR-B")
NEEDS: dict[str, Needs] = {
    "none": Needs(r".*", "", "any"),
    "count": Needs(r"[^\s/]+/\w+", "ml-1m/users", tolerance="share"),
    "level": Needs(CELL, "full/DNR-B", tolerance="number"),
    "at least": Needs(CELL, "full/DNR-B"),
    "difference": Needs(*_TWO, value="any", tolerance="share"),
    "relative": Needs(*_TWO, value="any", tolerance="share"),
    "part": Needs(*_TWO, tolerance="share"),
    "gain below": Needs(*_TWO),
    "optimum": Needs(r"[^\s/]+/[\w.]+", "hyperparameters/training.lambda_c", "range"),
    "closest": Needs(*_MEASURED, value="none"),
    "clusters": Needs(*_MEASURED, value="none"),
    "narrower": Needs(*_MEASURED, value="none"),
    "identity": Needs(*_WORLDS, tolerance="number"),
    "independent": Needs(*_WORLDS, tolerance="number"),
    "bound": Needs(*_WORLDS, value="none"),
    "overhead": Needs("training", "training", tolerance="number"),
    "same ratio": Needs("inference", "inference", tolerance="number"),
}
"""Rule of data/rules.yml -> what it needs."""


def number(text: str) -> float | None:
    """A finite number, or None if the text is none."""
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def span(text: str) -> tuple[float, float] | None:
    """The ends of a range such as ``0.3-0.5``, or None if the text is none."""
    ends = [number(end) for end in text.split("-")]
    if len(ends) != 2 or ends[0] is None or ends[1] is None or ends[0] > ends[1]:
        return None
    return ends[0], ends[1]


def share(text: str) -> float | None:
    """A share such as ``50 %``, as a part of one, or None if the text is none."""
    found = number(text.removesuffix("%")) if text.endswith("%") else None
    return None if found is None else found / 100


def _fault(claim: Claim) -> str:
    """What is wrong with a row, and what would be right; empty if nothing is."""
    if not (claim.id and claim.kind and claim.statement):
        return "has no id, no kind or no statement: fill them in"
    if claim.rule not in NEEDS:
        return f"rule {claim.rule!r} is unknown: choose one of {', '.join(NEEDS)}"
    needs = NEEDS[claim.rule]
    if not re.fullmatch(needs.evidence, claim.evidence):
        return (
            f"evidence {claim.evidence!r} is not what rule {claim.rule!r} looks at: write it as "
            f"{needs.example!r}"
        )
    return _fault_of_value(claim, needs.value) or _fault_of_tolerance(claim, needs)


def _fault_of_value(claim: Claim, kind: str) -> str:
    if claim.unit not in UNITS:
        return f"unit {claim.unit!r} is unknown: choose one of {', '.join(UNITS)}"
    if claim.unit == "qualitative" and claim.value:
        return f"value {claim.value!r} has unit qualitative: name its unit, or leave it empty"
    if kind == "any" and not claim.value:
        return ""
    if kind == "none":
        return f"rule {claim.rule!r} has no value: leave it empty" if claim.value else ""
    text = f"value {claim.value!r} must be"
    if "range" in (kind, claim.unit):
        fits = claim.unit == "range" and kind != "number" and span(claim.value)
        wanted = "a range such as 0.3-0.5, with unit range, for rules optimum and none alone"
        return "" if fits else f"{text} {wanted}"
    if claim.unit == "count":
        return "" if re.fullmatch(r"\d+", claim.value) else f"{text} a whole number"
    return f"{text} a number" if number(claim.value) is None else ""


def _fault_of_tolerance(claim: Claim, needs: Needs) -> str:
    text, rule = claim.tolerance, f"tolerance {claim.tolerance!r}: rule {claim.rule!r}"
    if not needs.tolerance:
        return f"{rule} has none: leave it empty" if text else ""
    if needs.value == "any" and not claim.value and not text:
        return ""
    found = share(text) if needs.tolerance == "share" else number(text)
    wanted = "a share such as '50 %'" if needs.tolerance == "share" else "a number, without %"
    return f"{rule} needs {wanted}, not below zero" if found is None or found < 0 else ""


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
    resamples: int | None
    """Of the bootstrap; None, which no file can say, takes the two-way variance in its place."""
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
        DataError: the file is missing or is not one of rules, a constant is outside its range, or a
            rule is missing or unknown.
    """
    try:
        text = path.read_text("utf-8")
        fault = _fault_of_rules(yaml.safe_load(text))
    except OSError as error:
        raise DataError(path, "no such file: run from the project's folder") from error
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(path, f"not a file of rules ({reason})") from error
    if fault:
        raise DataError(path, fault)
    return _rules(text)


def _fault_of_rules(content: Any) -> str:
    """What is wrong with the constants or the names; empty if nothing is."""
    for name in ("confidence", "family_level"):
        value = content[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            return f"{name} = {value!r}: must be a number between 0 and 1, such as 0.05"
    if type(content["resamples"]) is not int or content["resamples"] < 2:
        return f"resamples = {content['resamples']!r}: must be a whole number, at least 2"
    if other := content.keys() - {"confidence", "family_level", "resamples", "rules"}:
        return f"has an unknown constant {', '.join(sorted(other))}"
    names = content["rules"].keys()
    lacking, foreign = NEEDS.keys() - names, names - NEEDS.keys()
    if not all(isinstance(words, str) for words in content["rules"].values()):
        return "rules: each needs its wording, as text"
    for some, fault in ((lacking, "has no"), (foreign, "has an unknown")):
        if some:
            return f"{fault} rule {', '.join(sorted(some))}: the rules are {', '.join(NEEDS)}"
    return ""


def _rules(text: str) -> Rules:
    content: Any = yaml.safe_load(text)
    rules = {name: " ".join(words.split()) for name, words in content.pop("rules").items()}
    return Rules(**content, rules=rules)


@dataclass(frozen=True)
class Version:
    """One committed version of a file."""

    commit: str
    date: datetime
    says: Any
    """What was read from it: `Rules`, or of each claim the columns that decide its verdict."""


@cache
def rules_history(path: Path = RULES) -> tuple[Version, ...]:
    """Every committed version of the rules, the newest first.

    None where git knows nothing, or (a shallow clone) not all.
    """
    return _history(path, _rules)


DECIDING = ("rule", "evidence", "tolerance", "value", "metric", "dataset")
"""The columns of a claim that its verdict hangs on, besides the rule's wording."""


@cache
def claims_history(path: Path = CLAIMS) -> tuple[Version, ...]:
    """Every committed version of the claims, the newest first; none as in `rules_history`."""
    return _history(path, _deciding)


def _deciding(text: str) -> dict[str, tuple[str | None, ...]]:
    """Id -> its `DECIDING` columns; None for a column that an old version has not."""
    rows = csv.DictReader(text.splitlines(keepends=True))
    return {row.get("id", ""): tuple(row.get(name) for name in DECIDING) for row in rows}


def _history(path: Path, read: Callable[[str], Any]) -> tuple[Version, ...]:
    try:
        if _git(path, "rev-parse", "--is-shallow-repository").strip() == "true":
            return ()
        lines = _git(path, "log", "--format=%h %cI", "--", path.name).splitlines()
        commits = [line.split() for line in lines]
        texts = [_git(path, "show", f"{commit}:./{path.name}") for commit, _ in commits]
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(
        Version(commit, datetime.fromisoformat(date), read(text))
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
    return _since(rules_history(path), lambda rules: rules.same(now, rule))


def judged_since(claim: Claim, rules: Path = RULES, claims: Path = CLAIMS) -> datetime | None:
    """Since when a claim's rule, the constants and its own row say what they do now.

    None as in `standing_since`: also where the row is not committed as it is.
    """
    row = tuple(getattr(claim, name) for name in DECIDING)
    same = _since(claims_history(claims), lambda rows: rows.get(claim.id) == row)
    rule = standing_since(claim.rule, rules)
    return max(rule.date, same.date) if rule and same else None


def first_committed(path: Path) -> datetime | None:
    """When a file was committed first; None where git does not know."""
    try:
        if _git(path, "rev-parse", "--is-shallow-repository").strip() == "true":
            return None
        dates = _git(path, "log", "--format=%cI", "--", path.name).split()
    except (OSError, subprocess.CalledProcessError):
        return None
    return datetime.fromisoformat(dates[-1]) if dates else None


def _since(history: tuple[Version, ...], same: Callable[[Any], bool]) -> Version | None:
    """The oldest version of the newest ones that say the same."""
    return next(reversed(list(takewhile(lambda version: same(version.says), history))), None)


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
