"""Recorded benchmark runs: what was measured, beside its reference and its goal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dnrlib.errors import DataError
from dnrlib.files import replacing

RECORDS = Path("benchmarks/records")


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Args:
        topic: the part of the table: training, serving, data, many runs, GPU.
        name: what was measured.
        value: the median over the rounds.
        low, high: the smallest and the largest round.
        unit: of the value; ``x`` for a ratio.
        how: cores, precision and sizes.
        reference: what it is compared with, in words and with its number.
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


@dataclass(frozen=True)
class Timings:
    """The figures of one group of benchmarks, and on what they were measured."""

    group: str
    figures: list[Figure]
    made: dict[str, Any]

    def find(self, name: str) -> Figure:
        """The figure of that name.

        Raises:
            KeyError: there is none.
        """
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(f"no figure {name!r} in the benchmarks {self.group!r}")

    def save(self, folder: Path | None = None) -> Path:
        """Write ``folder``/``group``.json, which replaces an earlier one."""
        path = (folder or RECORDS) / f"{self.group}.json"
        with replacing(path) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")
        return path

    @classmethod
    def load(cls, path: Path) -> Timings:
        """Read what `save` wrote.

        Raises:
            DataError: the file is missing or is not a record of benchmarks.
        """
        try:
            content = json.loads(path.read_text("utf-8"))
            known = {field.name for field in fields(Figure)}
            figures = [
                Figure(**{key: row[key] for key in row if key in known})
                for row in content["figures"]
            ]
            return cls(content["group"], figures, content["made"])
        except OSError as error:
            raise DataError(path, "cannot be read: run make bench") from error
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(path, f"not a record of benchmarks ({error})") from error


def load_timings(folder: Path | None = None) -> Iterator[Timings]:
    """All recorded groups, in the order of their names."""
    for path in sorted((folder or RECORDS).glob("*.json")):
        yield Timings.load(path)
