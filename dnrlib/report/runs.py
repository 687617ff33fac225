"""The runs behind a report: the same budget for each method, and what they will take."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import torch

from dnrlib.costs import Place, Rates, Sizes, Work, epochs_done, predict, rates, side_by_side
from dnrlib.engines import run_locally, threads_each
from dnrlib.errors import ConfigError
from dnrlib.experiments import (
    METHODS,
    RUNS,
    UNTRAINED,
    RunConfig,
    merge,
    recorded,
    run,
    run_config,
    run_name,
    work_of,
)
from dnrlib.identity import hash_of
from dnrlib.lists import CandidateLists
from dnrlib.records import Record
from dnrlib.rerankers import class_of
from dnrlib.units import duration

REFERENCE = "concat"
"""The score as a plain feature: what every method is compared with."""
DENOISING = ("noise-G", "noise-B", "DNR-G", "DNR-B")
"""The methods of the paper: what the report asks about."""
SIMPLER = ("none", "score-dropout", "score-jitter")
"""What else can be done about a score that is not to be trusted."""
FIXED = ("method", "reranker", "seed", "data.dataset", "data.file")
"""Settings that the report has options of its own for, or varies itself."""
GROUP = "report"
"""The folder of records below results/."""


@dataclass(frozen=True)
class Asked:
    """What a reader asks of a report.

    Args:
        file: Parquet or CSV, as `dnrlib.logged.read_lists` takes it.
        seeds: of every trained method: 0, 1, …
        epochs: of every run; phase two of DNR is the second half.
        learning_rates: of these, validation chooses one for each method, with the first seed.
        effect: the smallest difference of NDCG@6 that matters to the reader.
        settings: any other setting of the runs, nested as in `dnrlib.experiments.run_config`.

    Raises:
        ConfigError: a value that cannot be used.
    """

    file: str
    reranker: str = "prm"
    seeds: int = 3
    epochs: int = 10
    learning_rates: tuple[float, ...] = (2e-3, 1e-2)
    effect: float = 0.01
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("seeds", "epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least 1")
        if not 0 < self.effect < 1:
            raise ConfigError(f"effect = {self.effect}: must lie between 0 and 1")
        if not self.learning_rates:
            raise ConfigError("learning_rates: give one at least")
        for path in FIXED:
            if _has(self.settings, path):
                raise ConfigError(f"the report itself sets {path}: it cannot be set besides")
        class_of(self.reranker)
        self.config(REFERENCE)  # an unknown setting is found at once, as an unknown reranker is

    @property
    def methods(self) -> tuple[str, ...]:
        """The trained methods, the reference first; some of them are variants of PRM alone."""
        every = (REFERENCE, *SIMPLER, *DENOISING)
        own = [name for name in every if "reranker" not in METHODS[name]]
        return every if self.reranker == "prm" else tuple(own)

    @property
    def command(self) -> str:
        """With which the report is made again, with all that was asked."""
        options = {"reranker": self.reranker, "seeds": self.seeds, "epochs": self.epochs}
        parts = [f"--{name} {value}" for name, value in (options | {"effect": self.effect}).items()]
        parts += [f"--learning-rate {rate:g}" for rate in self.learning_rates]
        parts += [f"--set {shlex.quote(f'{path}={value}')}" for path, value in _flat(self.settings)]
        return " ".join(["dnr report", shlex.quote(self.file), *parts])

    def config(self, method: str, seed: int = 0, learning_rate: float = 0.0) -> RunConfig:
        """A run; by default with the first learning rate."""
        training = {
            "epochs": self.epochs, "lambda_e": self.epochs // 2, "batch_size": 64,
            "learning_rate": learning_rate or self.learning_rates[0],
        }  # fmt: skip
        own = {} if "reranker" in METHODS[method] else {"reranker": self.reranker}
        data = {"dataset": "lists", "file": self.file}
        named = {"method": method, "data": data, "training": training, "seed": seed, **own}
        return run_config(merge(named, self.settings))


def _has(settings: Mapping[str, Any], path: str) -> bool:
    first, _, rest = path.partition(".")
    return first in settings and (not rest or _has(settings[first], rest))


def _flat(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Path and value, as YAML, of every setting."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", json.dumps(value)


# What it will take -------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a report is going to take, before anything is trained.

    Args:
        works: of each method that can be trained, what decides its time, and its measured rates.
        left_out: method -> why it cannot be trained.
        epochs_left: of each run that is not recorded yet, with its method.
        done: runs that are recorded.
        workers: runs side by side.
    """

    asked: Asked
    works: dict[str, tuple[Work, Rates]]
    left_out: dict[str, str]
    epochs_left: list[tuple[str, int]]
    done: int
    workers: int

    @property
    def seconds(self) -> float:
        """Of all runs that are left; side by side each is a little slower than that."""
        return side_by_side((self.of(name, left) for name, left in self.epochs_left), self.workers)

    def of(self, method: str, epochs: int, sizes: Sizes | None = None) -> float:
        """Seconds of a run of which so many epochs are left, perhaps of other sizes."""
        work, known = self.works[method]
        work = replace(work, sizes=sizes or work.sizes)
        return predict(work, known, _place(), work.training.epochs - epochs, 0.0).seconds

    def check_budget(self, minutes: float) -> None:
        """Raises ConfigError, with what would fit, if the runs would take longer."""
        if self.seconds <= 60 * minutes:
            return
        raise ConfigError(
            f"budget = {minutes:g} minutes: the {len(self.epochs_left)} runs would take about "
            f"{duration(self.seconds)}. {self._advice(60 * minutes)}"
        )

    def _advice(self, seconds: float) -> str:
        work, _ = self.works[REFERENCE]
        count, epochs = work.sizes.train, work.training.epochs
        offers = [
            self._offer("--train-lists", [count // 2**power for power in range(1, 8)], seconds),
            self._offer("--epochs", [epochs // 2**power for power in range(1, 5)], seconds),
        ]
        fitting = [offer for offer in offers if offer]
        return (
            f"Give {' or '.join(fitting)}, or a longer budget"
            if fitting
            else "Give a longer budget, or fewer --epochs together with fewer --train-lists"
        )

    def _offer(self, option: str, values: Sequence[int], seconds: float) -> str:
        """The largest of the values with which the runs fit."""
        for value in filter(None, values):
            if (took := self._with(option, value)) <= seconds:
                return f"{option} {value} (about {duration(took)})"
        return ""

    def _with(self, option: str, value: int) -> float:
        """Seconds if nothing were recorded."""
        work, _ = self.works[REFERENCE]
        lists = option == "--train-lists"
        sizes = replace(work.sizes, train=value) if lists else work.sizes
        epochs = work.training.epochs if lists else value
        each = (self.of(name, epochs, sizes) for name, _ in self.epochs_left)
        return side_by_side(each, self.workers)


def plan(
    asked: Asked,
    lists: CandidateLists,
    workers: int = 1,
    results: Path | None = None,
    runs: Path | None = None,
) -> Plan:
    """Measure how fast each method trains here, some seconds each unless that is known.

    Raises:
        ConfigError: the reference itself cannot be trained.
    """
    torch.set_num_threads(threads_each(workers))
    works, left_out = {}, {}
    for method in asked.methods:
        work = work_of(asked.config(method), Sizes.of_lists(lists))
        try:
            works[method] = work, rates(work, _place())
        except ConfigError as error:
            if method == REFERENCE:
                raise
            left_out[method] = str(error)
    left = [_left(asked, lists, method, results, runs) for method in works]
    todo = [(method, epochs) for method, each in zip(works, left, strict=True) for epochs in each]
    done = len(works) * (len(asked.learning_rates) + asked.seeds - 1) - len(todo)
    return Plan(asked, works, left_out, todo, done, workers)


def _place() -> Place:
    return Place(threads=torch.get_num_threads())


def _left(
    asked: Asked, lists: CandidateLists, method: str, results: Path | None, runs: Path | None
) -> list[int]:
    """Epochs left of each run of a method that is not recorded; which rate is chosen is open."""
    names = {
        (seed, rate): run_name(asked.config(method, seed, rate), lists)
        for seed in range(asked.seeds)
        for rate in asked.learning_rates
    }
    done = {key for key, name in names.items() if recorded(name, results)}
    begun = {key: _begun(runs, name) for key, name in names.items() if key not in done}
    first = [asked.epochs - epochs for (seed, _), epochs in begun.items() if not seed]
    later = [
        asked.epochs - max(begun.get((seed, rate), 0) for rate in asked.learning_rates)
        for seed in range(1, asked.seeds)
        if not any((seed, rate) in done for rate in asked.learning_rates)
    ]
    return first + later


def _begun(runs: Path | None, name: str) -> int:
    path = (runs or RUNS) / name / "checkpoint.pt"
    return epochs_done(path if path.exists() else None)


# Doing them --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runs:
    """The records of a report.

    Args:
        of: method -> its records, one a seed, with the learning rate that validation chose; what
            is not trained has one.
        tried: method -> learning rate -> validation NDCG@6 with the first seed.
    """

    of: dict[str, list[Record]]
    tried: dict[str, dict[float, float]]

    def chosen(self, method: str) -> float:
        """The learning rate of a method."""
        return max(self.tried[method], key=lambda rate: self.tried[method][rate])


def do(
    planned: Plan,
    results: Path | None = None,
    runs: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Runs:
    """Do the runs that are not recorded: first the learning rates, then the other seeds.

    Raises:
        ConfigError, DataError, TrainingError: as `dnrlib.experiments.run` does.
    """
    asked, folders = planned.asked, (results, runs, planned.workers)
    names = [*planned.works]
    first = {(name, rate): asked.config(name, 0, rate)
             for name in names for rate in asked.learning_rates}  # fmt: skip
    untrained = {name: asked.config(name) for name in UNTRAINED}
    trials = [*untrained.values(), *first.values()]
    total = len(trials) + len(names) * (asked.seeds - 1)
    found = _all(trials, folders, say, 0, total)
    tried = {
        name: {
            rate: found[hash_of(first[name, rate])].metrics["validation"]["ndcg@6"]
            for rate in asked.learning_rates
        }
        for name in names
    }
    best = Runs({}, tried)
    grid = {
        name: [asked.config(name, seed, best.chosen(name)) for seed in range(asked.seeds)]
        for name in names
    }
    found |= _all([c for each in grid.values() for c in each[1:]], folders, say, len(trials), total)
    of = {name: [found[hash_of(config)]] for name, config in untrained.items()}
    of |= {name: [found[hash_of(config)] for config in each] for name, each in grid.items()}
    return replace(best, of=of)


def _all(
    configs: list[RunConfig],
    folders: tuple[Path | None, Path | None, int],
    say: Callable[[str], None],
    before: int,
    total: int,
) -> dict[str, Record]:
    """Hash of a configuration -> its record."""
    found: dict[str, Record] = {}
    for number, record in enumerate(_records(configs, *folders), start=before + 1):
        found[hash_of(record.config)] = record
        value = record.metrics["validation"]["ndcg@6"]
        rate = record.config["training"]["learning_rate"]
        how = f", rate {rate:g}, seed {record.seed}" if record.best_epoch else ""
        took = duration(float(record.cost["seconds"]))
        say(f"[{number}/{total}] {record.method}{how}: validation NDCG@6 {value:.4f}, {took}")
    return found


def _records(
    configs: list[RunConfig], results: Path | None, runs: Path | None, workers: int
) -> Iterator[Record]:
    if workers > 1 and len(configs) > 1:
        yield from run_locally(configs, GROUP, results, runs, workers=workers)
        return
    for config in configs:
        yield run(config, results, runs, GROUP)


def full_log(planned: Plan, method: str, times: float = 1.0, train: int = 0) -> float:
    """Seconds of one run on so many training lists (0: those of the runs), or a multiple of it."""
    work, _ = planned.works[method]
    count = round(times * (train or work.sizes.train))
    if not 0 < count < inf:
        raise ConfigError(f"times = {times}: must be positive")
    return planned.of(method, work.training.epochs, replace(work.sizes, train=count))
