"""Tables of recorded runs: methods compared on the same lists, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dnrlib.errors import DataError
from dnrlib.experiments import load_experiment
from dnrlib.identity import code_hash, hash_of
from dnrlib.records import RESULTS, Record, load_records
from dnrlib.statistics import Interval, mean_interval, paired_difference


def recorded(experiment: str, results: Path | None = None) -> list[Record]:
    """The records of an experiment's runs, in its order; of several the newest counts.

    Raises:
        DataError: a run has no record.
    """
    folder = results or RESULTS / experiment
    newest: dict[str, Record] = {}
    for record in sorted(load_records(folder), key=lambda record: record.made["date"]):
        newest[hash_of(record.config)] = record
    configs = load_experiment(experiment)
    missing = [config for config in configs if hash_of(config) not in newest]
    if missing:
        raise DataError(
            folder,
            f"{len(missing)} of {len(configs)} runs have no record, the first is "
            f"{missing[0].method} ({missing[0].data.what}, seed {missing[0].seed}): "
            f"do them with `dnr reproduce --experiment {experiment}`",
        )
    return [newest[hash_of(config)] for config in configs]


def is_current(records: Iterable[Record]) -> bool:
    """Whether all were made by the code that is here now."""
    return all(record.code == code_hash() for record in records)


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
    if not records:
        raise DataError("results", "no record of these runs")
    prints = {record.data["fingerprint"] for record in records}
    if len(prints) > 1:
        raise DataError("results", f"records of different lists cannot be paired: {prints}")
    return np.stack([record.per_list()[metric].numpy() for record in records])


def mean(records: Sequence[Record], metric: str = "ndcg@6") -> Interval:
    """Mean over seeds and test lists, with a bootstrap interval over both."""
    return mean_interval(per_seed(records, metric))


def gain(
    records: Sequence[Record], reference: Sequence[Record], metric: str = "ndcg@6"
) -> Interval:
    """Paired difference of two methods on the same lists and seeds, first minus second."""
    per_seed([*records, *reference], metric)
    first, second = (
        per_seed(sorted(group, key=lambda record: record.seed), metric)
        for group in (records, reference)
    )
    return paired_difference(first, second)
