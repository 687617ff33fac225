"""How a page was made: said at its end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from dnrlib.book.notebooks import chapters, code_cells
from dnrlib.book.parameters import load_profile
from dnrlib.environment import commit, machine, versions
from dnrlib.units import duration

# values that a chapter binds (figures.bind) and that belong in the box
FACTS = ("dataset", "data", "fingerprint")


def add_provenance(
    notebook: NotebookNode,
    root: Path,
    chapter: str,
    profile: str,
    parameters: Mapping[str, Any],
    seconds: float,
    predicted: float | None = None,
) -> None:
    """Append when, from what, with which parameters and on what a chapter was executed."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    used = ", ".join(f"{name} {number}" for name, number in versions().items())
    facts = {
        "Executed": f"{now}, in {duration(seconds)}",
        "Predicted": duration(predicted) if predicted is not None else "not known yet",
        "Commit": commit(root),
        "Profile": profile,
        "Parameters": ", ".join(f"`{name} = {value!r}`" for name, value in parameters.items())
        or "the defaults above",
        **{name.capitalize(): value for name, value in _bound(notebook).items()},
        "Figures of this page": f"`{_command(root, chapter, profile, parameters)}`",
        "Machine": machine(),
        "Versions": used,
    }
    lines = "\n".join(f"- **{name}:** {value}" for name, value in facts.items())
    text = f":::{{admonition}} How this page was made\n:class: note dropdown\n\n{lines}\n:::"
    cell = nbformat.v4.new_markdown_cell(text, id=f"provenance-{chapter}"[:64])
    notebook.cells.append(cell)


def _command(root: Path, chapter: str, profile: str, parameters: Mapping[str, Any]) -> str:
    """What executes the chapter, and so draws its figures, with these parameters."""
    of_profile = load_profile(root, profile, chapters(root)).get(chapter, {})
    words = ["dnr", "book", "--chapter", chapter, "--profile", profile]
    for name, value in parameters.items():
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
