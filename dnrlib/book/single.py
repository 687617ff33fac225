"""One chapter as a page of the book, without building the rest of it.

Sphinx reads all pages, so that references and numbers are those of the book, and writes one. What
it has read it keeps: the first page takes longer than the next. Other chapters are taken as they
were last executed for the site. Those that never were have no figures and no values; a
reference to one then says where it is.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import nbformat
from nbformat import NotebookNode

from dnrlib.book.builder import copy_the_rest, run_chapter
from dnrlib.book.executed import EXECUTED
from dnrlib.book.execution import kept
from dnrlib.book.notebooks import BookError, chapters, code_cells, read_notebook
from dnrlib.book.stamps import SITE

FOLDER = Path("_build/chapters")

_SPHINX = """
import sys
from jupyter_book.sphinx import build_sphinx

source, site, page = sys.argv[1:]
options = {
    "latex_individualpages": False,
    "external_toc_path": source + "/_toc.yml",
    "html_use_index": False,
    "html_domain_indices": False,
}
sys.exit(
    bool(
        build_sphinx(
            source,
            site,
            noconfig=True,
            path_config=source + "/_config.yml",
            confoverrides=options,
            doctreedir=source + "/../doctrees",
            filenames=[page],
            quiet=True,
        )
    )
)
"""
_GLUE = re.compile(r"\{glue:text\}`(?:\./)?(?P<page>[\w-]+)\.ipynb::[^`]+`")
_NUMREF = re.compile(r"\{numref\}`(?:[^`<]*<)?(?P<label>(?:fig|tab)-(?P<name>[\w-]+))>?`")
_LINK = re.compile(r'(?P<attribute>href|action)="(?P<address>[^"#:?]*\.html)(?P<anchor>#[^"]*)?"')


def make_chapter(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    profile: str = "quick",
    dataset: str | None = None,
    root: Path | str = ".",
) -> Path:
    """Execute one chapter and render it; arguments and errors are those of `run_chapter`.

    Returns:
        The page.
    """
    return render_chapter(run_chapter(name, parameters, profile, dataset, root), root)


def has_display() -> bool:
    """Whether somebody is there to see a browser: not without a display, and not in CI."""
    if os.environ.get("CI"):
        return False
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def render_chapter(notebook: Path, root: Path | str = ".") -> Path:
    """Render an executed chapter in the look of the book.

    Args:
        notebook: as `run_chapter` writes it.
        root: the folder of `_toc.yml`.

    Returns:
        The page. Its links to other pages lead to the site, where that has been built.

    Raises:
        BookError: with what Jupyter Book said.
    """
    root = Path(root).resolve()
    source, site = root / FOLDER / "book-source", root / FOLDER / "html"
    page = nbformat.read(notebook, as_version=4)
    path = chapters(root)[kept(page).chapter]
    _write_sources(root, source, path, page)
    _sphinx(source, site, source / path)
    rendered = site / path.with_suffix(".html")
    _lead_to_the_site(rendered, site, root / SITE)
    return rendered


def _write_sources(root: Path, source: Path, path: Path, page: NotebookNode) -> None:
    """Everything that Sphinx reads; a chapter is only written where it differs."""
    (root / EXECUTED / "figures").mkdir(parents=True, exist_ok=True)
    copy_the_rest(root, source)
    for figure in kept(page).figures:
        (source / "figures" / figure).write_bytes((root / "figures" / figure).read_bytes())
    others = {name: _other(root, at) for name, at in chapters(root).items() if at != path}
    for name, other in others.items():
        _write(source / chapters(root)[name], other)
    _write(source / path, nbformat.writes(_without_absent(page, _absent(root, path))))


def _other(root: Path, path: Path) -> str:
    """Another chapter as it was last executed, else as it is stored."""
    executed = root / EXECUTED / path.name
    return (executed if executed.is_file() else root / path).read_text("utf-8")


def _write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def _absent(root: Path, path: Path) -> dict[str, str]:
    """Name of each other chapter that was never executed -> its code."""
    return {
        name: "\n".join(cell.source for cell in code_cells(read_notebook(root / at)))
        for name, at in chapters(root).items()
        if at != path and not (root / EXECUTED / at.name).is_file()
    }


def _without_absent(page: NotebookNode, absent: dict[str, str]) -> NotebookNode:
    """A page in which references to what was never executed say in which chapter it is."""

    def glue(match: re.Match[str]) -> str:
        return f"([see {match['page']}]({match['page']}))" if match["page"] in absent else match[0]

    made = nbformat.writes(page)

    def numref(match: re.Match[str]) -> str:
        if f":name: {match['label']}\\n" in made:
            return match[0]
        what = {"fig": "figure", "tab": "table"}[match["label"][:3]]
        homes = (name for name, code in absent.items() if f'"{match["name"]}"' in code)
        return next((f"[a {what} of {name}]({name})" for name in homes), match[0])

    return _with_text(page, lambda text: _NUMREF.sub(numref, _GLUE.sub(glue, text)))


def _with_text(page: NotebookNode, change: Callable[[str], str]) -> NotebookNode:
    """The page with its prose, and that of its outputs, changed."""
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = change(cell.source)
    for output in (output for cell in code_cells(page) for output in cell.outputs):
        if "text/markdown" in output.get("data", {}):
            output.data["text/markdown"] = change(output.data["text/markdown"])
    return page


def _sphinx(source: Path, site: Path, page: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SPHINX, source, site, page], capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        raise BookError(f"Jupyter Book failed\n\n{done.stderr.strip() or done.stdout.strip()}")


def _lead_to_the_site(page: Path, preview: Path, site: Path) -> None:
    """Make links to other pages lead to the site, or nowhere if that has not been built."""

    def there(match: re.Match[str]) -> str:
        target = (page.parent / unquote(html.unescape(match["address"]))).resolve()
        if target == page or not target.is_relative_to(preview):
            return match[0]
        place = site / target.relative_to(preview)
        if not place.is_file():
            return 'title="not built yet: make book"'
        address = quote(os.path.relpath(place, page.parent).replace(os.sep, "/"))
        return f'{match["attribute"]}="{address}{match["anchor"] or ""}"'

    page.write_text(_LINK.sub(there, page.read_text("utf-8")), "utf-8")
