"""What it takes to do recorded runs once more, and how far the result is from the record."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from dnrlib.comparisons import age, present
from dnrlib.costs import side_by_side
from dnrlib.environment import cores
from dnrlib.errors import ConfigError, DataError
from dnrlib.experiments import RUNS, RunConfig, compute, config_of, lists_of, newest, run_name
from dnrlib.identity import from_dict, hash_of
from dnrlib.measurements import SAME_RUN
from dnrlib.records import RESULTS, ROUNDING, Record
from dnrlib.training import Progress
from dnrlib.units import duration

NOT_YET = "none recorded yet"
METRICS = (
    "ndcg@6", "map@6", "precision@6", "recall@6", "hit_ratio@6", "f1@6", "auc", "auc_shown",
    "auc_shown_vs_rest",
)  # fmt: skip
"""What of a run is compared with its record: means over the test lists."""
CONTRADICTION = "contradiction"
COVERAGE = 0.99
"""Share of the pairs of runs with different seeds whose difference is within the tolerance."""
LEAST_FREEDOM = 4
"""Degrees of freedom below which a spread over seeds says too little, and `SAME_RUN` holds."""


# What it takes ----------------------------------------------------------------------------


def what_it_takes(
    experiment: str, workers: int = 4, results: Path | None = None
) -> list[dict[str, str]]:
    """Rows of a table with two columns: how an experiment is done, and what its records took.

    Times are those of the records; how fast this machine is is not measured here.

    Args:
        workers: runs side by side.
        results: the folder of records, by default results/.

    Raises:
        DataError: there is no such experiment.
        ConfigError: it has an unknown parameter or value.
    """
    commands = {
        "command": f"dnr reproduce --experiment {experiment}",
        "time on your machine": f"dnr reproduce --experiment {experiment} --plan",
    }
    try:
        done, missing = present(experiment, results)
    except DataError as error:
        if error.path != (results or RESULTS):
            raise
        # It is tuned on runs that are not there.
        return _rows(commands | {"runs": "not known yet", "why": error.reason})
    configs = [from_dict(RunConfig, record.config) for record in done] + missing
    return _rows(
        commands
        | {"runs": f"{len(configs):,}", "recorded": f"{len(done):,}"}
        | {"one cell": f"dnr reproduce --experiment {experiment} --cell {[*cells(configs)][-1]}"}
        | {"time of the recorded runs": _time(done, workers)}
        | _what_is_run(configs)
        | {"lists": _each(_sizes(record) for record in done) or NOT_YET}
        | _provenance(done)
    )


def seconds(record: Record) -> float:
    """What a run took; of one that was interrupted the epochs before that count too."""
    return max(float(record.cost.get(name, 0.0)) for name in ("seconds", "training_seconds"))


def _rows(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"what": name, "here": value} for name, value in values.items()]


def _time(done: Sequence[Record], workers: int) -> str:
    """One after the other and side by side; preparing lists is in neither."""
    if not done:
        return NOT_YET
    each = [seconds(record) for record in done]
    return (
        f"{duration(sum(each))} one after the other, {duration(side_by_side(each, workers))} with "
        f"{workers} side by side; making the lists not counted"
    )


def _what_is_run(configs: Sequence[RunConfig]) -> dict[str, str]:
    return {
        "data sets": _each(config.data.dataset for config in configs),
        "protocols": _each(config.data.protocol for config in configs),
        "retriever scores": _each(config.data.retriever for config in configs),
        "models": _each(config.model for config in configs),
        "seeds": _each(sorted({config.seed for config in configs})),
    }


def _sizes(record: Record) -> str:
    sizes = (f"{record.data[name]:,} {name}" for name in ("train", "validation", "test")
             if name in record.data)  # fmt: skip
    return f"{record.config['data']['dataset']}: {', '.join(sizes)}"


def _provenance(done: Sequence[Record]) -> dict[str, str]:
    dates = sorted(str(record.made["date"])[:10] for record in done)
    return {
        "made": " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else NOT_YET,
        "commits": _each(record.made.get("commit", "unknown") for record in done) or NOT_YET,
        "machines": _each(record.made.get("machine", "unknown") for record in done) or NOT_YET,
        "code": age(done) if done else NOT_YET,
    }


def _each(values: Iterable[object]) -> str:
    """Different values in the order of their first appearance, behind commas or semicolons."""
    different = list(dict.fromkeys(map(str, values)))
    return ("; " if any("," in value for value in different) else ", ").join(different)


# Cells of a table -------------------------------------------------------------------------


def cells(configs: Sequence[RunConfig]) -> dict[str, list[RunConfig]]:
    """Cell of a table, as in ``concat@ml-1m@retrieved@earlier``, -> its runs, which differ in seed.

    Behind model, data set, protocol and retriever scores stand the settings by which it differs
    from other cells that agree in these four, as in ``@training.lambda_c=0.3``.
    """
    groups: dict[str, list[RunConfig]] = {}
    for config in configs:
        groups.setdefault(hash_of(replace(config, seed=0)), []).append(config)
    alike: dict[str, list[RunConfig]] = {}
    for first, *_ in groups.values():
        alike.setdefault(_place(first), []).append(first)
    labels = {
        hash_of(replace(config, seed=0)): "@".join([place, *different])
        for place, firsts in alike.items()
        for config, different in zip(firsts, _differences(firsts), strict=True)
    }
    return {labels[key]: group for key, group in groups.items()}


def cell(configs: Sequence[RunConfig], wanted: str) -> list[RunConfig]:
    """The runs of one cell, by as many of the words of its name as tell it from the others.

    A word is the model, the data set, the protocol, the retriever scores or any setting, such as
    ``training.epochs=4``; between them stands @.

    Raises:
        ConfigError: no cell, or more than one, has all these words.
    """
    known, words = cells(configs), set(wanted.split("@"))
    found = {name: group for name, group in known.items() if words <= _words(group[0])}
    if len(found) != 1:
        what = f"fits {len(found)} cells, say more" if found else "is no cell of this experiment"
        raise ConfigError(f"cell = {wanted!r} {what}: choose one of {', '.join(found or known)}")
    return next(iter(found.values()))


def of_seed(configs: Sequence[RunConfig], seed: str = "") -> list[RunConfig]:
    """The runs of one seed, by default the first; ``all`` takes them all.

    Raises:
        ConfigError: no run has this seed.
    """
    known = {str(config.seed): config for config in configs}
    if seed not in ("", "all", *known):
        raise ConfigError(f"seed = {seed!r}: choose one of {', '.join(known)} or all")
    return [*configs] if seed == "all" else [known[seed or next(iter(known))]]


def _place(config: RunConfig) -> str:
    data = config.data
    return f"{config.model}@{data.dataset}@{data.protocol}@{data.retriever}"


def _words(config: RunConfig) -> set[str]:
    return {*_place(config).split("@"), *_settings(asdict(config))}


def _settings(values: Mapping[str, Any], before: str = "") -> dict[str, None]:
    """Every setting as ``training.lambda_c=0.3``, in order."""
    found: dict[str, None] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping)
        found |= (
            _settings(value, f"{before}{name}.") if inner else {f"{before}{name}={value}": None}
        )
    return found


def _differences(configs: Sequence[RunConfig]) -> list[list[str]]:
    """Of each configuration the settings that not all of them have."""
    each = [_settings(asdict(replace(config, seed=0))) for config in configs]
    shared = set.intersection(*map(set, each))
    return [[setting for setting in one if setting not in shared] for one in each]


# A run once more --------------------------------------------------------------------------


@dataclass(frozen=True)
class Again:
    """A recorded run beside the same run done once more.

    Args:
        recorded, again: what the record says and what came out now.
        tolerance: metric -> how far apart its means over the test lists may be.
        why: what the tolerance is, in words.
        other: what is not as it was for the record, in words; the lists first.
    """

    recorded: Record
    again: Record
    tolerance: dict[str, float]
    why: str
    other: list[str]

    def difference(self, metric: str = "ndcg@6") -> float:
        """Now minus recorded."""
        now, then = (one.metrics["test"][metric] for one in (self.again, self.recorded))
        return now - then

    def verdict(self, metric: str = "ndcg@6") -> str:
        """``same`` number, ``within`` the tolerance or ``outside`` of it; ``-`` where undefined.

        `CONTRADICTION` where the record says another number than its own ranking gives, of which
        verdicts and tables are made: it then holds of nothing.
        """
        if metric in self.recorded.contradictions():
            return CONTRADICTION
        off = abs(self.difference(metric))
        if math.isnan(off):
            return "-"
        if off <= ROUNDING:
            return "same"
        return "within" if off <= self.tolerance[metric] else "outside"

    @property
    def holds(self) -> bool:
        """Whether no metric is outside its tolerance, and the record agrees with its ranking."""
        fits = all(self.verdict(metric) != "outside" for metric in self.tolerance)
        return fits and not self.recorded.contradictions()


def again(
    record: Record,
    results: Path | None = None,
    runs: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda text: None,
) -> Again:
    """Do a recorded run once more; neither its record nor its weights are touched.

    Interrupted, it goes on from its last epoch when it is called again.

    Args:
        results: the folder of records from which the tolerance is taken, by default results/.
        runs: the folder of checkpoints, by default runs/.
        on_progress: told how training goes.
        say: told what is being done, and first of all if the record contradicts itself.

    Raises:
        ConfigError, DataError, TrainingError: as preparing and training do.
    """
    for metric, (said, ranked) in record.contradictions().items():
        say(
            f"The record contradicts itself: {metric} is {said:.6f}, its ranking gives {ranked:.6f}"
        )
    config = config_of(record)
    lists = lists_of(config, say)
    folder = (runs or RUNS) / "again" / run_name(config, lists)
    with _threads(int(record.cost.get("threads", 1))):
        now, _ = compute(config, lists, folder / "checkpoint.pt", None, on_progress, say)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # another run is being done again
        folder.parent.rmdir()
    other_lists = record.data["fingerprint"] != now.data["fingerprint"]
    allowed, why = tolerance(record, newest(results).values(), other_lists)
    return Again(record, now, allowed, why, differing(record, now))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many threads as the record had, if there are so many cores: their number rounds."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def differing(record: Record, now: Record) -> list[str]:
    """In what two records of a run differ besides the result, in words; the lists first."""
    pairs: dict[str, tuple[Any, Any]] = {
        "candidate lists": (record.data["fingerprint"], now.data["fingerprint"]),
        "training code": (record.code, now.code),
        **{name: (record.made.get(name), now.made.get(name)) for name in ("machine", "versions")},
        **{
            name: (record.cost[name], now.cost[name])
            for name in ("threads", "accelerator", "devices", "precision", "compiled")
            if name in record.cost
        },
    }
    return [f"{name}: {_short(a)}, now {_short(b)}" for name, (a, b) in pairs.items() if a != b]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {version}" for name, version in value.items())
    return "unknown" if value is None else str(value)


def tolerance(
    record: Record, records: Iterable[Record], other_lists: bool = False
) -> tuple[dict[str, float], str]:
    """How far a run may be from its record, metric by metric, and how that was found, in words.

    On the same machine with the same versions the same number is expected. Elsewhere sums are
    rounded in another order, and training makes of that what it makes of another seed. So two
    runs may be apart as two seeds are: by t √2 s, where s is the standard deviation over seeds
    and t the quantile of Student's distribution for a share of `COVERAGE`. s is pooled over the
    recorded cells that share lists, reranker, epochs, batch size and learning rate with the run,
    as three seeds of one cell say little. With fewer than `LEAST_FREEDOM` degrees of freedom it
    is `SAME_RUN`. What is not trained has the same result on the same lists.

    Args:
        records: of which those that are alike are taken.
        other_lists: whether the run was done again on other lists.
    """
    names = [name for name in METRICS if name in record.metrics["test"]]
    if not record.best_epoch and not other_lists:
        return dict.fromkeys(names, ROUNDING), "nothing is trained: the same number"
    groups: dict[str, list[Record]] = {}
    for one in records:
        if one.best_epoch and _kind(one) == _kind(record):
            groups.setdefault(hash_of(one.config | {"seed": 0}), []).append(one)
    freedom = sum(len(group) - 1 for group in groups.values())
    if freedom < LEAST_FREEDOM:
        why = (
            f"{SAME_RUN}, as fewer than {LEAST_FREEDOM + 1} seeds are recorded that would tell more"
        )
        return dict.fromkeys(names, SAME_RUN), why
    factor = float(student.ppf((1 + COVERAGE) / 2, freedom)) * math.sqrt(2)
    allowed = {name: factor * _spread(groups.values(), name, freedom) for name in names}
    return allowed, (
        f"{factor:.1f} standard deviations over seeds, pooled over {len(groups)} cells like this "
        f"one: {COVERAGE:.0%} of the pairs of seeds are closer"
    )


def _kind(record: Record) -> str:
    training = record.config["training"]
    settings = [training.get(name) for name in ("epochs", "batch_size", "learning_rate")]
    return hash_of(record.data["fingerprint"], record.config["reranker"], settings)


def _spread(groups: Iterable[Sequence[Record]], metric: str, freedom: int) -> float:
    """Standard deviation over seeds, pooled over groups."""
    values = ([record.metrics["test"][metric] for record in group] for group in groups)
    return math.sqrt(sum(len(one) * np.var(one).item() for one in values) / freedom)
