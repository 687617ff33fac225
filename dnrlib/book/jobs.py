"""Chapters that are to be executed: what each will take, and several at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from nbformat import NotebookNode

from dnrlib.book import executed, stamps
from dnrlib.book.durations import key_of, note, predicted
from dnrlib.book.execute import Kernels, execute
from dnrlib.book.execution import Execution, keep
from dnrlib.book.notebooks import BookError, defaults, read_chapter
from dnrlib.environment import commit, cores, machine, versions
from dnrlib.units import duration

ALONE = ("bring-your-own", "what-it-costs")
"""Chapters that measure speed: executed at the end, one at a time, on all cores."""

Result = TypeVar("Result")

_printing = Lock()
# Python 3.11 can fail in ast.parse when two threads are in it
# (https://github.com/python/cpython/issues/106905)
_parsing = Lock()


@dataclass(frozen=True)
class Job:
    """A chapter that is to be executed.

    Args:
        root: the folder of `_toc.yml`.
        path: the chapter, relative to it.
        profile: the name of a file in `book/profiles`.
        parameters: what papermill is given.
        predicted: seconds; None where nothing is known.
        stamp: hash of each thing that the execution depends on.
        is_usual: whether how long it takes says how long the profile's next execution will.
    """

    root: Path
    path: Path
    profile: str
    parameters: Mapping[str, Any]
    predicted: float | None
    stamp: Mapping[str, str]
    is_usual: bool = True

    @classmethod
    def of(
        cls,
        root: Path,
        path: Path,
        profile: str,
        parameters: Mapping[str, Any],
        stamp: Mapping[str, str],
        is_usual: bool = True,
    ) -> Job:
        """With what it is predicted to take, if it is usual."""
        key = _key(root / path, profile, parameters)
        seconds = predicted(root, key, speed) if is_usual else None
        return cls(root, path, profile, parameters, seconds, stamp, is_usual)

    @property
    def name(self) -> str:
        """The chapter."""
        return self.path.stem


def _key(source: Path, profile: str, parameters: Mapping[str, Any]) -> str:
    final = {**defaults(read_chapter(source)), **parameters}
    return key_of(source.stem, profile, final.get("dataset", "no data set"))


def speed() -> float:
    """Training lists a second of this machine, by which durations of another one are scaled."""
    from dnrlib.costs import reference_speed  # needs torch, which chapters have for themselves

    return reference_speed()


def run(job: Job, kernels: Kernels) -> NotebookNode:
    """Execute a chapter, say before what it will take and then what it took, and remember that.

    Returns:
        The notebook with its outputs and its `Execution`.

    Raises:
        BookError: a cell failed, or something that it depends on changed meanwhile.
    """
    said = "not known yet" if job.predicted is None else duration(job.predicted)
    output = Lines(job.name)
    output.write(f"predicted time: {said}\n")
    began, before = time.monotonic(), commit(job.root)
    try:
        notebook, figures = execute(job.root / job.path, job.parameters, job.root, kernels, output)
    finally:
        output.end()
    seconds = time.monotonic() - began
    output.write(f"executed in {duration(seconds)} (predicted: {said})\n")
    with _parsing:
        if job.is_usual:
            note(job.root, _key(job.root / job.path, job.profile, job.parameters), seconds)
        keep(_execution(job, figures, seconds, before), notebook)
    return notebook


def _execution(job: Job, figures: list[str], seconds: float, commit: str) -> Execution:
    return Execution(
        chapter=job.name,
        profile=job.profile,
        parameters=job.parameters,
        seconds=seconds,
        predicted=job.predicted,
        executed=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit=commit,
        machine=machine(),
        versions=versions(),
        stamp=_stamp_now(job),
        figures={name: stamps.hash_of_file(job.root / "figures" / name) for name in figures},
    )


def _stamp_now(job: Job) -> dict[str, str]:
    """The job's stamp, if it holds still; its data may have been downloaded meanwhile."""
    shared = stamps.shared_parts(job.root)
    now = stamps.execution_parts(job.root, job.path, job.parameters, shared)
    if changed := stamps.changes({**job.stamp, "files": now["files"]}, now):
        what = " and ".join(changed)
        raise BookError(f"chapter {job.name}: {what} changed while it was executed; do it again")
    return now


def run_all(jobs: Sequence[Job], workers: int) -> None:
    """Execute chapters and keep them (`dnrlib.book.executed`), so many at once, the longest first.

    Raises:
        BookError: of the first that failed; the others are stopped.
    """
    longest_first = sorted(jobs, key=_seconds, reverse=True)
    together = [job for job in longest_first if job.name not in ALONE]
    alone = [job for job in longest_first if job.name in ALONE]
    print(f"{len(jobs)} chapters to execute{_in_all(together, alone, workers)}", flush=True)
    few, all_cores = Kernels(max(1, cores() // workers)), Kernels(cores())
    ended = chain(
        side_by_side(_run_and_keep, together, workers, few),
        side_by_side(_run_and_keep, alone, 1, all_cores),
    )
    for done, _ in enumerate(ended, start=1):
        print(f"{done} of {len(jobs)} chapters are executed", flush=True)


def _seconds(job: Job) -> float:
    return math.inf if job.predicted is None else job.predicted


def _in_all(together: Sequence[Job], alone: Sequence[Job], workers: int) -> str:
    """What they will take in all, which they do not at less than the longest of them."""
    seconds = [_seconds(job) for job in together]
    whole = max([0.0, sum(seconds) / workers, *seconds]) + sum(_seconds(job) for job in alone)
    said = "not known yet" if math.isinf(whole) else duration(whole)
    return f", {workers} at a time; predicted time: {said}" if together or alone else ""


def side_by_side(
    do: Callable[[Job, Kernels], Result], jobs: Sequence[Job], workers: int, kernels: Kernels
) -> Iterator[Result]:
    """Do something with each job, with so many at once; the results come as they are there.

    Raises:
        BookError: of the first that failed; the others are stopped, as they are at Ctrl-C.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(do, job, kernels) for job in jobs}
        try:
            while waiting:
                # a wait without a limit would not end at Ctrl-C everywhere
                ended, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ended)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            kernels.stop()
            raise


def _run_and_keep(job: Job, kernels: Kernels) -> None:
    executed.forget(job.root, job.name)
    executed.save(run(job, kernels), job.root)


class Lines:
    """Prints whole lines, each with the chapter that it comes from."""

    def __init__(self, chapter: str):
        self._chapter = chapter
        self._rest = ""

    def write(self, text: str) -> None:
        """Print the lines that are whole now."""
        *whole, self._rest = (self._rest + text).split("\n")
        with _printing:
            for line in whole:
                print(f"{self._chapter}: {line}", flush=True)

    def flush(self) -> None:
        """For those who expect a file; each line was flushed."""

    def end(self) -> None:
        """Print the last line, though it may lack its end."""
        self.write("\n" if self._rest else "")
