"""A number in prose comes from a record or a computation, never from the keyboard.

`check_prose` finds numbers that look like results: decimals, percentages, and whole numbers from
100 on. Smaller whole numbers ("the top 6") and years pass, and so does what is not prose: code,
formulas, roles such as {glue:text} and {cite}, links, options of directives. So a constant of the
method is written as a formula ($n = 128$), and a result is bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.attrs import attrs_plugin
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.deflist import deflist_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.front_matter import front_matter_plugin
from mdit_py_plugins.myst_blocks import myst_block_plugin
from mdit_py_plugins.myst_role import myst_role_plugin

MYST = MarkdownIt("commonmark").enable("table")
for _plugin in (
    amsmath_plugin,
    attrs_plugin,
    colon_fence_plugin,
    deflist_plugin,
    dollarmath_plugin,
    front_matter_plugin,
    myst_block_plugin,
    myst_role_plugin,
):
    MYST.use(_plugin)

VERBATIM = {"bibliography", "code", "code-block", "code-cell", "eval-rst", "math", "raw"}
DIRECTIVE = re.compile(r"\s*\{(?P<name>[^}]+)\}\s*(?P<title>.*)")
_OPTION = re.compile(r"^\s*:[\w-]+:.*$", re.MULTILINE)
_NUMBER = re.compile(
    r"(?<![\w.@#])(?<!\w-)(?P<value>\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?)(?!\w|[.,]\d)"
    r"(?P<percent>\s?(?:%|per\s?cent\b))?",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"\w+://\S+")
_UNREADABLE = re.compile(r"\{glue:text\}`[^`:]+::[^`:]+`|`\{glue:text\}`[^`]*`")
_YEAR = re.compile(r"(?:19|20)\d\d")


def check_prose(path: Path | str) -> list[str]:
    """Bare numbers in a page (`.ipynb` or `.md`), each with its place; empty when all is well."""
    return [
        f"{place}line {line}: {number}"
        for place, text in _texts(Path(path))
        for line, number in bare_numbers(text)
    ]


def check_glue(path: Path | str) -> list[str]:
    """Bound values that MyST-NB cannot read: without a format of another page, or within code."""
    return [
        f"{place}line {line}: {match.group()}"
        for place, text in _texts(Path(path))
        for line, row in enumerate(text.splitlines(), start=1)
        for match in _UNREADABLE.finditer(row)
    ]


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix != ".ipynb":
        yield "", path.read_text("utf-8")
        return
    for index, cell in enumerate(nbformat.read(path, as_version=4).cells, start=1):
        if cell.cell_type == "markdown":
            yield f"cell {index}, ", cell.source


def bare_numbers(text: str) -> list[tuple[int, str]]:
    """Line (from 1) and number, for each number in MyST text that should have been bound."""
    return [
        (line, match.group())
        for line, prose in _prose(text, 1)
        for match in _NUMBER.finditer(_ADDRESS.sub("", prose))
        if _is_result(match)
    ]


def _is_result(match: re.Match[str]) -> bool:
    value = match["value"].lower()
    if match["percent"] or "." in value or "e" in value:
        return True
    return int(value.replace(",", "")) >= 100 and not _YEAR.fullmatch(value)


def _prose(text: str, first: int) -> Iterator[tuple[int, str]]:
    """Line and text of what a reader reads as prose."""
    for token in MYST.parse(text):
        line = first + token.map[0] if token.map else first
        if token.type == "inline":
            yield from _inline(token.children or [], line)
        elif token.type in ("fence", "colon_fence"):
            yield from _directive(token, line)


def _directive(token: Token, line: int) -> Iterator[tuple[int, str]]:
    directive = DIRECTIVE.match(token.info)
    if directive and directive["name"] not in VERBATIM:
        yield from _prose(directive["title"], line)
        yield from _prose(_OPTION.sub("", token.content), line + 1)


def _inline(tokens: list[Token], line: int) -> Iterator[tuple[int, str]]:
    links = 0
    for token in tokens:
        links += (token.type == "link_open") - (token.type == "link_close")
        line += token.type in ("softbreak", "hardbreak")
        if token.type == "text" and not links:
            yield line, token.content
