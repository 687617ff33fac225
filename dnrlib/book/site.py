"""Rendering with Jupyter Book, and what the rendered site has to satisfy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dnrlib.book.finish import finish
from dnrlib.book.notebooks import BookError

_LOADING = {("link", "href"), ("object", "data"), ("video", "poster")}
_LOADED_RELATIONS = {"stylesheet", "preload", "modulepreload", "icon", "preconnect", "dns-prefetch"}
_REMOTE = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
_REMOTE_CSS = re.compile(
    r"""(?:@import\s+|url\()\s*["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE
)
_FILE_NAME = re.compile(r"\S+\.(svg|png|jpe?g|gif|webp)", re.IGNORECASE)


_REDIRECT = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>To the first page</title>
<link rel="icon" href="_static/favicon.svg"><meta http-equiv="refresh" content="0; url={first}">
</head><body><a href="{first}">To the first page</a></body></html>
"""


def render(source: Path, first: Path) -> Path:
    """Run Jupyter Book over the folder `source`, with every warning an error.

    Args:
        source: pages, `_config.yml` and `_toc.yml`.
        first: the page, relative to `source`, that `index.html` leads to.

    Returns:
        The folder of the rendered pages.

    Raises:
        BookError: with what Jupyter Book said.
    """
    program = "from jupyter_book.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "build", str(source), "-W", "--keep-going", "-q"],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "NO_COLOR": "1"},
    )
    if done.returncode:
        raise BookError(f"Jupyter Book failed\n\n{done.stderr.strip() or done.stdout.strip()}")
    site = source / "_build" / "html"
    if first.with_suffix("") != Path("index"):
        page = _REDIRECT.format(first=first.with_suffix(".html").as_posix())
        (site / "index.html").write_text(page, "utf-8")
    finish(site)
    return site


def check_site(site: Path) -> list[str]:
    """Faults of a rendered site, each with its page; empty when all is well.

    Nothing may be loaded from the network (a plain link to elsewhere is no load), every image has
    alternative text that is more than its file name, and links within the site lead somewhere.
    """
    pages = {path: Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    pages = {path: page for path, page in pages.items() if "_static" not in path.parts}
    faults = [
        f"{path.relative_to(site)}: {fault}"
        for path, page in pages.items()
        for fault in [*page.faults, *_broken_links(path, page, pages)]
    ]
    return faults + [
        f"{path.relative_to(site)}: loads {address}"
        for path in sorted(site.rglob("*.css"))
        for address in _REMOTE_CSS.findall(path.read_text("utf-8"))
    ]


class Page(HTMLParser):
    """One page's identifiers, links and faults."""

    def __init__(self, text: str):
        super().__init__()
        self.identifiers: set[str] = set()
        self.links: list[str] = []
        self.faults: list[str] = []
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what one tag loads, names and links to."""
        values = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        self.identifiers |= {values[name] for name in ("id", "name") if name in values}
        self.faults += [f"loads {address}" for address in _loads(tag, values)]
        if tag == "img" and not _is_alternative(values.get("alt", "")):
            self.faults.append(f"image {values.get('src', '')[:80]} has no alternative text")
        if tag == "a" and "href" in values:
            self.links.append(values["href"])

    def handle_data(self, data: str) -> None:
        """Note what a style sheet within the page loads."""
        if self._in_style:
            self.faults += [f"loads {address}" for address in _REMOTE_CSS.findall(data)]


def _loads(tag: str, values: dict[str, str]) -> Iterator[str]:
    is_loaded = tag != "link" or _LOADED_RELATIONS & set(values.get("rel", "").lower().split())
    for name, value in values.items():
        if name == "src" or ((tag, name) in _LOADING and is_loaded):
            yield from [value] if _REMOTE.match(value) else []
        elif name == "srcset":
            yield from (part.strip() for part in value.split(",") if _REMOTE.match(part))
        elif name == "style":
            yield from _REMOTE_CSS.findall(value)


def _is_alternative(text: str) -> bool:
    # Sphinx puts the file name where no text was given
    return bool(text.strip()) and not _FILE_NAME.fullmatch(text.strip())


def _broken_links(path: Path, page: Page, pages: dict[Path, Page]) -> Iterator[str]:
    for link in page.links:
        address = urlsplit(link)
        if address.scheme or address.netloc:
            continue
        target = (path.parent / unquote(address.path)).resolve() if address.path else path
        target = target / "index.html" if target.is_dir() else target
        anchor = unquote(address.fragment)
        if not target.exists():
            yield f"link to {link}, which does not exist"
        elif anchor and target in pages and anchor not in pages[target].identifiers:
            yield f"link to {link}, an anchor that does not exist"
