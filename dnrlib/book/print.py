"""The book on paper: the rendered pages as one PDF, printed by headless Chromium.

Each page of the site is printed by itself, in the order of `_toc.yml`, with solutions and proofs
unfolded. Then they are put together: a title, page numbers, an outline, and links between pages
that stay within the file.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urldefrag

from pypdf import PageObject, PdfReader, PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, NullObject, TextStringObject

from dnrlib.book.browser import open_browser
from dnrlib.book.notebooks import BookError, pages, read_yaml
from dnrlib.environment import commit
from dnrlib.files import replacing

if TYPE_CHECKING:
    from playwright.sync_api import Page as Tab

PDF = Path("_build/dnr-book.pdf")
SITE = Path("_build/html")
_SHEET = {"format": "A4", "print_background": True, "scale": 0.8}
_WIDTH = 840
"""Between the margins of a sheet, in CSS pixels at its scale."""
_MARGINS = {"top": "16mm", "bottom": "20mm", "left": "16mm", "right": "16mm"}

# of the theme's own page of title and contents, and of what only a screen can use
_STYLE = """
#jb-print-docs-body, .bd-header-article, .prev-next-footer, .copybtn { display: none !important; }
.bd-main .bd-content .bd-article h1:first-of-type { display: block; }
.bd-main .bd-content { margin-left: 0; }
details.hide:not([open]) { display: none !important; }
table, .admonition, .table-container { break-inside: auto !important; }
tr, figure, div.math { break-inside: avoid; }
td, th { white-space: normal !important; } /* paper does not scroll */
pre { white-space: pre-wrap !important; }
.breaks :is(td, th) { overflow-wrap: anywhere; }
* { mask-image: none !important; }
html { --pst-color-shadow: transparent !important; } /* else an image of each box */
"""
_TYPESET = "() => window.MathJax?.startup?.promise"
_UNFOLD = """() => {
  const boxes = document.querySelectorAll(".toggle-hidden");
  boxes.forEach((box) => box.classList.remove("toggle-hidden"));
  for (const button of document.querySelectorAll(".toggle-button")) button.remove();
  for (const image of document.images) image.loading = "eager";
}"""
# a table that is wider than the paper is made smaller, and if that is not enough, its words are cut
_FIT = """() => {
  for (const table of document.querySelectorAll("article table")) {
    const share = table.parentElement.clientWidth / table.scrollWidth;
    if (share < 1) table.style.zoom = Math.max(share, 0.6);
    table.classList.toggle("breaks", share < 0.6);
  }
}"""
# Chromium keeps the place of an element only if a link of the same page leads there
_NAME_ALL = """() => {
  const links = document.createElement("div");
  for (const { id } of document.querySelectorAll("article [id]")) {
    const link = document.createElement("a");
    link.href = "#" + encodeURIComponent(id);
    links.append(link);
  }
  links.hidden = true;
  document.body.append(links);
}"""
_SECTIONS = """() => {
  const titles = [...document.querySelectorAll("article section > :is(h1, h2)")];
  return titles.map((title) => {
    const copied = title.cloneNode(true);
    for (const gone of copied.querySelectorAll(".headerlink")) gone.remove();
    return [copied.textContent.trim(), title.parentElement.id];
  });
}"""

_TITLE = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body {{ font-family: sans-serif; margin: 80mm 24mm }} h1 {{ font-size: 26pt }}
p {{ font-size: 12pt; color: #444 }}</style>
<h1>{title}</h1><p>{author}</p><p>Printed at commit {commit}.</p></html>
"""
_NUMBERS = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Page numbers</title>
<style>@page {{ margin: 0 }} body {{ margin: 0; font: 9pt sans-serif; color: #444 }}
div {{ height: 297mm; box-sizing: border-box; padding: 284mm 16mm 0; display: flex;
justify-content: space-between; break-after: page; overflow: hidden }}
div:last-child {{ break-after: auto }}</style>{sheets}</html>
"""


@dataclass(frozen=True)
class Printed:
    """One page of the site, printed.

    Args:
        address: `file://…`, without an anchor.
        sections: text and anchor of the headings; the first is the page's title.
        pdf: as Chromium prints it, its places named by anchors.
    """

    address: str
    sections: Sequence[tuple[str, str]]
    pdf: PdfReader

    @property
    def title(self) -> str:
        """The page's first heading."""
        return self.sections[0][0] if self.sections else Path(self.address).stem


def print_book(root: Path | str = ".") -> Path:
    """Print the site that was built last.

    Returns:
        The PDF.

    Raises:
        BookError: there is no site, or it lacks a page of `_toc.yml`.
        ConfigError: there is no Chromium, or Playwright is not installed.
    """
    root = Path(root).resolve()
    files = [(root / SITE / page).with_suffix(".html") for page in pages(root)]
    if missing := next((file for file in files if not file.is_file()), None):
        raise BookError(f"there is no {missing.relative_to(root)}: run make book first")
    with open_browser() as browser:
        tab = browser.new_page(color_scheme="light", viewport={"width": _WIDTH, "height": _WIDTH})
        tab.emulate_media(media="print")
        printed = [_printed(tab, file) for file in files]
        count = [len(one.pdf.pages) for one in printed]
        title = _of_text(tab, _title(root))
        numbers = _of_text(tab, _numbers([one.title for one in printed], count))
    writer = _bound(title, printed, numbers, _captions(root))
    with replacing(root / PDF) as partial:
        writer.write(partial)
    return root / PDF


def _printed(tab: Tab, file: Path) -> Printed:
    tab.goto(file.as_uri())
    tab.add_style_tag(content=_STYLE)
    for step in (_TYPESET, _UNFOLD, _FIT, _NAME_ALL):
        tab.evaluate(step)
    tab.wait_for_load_state("networkidle")
    sections = [(text, anchor) for text, anchor in tab.evaluate(_SECTIONS)]
    return Printed(file.as_uri(), sections, _pdf(tab, margin=_MARGINS))


def _pdf(tab: Tab, **options: Any) -> PdfReader:
    return PdfReader(BytesIO(tab.pdf(**{**_SHEET, **options})))


def _of_text(tab: Tab, text: str) -> PdfReader:
    tab.set_content(text)
    return _pdf(tab, scale=1)  # margins are the text's own


def _title(root: Path) -> str:
    config = read_yaml(root / "_config.yml")
    words = {"title": config["title"], "author": config["author"], "commit": commit(root)}
    return _TITLE.format(**{name: html.escape(str(word)) for name, word in words.items()})


def _numbers(titles: Sequence[str], counts: Sequence[int]) -> str:
    """A sheet for each page: the chapter's title and the page's number; the title page is one."""
    owners = [title for title, count in zip(titles, counts, strict=True) for _ in range(count)]
    sheets = (
        f"<div><span>{html.escape(title)}</span><span>{number}</span></div>"
        for number, title in enumerate(owners, start=2)
    )
    return _NUMBERS.format(sheets="".join(sheets))


def _captions(root: Path) -> dict[str, str]:
    """The first page of each part of `_toc.yml` -> the part's caption."""
    toc = read_yaml(root / "_toc.yml")
    return {
        Path(part["chapters"][0]["file"]).stem: part["caption"]
        for part in toc.get("parts", [])
        if "caption" in part
    }


def _bound(
    title: PdfReader, printed: Sequence[Printed], numbers: PdfReader, captions: Mapping[str, str]
) -> PdfWriter:
    """All in one file, with outline and links."""
    writer = PdfWriter()
    writer.append(title, import_outline=False)
    for one in printed:
        _make_links_absolute(one)
        writer.append(one.pdf, import_outline=False)
    for page, number in zip(writer.pages[1:], numbers.pages, strict=True):
        page.merge_page(number)
        page.compress_content_streams()  # which merging has unpacked
    places = _places(printed, writer.pages)
    for page in writer.pages:
        _keep_links_inside(page, places)
    _add_outline(writer, printed, places, captions)
    writer.compress_identical_objects()  # fonts that chapters share
    return writer


def _make_links_absolute(one: Printed) -> None:
    """Links within a page are written like those to others, as anchors occur on many pages."""
    for page in one.pdf.pages:
        for link in _links(page):
            if "/Dest" in link:
                address = f"{one.address}#{str(link.pop(NameObject('/Dest'))).removeprefix('/')}"
                link[NameObject("/A")] = _action(address)


def _action(address: str) -> DictionaryObject:
    uri = {NameObject("/S"): NameObject("/URI"), NameObject("/URI"): TextStringObject(address)}
    return DictionaryObject(uri)


def _links(page: PageObject) -> Iterator[DictionaryObject]:
    for reference in page.get("/Annots") or []:
        annotation = reference.get_object()
        if annotation.get("/Subtype") == "/Link":
            yield annotation


Places = dict[str, ArrayObject]
"""Address, with an anchor or without -> a place in the file, as PDF has it."""


def _places(printed: Sequence[Printed], sheets: Sequence[PageObject]) -> Places:
    places, first = {}, 1
    for one in printed:
        places[one.address] = _place(sheets[first], None)
        for name, found in one.pdf.named_destinations.items():
            number = one.pdf.get_destination_page_number(found)
            anchor = unquote(name.removeprefix("/"))
            if number is not None:
                places[f"{one.address}#{anchor}"] = _place(sheets[first + number], found.top)
        first += len(one.pdf.pages)
    return places


def _place(sheet: PageObject, top: Any) -> ArrayObject:
    to_top = NullObject() if top is None else top
    where = [NameObject("/XYZ"), NullObject(), to_top, NullObject()]
    return ArrayObject([sheet.indirect_reference, *where])


def _keep_links_inside(page: PageObject, places: Places) -> None:
    """Links to what is not printed lead nowhere, as a reader of the file does not have the site."""
    for link in _links(page):
        address = str(link.get("/A", {}).get("/URI", ""))
        bare, anchor = urldefrag(address)
        place = places.get(f"{bare}#{unquote(anchor)}" if anchor else bare, places.get(bare))
        if address.startswith("file:"):
            del link["/A"]
            if place is not None:
                link[NameObject("/Dest")] = place


def _add_outline(
    writer: PdfWriter, printed: Sequence[Printed], places: Places, captions: Mapping[str, str]
) -> None:
    part = None
    for one in printed:
        start = _number(writer, places[one.address])
        if (name := Path(unquote(one.address)).stem) in captions:
            part = writer.add_outline_item(title=captions[name], page_number=start)
        chapter = writer.add_outline_item(title=one.title, page_number=start, parent=part)
        for text, anchor in one.sections[1:]:
            if place := places.get(f"{one.address}#{anchor}"):
                number = _number(writer, place)
                writer.add_outline_item(title=text, page_number=number, parent=chapter)


def _number(writer: PdfWriter, place: ArrayObject) -> int:
    number = writer.get_page_number(place[0].get_object())
    assert number is not None
    return number
