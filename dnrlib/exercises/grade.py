"""Points and feedback for a file of answers: a program, or a notebook.

The file runs in a process of its own, with a time limit for each task, in an empty folder. That
keeps accidents apart, such as a loop without an end. It is no defence against malice: grade the
files of strangers where they can do no harm, such as in a container.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dnrlib.errors import DataError
from dnrlib.exercises import EXERCISES
from dnrlib.exercises.assignment import EXPERIMENT, POINTS
from dnrlib.exercises.core import Feedback

TASKS = {**EXERCISES, EXPERIMENT.name: EXPERIMENT}
"""Everything that can be graded, by the name of the function."""
STARTING = 300.0
"""Seconds after which a process that has not even imported torch is given up."""

_FUNCTION = re.compile(r"^def (\w+)\(", re.MULTILINE)
_MAGIC = re.compile(r"^\s*[%!].*$", re.MULTILINE)
_READY, _LOADED = "ready", "loaded"


@dataclass(frozen=True)
class Mark:
    """What a task is worth and what the answer got."""

    task: str
    points: int
    of: int
    message: str


def grade(path: Path, assignment: bool = False, seconds: float = 60.0) -> list[Mark]:
    """The marks of a file, in the order of the book.

    Args:
        path: a ``.py`` file, or a notebook, of which the code cells count.
        assignment: the tasks of the assignment, with their points, whether the file has them or
            not. By default every exercise that the file has, a point each.
        seconds: for each task, and for what stands around the functions.

    Raises:
        DataError: the file cannot be read, or is neither a program nor a notebook.
    """
    cells = read_cells(path)
    there = set(_FUNCTION.findall("\n".join(cells)))
    points = POINTS if assignment else {name: 1 for name in TASKS if name in there}
    tried = [name for name in points if name in there]
    found = dict(zip(tried, _feedback(cells, tried, seconds), strict=True))
    missing = Feedback(False, "is not in the file")
    return [_mark(name, of, found.get(name, missing)) for name, of in points.items()]


def _mark(name: str, of: int, feedback: Feedback) -> Mark:
    message = feedback.message.removeprefix(name).strip()
    return Mark(name, of if feedback.passed else 0, of, message)


def read_cells(path: Path) -> list[str]:
    """The code of a notebook by cells, or of a program as one."""
    try:
        text = path.read_text("utf-8")
        if path.suffix != ".ipynb":
            return [text]
        cells = nbformat.reads(text, as_version=4).cells
    except FileNotFoundError:
        raise DataError(path, "there is no such file") from None
    except (ValueError, KeyError, AttributeError) as error:
        raise DataError(path, f"neither a program nor a notebook ({error})") from error
    return [_MAGIC.sub("", cell.source) for cell in cells if cell.cell_type == "code"]


def answer_files(folder: Path) -> list[Path]:
    """The programs and notebooks in a folder and the folders in it."""
    found = [path for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".ipynb")]
    return [path for path in found if ".ipynb_checkpoints" not in path.parts]


def _feedback(cells: Sequence[str], names: Sequence[str], seconds: float) -> Iterator[Feedback]:
    """One for each name; where an answer takes its process with it, the next gets a new one."""
    left = list(names)
    while left:
        done = 0
        for said in _in_a_process(cells, left, seconds):
            done += 1
            yield said
        left = left[done:]


def _in_a_process(cells: Sequence[str], names: Sequence[str], seconds: float) -> Iterator[Feedback]:
    """Feedback up to the first name whose answer does not come back, and for that one too."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with TemporaryDirectory() as folder, ours:
        process = context.Process(target=_work, args=(cells, names, folder, theirs))
        process.start()
        theirs.close()
        try:
            yield from _received(ours, names, seconds)
        finally:
            process.kill()
            process.join()
            process.close()


def _received(ours: Connection, names: Sequence[str], seconds: float) -> Iterator[Feedback]:
    for wanted, limit in ((_READY, STARTING), (_LOADED, seconds)):
        if (said := _next(ours, limit)) != wanted:
            yield from [Feedback(False, f"was not tried: the file {said}")] * len(names)
            return
    for _ in names:
        said = _next(ours, seconds)
        if not isinstance(said, Feedback):
            yield Feedback(False, said)
            return
        yield said


