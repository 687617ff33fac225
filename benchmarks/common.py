"""What every benchmark shares: how to time, and what a figure is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Args:
        topic: the part of the table: training, inference, data, many runs.
        name: what was measured.
        value: the median over the rounds.
        low, high: the smallest and the largest round.
        unit: of the value; ``x`` for a ratio.
        how: cores, precision and sizes.
        reference: what it is compared with, in words and with its number, measured in the same
            run where possible.
        goal: what was to be reached, or None.
        at_least: whether the goal is a lower bound; otherwise it is an upper bound.
    """

    topic: str
    name: str
    value: float
    low: float
    high: float
    unit: str
    how: str
    reference: str = ""
    goal: float | None = None
    at_least: bool = True

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the goal; None without a goal."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


def figure(topic: str, name: str, values: list[float], unit: str, how: str, **rest) -> Figure:
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
