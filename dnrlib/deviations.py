"""What this book does otherwise than the paper, and how far recorded runs say that it matters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dnrlib.comparisons import per_seed, present
from dnrlib.errors import ConfigError, DataError
from dnrlib.experiments import EXPERIMENTS, METHODS, RunConfig, load_experiment, run_config
from dnrlib.identity import from_dict
from dnrlib.records import Record
from dnrlib.rerankers import RERANKERS
from dnrlib.statistics import Estimate
from dnrlib.studies import difference, same_requests, unpaired

DEVIATIONS = Path("data/deviations.yml")
TOPICS = (
    "data", "candidates", "split", "retriever", "model", "training", "evaluation", "statistics",
)  # fmt: skip
"""What a deviation may be about, in the order of the chapter."""
KEYS = {"id", "topic", "forced", "paper", "ours", "why", "effect"}


@dataclass(frozen=True)
class Cell:
    """Runs of an experiment that differ in their seed alone."""

    experiment: str
    settings: Mapping[str, Any]
    """Path of a setting (``method``, ``data.protocol``) -> its value."""

    def __str__(self) -> str:
        values = [str(value) for value in self.settings.values()]
        return f"{self.experiment}: {', '.join(values)}"

    def holds(self, config: RunConfig) -> bool:
        """Whether a run is one of these."""
        return all(setting(config, path) == value for path, value in self.settings.items())


@dataclass(frozen=True)
class Comparison:
    """Two cells: ``a`` with the choice in question, ``b`` with another."""

    a: Cell
    b: Cell
    metric: str

    def __str__(self) -> str:
        """What differs, ``protocol: shown+sampled, not retrieved``, or the two experiments."""
        paths = [*self.a.settings, *self.b.settings]
        sides = {path: (_of(self.a, path), _of(self.b, path)) for path in paths}
        words = [
            f"{_short(path)}: {a}, not {b}" for path, (a, b) in sides.items() if a != b
        ]  # fmt: skip
        return "; ".join(words) or f"runs of {self.a.experiment}, not of {self.b.experiment}"


@dataclass(frozen=True)
class Deviation:
    """One entry of data/deviations.yml."""

    id: str
    topic: str
    forced: bool
    """Whether there was no choice: data that cannot be had, or computing time."""
    paper: str
    """What it says; ``silent`` if it does not."""
    ours: str
    why: str
    effect: Comparison | None
    unknown: str
    """Why no recorded run can show the effect; empty where one can."""


def _of(cell: Cell, path: str) -> str:
    """What a cell says of a setting; the default of all runs where it says nothing."""
    value = cell.settings.get(path, setting(run_config({"method": "concat"}), path))
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _short(path: str) -> str:
    """The last parts of a setting's path, in words: ``factorisation epochs``."""
    *_, group, name = ["", *path.split(".")]
    words = name if group in ("", "data", "options", "training") else f"{group} {name}"
    return words.replace("_", " ")


