"""Execution of one chapter with papermill."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from dnrlib.book.notebooks import BookError, code_cells
from dnrlib.book.provenance import add_provenance
from dnrlib.book.symbols import add_symbols

# sockets in files: a kernel on TCP warns on every start that others on the machine may listen
_KERNEL = Config() if sys.platform == "win32" else Config(KernelManager={"transport": "ipc"})


def execute(
    source: Path,
    target: Path,
    parameters: Mapping[str, Any],
    root: Path,
    profile: str,
    predicted: float | None = None,
) -> float:
    """Execute the notebook `source` with `root` as its folder, and write it to `target`.

    What cells print is passed on as it comes. Added are the symbols of the page, and how it was
    made, with what was ``predicted``, in seconds.

    Returns:
        Seconds that it took.

    Raises:
        BookError: a cell failed; the message holds the cell and its traceback.
    """
    logging.getLogger("papermill").setLevel(logging.WARNING)
    target.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        notebook = papermill.execute_notebook(
            source,
            target,
            dict(parameters),
            cwd=root,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            stdout_file=sys.stdout,
            config=_KERNEL,
        )
    except PapermillExecutionError as error:
        raise BookError(_failure(source, error.exec_count, error.source, error.traceback)) from None
    seconds = time.monotonic() - began
    _refuse_errors(source, notebook)
    add_symbols(notebook, root)
    add_provenance(notebook, root, source.stem, profile, parameters, seconds, predicted)
    nbformat.write(notebook, target)
    return seconds


def _refuse_errors(source: Path, notebook: NotebookNode) -> None:
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                raise BookError(
                    _failure(source, cell.execution_count, cell.source, output.traceback)
                )


def _failure(source: Path, count: int | None, code: str, traceback: list[str]) -> str:
    trace = "\n".join(traceback)
    return f"chapter {source.stem}: cell [{count}] failed\n\n{code}\n\n{trace}"