def _next(ours: Connection, seconds: float) -> Any:
    """What the process sends, or why nothing came."""
    if not ours.poll(seconds):
        return f"ran for more than {seconds:g} s"
    try:
        return ours.recv()
    except EOFError:
        return "ended Python"


def _work(cells: Sequence[str], names: Sequence[str], folder: str, ours: Connection) -> None:
    """Run the answers and try each; what they print is dropped."""
    os.chdir(folder)
    ours.send(_READY)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        answers, faults = _run(cells)
        ours.send(_LOADED)
        for name in names:
            ours.send(_tried(name, answers, faults))


def _run(cells: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What the cells define, statement by statement, and which statements failed."""
    answers: dict[str, Any] = {"__name__": "answers"}
    faults = [fault for cell in cells for fault in _faults(cell, answers)]
    return answers, faults


def _faults(cell: str, answers: dict[str, Any]) -> Iterator[str]:
    try:
        statements = ast.parse(cell).body
    except SyntaxError as error:
        yield f"line {error.lineno}: {error.msg}"
        return
    for statement in statements:
        if fault := _fault(statement, answers):
            yield f"line {statement.lineno}: {fault}"


def _fault(statement: ast.stmt, answers: dict[str, Any]) -> str:
    try:
        exec(compile(ast.Module([statement], []), "<answers>", "exec"), answers)
    except BaseException as error:  # also exit()
        return f"{type(error).__name__}: {error}"
    return ""


def _tried(name: str, answers: dict[str, Any], faults: list[str]) -> Feedback:
    if name not in answers:
        return Feedback(False, f"is not defined ({'; '.join(faults) or 'only inside of another'})")
    try:
        feedback = TASKS[name].check(answers[name])
    except BaseException as error:  # also exit()
        feedback = Feedback(False, f"raised {type(error).__name__}: {error}")
    if "NameError" not in feedback.message or not faults:
        return feedback
    return Feedback(False, f"{feedback.message} Before that failed {'; '.join(faults)}")


def print_marks(console: Console, marks: Mapping[Path, Sequence[Mark]], form: str = "") -> None:
    """Print the marks of one file with their feedback, or those of many as a table.

    Args:
        marks: of each file.
        form: ``json``, ``csv``, or nothing for people.
    """
    if form == "json":
        found = [_summary(path, of) for path, of in marks.items()]
        console.print_json(json.dumps(found, ensure_ascii=False))
    elif form == "csv":
        rows = io.StringIO()
        csv.writer(rows, lineterminator="\n").writerows(_table(marks))
        console.print(rows.getvalue(), end="", markup=False)
    elif len(marks) == 1:
        _print_feedback(console, *next(iter(marks.values())))
    else:
        titles, *body = _table(marks)
        table = Table(*titles)
        for row in body:
            table.add_row(*map(str, row))
        console.print(table)


def _print_feedback(console: Console, *marks: Mark) -> None:
    table = Table("task", "points", "feedback")
    for mark in marks:
        table.add_row(mark.task, f"{mark.points} of {mark.of}", Text(mark.message))
    table.add_row("all", f"{_total(marks)} of {sum(mark.of for mark in marks)}", "")
    console.print(table)


def _summary(path: Path, marks: Sequence[Mark]) -> dict[str, Any]:
    """Of one file, for programs."""
    points = {"points": _total(marks), "of": sum(mark.of for mark in marks)}
    return {"file": str(path), **points, "tasks": [asdict(mark) for mark in marks]}


def _table(marks: Mapping[Path, Sequence[Mark]]) -> list[list[Any]]:
    """Titles, and then a row for each file: its points by task, and their sum."""
    tasks = list(dict.fromkeys(mark.task for of in marks.values() for mark in of))
    rows: list[list[Any]] = [["file", *tasks, "all"]]
    for path, of in marks.items():
        points = {mark.task: mark.points for mark in of}
        rows.append([str(path), *(points.get(task, 0) for task in tasks), _total(of)])
    return rows


def _total(marks: Sequence[Mark]) -> int:
    return sum(mark.points for mark in marks)
