r"""The symbols of a page, each with a link to its row in the notation.

`book/notation.md` explains symbols in tables: the first column has them, as formulas, the second
says what they mean. From these tables and a chapter's formulas `add_symbols` makes a folded box
behind the chapter's opening, and `check_symbols` finds symbols that nobody explains. A symbol that
only one page uses is declared there, in a line of its own in any of its markdown cells:

    % local symbols: $h$, $L_y$

Such a symbol means on that page what the page says, whatever it means in the notation. Greek
letters, calligraphic ones, and L, p and q with a subscript that is no index must be explained in
one of the two ways. Other letters are linked where the notation has them, and else left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from dnrlib.book.formulas import Symbol, formulas, symbols_of
from dnrlib.book.notebooks import BookError, chapters

NOTATION = Path("book/notation.md")

_LOCAL = re.compile(r"^%\s*local symbols:(.*)$", re.MULTILINE)
_ROW = re.compile(r"^\|(?P<cells>.*)\|\s*$")
_CELL_END = re.compile(r"(?<!\\)\|")
_FORMULA = re.compile(r"(\$[^$]+\$)")
_END_OF_SHORT = re.compile(r"[;:](?=\s)|,? \{eq\}")
_SECTION = re.compile(r"^## ", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """A row of the notation.

    Args:
        anchor: ``[text](#anchor)`` links to the row, from every page.
        symbols: its first cell.
        meaning: the beginning of its second.
    """

    anchor: str
    symbols: str
    meaning: str


def read_notation(text: str) -> dict[str, Row]:
    """The name of each symbol that the notation explains -> its row.

    Raises:
        BookError: two rows explain one symbol.
    """
    found: dict[str, Row] = {}
    for line in text.splitlines():
        if cells := _cells(line):
            row = Row(_anchor(cells[0]), cells[0], _shortened(cells[1]))
            for symbol in _defined(cells[0]):
                if symbol.name in found:
                    raise BookError(f"{NOTATION}: two rows explain ${symbol.written}$")
                found[symbol.name] = row
    return found


def with_anchors(text: str) -> str:
    """The notation in which each row that explains symbols can be linked to."""
    return "".join(map(_with_anchor, text.splitlines(keepends=True)))


def _with_anchor(line: str) -> str:
    if not (cells := _cells(line)):
        return line
    return line.replace(cells[0], f"[{cells[0]}]{{#{_anchor(cells[0])}}}", 1)


def _cells(line: str) -> list[str] | None:
    """The cells of a row whose first holds formulas."""
    match = _ROW.match(line)
    cells = [cell.strip() for cell in _CELL_END.split(match["cells"])] if match else [""]
    return cells if len(cells) > 1 and cells[0].startswith("$") else None


def _defined(text: str) -> Iterator[Symbol]:
    """The symbols that formulas stand for: of `$L_d = L_z$` the first, of `$V_d, V_z$` both."""
    for formula in _FORMULA.findall(text):
        without_arguments = re.sub(r"\([^()]*\)", "", formula)
        for part in re.split(r",(?![^{]*\})", without_arguments):
            yield from list(symbols_of(part))[:1]


def _anchor(symbols: str) -> str:
    name = next(_defined(symbols)).name
    # anchors are in lower case
    name = re.sub("[A-Z]", lambda capital: f" big {capital.group().lower()}", name)
    name = name.replace("'", " prime").replace("hat", "hat ")
    return "-".join(["symbol", *re.findall("[a-z0-9]+", name)])


def _shortened(meaning: str) -> str:
    """The meaning up to a colon, a semicolon or a reference to an equation."""
    kept = ""
    for part in _FORMULA.split(meaning):
        is_formula = part.startswith("$")
        first, *rest = [part] if is_formula else _END_OF_SHORT.split(part, maxsplit=1)
        kept += first
        if rest:
            break
    return kept.strip(" ,")


def rows_of(text: str, notation: dict[str, Row]) -> list[Row]:
    """The rows that explain a page's symbols, in the order in which it first uses them."""
    known: dict[str, Row | None] = {**notation, **dict.fromkeys(_local_names(text))}
    rows = (
        next((known[name] for name in symbol.names() if name in known), None)
        for symbol in _used(text)
    )
    return list(dict.fromkeys(row for row in rows if row))


def check_symbols(root: Path) -> list[str]:
    """Symbols of the chapters that nobody explains, each with its chapter and what to do."""
    notation = _notation(root)
    return [
        f"{path}: {fault}"
        for path in chapters(root).values()
        for fault in faults(_text(nbformat.read(root / path, as_version=4)), notation)
        if notation
    ]


def faults(text: str, notation: Iterable[str]) -> list[str]:
    """What is wrong with the symbols of a page."""
    used, local = _used(text), _local_names(text)
    known = {*notation, *local}
    missing = [s for s in used if s.must_be_explained and known.isdisjoint(s.names())]
    unused = local.keys() - {name for symbol in used for name in symbol.names()}
    found = [f"${local[name]}$ is declared as a local symbol, but not used" for name in unused]
    if missing:
        listed = ", ".join(f"${written}$" for written in _shortest(missing))
        found += [
            f"{listed}: not explained; write rows in {NOTATION} or, for what only this page has, "
            f"a line `% local symbols: {listed}`"
        ]
    return sorted(found)


def _shortest(symbols: Iterable[Symbol]) -> list[str]:
    """How each is written where it is written shortest, so without exponents."""
    written: dict[tuple[str, str], str] = {}
    for symbol in symbols:
        key = (symbol.letter, symbol.lower)
        written[key] = min(written.get(key, symbol.written), symbol.written, key=len)
    return list(written.values())


def _local_names(text: str) -> dict[str, str]:
    lines = _LOCAL.findall(text)
    return {symbol.name: symbol.written for line in lines for symbol in _defined(line)}


def _used(text: str) -> list[Symbol]:
    return [symbol for formula in formulas(text) for symbol in symbols_of(formula)]


def _notation(root: Path) -> dict[str, Row]:
    path = root / NOTATION
    return read_notation(path.read_text("utf-8")) if path.is_file() else {}


def _text(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def add_symbols(notebook: NotebookNode, root: Path) -> None:
    """Put the box "Symbols of this page" behind the opening of a chapter."""
    if not (rows := rows_of(_text(notebook), _notation(root))):
        return
    first = next(cell for cell in notebook.cells if cell.cell_type == "markdown")
    section = _SECTION.search(first.source)
    end = section.start() if section else len(first.source)
    opening, rest = first.source[:end].rstrip(), first.source[end:]
    first.source = f"{opening}\n\n{_box(rows)}\n\n{rest}".rstrip()


def _box(rows: Iterable[Row]) -> str:
    lines = "\n".join(f"| [{row.symbols}](#{row.anchor}) | {row.meaning} |" for row in rows)
    return (
        ":::{admonition} Symbols of this page\n:class: note dropdown symbols\n\n"
        f"| symbol | meaning |\n|:--|:--|\n{lines}\n:::"
    )
