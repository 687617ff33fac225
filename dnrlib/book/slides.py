"""Lecture slides whose figures, tables, equations and exercises are those of the rendered pages.

A deck is a file `book/slides/*.yml`: a title and slides, each of which takes elements of pages by
the anchors that links use, such as `two-stages#fig-cascade`. So nothing that depends on a run is
typed twice. `book/teaching.ipynb` describes the file for lecturers.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from bs4 import BeautifulSoup, Tag
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from dnrlib.book.notebooks import BookError, read_yaml
from dnrlib.book.prose import bare_numbers

DECKS = Path("book/slides")
LECTURES = Path("lectures")
"""In the site. As deep as the pages are, so that addresses of their pictures hold there, too."""

_TEXT, _LIST = (str, "text"), (list, "a list")
_DECK = {"title": _TEXT, "subtitle": _TEXT, "slides": _LIST}
_SLIDE = {
    "title": _TEXT,
    "take": _LIST,
    "text": _TEXT,
    "notes": _TEXT,
    "proof": (bool, "true or false"),
    "rows": (int | list, "a number or a list"),
    "columns": _LIST,
}
_OWN_WORDS = ("title", "text", "notes")
_HEADINGS = ["h1", "h2", "h3", "h4"]
_LEFT_OUT = "a.headerlink, .section-number, button, script, style"
_BLOCKS = ["p", "ul", "ol", "dl", "figure", "table"]

PageOf = Callable[[str], "Page | None"]


@dataclass(frozen=True)
class Page:
    """A rendered page: its name and its tree."""

    name: str
    tree: BeautifulSoup

    @property
    def title(self) -> str:
        """As HTML, which may hold formulas."""
        return self.inner(self.tree.find("h1"))

    def inner(self, element: Any) -> str:
        """What stands in an element, clean, as HTML."""
        return self.clean(element).decode_contents().strip()

    def clean(self, element: Tag) -> Tag:
        """A copy without anchors, and with links that hold in a deck."""
        copied = BeautifulSoup(str(element), "html.parser").find()
        assert isinstance(copied, Tag)
        for extra in copied.select(_LEFT_OUT):
            extra.decompose()
        for tag in [copied, *copied.find_all(True)]:
            tag.attrs.pop("id", None)
            if tag.name == "a" and "href" in tag.attrs:
                tag["href"] = self._from_a_deck(str(tag["href"]))
        return copied

    def _from_a_deck(self, link: str) -> str:
        if link.startswith("#"):
            return f"../book/{self.name}.html{link}"
        return link if "//" in link or link.startswith("../") else f"../book/{link}"

    def heading(self, element: Tag) -> str:
        """Of the section that an element is, or stands in."""
        around = [element, *element.parents]
        headings = (one.find(_HEADINGS, recursive=False) for one in around if one.name == "section")
        return next((self.inner(heading) for heading in headings if heading), self.title)

    def folded(self, element: Tag) -> Iterator[Tag]:
        """What is folded below an exercise (its solution) or a theorem (its proof)."""
        label = element.get("id")
        for link in self.tree.select(f'.solution > .admonition-title a[href="#{label}"]'):
            yield from link.find_parents("div", class_="solution")
        below = element.find_next_sibling()
        if element in self.tree.select(".proof") and below and _title(below) == "Proof":
            yield below


@dataclass(frozen=True)
class Slide:
    """Heading, body and notes, as HTML."""

    heading: str
    words: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, part: Tag) -> None:
        """Put a part of a page where it belongs on a slide."""
        kind = {"figure": self.pictures, "table": self.tables}.get(part.name, self.words)
        kind.append(str(part))

    def html(self, number: int, total: int) -> str:
        """The slide's section; the first one is the title of the deck."""
        level = "h1" if number == 1 else "h2"
        spoken = BeautifulSoup(self.heading, "html.parser").get_text()
        label = html.escape(f"Slide {number} of {total}: {spoken}", quote=True)
        notes = f'<aside class="notes">{"".join(self.notes)}</aside>\n' if self.notes else ""
        return (
            f'<section class="slide" id="slide-{number}" aria-label="{label}">\n'
            f"<{level}>{self.heading}</{level}>\n{self._body()}\n"
            f"<footer>{number} / {total}</footer>\n{notes}</section>"
        )

    def _body(self) -> str:
        parts = {"words": self.words, "pictures": self.pictures, "tables": self.tables}
        boxes = [
            f'<div class="{name}">{"".join(part)}</div>' for name, part in parts.items() if part
        ]
        beside = " beside" if self.words and self.pictures else ""
        return f'<div class="body{beside}">{"".join(boxes)}</div>'


