"""A Sphinx extension: the API reference by autodoc, and links between it and the chapters."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

from dnrlib.book.api import ROOT, alias_of, as_rst, expanded, signature
from dnrlib.book.notebooks import pages
from dnrlib.book.uses import linked, uses, without_lists
from dnrlib.environment import commit

SETTINGS = {
    # what is public and has a docstring, where it is defined, in the order of the source
    "autodoc_default_options": {
        "members": True,
        "member-order": "bysource",
        "ignore-module-all": True,
    },
    "autodoc_inherit_docstrings": False,
    "python_use_unqualified_type_names": True,
    "python_maximum_signature_line_length": 120,
    "add_module_names": False,
    "toc_object_entries_show_parents": "hide",
    # `name` in a docstring is a link where the reference has that name
    "default_role": "py:obj",
    # a class's attributes are a list, as its arguments are
    "napoleon_use_ivar": True,
}
LONGEST = 300
"""Letters of a constant's value; of a longer one only the brackets are shown."""
_OBJECT = re.compile(r"<(function|class|object|bound method) ")
"""How Python writes what has no value to be shown."""
REFERENCE = "book/api/"


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx, for which this module is an extension."""
    for extension in ("sphinx.ext.autodoc", "sphinx.ext.napoleon"):
        app.setup_extension(extension)
    links = Links()
    app.connect("config-inited", _configure)
    app.connect("source-read", _expand)
    app.connect("env-before-read-docs", links.read)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-docstring", links.add_chapters, priority=400)
    app.connect("doctree-read", _tidy)
    app.connect("doctree-resolved", links.link_names)
    app.connect("html-page-context", links.link_code)
    return {"parallel_read_safe": False, "parallel_write_safe": True}


def _configure(app: Sphinx, config: Any) -> None:
    for name, value in SETTINGS.items():
        setattr(config, name, value)
    # [Claims](claims) in a chapter is the page, and not the module
    config.myst_ref_domains = [name for name in app.registry.domains if name != "py"]


def _expand(app: Sphinx, page: str, source: list[str]) -> None:
    if page.startswith(REFERENCE):
        source[0] = f"{expanded(source[0])}\nMade from commit `{commit(ROOT)}`.\n"


def _signature(app: Sphinx, what: str, name: str, named: Any, *others: Any) -> Any:
    return signature(named)


def _tidy(app: Sphinx, doctree: nodes.document) -> None:
    """A name in a signature is the one of this full name, and not any that ends like it.

    Two hyphens, which smart quotes leave alone as those of options, become the colon of the source.
    A constant's value is not longer than what is said of it, names no object by its type alone and
    no folder in which the book was built. What an alias stands for is said once.
    """
    for reference in doctree.findall(addnodes.pending_xref):
        if reference.get("refspecific") is False:
            del reference["refspecific"]
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(": "))
    for said in list(doctree.findall(nodes.paragraph)):
        before = said.previous_sibling()
        if before and before.astext().startswith("The same as ") and _is_alias(said):
            said.parent.remove(said)
    for value in list(doctree.findall(addnodes.desc_annotation)):
        text = value.astext()
        if text.startswith(" = ") and str(ROOT) in text:
            value.parent.remove(value)
        elif text.startswith(" = ") and (len(text) > LONGEST or _OBJECT.search(text)):
            value.clear()
            value += nodes.Text(f" = {text[3]}…{text[-1]}")


def _is_alias(said: nodes.paragraph) -> bool:
    """Whether autodoc says there what an alias stands for."""
    return said.astext().startswith("alias of ")


class Links:
    """Between the names of the library and the pages that use them."""

    def __init__(self) -> None:
        self.written: dict[str, dict[str, str]] = {}
        self.chapters: dict[str, list[str]] = defaultdict(list)

    def read(self, app: Sphinx, env: Any, names: Iterable[str]) -> None:
        """Find out what each page uses; the page of a reranker is about its class."""
        for path in pages(Path(app.srcdir)):
            page = path.with_suffix("").as_posix()
            self.written[page] = {} if page.startswith(REFERENCE) else uses(app.srcdir / path)
            for name in {*self.written[page].values(), *_reranker(path.stem)}:
                self.chapters[name].append(page)

    def add_chapters(
        self, app: Sphinx, what: str, name: str, named: Any, options: Any, lines: list[str]
    ) -> None:
        """Say at the end of a docstring which chapters use the thing."""
        if lines and lines[0].startswith("Alias for field number"):
            lines.clear()  # what Python says of a named tuple's fields
        lines[:] = as_rst("\n".join(lines)).split("\n")
        if alias := alias_of(name):
            lines += ["", f"The same as ``{alias}``."]
        if what in ("attribute", "data", "property"):
            # an empty comment, or else Napoleon takes what stands before a colon for the type
            lines[:0] = ["..", ""]
        if what != "module" and (found := self.chapters.get(name)):
            lines += ["", "**In the book:** " + ", ".join(f":doc:`/{page}`" for page in found)]

    def link_names(self, app: Sphinx, doctree: nodes.document, page: str) -> None:
        """Link names of the library in prose, such as ``dnrlib.theory``."""
        for literal in list(doctree.findall(nodes.literal)):
            written = literal.astext().removesuffix("()")
            name = self.written.get(page, {}).get(written, written)
            if entry := _entry(app, name) if not _is_linked(literal) else None:
                link = make_refnode(app.builder, page, entry.docname, entry.node_id, [])
                literal.replace_self(link)
                link += literal

    def link_code(
        self, app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
    ) -> None:
        """Link names of the library in the code of a page; lay out signatures in the reference."""
        if page.startswith(REFERENCE):
            context["body"] = without_lists(context["body"])
        if names := self.written.get(page):
            found = {written: _entry(app, name) for written, name in names.items()}
            context["body"] = linked(
                context["body"],
                {
                    written: f"{app.builder.get_relative_uri(page, entry.docname)}#{entry.node_id}"
                    for written, entry in found.items()
                    if entry
                },
            )


def _reranker(page: str) -> list[str]:
    """The class that the page of a reranker is about."""
    if not page.startswith("reranker-"):
        return []
    from dnrlib.rerankers import RERANKERS  # needs torch

    kind = RERANKERS[page.removeprefix("reranker-")]
    return [f"{kind.__module__}.{kind.__qualname__}"]


def _entry(app: Sphinx, name: str) -> Any:
    return app.env.domains["py"].objects.get(name)


def _is_linked(node: nodes.Node) -> bool:
    parent = node.parent
    while parent is not None:
        if isinstance(parent, (nodes.reference, nodes.title)):
            return True
        parent = parent.parent
    return False
