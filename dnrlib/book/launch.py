"""Notebooks as readers take them away: downloaded, or opened on Colab.

Such a notebook is the executed one with a cell before all others that goes to the repository's
folder, where chapters find data and records; where there is none, as on Colab, it fetches the
repository and installs the library. The stored chapters do not have it. Colab opens the notebooks
of the published site, in `_sources` of the branch that `_config.yml` names (`site_branch`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

COLAB = "https://colab.research.google.com"
IDENTIFIER = "start"
_START = """\
# Goes to the folder of the book. Where there is none, as on Colab, it is fetched and installed.
import importlib.util, os, pathlib, subprocess, sys

source = {source!r}
here = pathlib.Path.cwd()
places = [here, *here.parents, here / "dnr-book"]
book = next((place for place in places if (place / "_toc.yml").is_file()), None)
if book is None:
    if not source:
        raise FileNotFoundError("save this notebook in the folder of the book's repository")
    book = here / "dnr-book"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", source, str(book)], check=True)
os.chdir(book)
if not all(map(importlib.util.find_spec, ["jaxtyping", "lightning_fabric", "myst_nb"])):
    print("Installing, some minutes")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", ".[book]"], check=True)
    importlib.invalidate_caches()
"""


def setup(app: Any) -> dict[str, Any]:
    """Complete the notebooks that Sphinx offers to download, and let Colab open these."""
    app.add_config_value("dnr_repository", "", "html")
    app.add_config_value("dnr_site_branch", "", "html")
    # after the theme, which makes the buttons
    app.connect("html-page-context", _lead_colab_to_the_site, priority=900)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _finish(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        complete_downloads(Path(app.outdir), app.config.dnr_repository)


def complete_downloads(site: Path, source: str) -> None:
    """Put the start cell into every notebook that the site offers to download.

    Args:
        source: address that git clones; empty where none is known.
    """
    for path in sorted((site / "_sources").rglob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if notebook.cells[0].id != IDENTIFIER:
            notebook.cells.insert(0, start_cell(source))
            nbformat.write(notebook, path)


def start_cell(source: str) -> NotebookNode:
    """The cell that makes a notebook run anywhere."""
    code = _START.format(source=source)
    return nbformat.v4.new_code_cell(code, id=IDENTIFIER, metadata={"tags": ["hide-input"]})


def _lead_colab_to_the_site(app: Any, page: str, template: str, context: Any, tree: Any) -> None:
    address = colab_address(app.config.dnr_repository, app.config.dnr_site_branch, page)
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("text") == "Colab":
                button["url"] = address


def colab_address(repository: str, branch: str, page: str) -> str:
    """Where Colab opens the notebook of a page of the published site."""
    path = repository.removeprefix("https://github.com/")
    return f"{COLAB}/github/{path}/blob/{branch}/_sources/{page}.ipynb"