def write_slides(site: Path, root: Path) -> list[Path]:
    """Write a deck into the site for each `book/slides/*.yml`.

    Args:
        site: the rendered site; decks go to `lectures/` in it.
        root: the folder of `book/`.

    Returns:
        The decks.

    Raises:
        BookError: a file that is no deck, a page or a label that does not exist, or a bare number
            in a slide's own words; the message names the file, the slide and the label.
    """
    page = cache(lambda name: _page(site, name))
    return [_write(path, deck, site, page) for path, deck in read_decks(root).items()]


def read_decks(root: Path) -> dict[Path, dict[str, Any]]:
    """Path -> content of each deck; needs no rendered page.

    Raises:
        BookError: a file that is no deck, or a bare number in a slide's own words; the message
            names the file and the slide.
    """
    return {path: _deck(path) for path in sorted((root / DECKS).glob("*.yml"))}


def _deck(path: Path) -> dict[str, Any]:
    deck = read_yaml(path)
    _check_keys(deck, _DECK, f"{path}")
    if not deck.get("title") or not deck.get("slides"):
        raise BookError(f"{path}: a deck has a title and slides")
    for number, slide in enumerate(deck["slides"], start=2):
        where = f"{path}, slide {number}"
        _check_keys(slide, _SLIDE, where)
        _refuse_numbers(slide, where)
    return deck


