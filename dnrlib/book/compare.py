"""Two parameter sets of one chapter, side by side.

Both are executed at once. The page that comes of it needs no other file and no network.
"""

from __future__ import annotations

import ast
import html
import io
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image
from nbformat import NotebookNode

from dnrlib.book import jobs
from dnrlib.book.builder import chapter_job
from dnrlib.book.execute import Kernels
from dnrlib.book.execution import kept
from dnrlib.book.jobs import Job
from dnrlib.book.notebooks import BookError, code_cells, defaults
from dnrlib.book.parameter_table import written
from dnrlib.book.prose import MYST
from dnrlib.book.single import FOLDER
from dnrlib.environment import cores
from dnrlib.errors import ConfigError
from dnrlib.files import replacing

STYLE = Path(__file__).with_name("compare.css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the page may load: nothing but what it holds."""

_HEADING = re.compile(r"^#{1,3} (.+)$", re.MULTILINE)
_FIGURE = re.compile(r":::\{figure\}[^\n]*\n(?::[^\n]*\n)*\n(?P<caption>.*)\n:::", re.DOTALL)
_TABLE = re.compile(
    r":::\{table\} (?P<caption>[^\n]*)\n(?::[^\n]*\n)*\n(?P<grid>.*)\n:::", re.DOTALL
)
_IMAGE = re.compile(r"<img [^>]*>")


@dataclass(frozen=True)
class Shown:
    """A figure or table of a page.

    Args:
        section: the heading above it.
        content: as HTML.
    """

    section: str
    content: str


def compare(
    name: str,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    profile: str = "quick",
    dataset: str | None = None,
    root: Path | str = ".",
) -> Path:
    """Execute a chapter with two parameter sets, and set what came out side by side.

    Args:
        name: the chapter.
        first, second: A and B; what is not given is the profile's.
        profile, dataset, root: as in `dnrlib.book.build`.

    Returns:
        The page, `_build/chapters/NAME-A-and-B.html`.

    Raises:
        ConfigError: both are the same, no such chapter or profile, or a parameter does not fit.
        BookError: a cell failed; the message says with which set.
    """
    root = Path(root).resolve()
    a, b = (chapter_job(name, given, profile, dataset, root) for given in (first, second))
    if a.parameters == b.parameters:
        raise ConfigError("both sets are the same: give what differs with --beside KEY VALUE")
    executed: dict[str, NotebookNode] = {}

    def run(job: Job, kernels: Kernels) -> None:
        side, given = ("A", first) if job is a else ("B", second)
        try:
            executed[side] = jobs.run(job, kernels)
        except BookError as error:
            raise BookError(f"{side} ({_described(given)}): {error}") from None

    for _ in jobs.side_by_side(run, [a, b], 2, Kernels(max(1, cores() // 2))):
        pass
    target = root / FOLDER / f"{name}-A-and-B.html"
    return write_comparison(executed["A"], executed["B"], target)


def _described(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {written(value)}" for name, value in given.items()) or "as it is"


def write_comparison(a: NotebookNode, b: NotebookNode, target: Path) -> Path:
    """Set two executions of one chapter side by side, in the HTML page `target`."""
    with replacing(target) as partial:
        partial.write_text(_page(a, b), "utf-8")
    return target


def _page(a: NotebookNode, b: NotebookNode) -> str:
    title = html.escape(next(_headings(a), kept(a).chapter))
    body = "".join([_parameters(a, b), _values(bound(a), bound(b)), *_pairs(a, b)])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}: A and B</title><style>{STYLE.read_text('utf-8')}</style></head>"
        f"<body><main><h1>{title}: two parameter sets side by side</h1>{body}</main></body></html>"
    )


def _headings(notebook: NotebookNode) -> Iterator[str]:
    texts = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    yield from (heading for text in texts for heading in _HEADING.findall(text))


def _parameters(a: NotebookNode, b: NotebookNode) -> str:
    """What differs between the sets, and what both have besides."""
    one, other = ({**defaults(page), **kept(page).parameters} for page in (a, b))
    rows = [
        (name, _code(one[name]), _code(other[name]))
        for name in one
        if repr(one[name]) != repr(other[name])
    ]
    execution = kept(a)
    how = (
        f"Profile {_code(execution.profile)}; all other parameters are the same. "
        f"Commit {html.escape(execution.commit)}, {html.escape(execution.machine)}, "
        f"{html.escape(execution.executed)}."
    )
    table = _grid(("parameter", "A", "B"), rows, "Parameters that differ.")
    return f'{table}<p class="quiet">{how}</p>'


def _code(value: Any) -> str:
    return f"<code>{html.escape(written(value))}</code>"


def bound(notebook: NotebookNode) -> dict[str, Any]:
    """Values that the page gave to its prose (`figures.bind`)."""
    found = {}
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if (book := output.get("metadata", {}).get("scrapbook")) and "name" in book:
                text = output.data.get(f"{book['mime_prefix']}text/plain", "")
                found[book["name"]] = _value(text)
    return found


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _values(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys([*a, *b]))
    differing = [name for name in names if a.get(name) != b.get(name)]
    rows = [
        (name, _number(a.get(name)), _number(b.get(name)), _difference(a.get(name), b.get(name)))
        for name in differing
    ]
    said = f"{len(names) - len(differing)} of {len(names)} bound values are the same in both."
    heading = "<h2>Values in the text</h2>"
    if not rows:
        return f'{heading}<p class="quiet">{said}</p>'
    table = _grid(("value", "A", "B", "B − A"), rows, "Values that differ.")
    return f'{heading}{table}<p class="quiet">{said}</p>'


def _number(value: Any) -> str:
    if isinstance(value, int | float):
        return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
    return "–" if value is None else _code(value)


def _difference(a: Any, b: Any) -> str:
    numbers = all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in (a, b)
    )
    return f"{b - a:+.4g}" if numbers else ""


def _grid(titles: Iterable[str], rows: Iterable[Iterable[str]], caption: str) -> str:
    head = "".join(f'<th scope="col"{_class(title)}>{html.escape(title)}</th>' for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return _scrolling(
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _class(title: str) -> str:
    return f' class="{title.lower()}"' if title in ("A", "B") else ""


def _scrolling(table: str) -> str:
    # what scrolls can be reached by the keyboard
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Table">{table}</div>'


def _pairs(a: NotebookNode, b: NotebookNode) -> Iterator[str]:
    """Figures and tables of both, cell by cell, each section under its heading."""
    section = ""
    for one, other in zip(_shown(a), _shown(b), strict=True):
        for left, right in zip_longest(one, other):
            heading = (left or right).section
            if heading != section:
                yield f"<h2>{html.escape(heading)}</h2>"
                section = heading
            yield _pair(left, right)


def _pair(left: Shown | None, right: Shown | None) -> str:
    if left == right and left is not None:
        inside = f'<div class="both"><p class="name">A and B: the same</p>{left.content}</div>'
        return f'<div class="pair">{inside}</div>'
    sides = "".join(
        f'<div class="{side}"><p class="name">{side.upper()}</p>{content}</div>'
        for side, content in (("a", _or_dash(left)), ("b", _or_dash(right)))
    )
    return f'<div class="pair">{sides}</div>'


def _or_dash(shown: Shown | None) -> str:
    return shown.content if shown else "–"


def _shown(notebook: NotebookNode) -> list[list[Shown]]:
    """Of each code cell that was stored, its figures and tables."""
    section, found = "", []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = next(iter(_HEADING.findall(cell.source)[-1:]), section)
        elif "injected-parameters" not in cell.metadata.get("tags", []):
            data = [output.get("data", {}) for output in cell.outputs]
            found.append([Shown(section, content) for one in data for content in _content(one)])
    return found


def _content(data: Mapping[str, str]) -> Iterator[str]:
    """A figure or table (`dnrlib.figures.Display`) as HTML that needs no other file."""
    myst, page = data.get("text/markdown", ""), data.get("text/html", "")
    if (figure := _FIGURE.search(myst)) and (image := _IMAGE.search(page)):
        caption = _rendered(figure["caption"])
        yield f"<figure>{image[0]}<figcaption>{caption}</figcaption></figure>"
    elif table := _TABLE.search(myst):
        caption = _rendered_inline(table["caption"])
        grid = _rendered(table["grid"])
        yield _scrolling(grid.replace("<table>", f"<table><caption>{caption}</caption>", 1))


@cache  # equal pages have equal pictures: one that is drawn again is another file
def _picture(formula: str) -> str:
    """A formula as a picture; as code, if Matplotlib does not know how to set it."""
    buffer = io.BytesIO()
    size = FontProperties(size=12)  # points: the 16 pixels of the text around it
    try:
        depth = math_to_image(f"${formula}$", buffer, size, dpi=72, format="svg")
    except ValueError:
        return f"<code>{html.escape(formula)}</code>"
    source = b64encode(buffer.getvalue()).decode()
    return (
        f'<img class="math" alt="{html.escape(formula)}" style="vertical-align: -{depth:.1f}pt" '
        f'src="data:image/svg+xml;base64,{source}">'
    )


class _Renderer(RendererHTML):
    """HTML with formulas and references that need no script; a method for each kind of token."""

    def math_inline(self, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
        """A formula within a line."""
        return _picture(tokens[place].content)

    def myst_role(self, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
        """What a reference is to, in words: `fig-line` is figure line."""
        kinds = {"fig-": "figure ", "tab-": "table ", "eq-": "equation "}
        label = tokens[place].content
        for prefix, kind in kinds.items():
            if label.startswith(prefix):
                label = kind + label.removeprefix(prefix)
        return html.escape(label)


_RENDERER = _Renderer()


def _rendered(text: str) -> str:
    return _RENDERER.render(MYST.parse(text), MYST.options, {})


def _rendered_inline(text: str) -> str:
    return _RENDERER.render(MYST.parseInline(text), MYST.options, {})