def load_deviations(path: Path = DEVIATIONS) -> list[Deviation]:
    """Every entry, in the order of the file.

    Raises:
        DataError: naming the entry with a missing or unknown key, an unknown topic, an id that
            occurs twice, or an effect that is neither a comparison nor ``unknown: reason``.
    """
    try:
        entries = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(path, "no such file: run from the project's folder") from error
    except yaml.YAMLError as error:
        raise DataError(path, f"not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(entries, list):
        raise DataError(path, "must be a list of deviations, each with the keys " + _listed(KEYS))
    found = [_deviation(entry, number, path) for number, entry in enumerate(entries, start=1)]
    twice = [id for id, times in Counter(one.id for one in found).items() if times > 1]
    if twice:
        raise DataError(path, f"{_listed(twice)} occurs twice: give each its own id")
    return found


def _deviation(entry: Any, number: int, path: Path) -> Deviation:
    if not isinstance(entry, Mapping):
        raise DataError(path, f"entry {number} is not a mapping of {_listed(KEYS)}")
    where = f"entry {number} ({entry.get('id', 'without id')})"
    if missing := KEYS - entry.keys():
        raise DataError(path, f"{where} lacks {_listed(missing)}")
    if other := entry.keys() - KEYS:
        raise DataError(path, f"{where} has the unknown key {_listed(other)}")
    if entry["topic"] not in TOPICS:
        raise DataError(path, f"{where}: topic {entry['topic']!r} is none of {', '.join(TOPICS)}")
    if not isinstance(entry["forced"], bool):
        raise DataError(path, f"{where}: forced must be true or false")
    effect, unknown = _effect(entry["effect"], where, path)
    return Deviation(**{**entry, "effect": effect, "unknown": unknown})


def _effect(effect: Any, where: str, path: Path) -> tuple[Comparison | None, str]:
    if isinstance(effect, Mapping) and effect.keys() == {"unknown"} and effect["unknown"]:
        return None, str(effect["unknown"])
    if not isinstance(effect, Mapping) or effect.keys() != {"experiment", "a", "b", "metric"}:
        raise DataError(path, f"{where}: effect must have experiment, a, b, metric; or unknown")
    if not all(isinstance(effect[side], Mapping) for side in "ab"):
        raise DataError(
            path, f"{where}: a and b of its effect must be settings, {{method: concat}}"
        )
    a, b = (_cell(effect[side], effect["experiment"]) for side in "ab")
    return Comparison(a, b, effect["metric"]), ""


def _cell(given: Mapping[str, Any], experiment: str) -> Cell:
    settings = {path: value for path, value in given.items() if path != "experiment"}
    return Cell(given.get("experiment", experiment), settings)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def setting(config: RunConfig, path: str) -> Any:
    """``setting(config, "data.protocol")``; None for an option that is not given.

    Raises:
        ConfigError: there is no such setting.
    """
    value: Any = config
    for name in path.split("."):
        if not isinstance(value, Mapping) and not hasattr(value, name):
            raise ConfigError(f"{path} is no setting of a run: {name} is unknown")
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name)
    return value


def check_cell(cell: Cell, folder: Path | None = None, results: Path | None = None) -> None:
    """That a cell names runs of its experiment that differ in their seed alone.

    Raises:
        ConfigError: experiment, method or reranker is unknown, no run is meant, or several kinds.
        DataError: the experiment is tuned on runs that have no record.
    """
    if not ((folder or EXPERIMENTS) / f"{cell.experiment}.yml").exists():
        raise ConfigError(f"{cell}: there is no experiment {cell.experiment!r}")
    for name, known in (("method", METHODS), ("reranker", RERANKERS)):
        if (value := cell.settings.get(name, next(iter(known)))) not in known:
            raise ConfigError(f"{cell}: {name} {value!r} is unknown: one of {', '.join(known)}")
    configs = [c for c in load_experiment(cell.experiment, folder, results) if cell.holds(c)]
    kinds = {repr((c.model, c.data, c.options, c.training)) for c in configs}
    if len(kinds) != 1:
        raise ConfigError(f"{cell}: names {len(kinds)} kinds of runs, but must name one")


@dataclass(frozen=True)
class Effect:
    """What was recorded of a comparison.

    Attributes:
        difference: a minus b, or None where one side has no record.
        paired: whether it is of the same requests, list by list.
        a: the records of the first side.
        b: those of the second.
    """

    difference: Estimate | None
    paired: bool
    a: Sequence[Record]
    b: Sequence[Record]


def effects(deviations: Iterable[Deviation], results: Path | None = None) -> dict[str, Effect]:
    """The effect of every deviation that names a comparison, by id."""
    compared = {one.id: one.effect for one in deviations if one.effect}
    names = {cell.experiment for effect in compared.values() for cell in (effect.a, effect.b)}
    known = {name: _present(name, results) for name in names}
    return {
        id: compare(_runs(one.a, known), _runs(one.b, known), one.metric)
        for id, one in compared.items()
    }


def _present(experiment: str, results: Path | None) -> list[Record]:
    """What is recorded; nothing of an experiment that waits for its tuning."""
    try:
        return present(experiment, results)[0]
    except DataError:
        return []


def _runs(cell: Cell, known: Mapping[str, Sequence[Record]]) -> list[Record]:
    found = known[cell.experiment]
    return [one for one in found if cell.holds(from_dict(RunConfig, one.config))]


def compare(a: Sequence[Record], b: Sequence[Record], metric: str = "ndcg@6") -> Effect:
    """First minus second, over the seeds of both, or over all seeds where they share none.

    Paired by list where both were tested on the same requests (`dnrlib.studies`).
    """
    if not a or not b:
        return Effect(None, False, a, b)
    if found := difference(a, b, metric):
        return Effect(found, same_requests(a[0], b[0]), a, b)
    return Effect(unpaired(per_seed(a, metric), per_seed(b, metric)), False, a, b)
