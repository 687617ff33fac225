"""The opening of a chapter: what one can do after it, and what it takes.

`add_opening` writes the last line of the box "After this chapter you can": time to read, time to
run, exercises. `check_chapters` finds chapters that lack a part that every chapter has.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from markdown_it.token import Token
from nbformat import NotebookNode

from dnrlib.book.durations import RECORDED, key_of, read
from dnrlib.book.execution import Execution
from dnrlib.book.notebooks import BookError, chapters, code_cells, defaults
from dnrlib.book.parameter_table import parameters_of
from dnrlib.book.parameters import PROFILES, fitted, parse_parameters
from dnrlib.book.prose import DIRECTIVE, MYST, VERBATIM
from dnrlib.errors import ConfigError
from dnrlib.units import duration

TITLE = "After this chapter you can"
PARTS = {
    "box `:::{admonition} After this chapter you can`": rf"^:::\{{admonition\}} {TITLE}$",
    "`## Summary`": r"^## Summary$",
    "`**Further reading.**`": r"^(\*\*|## )Further reading\b",
    "`{exercise}`": r"^(:{3,}|`{3,})\{exercise\}",
}
"""What every chapter has: how to write it -> what finds it."""

WORDS_PER_MINUTE = 230
SECONDS_PER_EQUATION = 30
SECONDS_PER_FIGURE = 20
SECONDS_PER_LINE_OF_CODE = 3

_BOX = re.compile(rf"^(:::\{{admonition\}} {TITLE}\n.*?)\n:::$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"`(dnr book --chapter [^`]+)`")
_HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell", "parameters"}


def check_chapters(root: Path) -> list[str]:
    """What chapters lack, each with its chapter; empty when all is well."""
    return [
        f"{path}: {fault}"
        for path in chapters(root).values()
        for fault in faults(path.stem, nbformat.read(root / path, as_version=4))
    ]


def faults(chapter: str, notebook: NotebookNode) -> list[str]:
    """What is wrong with the parts and the parameters of a chapter."""
    text = _text(notebook.cells)
    found = [
        f"there is no {part}"
        for part, pattern in PARTS.items()
        if not re.search(pattern, text, re.MULTILINE)
    ]
    try:
        parameters_of(notebook)
        _check_examples(text, chapter, defaults(notebook))
    except (BookError, ConfigError) as error:
        found.append(str(error))
    return found


def _check_examples(text: str, chapter: str, known: dict[str, Any]) -> None:
    """Try the commands in the opening; a chapter with parameters has one there."""
    box = _BOX.search(text)
    commands = _COMMAND.findall(box[1]) if box else []
    if box and known and not commands:
        raise BookError(
            f"the box {TITLE!r} shows no other run: add a sentence with "
            f"`dnr book --chapter {chapter} -p PARAMETER VALUE`"
        )
    for command in commands:
        words = shlex.split(command)
        pairs = [words[i + 1 : i + 3] for i, word in enumerate(words) if word == "-p"]
        if words[3] == chapter:
            fitted(parse_parameters(pairs), known, chapter)


def add_opening(notebook: NotebookNode, root: Path, execution: Execution) -> None:
    """Write what a chapter takes into the box of its opening."""
    line = " · ".join(
        [_reading(notebook), _running(notebook, root, execution), *_exercises(notebook)]
    )
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and _BOX.search(cell.source):
            cell.source = _BOX.sub(lambda box: f"{box[1]}\n\n{line}\n:::", cell.source, count=1)
            return


def reading_minutes(notebook: NotebookNode) -> int:
    """Minutes that reading takes: words, displayed equations, figures and tables, code.

    What is folded (code, proofs, solutions) does not count.
    """
    cells = list(_without_solutions(notebook))
    words, equations = _words_and_equations(_text(cells))
    code = [cell for cell in cells if cell.cell_type == "code"]
    lines = sum(cell.source.count("\n") + 1 for cell in code if _is_open(cell))
    figures = sum("text/markdown" in one.get("data", {}) for cell in code for one in cell.outputs)
    return math.ceil(
        words / WORDS_PER_MINUTE
        + equations * SECONDS_PER_EQUATION / 60
        + figures * SECONDS_PER_FIGURE / 60
        + lines * SECONDS_PER_LINE_OF_CODE / 60
    )


def _without_solutions(notebook: NotebookNode) -> Iterator[NotebookNode]:
    """The cells but those of solutions that stretch over several."""
    is_solution = False
    for cell in notebook.cells:
        is_solution |= "{solution-start}" in cell.source
        if not is_solution:
            yield cell
        is_solution &= "{solution-end}" not in cell.source


def _is_open(cell: NotebookNode) -> bool:
    return not _HIDDEN & set(cell.metadata.get("tags", []))


def _words_and_equations(text: str) -> tuple[int, int]:
    tokens = list(_read(MYST.parse(text)))
    words = sum(len(token.content.split()) for token in tokens if token.type == "inline")
    return words, sum(
        token.type in ("math_block", "math_block_label", "amsmath") for token in tokens
    )


def _read(tokens: list[Token]) -> Iterator[Token]:
    """Tokens that one reads, those in open directives among them."""
    for token in tokens:
        if token.type not in ("fence", "colon_fence"):
            yield token
        elif (found := DIRECTIVE.match(token.info)) and found["name"] not in VERBATIM:
            is_folded = re.search(r"^:class:.*\bdropdown\b", token.content, re.MULTILINE)
            yield from [] if is_folded else _read(MYST.parse(token.content))


def _reading(notebook: NotebookNode) -> str:
    how = (
        f"{WORDS_PER_MINUTE} words a minute, {SECONDS_PER_EQUATION} s for an equation, "
        f"{SECONDS_PER_FIGURE} s for a figure or table, {SECONDS_PER_LINE_OF_CODE} s for a line of "
        "code; without what is folded"
    )
    return f"**To read:** {{abbr}}`{reading_minutes(notebook)} min ({how})`"


def _running(notebook: NotebookNode, root: Path, execution: Execution) -> str:
    """How long this execution took, and how long those of the profiles were recorded to take."""
    dataset = {**defaults(notebook), **execution.parameters}.get("dataset", "no data set")
    recorded = read(root / RECORDED)
    profiles = sorted(file.stem for file in (root / PROFILES).glob("*.yml"))
    known = [
        f"`{profile}` {duration(recorded['seconds'][key])}"
        for profile in profiles
        if (key := key_of(execution.chapter, profile, dataset)) in recorded.get("seconds", {})
    ]
    said = f"**To run:** {duration(execution.seconds)} here (`{execution.profile}`)"
    if not known:
        return said
    return f"{said}, {{abbr}}`recorded (on {recorded.get('machine')})`: {', '.join(known)}"


def _exercises(notebook: NotebookNode) -> Iterator[str]:
    number = len(re.findall(PARTS["`{exercise}`"], _text(notebook.cells), re.MULTILINE))
    checked = sum("exercises.check(" in cell.source for cell in code_cells(notebook))
    if number:
        said = f"**Exercises:** {number}"
        yield f"{said}, {checked} of them in code, with a checker" if checked else said


def _text(cells: Iterable[NotebookNode]) -> str:
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
