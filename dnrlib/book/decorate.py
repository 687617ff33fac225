"""What the builder adds to the page of an executed chapter.

A decoration changes the notebook in place. It is a function of the notebook, the folder of
`_toc.yml` and the execution, in a module of its own that imports `Execution` from
`dnrlib.book.execution`, and has its place in `DECORATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nbformat import NotebookNode

from dnrlib.book.execution import Execution, kept
from dnrlib.book.opening import add_opening
from dnrlib.book.parameter_table import add_parameter_table
from dnrlib.book.provenance import add_provenance
from dnrlib.book.symbols import add_symbols

Decoration = Callable[[NotebookNode, Path, Execution], None]


def _symbols(notebook: NotebookNode, root: Path, execution: Execution) -> None:
    add_symbols(notebook, root)


DECORATIONS: Sequence[Decoration] = (
    add_opening,
    _symbols,
    add_parameter_table,
    add_provenance,  # the end of the page
)
"""In this order. What is put behind the opening comes before what is put there later."""


def decorate(notebook: NotebookNode, root: Path) -> None:
    """Add to an executed chapter all that the builder adds.

    Args:
        notebook: executed by `dnrlib.book.execute`; changed in place.
        root: the folder of `_toc.yml`.

    Raises:
        BookError: the notebook was not executed by the builder.
    """
    execution = kept(notebook)
    for add in DECORATIONS:
        add(notebook, root, execution)
