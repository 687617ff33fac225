"""``python -m benchmarks [GROUP …]``: measure, print one table, and record it."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dnrlib.experiments import provenance
from dnrlib.timings import RECORDS, Figure, Timings, load_timings

GROUPS = ("training", "inference", "rerankers", "scale", "simulation", "semantics", "noises", "gpu")


def main() -> None:
    """Measure the groups, one after the other; each is recorded as soon as it is done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, and record nothing")
    parser.add_argument("--out", type=Path, default=RECORDS, help="the folder of the records")
    parser.add_argument("--show", action="store_true", help="only print what is recorded")
    chosen = parser.parse_args()
    unknown = set(chosen.groups) - set(GROUPS)
    if unknown:
        parser.error(f"unknown group {', '.join(sorted(unknown))}: choose of {', '.join(GROUPS)}")
    measured = list(load_timings(chosen.out)) if chosen.show else []
    for group in [] if chosen.show else chosen.groups or GROUPS[:-1]:
        module = importlib.import_module(f"benchmarks.{group}")
        timings = Timings(group, module.measure(chosen.quick), provenance())
        if not chosen.quick:
            timings.save(chosen.out)
        measured.append(timings)
    show(measured)


def show(measured: list[Timings]) -> None:
    """One table of all figures."""
    columns = ("", "what", "measured", "lowest–highest", "goal", "", "reference", "how")
    table = Table(*columns, show_lines=False)
    for timings in measured:
        for row in timings.figures:
            table.add_row(row.topic, row.name, *_numbers(row), row.reference, row.how)
    console = Console(width=200)
    console.print(table)
    for timings in measured:
        made = timings.made
        console.print(
            f"{timings.group}: {made['machine']}, commit {made['commit']}, {made['date']}"
        )


def _numbers(row: Figure) -> tuple[str, str, str, str]:
    sign = "≥" if row.at_least else "≤"
    goal = "" if row.goal is None else f"{sign} {row.goal:,.4g}"
    mark = {None: "", True: "reached", False: "missed"}[row.reached]
    between = f"{row.low:,.4g}–{row.high:,.4g}"
    return f"{row.value:,.4g} {row.unit}", between, goal, mark


if __name__ == "__main__":
    main()
