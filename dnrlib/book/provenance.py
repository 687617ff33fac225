"""How a page was made: said at its end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from dnrlib.book.execution import Execution
from dnrlib.book.notebooks import chapters, code_cells, defaults
from dnrlib.book.parameters import load_profile
from dnrlib.identity import hash_of
from dnrlib.units import duration

# values that a chapter binds (figures.bind) and that belong in the box
FACTS = ("dataset", "data", "fingerprint")
HASHED = {"library": "Library", "records": "Records", "files": "Data files"}


def add_provenance(notebook: NotebookNode, root: Path, execution: Execution) -> None:
    """Append when, from what, with which parameters and on what a chapter was executed."""
    facts = {
        "Executed": f"{execution.when}, in {duration(execution.seconds)}",
        "Predicted": _duration(execution.predicted),
        "Commit": execution.commit,
        **{title: f"`{execution.stamp.get(part, '?')}`" for part, title in HASHED.items()},
        **{name.capitalize(): value for name, value in _bound(notebook).items()},
        "Profile": execution.profile,
        "Parameters": _parameters(execution.parameters, defaults(notebook)),
        "Figures of this page": f"`{_command(root, execution)}`",
        "Machine": execution.machine,
        "Versions": ", ".join(f"{name} {number}" for name, number in execution.versions.items()),
        "Stamp": f"`{hash_of(execution.stamp)}`, of all that the page was executed from; the site "
        "is only made while that has not changed, and `dnr book --check` says whether it has since",
    }
    lines = "\n".join(f"- **{name}:** {value}" for name, value in facts.items())
    text = f":::{{admonition}} How this page was made\n:class: note dropdown\n\n{lines}\n:::"
    identifier = f"provenance-{execution.chapter}"[:64]
    notebook.cells.append(nbformat.v4.new_markdown_cell(text, id=identifier))


def _duration(predicted: float | None) -> str:
    return "not known yet" if predicted is None else duration(predicted)


def _parameters(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Those that are not the defaults; what is of another type, such as True for 1, differs."""
    differing = {
        k: v for k, v in given.items() if k not in defaults or repr(v) != repr(defaults[k])
    }
    said = ", ".join(f"`{name} = {value!r}`" for name, value in differing.items())
    return said or "the defaults above"


def _command(root: Path, execution: Execution) -> str:
    """What executes the chapter, and so draws its figures, with these parameters."""
    chapter, profile = execution.chapter, execution.profile
    of_profile = load_profile(root, profile, chapters(root)).get(chapter, {})
    words = ["dnr", "book", "--chapter", chapter, "--profile", profile]
    for name, value in execution.parameters.items():
        if name not in of_profile or of_profile[name] != value:
            # JSON is YAML, as which the command line reads a value
            words += ["-p", name, value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(words)


def _bound(notebook: NotebookNode) -> dict[str, str]:
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    found = {}
    for output in outputs:
        book = output.get("metadata", {}).get("scrapbook", {})
        if book.get("name") in FACTS:
            found[book["name"]] = output.data[book["mime_prefix"] + "text/plain"].strip("'\"")
    return found
