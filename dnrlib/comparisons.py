"""Tables of recorded runs: methods compared on the same lists, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dnrlib.errors import DataError
from dnrlib.experiments import RunConfig, config_of, load_experiment, newest
from dnrlib.identity import hash_of
from dnrlib.records import RESULTS, Record
from dnrlib.statistics import (
    Estimate,
    Interval,
    estimate,
    mean_interval,
    paired_difference,
    seed_difference,
)


def recorded(experiment: str, results: Path | None = None) -> list[Record]:
    """The records of an experiment's runs, in its order; of several the newest counts.

    A run that two experiments share is recorded once, wherever below ``results``.

    Raises:
        DataError: a run has no record.
    """
    done, missing = present(experiment, results)
    if missing:
        raise DataError(
            results or RESULTS,
            f"{len(missing)} of {len(done) + len(missing)} runs have no record, the first is "
            f"{missing[0].what}: do them with `dnr reproduce --experiment {experiment}`",
        )
    return done


def present(experiment: str, results: Path | None = None) -> tuple[list[Record], list[RunConfig]]:
    """The records of those runs of an experiment that are done, and the runs that are not."""
    folder = results or RESULTS
    known = newest(folder)
    configs = load_experiment(experiment, results=folder)
    done = [known[hash_of(config)] for config in configs if hash_of(config) in known]
    return done, [config for config in configs if hash_of(config) not in known]


def age(records: Iterable[Record]) -> str:
    """Whether the records were made by the code that is here now, in words."""
    current = all(record.code == config_of(record).code for record in records)
    return "the code as it is now" if current else "an earlier version of the training code"


def of(records: Iterable[Record], **wanted: Any) -> list[Record]:
    """The records whose ``method``, ``protocol`` or ``seed`` is as wanted."""
    return [
        record
        for record in records
        if all(getattr(record, name) == value for name, value in wanted.items())
    ]


def per_seed(records: Sequence[Record], metric: str = "ndcg@6") -> Float[np.ndarray, "seeds lists"]:
    """A metric of every test list under every seed.

    Raises:
        DataError: there is no record, or they are of different lists and cannot be paired.
    """
    _check_same_lists(records)
    return np.stack([record.per_list()[metric].numpy() for record in records])


def _check_same_lists(records: Sequence[Record]) -> None:
    if not records:
        raise DataError("results", "no record of these runs")
    # lists that carry more, such as words, say which they are without it
    prints = {record.data.get("lists", record.data["fingerprint"]) for record in records}
    if len(prints) > 1:
        raise DataError("results", f"records of different lists cannot be paired: {prints}")


def mean(records: Sequence[Record], metric: str = "ndcg@6") -> Interval:
    """Mean over seeds and test lists, with a bootstrap interval over both."""
    return mean_interval(per_seed(records, metric))


def gain(
    records: Sequence[Record],
    reference: Sequence[Record],
    metric: str = "ndcg@6",
    confidence: float = 0.95,
) -> Interval:
    """Paired difference of two methods on the same lists and seeds, first minus second.

    A record of what is not trained stands for every seed of the other method. Of m differences
    that are told apart from zero at a confidence of 1 - 0.05 / m each, with a probability of 95 %
    or more none is told apart by chance (Bonferroni).

    Raises:
        DataError: as in `per_seed`, or the seeds differ.
    """
    first, second = _paired(records, reference, metric)
    return paired_difference(first, second, confidence=confidence)


def difference(
    records: Sequence[Record],
    reference: Sequence[Record],
    metric: str = "ndcg@6",
    confidence: float = 0.95,
    resamples: int | None = 2000,
) -> Estimate:
    """Paired difference of two methods on the same lists and seeds, as verdicts take it.

    Each test list is another user's, so that lists are the clusters (`dnrlib.statistics.estimate`).

    Raises:
        DataError: as in `gain`.
    """
    pairs = np.subtract(*_paired(records, reference, metric))
    return estimate(pairs, confidence=confidence, resamples=resamples)


def _paired(
    records: Sequence[Record], reference: Sequence[Record], metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """[seeds, lists] of both; what is not trained stands for every seed of the other."""
    both = [*records, *reference]
    _check_same_lists(both)
    seeds = sorted({record.seed for record in both if record.best_epoch}) or [0]
    first, second = (per_seed(_of_seeds(group, seeds), metric) for group in (records, reference))
    return first, second


def gain_over_seeds(
    records: Sequence[Record], reference: Sequence[Record], metric: str = "ndcg@6"
) -> Interval:
    """As `gain`, with Student's interval over the seeds (`dnrlib.statistics.seed_difference`).

    Raises:
        DataError: as in `gain`.
        ConfigError: fewer than two seeds.
    """
    _check_same_lists([*records, *reference])
    seeds = sorted({record.seed for record in [*records, *reference]})
    first, second = (per_seed(_of_seeds(group, seeds), metric) for group in (records, reference))
    return seed_difference(first, second)


def _of_seeds(records: Sequence[Record], seeds: list[int]) -> list[Record]:
    if len(records) == 1 and records[0].best_epoch == 0:
        return [*records] * len(seeds)
    ordered = sorted(records, key=lambda record: record.seed)
    if (own := [record.seed for record in ordered]) != seeds:
        raise DataError("results", f"seeds {own} and {seeds} cannot be paired")
    return ordered


Setting = Callable[[Record], str]


def protocol(record: Record) -> str:
    """The setting that tells most tables' columns apart."""
    return record.protocol


