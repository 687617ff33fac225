"""Chapters as they are stored: the order of the pages, and what a notebook has to satisfy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from dnrlib.errors import ConfigError, DnrError


class BookError(DnrError):
    """The book cannot be built as it stands; the message names the page and the fault."""


def pages(root: Path) -> list[Path]:
    """The files that `_toc.yml` names, in reading order, relative to `root`.

    Raises:
        BookError: there is no `_toc.yml`, or a page that it names does not exist.
    """
    toc = root / "_toc.yml"
    if not toc.is_file():
        raise BookError(f"there is no _toc.yml in {root.resolve()}: run this where the book is")
    return [_existing(root, name) for name in _names(read_yaml(toc))]


def _names(node: Any) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if key in ("root", "file"):
            yield value
        elif isinstance(value, dict | list):
            yield from _names(value)


def _existing(root: Path, name: str) -> Path:
    for candidate in (name, f"{name}.ipynb", f"{name}.md"):
        if (root / candidate).is_file():
            return Path(candidate)
    raise BookError(f"_toc.yml names {name}, but there is no {name}.ipynb and no {name}.md")


def chapters(root: Path) -> dict[str, Path]:
    """The notebooks among the pages: name (the file's stem) to path relative to `root`."""
    return {page.stem: page for page in pages(root) if page.suffix == ".ipynb"}


def read_yaml(path: Path) -> Any:
    """The content of a file of the book.

    Raises:
        BookError: it is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise BookError(f"{path}: not YAML ({error})") from error


def read_notebook(path: Path) -> NotebookNode:
    """Read any notebook.

    Raises:
        BookError: it is none.
    """
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, KeyError) as error:
        raise BookError(f"{path}: not a notebook ({error})") from error


def read_chapter(path: Path) -> NotebookNode:
    """Read a notebook as it must be stored.

    Raises:
        BookError: it is no notebook, holds outputs, or has not exactly one `parameters` cell.
    """
    notebook = read_notebook(path)
    if any(cell.outputs or cell.execution_count for cell in code_cells(notebook)):
        raise BookError(f"{path}: stored with outputs; strip them: nbstripout {path}")
    found = len(_parameter_cells(notebook))
    if found != 1:
        raise BookError(f"{path}: {found} cells have the tag `parameters`; it must be exactly one")
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells of a notebook."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_parameters(cell: NotebookNode) -> bool:
    """Whether a cell is the one that holds the parameters' defaults."""
    return cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])


def _parameter_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if is_parameters(cell)]


def defaults(notebook: NotebookNode) -> dict[str, Any]:
    """Name and default of each parameter.

    Raises:
        ConfigError: the `parameters` cell has anything but assignments of literals to names.
    """
    source = _parameter_cells(notebook)[0].source
    return dict(_assignment(statement) for statement in ast.parse(source).body)


def _assignment(statement: ast.stmt) -> tuple[str, Any]:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            pass
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            pass
        case _:
            raise ConfigError(f"parameters cell: `{ast.unparse(statement)}` is not NAME = LITERAL")
    try:
        return name, ast.literal_eval(value)
    except ValueError as error:
        raise ConfigError(f"parameter {name}: the default must be a literal") from error
