"""What a link within the book leads to, shown where the link is.

After Sphinx has rendered the pages, each link's target (an equation, a work, a term, a figure, a
theorem, a section, a symbol) is put down as a piece of HTML: those of a page in one file, which
`book/_static/previews.js` loads when a reader first points at a link to that page. So a page that
nobody points at costs nothing. sphinx-tippy does the like, but writes to the console of every
page, names its files anew in each build, and makes every page load MathJax and all that it
could show.
"""

from __future__ import annotations

import json
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, SoupStrainer, Tag

FOLDER = "_static/previews"
ROWS = 8
"""Of a table that are shown."""
LONGEST = 20_000
"""Characters of HTML of a preview: whatever is longer is better looked at where it stands."""

_NEVER = ".headerlink, .label, .eqno, .dropdown, .copybtn, details, script, style, button"
_HEADINGS = ["h1", "h2", "h3", "h4"]


def setup(app: Any) -> dict[str, Any]:
    """Make the previews when Sphinx has written the pages."""
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _finish(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        write_previews(Path(app.outdir))


def write_previews(site: Path) -> None:
    """Write, for each page of a rendered site that links lead to, what they lead to."""
    articles = {path.relative_to(site).as_posix(): _article(path) for path in _pages(site)}
    wanted: dict[str, set[str]] = defaultdict(set)
    for page, article in articles.items():
        for target, anchor in _links(page, article):
            if target in articles:
                wanted[target].add(anchor)
    for page, anchors in wanted.items():
        named = {tag["id"]: tag for tag in articles[page].find_all(id=True)}
        found = {
            anchor: preview(named.get(anchor) if anchor else articles[page].find("h1"), page)
            for anchor in sorted(anchors)
        }
        _write(site, page, {key: html for key, html in found.items() if 0 < len(html) <= LONGEST})


def _pages(site: Path) -> Iterator[Path]:
    return (path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts)


def _article(path: Path) -> BeautifulSoup:
    only = SoupStrainer("article")
    return BeautifulSoup(path.read_text("utf-8"), "html.parser", parse_only=only)


def _links(page: str, article: BeautifulSoup) -> Iterator[tuple[str, str]]:
    """Page and anchor of each link to a page of the site."""
    for link in article.find_all("a", href=True):
        address = urlsplit(str(link["href"]))
        if "headerlink" in (link.get("class") or []) or address.scheme or address.netloc:
            continue
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), address.path))
        yield (unquote(target) if address.path else page), unquote(address.fragment)


def _write(site: Path, page: str, found: Mapping[str, str]) -> None:
    name = page.removesuffix(".html")
    path = site / FOLDER / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"addPreviews({json.dumps(name)}, {json.dumps(found)});\n", "utf-8")


def preview(target: Any, page: str = "") -> str:
    """HTML of what a link to an element leads to; nothing where there is nothing to show.

    Args:
        target: the element, or None.
        page: its page's address in the site, from which addresses of images are put together;
            those in the preview begin at the site's root.
    """
    parts = _shown(target) if isinstance(target, Tag) else []
    return "".join(str(_cleaned(part, page)) for part in parts)


def _shown(target: Tag) -> list[Tag]:
    """The elements that say what the target of a link is."""
    if target.name == "dt":
        return [target, *_explanation(target)]
    if target.name in ("section", *_HEADINGS):
        heading = target if target.name in _HEADINGS else target.find(_HEADINGS)
        return [heading, *_after(heading, "p")] if isinstance(heading, Tag) else []
    if target.name == "span":
        return _of_mark(target)
    is_block = target.name in ("figure", "table", "div", "p", "li")
    return [target] if is_block else []


def _explanation(term: Tag) -> list[Tag]:
    """All that is said of a term, and the first paragraph on a function or class."""
    said = _after(term, "dd")
    if "sig" not in (term.get("class") or []):
        return said
    return [first for text in said if isinstance(first := text.find("p"), Tag)]


def _of_mark(mark: Tag) -> list[Tag]:
    """A mark is in a row of the notation, or before a section."""
    if isinstance(row := mark.find_parent("tr"), Tag):
        return [cell for cell in row.find_all("td")[:2] if isinstance(cell, Tag)]
    following = mark.find_next(_HEADINGS)
    return [following, *_after(following, "p")] if isinstance(following, Tag) else []


def _after(tag: Tag, name: str) -> list[Tag]:
    """The next sibling of that name."""
    found = tag.find_next_sibling(name)
    return [found] if isinstance(found, Tag) else []


def _cleaned(part: Tag, page: str) -> Tag:
    """A copy without what only has a sense in its place: names, links, what is folded."""
    copied = copy(part)
    if copied.name in (*_HEADINGS, "dt"):
        copied.name, copied.attrs = "div", {"class": "preview-title"}
    elif copied.name in ("dd", "td"):
        copied.name = "div"
    for gone in copied.select(_NEVER):
        gone.decompose()
    for row in copied.select("tbody > tr")[ROWS:]:
        row.decompose()
    for tag in [copied, *copied.find_all(True)]:
        _make_placeless(tag, page)
    return copied


def _make_placeless(tag: Tag, page: str) -> None:
    for attribute in ("id", "name", "for", "aria-labelledby"):
        tag.attrs.pop(attribute, None)
    if tag.name == "a":
        tag.name, tag.attrs = "span", {}
    elif tag.name == "img":
        source = posixpath.join(posixpath.dirname(page), str(tag.attrs.pop("src")))
        # the script that shows the preview knows the way to the root
        tag["data-src"] = posixpath.normpath(source)
