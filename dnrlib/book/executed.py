"""Executed chapters, kept until something that they depend on changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from dnrlib.book.execution import kept
from dnrlib.book.notebooks import BookError, code_cells
from dnrlib.book.stamps import hash_of_file
from dnrlib.files import replacing

EXECUTED = Path("_build/executed")
"""Notebooks with outputs, and in `figures` the figures that these have written."""


def load(root: Path, name: str) -> NotebookNode | None:
    """An executed chapter; None where it is not there, or not with its figures as they were."""
    try:
        notebook = nbformat.read(root / EXECUTED / f"{name}.ipynb", as_version=4)
        figures = kept(notebook).figures
        folder = root / EXECUTED / "figures"
        sound = all(hash_of_file(folder / file) == known for file, known in figures.items())
    except (OSError, ValueError, KeyError, BookError):
        return None
    return notebook if sound else None


def save(notebook: NotebookNode, root: Path) -> None:
    """Keep an executed chapter, with copies of the figures that it has written."""
    execution = kept(notebook)
    folder = root / EXECUTED / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for file in execution.figures:
        shutil.copyfile(root / "figures" / file, folder / file)
    with replacing(root / EXECUTED / f"{execution.chapter}.ipynb") as partial:
        nbformat.write(notebook, partial)


def forget(root: Path, name: str) -> None:
    """Remove an execution, so that it is not used should the next one fail."""
    (root / EXECUTED / f"{name}.ipynb").unlink(missing_ok=True)


def with_text_of(executed: NotebookNode, source: NotebookNode) -> NotebookNode:
    """The executed chapter with the text of its source, which may have changed since.

    Args:
        executed: with the cell of parameters that papermill puts behind the chapter's own.
        source: with the same code.
    """
    done = iter(code_cells(executed))
    page = nbformat.from_dict({**executed, "cells": []})
    for cell in source.cells:
        page.cells.append(_with_outputs(cell, next(done)) if cell.cell_type == "code" else cell)
        if "parameters" in cell.metadata.get("tags", []) and _is_injected(executed):
            page.cells.append(next(done))
    return page


def _with_outputs(cell: NotebookNode, executed: NotebookNode) -> NotebookNode:
    cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    return cell


def _is_injected(executed: NotebookNode) -> bool:
    tags = (tag for cell in code_cells(executed) for tag in cell.metadata.get("tags", []))
    return "injected-parameters" in tags