def grouped(
    records: Iterable[Record], setting: Setting = protocol
) -> dict[str, dict[str, list[Record]]]:
    """Setting -> method -> its records, in their order."""
    groups: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        groups.setdefault(setting(record), {}).setdefault(record.method, []).append(record)
    return groups


def means(
    records: Iterable[Record], metric: str = "ndcg@6", setting: Setting = protocol
) -> dict[str, dict[str, Interval]]:
    """Setting -> method -> mean."""
    return {
        name: {method: mean(group, metric) for method, group in methods.items()}
        for name, methods in grouped(records, setting).items()
    }


def gains(
    records: Iterable[Record],
    reference: str,
    metric: str = "ndcg@6",
    setting: Setting = protocol,
) -> dict[str, dict[str, Interval]]:
    """Setting -> every other method -> its paired difference to the reference."""
    return {
        name: {
            method: gain(group, methods[reference], metric)
            for method, group in methods.items()
            if method != reference
        }
        for name, methods in grouped(records, setting).items()
    }


def table(cells: Mapping[str, Mapping[str, Interval]], spec: str = "") -> list[dict[str, str]]:
    """One row a method, one column a setting, from `means` or (``spec="+"``) `gains`."""
    rows: dict[str, dict[str, str]] = {}
    for setting, methods in cells.items():
        for method, found in methods.items():
            rows.setdefault(method, {"method": method})[setting] = format(found, spec)
    return list(rows.values())


def in_words(differences: Mapping[str, Interval], link: str = "under") -> str:
    """Where a difference is above zero, below it, or not told apart from it by its interval.

    Args:
        differences: name of the setting or method -> difference.
        link: the word before the names.
    """
    groups: dict[str, list[str]] = {}
    for name, found in differences.items():
        side = "above" if found.low > 0 else "below" if found.high < 0 else "not told apart"
        groups.setdefault(side, []).append(f"{name} ({round(found.mean, 3) + 0.0:+.3f})")
    return "; ".join(f"{side} {link} {_listed(names)}" for side, names in groups.items())


def _listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def test_lists(records: Iterable[Record]) -> str:
    """How many test lists each protocol has, in words."""
    sizes = {record.protocol: record.data["test"] for record in records}
    return ", ".join(f"{size:,} under {protocol}" for protocol, size in sizes.items())
