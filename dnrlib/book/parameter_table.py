"""The parameters of a chapter as a table, made from the notebook itself.

A parameter's meaning is the comment behind its assignment in the cell tagged `parameters`.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from dnrlib.book.execution import Execution
from dnrlib.book.notebooks import BookError, chapters, code_cells, defaults
from dnrlib.book.parameters import PROFILES, load_profile

TAGS = {"parameters", "injected-parameters"}


@dataclass(frozen=True)
class Parameter:
    """One line of the `parameters` cell.

    Args:
        name: as in ``-p NAME VALUE``.
        default: a literal.
        meaning: the comment behind the assignment, as MyST.
    """

    name: str
    default: Any
    meaning: str


def parameters_of(notebook: NotebookNode) -> list[Parameter]:
    """The parameters of a chapter, in the order of their cell.

    Raises:
        BookError: a parameter has no comment behind its assignment.
        ConfigError: the cell has anything but assignments of literals to names.
    """
    values = defaults(notebook)
    meanings = _comments(_parameter_cells(notebook)[0].source)
    if missing := [name for name in values if not meanings.get(name)]:
        raise BookError(
            f"parameters without a meaning: {', '.join(missing)}; write it as a comment behind the "
            f"assignment, as in `{missing[0]} = {values[missing[0]]!r}  # what it is, and its unit`"
        )
    return [Parameter(name, value, meanings[name]) for name, value in values.items()]


def _parameter_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cell of the defaults and, if there is one, that of the values given."""
    return [cell for cell in code_cells(notebook) if TAGS & set(cell.metadata.get("tags", []))]


def _comments(source: str) -> dict[str, str]:
    """Name -> comments on the lines of its assignment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    of_line = {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    return {name: _said(of_line, first, last) for name, first, last in _assignments(source)}


def _said(of_line: Mapping[int, str], first: int, last: int) -> str:
    return " ".join(of_line[line] for line in range(first, last + 1) if line in of_line)


def _assignments(source: str) -> Iterator[tuple[str, int, int]]:
    """Name, first and last line of each assignment."""
    for statement in ast.parse(source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name, statement.lineno, statement.end_lineno or statement.lineno


def add_parameter_table(notebook: NotebookNode, root: Path, execution: Execution) -> None:
    """Put the table behind the cells of the parameters, and fold these."""
    cells = _parameter_cells(notebook)
    for cell, what in zip(cells, ("The defaults", "The values here"), strict=False):
        cell.metadata["tags"] = sorted({*cell.metadata["tags"], "hide-input"})
        cell.metadata["mystnb"] = {"code_prompt_show": f"{what} of the parameters, in code"}
    if not (parameters := parameters_of(notebook)):
        return
    table = _table(execution, parameters, _of_profiles(root, execution.chapter))
    name = f"parameters-{execution.chapter}"[:64]
    place = notebook.cells.index(cells[-1]) + 1
    notebook.cells.insert(place, nbformat.v4.new_markdown_cell(table, id=name))


def _of_profiles(root: Path, chapter: str) -> dict[str, dict[str, Any]]:
    """Profile -> what it changes of the chapter's defaults."""
    names = sorted(file.stem for file in (root / PROFILES).glob("*.yml"))
    known = chapters(root)
    return {name: load_profile(root, name, known).get(chapter, {}) for name in names}


def _table(
    execution: Execution,
    parameters: list[Parameter],
    profiles: Mapping[str, Mapping[str, Any]],
) -> str:
    given = execution.parameters
    lines = "\n".join(
        f"| `{one.name}` | {_code(given.get(one.name, one.default))} "
        f"| {_escaped(_sentence(one))} {_details(one, given, profiles)} |"
        for one in parameters
    )
    title = "The parameter" if len(parameters) == 1 else f"The {len(parameters)} parameters"
    return (
        f":::{{admonition}} {title} of this page\n:class: note dropdown parameters\n\n"
        f"Each is changed by `dnr book --chapter {execution.chapter} -p PARAMETER VALUE`, with a "
        "value that is written as here.\n\n"
        f"| parameter | here | meaning |\n|:--|:--|:--|\n{lines}\n:::"
    )


def _details(
    parameter: Parameter,
    given: Mapping[str, Any],
    profiles: Mapping[str, Mapping[str, Any]],
) -> str:
    """Type, default and the values of those profiles that have another."""
    default = parameter.default
    is_default = _same(given.get(parameter.name, default), default)
    others: dict[str, list[str]] = {}
    for profile, values in profiles.items():
        if not _same(value := values.get(parameter.name, default), default):
            others.setdefault(_code(value), []).append(profile)
    said = [f"{', '.join(names)}: {value}" for value, names in others.items()]
    return "; ".join(
        [f"{_type(default)}, {'the default' if is_default else f'default {_code(default)}'}", *said]
    )


def _same(value: Any, other: Any) -> bool:
    """Whether value and type are those of the other; 1 is not True."""
    return repr(value) == repr(other)


def _type(default: Any) -> str:
    if not isinstance(default, list | tuple):
        return "anything" if default is None else f"`{type(default).__name__}`"
    inner = sorted({type(value).__name__ for value in default})
    return f"`list[{' or '.join(inner)}]`" if inner else "`list`"


def written(value: Any) -> str:
    """A value as the command line takes it: JSON is YAML, and a text needs no quotes."""
    return value if isinstance(value, str) and value else json.dumps(value)


def _code(value: Any) -> str:
    return _escaped(f"`{written(value)}`")


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")


def _sentence(parameter: Parameter) -> str:
    """The meaning with a capital, unless it begins with a value, such as ml-1m or beta."""
    text = parameter.meaning.rstrip(".")
    first = re.split(r"[\s,;:]", text, maxsplit=1)[0]
    if first == parameter.default or not first.isalpha():
        return f"{text}."
    return f"{text[:1].upper()}{text[1:]}."
