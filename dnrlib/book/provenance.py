"""How a page was made: said at its end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from dnrlib.book.notebooks import code_cells
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
        "Machine": machine(),
        "Versions": used,
    }
    lines = "\n".join(f"- **{name}:** {value}" for name, value in facts.items())
    text = f":::{{admonition}} How this page was made\n:class: note dropdown\n\n{lines}\n:::"
    cell = nbformat.v4.new_markdown_cell(text, id=f"provenance-{chapter}"[:64])
    notebook.cells.append(cell)


def _bound(notebook: NotebookNode) -> dict[str, str]:
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    found = {}
    for output in outputs:
        book = output.get("metadata", {}).get("scrapbook", {})
        if book.get("name") in FACTS:
            found[book["name"]] = output.data[book["mime_prefix"] + "text/plain"].strip("'\"")
    return found