def overflowing(deck: Path, browser: Any) -> list[str]:
    """Slides whose content does not fit at 1280 x 720 even in the smallest letters.

    Args:
        deck: what `write_slides` wrote.
        browser: Playwright's.
    """
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    try:
        page.goto(deck.resolve().as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        over = page.locator("section[data-overflow]").all()
        return [f"{deck.name}: {one.get_attribute('aria-label')}" for one in over]
    finally:
        page.close()


def _page(site: Path, name: str) -> Page | None:
    path = site / "book" / f"{name}.html"
    if not path.is_file():
        return None
    return Page(name, BeautifulSoup(path.read_text("utf-8"), "html.parser"))


def _write(path: Path, deck: dict[str, Any], site: Path, page: PageOf) -> Path:
    slides = _slides(deck, path, page)
    sections = "\n".join(slide.html(i, len(slides)) for i, slide in enumerate(slides, start=1))
    files = {kind: (path.parent / f"deck.{kind}").read_text("utf-8") for kind in ("css", "js")}
    whole = Template((path.parent / "deck.html").read_text("utf-8"))
    target = site / LECTURES / f"{path.stem}.html"
    target.parent.mkdir(exist_ok=True)
    target.write_text(whole.substitute(title=deck["title"], slides=sections, **files), "utf-8")
    return target


def _slides(deck: dict[str, Any], path: Path, page: PageOf) -> list[Slide]:
    """The title, the slides of the file, and the pages that they are taken from."""
    first = Slide(_inline(deck["title"]), [_markdown(deck.get("subtitle", ""))])
    body = [
        _slide(slide, f"{path}, slide {number}", page)
        for number, slide in enumerate(deck["slides"], start=2)
    ]
    return [first, *body, _sources(deck["slides"], page)]


def _sources(slides: list[dict[str, Any]], page: PageOf) -> Slide:
    labels = [label for slide in slides for label in slide.get("take", [])]
    names = dict.fromkeys(label.partition("#")[0] for label in labels)
    links = [
        f'<li><a href="../book/{name}.html">{found.title}</a></li>'
        for name in names
        if (found := page(name))
    ]
    return Slide("The pages of this lecture", [f"<ul>{''.join(links)}</ul>"])


def _check_keys(given: Any, known: Mapping[str, tuple[Any, str]], where: str) -> None:
    if not isinstance(given, dict):
        raise BookError(f"{where}: {given!r} should have some of {', '.join(sorted(known))}")
    if unknown := sorted(map(str, given.keys() - known)):
        raise BookError(f"{where}: {unknown[0]!r} is none of {', '.join(sorted(known))}")
    for name, value in given.items():
        kind, words = known[name]
        if not isinstance(value, kind):
            raise BookError(f"{where}: {name} = {value!r}: must be {words}")


def _slide(given: dict[str, Any], where: str, page: PageOf) -> Slide:
    taken = [_taken(label, where, page) for label in given.get("take", [])]
    if not taken and "title" not in given:
        raise BookError(f"{where}: it takes nothing, so it needs a title")
    title = _inline(given["title"]) if "title" in given else taken[0][0].heading(taken[0][1])
    slide = Slide(title)
    for source, element in taken:
        part = source.clean(_part(element, where))
        if part.name == "table":
            _cut(part, given, where)
        slide.add(part)
        folded = slide.words if given.get("proof") else slide.notes
        folded += [str(source.clean(one)) for one in source.folded(element)]
    if "text" in given:
        slide.words.append(_markdown(given["text"]))
    if "notes" in given:
        slide.notes.insert(0, _markdown(given["notes"]))
    return slide


def _refuse_numbers(given: dict[str, Any], where: str) -> None:
    for name in _OWN_WORDS:
        if found := bare_numbers(str(given.get(name, ""))):
            raise BookError(f"{where}: the number {found[0][1]} in its {name}: take it from a page")


def _taken(label: Any, where: str, page: PageOf) -> tuple[Page, Tag]:
    """The page and the element that `PAGE#LABEL` names."""
    name, _, anchor = str(label).partition("#")
    source = page(name)
    if source is None:
        raise BookError(f"{where}: {label}: there is no page {name}")
    found = source.tree.find(id=anchor) or source.tree.find(id=f"equation-{anchor}")
    if not anchor or not isinstance(found, Tag):
        raise BookError(f"{where}: {label}: the page {name} has no label {anchor!r}")
    return source, found


def _part(element: Tag, where: str) -> Tag:
    """What a slide shows of an element: all of it, or the first block of a section."""
    if element.name != "section":
        return element
    first = element.find(_BLOCKS, recursive=False)
    if not isinstance(first, Tag):
        raise BookError(f"{where}: the section {element.get('id')} begins with nothing to show")
    return first


def _cut(table: Tag, given: dict[str, Any], where: str) -> None:
    """Leave the `rows` that begin so, or so many, and the `columns` with these titles; say so."""
    heads = [_text(cell) for cell in table.select("thead th")]
    rows = table.select("tbody tr")
    firsts = [_text(row.find(["th", "td"])) for row in rows]
    asked, columns = given.get("rows", len(rows)), given.get("columns", heads)
    if isinstance(asked, list):
        _refuse_missing("row", asked, firsts, where)
    _refuse_missing("column", columns, heads, where)
    for number, (row, first) in enumerate(zip(rows, firsts, strict=True)):
        if first not in asked if isinstance(asked, list) else number >= asked:
            row.decompose()
    for row in table.select("tr"):
        for cell, head in zip(row.find_all(["th", "td"], recursive=False), heads, strict=True):
            if head not in columns:
                cell.decompose()
    left = {
        "rows": (len(table.select("tbody tr")), len(rows)),
        "columns": (len(columns), len(heads)),
    }
    said = [f"{kept} of {all_} {what}" for what, (kept, all_) in left.items() if kept < all_]
    if said and (caption := table.select_one(".caption-text")):
        caption.append(f" (Here {' and '.join(said)}.)")


def _refuse_missing(what: str, asked: list[str], known: list[str], where: str) -> None:
    for name in asked:
        if name not in known:
            raise BookError(f"{where}: no {what} {name!r}; there are {', '.join(known)}")


def _text(element: Any) -> str:
    return " ".join(element.get_text().split())


def _title(box: Tag) -> str:
    title = box.select_one(".admonition-title")
    return _text(title) if title else ""


def _formula(content: str, options: dict[str, Any]) -> str:
    return html.escape(rf"\[{content}\]" if options["display_mode"] else rf"\({content}\)")


_MARKDOWN = MarkdownIt("commonmark").use(dollarmath_plugin, renderer=_formula)


def _markdown(text: str) -> str:
    return str(_MARKDOWN.render(text))


def _inline(text: str) -> str:
    return str(_MARKDOWN.renderInline(text))
