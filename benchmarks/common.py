"""What every benchmark shares: how to time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from dnrlib.timings import Figure


def figure(topic: str, name: str, values: list[float], unit: str, how: str, **rest: Any) -> Figure:
    """A figure from the values of all rounds."""
    middle = statistics.median(values)
    return Figure(topic, name, middle, min(values), max(values), unit, how, **rest)


def interleaved(
    cases: Mapping[str, Callable[[], float]], rounds: int = 5
) -> dict[str, list[float]]:
    """Each case's value in each round; the cases take turns, so that noise hits all alike.

    A case is called once before, unmeasured, to warm up.
    """
    values: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    for _ in range(rounds):
        for name, case in cases.items():
            values[name].append(case())
    return values


def ratios(values: Mapping[str, list[float]], one: str, other: str) -> list[float]:
    """``one`` over ``other``, round by round."""
    return [a / b for a, b in zip(values[one], values[other], strict=True)]


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
