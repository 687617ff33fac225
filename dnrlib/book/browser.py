"""What only a browser can see: every page of the site, opened without a network.

`python -m dnrlib.book.browser _build/html` prints the faults and fails if there are any.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from dnrlib.book.slides import LECTURES, overflowing
from dnrlib.errors import ConfigError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Request
    from playwright.sync_api import Page as Tab

WIDTHS = (375, 768, 1440)
HEIGHT = 900
BUDGET = 1_500_000
WEIGHED = {"document", "stylesheet", "script"}

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_REMOTE = re.compile(r"^(?!file:|data:|blob:|about:)")
_SERIOUS = {"serious", "critical"}
# Between themes only colours differ, between widths what scrolls: the rest is looked at once.
_COLOUR_RULES = ["color-contrast", "link-in-text-block"]
_WIDTH_RULES = ["scrollable-region-focusable"]
# thousands of small boxes, drawn by MathJax and hidden from screen readers
_OUTSIDE_FORMULAS = {"exclude": ["mjx-container > *"]}

# A closed box has no size: what folds is opened, so that it is looked at, too.
_UNFOLD = """() => {
  document.querySelectorAll("details").forEach((box) => { box.open = true; });
  const hidden = document.querySelectorAll(".toggle-hidden");
  hidden.forEach((box) => box.classList.remove("toggle-hidden"));
}"""

_TYPESET = "() => window.MathJax && window.MathJax.startup && window.MathJax.startup.promise"

# what is far below the window may wait until it comes near
_LOAD_IMAGES = """() => Promise.allSettled([...document.images].map((image) => {
  image.loading = "eager";
  return image.decode();
}))"""

# What moves although less motion was asked for; then, what watches sizes has seen the new one when
# a frame was drawn after it.
_DRAWN = """() => new Promise((done) => {
  const name = (node) => node.tagName.toLowerCase() + (node.className && `.${node.className}`);
  const moving = document.getAnimations()
    .map(({ effect: { target } }) => `${name(target)} moves though less motion was asked for`);
  requestAnimationFrame(() => requestAnimationFrame(() => done([...new Set(moving)])));
})"""

_CONTENT = """() => {
  const short = (text) => text.trim().replace(/\\s+/g, " ").slice(0, 80);
  const faults = [];
  for (const image of document.images) {
    const name = short((image.getAttribute("src") || "").slice(0, 80));
    if (!image.complete || !image.naturalWidth) faults.push(`image ${name} did not load`);
    if (!image.hasAttribute("alt")) faults.push(`image ${name} has no alternative text`);
  }
  for (const error of document.querySelectorAll("mjx-merror"))
    faults.push(`equation not typeset: ${short(error.dataset.mjxError || error.textContent)}`);
  // MathJax writes a command that it does not know in red
  for (const word of document.querySelectorAll('mjx-container [style*="color: red"]'))
    faults.push(`equation not typeset: unknown command ${short(word.textContent)}`);
  for (const math of document.querySelectorAll(".math:not(:has(mjx-container))"))
    if (!math.closest("mjx-container") && /^\\\\[([]/.test(math.textContent.trim()))
      faults.push(`equation not typeset: ${short(math.textContent)}`);
  return faults;
}"""

# What reaches beyond the page's right edge, or is cut there, without scrolling of its own.
_WIDE = """() => {
  const edge = document.documentElement.clientWidth + 1;
  const name = (node) => node.tagName.toLowerCase()
    + (node.id ? `#${node.id}` : "")
    + (typeof node.className === "string" && node.className.trim()
       ? "." + node.className.trim().split(/\\s+/).join(".") : "");
  const scrolls = (node) => {
    for (let box = node; box && box !== document.body; box = box.parentElement) {
      const style = getComputedStyle(box);
      if (["auto", "scroll"].includes(style.overflowX) || style.position === "fixed") return true;
    }
    return false;
  };
  const seen = "main :not(mjx-assistive-mml, mjx-assistive-mml *)";
  const wide = [...document.querySelectorAll(seen)].filter((node) => {
    const box = node.getBoundingClientRect();
    return box.width && box.height && box.right > edge && node.checkVisibility() && !scrolls(node);
  });
  const outer = wide.filter((node) => !wide.includes(node.parentElement));
  const faults = outer.filter((node) => node.tagName !== "MJX-CONTAINER").slice(0, 3)
    .map((node) => `${name(node)} is wider than the page`);
  const equations = new Set(wide.map((node) => node.closest("mjx-container")).filter(Boolean));
  for (const equation of equations)
    faults.push(`an equation is wider than the page: ${equation.textContent.trim().slice(0, 60)}`);
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth)
    faults.push(`the page scrolls sideways by ${root.scrollWidth - root.clientWidth} pixels`);
  return faults;
}"""

_AXE = """async ([where, options]) => {
  const found = await axe.run(where, { ...options, resultTypes: ["violations"], preload: false });
  return found.violations.map(({ id, impact, help, nodes }) =>
    ({ id, impact, help, nodes: nodes.map((node) => node.target.flat().join(" ")) }));
}"""

# Thousands of boxes in formulas and of equal tokens in code, which have nothing more to say.
_SIMPLIFY = """() => {
  document.querySelectorAll("mjx-container").forEach((formula) => formula.replaceChildren());
  const seen = new Set();
  for (const token of document.querySelectorAll(".highlight pre > span:not(:has(*))")) {
    if (seen.has(token.className)) token.replaceWith(token.textContent);
    seen.add(token.className);
  }
  document.querySelectorAll(".highlight pre").forEach((code) => code.normalize());
}"""

# Contrast follows from colours and size, so one text of each kind will do, which is far quicker.
_KINDS_OF_TEXT = """() => {
  const kinds = new Map();
  const behind = (node) => {
    for (let box = node; box; box = box.parentElement) {
      const { backgroundColor, backgroundImage } = getComputedStyle(box);
      if (backgroundColor !== "rgba(0, 0, 0, 0)" || backgroundImage !== "none")
        return backgroundColor + backgroundImage;
    }
  };
  for (const node of document.querySelectorAll("body :not(mjx-container *, script, style)")) {
    const written = [...node.childNodes].some((part) => part.nodeType === 3 && part.data.trim());
    if (!written || !node.checkVisibility()) continue;
    const { color, fontSize, fontWeight, textDecorationLine } = getComputedStyle(node);
    const font = [color, fontSize, fontWeight, textDecorationLine];
    const kind = [...font, behind(node), !!node.closest("a")];
    if (!kinds.has(String(kind))) kinds.set(String(kind), node);
  }
  return [...kinds.values()];
}"""


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A headless Chromium, closed at the end: DNR_CHROMIUM, or the first one on the path.

    Raises:
        ConfigError: there is none, or Playwright is not installed; says what to install.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise ConfigError("Playwright is missing: pip install 'dnrlib[browser]'") from None
    program = chromium()
    with sync_playwright() as playwright:
        # as root, which CI often is, Chromium starts only without its sandbox
        is_root = hasattr(os, "geteuid") and os.geteuid() == 0  # Windows has no root
        arguments = ["--disable-gpu", *(["--no-sandbox"] if is_root else [])]
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def chromium() -> str:
    """The path of Chromium.

    Raises:
        ConfigError: there is none.
    """
    given = os.environ.get("DNR_CHROMIUM")
    found = next(filter(None, map(shutil.which, [given] if given else _PROGRAMS)), None)
    if found is None:
        missing = f"DNR_CHROMIUM={given} is no program" if given else "there is no Chromium"
        raise ConfigError(f"{missing}: apt-get install chromium, or give its path in DNR_CHROMIUM")
    return found


def check_in_browser(site: Path, widths: Sequence[int] = WIDTHS) -> list[str]:
    """Faults that show when the pages of a site are opened, each with its page.

    A page may say nothing on the console, load nothing from elsewhere, weigh no more than 1.5 MB
    (HTML, style sheets and scripts, as files), load the search index only to search, scroll
    sideways at no width, move nothing where less motion is asked for, leave no equation untypeset
    and no image unloaded, and have no serious fault of accessibility (axe-core), light or dark.
    What a slide of a lecture holds must fit.

    Args:
        site: the folder of the rendered pages.
        widths: of the window, in CSS pixels.

    Raises:
        ConfigError: no Chromium.
    """
    with open_browser() as browser:
        return [*site_faults(browser, site, widths), *_overflowing(browser, site)]


def _overflowing(browser: Browser, site: Path) -> Iterator[str]:
    for deck in sorted((site / LECTURES).glob("*.html")):
        yield from (f"{LECTURES}/{slide} does not fit" for slide in overflowing(deck, browser))


def site_faults(browser: Browser, site: Path, widths: Sequence[int] = WIDTHS) -> list[str]:
    """Faults of the pages of a site; see `check_in_browser`."""
    return [
        f"{page.relative_to(site)}: {fault}"
        for page in sorted(site.rglob("*.html"))
        if _is_read(page)
        for fault in page_faults(browser, page, widths)
    ]


def _is_read(page: Path) -> bool:
    return "_static" not in page.parts and 'http-equiv="refresh"' not in page.read_text("utf-8")


def page_faults(browser: Browser, page: Path, widths: Sequence[int] = WIDTHS) -> list[str]:
    """Faults of one page; see `check_in_browser`."""
    context = browser.new_context(
        viewport={"width": max(widths), "height": HEIGHT}, reduced_motion="reduce"
    )
    context.set_offline(True)
    try:
        tab = context.new_page()
        watch = _Watch(tab)
        tab.goto(page.resolve().as_uri())
        faults = [*_settled(tab), *_too_wide(tab, widths), *_accessibility(tab, widths)]
        return list(dict.fromkeys([*watch.faults, *faults, *_weight(page, watch.files)]))
    finally:
        context.close()


class _Watch:
    """What a tab says on its console and asks for."""

    def __init__(self, tab: Tab):
        self.faults: list[str] = []
        self.files: dict[Path, str] = {}
        tab.route(_REMOTE, lambda route: route.abort())
        tab.on("console", self._said)
        tab.on("pageerror", lambda error: self.faults.append(f"script failed: {error}"))
        tab.on("request", self._asked)
        tab.on("requestfailed", self._failed)

    def _said(self, message: ConsoleMessage) -> None:
        # what could not be loaded is named by its request, with its address
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            self.faults.append(f"console {message.type}: {message.text[:200]}")

    def _asked(self, request: Request) -> None:
        address = urlsplit(request.url)
        if _REMOTE.match(request.url):
            self.faults.append(f"asks the network for {request.url}")
        elif address.scheme == "file":
            self.files[Path(unquote(address.path))] = request.resource_type

    def _failed(self, request: Request) -> None:
        if not _REMOTE.match(request.url):
            self.faults.append(f"could not load {request.url}: {request.failure}")


def _settled(tab: Tab) -> list[str]:
    tab.evaluate(_TYPESET)
    tab.evaluate(_UNFOLD)
    tab.evaluate(_LOAD_IMAGES)
    return tab.evaluate(_CONTENT)


def _accessibility(tab: Tab, widths: Sequence[int]) -> Iterator[str]:
    tab.evaluate(_axe_script())
    _resize(tab, min(widths))
    yield from _axe(tab, f"at {min(widths)} pixels: ", {"runOnly": _WIDTH_RULES})
    _resize(tab, max(widths))
    tab.evaluate(_SIMPLIFY)
    yield from _axe(tab, "", {"rules": {rule: {"enabled": False} for rule in _COLOUR_RULES}})
    for theme in ("dark", "light"):
        tab.evaluate("(name) => { document.documentElement.dataset.theme = name; }", theme)
        kinds = tab.evaluate_handle(_KINDS_OF_TEXT)
        yield from _axe(tab, f"{theme}: ", {"runOnly": _COLOUR_RULES}, {"include": kinds})


def _axe_script() -> str:
    from axe_playwright_python.base import AXE_SCRIPT

    return AXE_SCRIPT


def _axe(
    tab: Tab, when: str, options: Mapping[str, Any], where: Mapping[str, Any] = _OUTSIDE_FORMULAS
) -> Iterator[str]:
    for found in tab.evaluate(_AXE, [where, options]):
        if found["impact"] in _SERIOUS:
            yield f"{when}{found['help']} ({found['id']}): {_some(found['nodes'])}"


def _some(nodes: list[str]) -> str:
    more = f" and {len(nodes) - 3} more" if len(nodes) > 3 else ""
    return ", ".join(nodes[:3]) + more


def _too_wide(tab: Tab, widths: Sequence[int]) -> Iterator[str]:
    for width in sorted(widths):
        moving = _resize(tab, width)
        faults = [*moving, *tab.evaluate(_WIDE)]
        yield from (f"at {width} pixels: {fault}" for fault in faults)


def _resize(tab: Tab, width: int) -> list[str]:
    """Give the window another width; what moves then is a fault."""
    tab.set_viewport_size({"width": width, "height": HEIGHT})
    return tab.evaluate(_DRAWN)


def _weight(page: Path, files: dict[Path, str]) -> Iterator[str]:
    weighed = [file for file, kind in files.items() if kind in WEIGHED and file.is_file()]
    sizes = {file: file.stat().st_size for file in weighed}
    if sum(sizes.values()) > BUDGET:
        heaviest = sorted(sizes, key=lambda file: -sizes[file])[:4]
        parts = ", ".join(f"{file.name} {sizes[file] / 1e6:.2f}" for file in heaviest)
        total = sum(sizes.values()) / 1e6
        yield f"weighs {total:.2f} MB, more than {BUDGET / 1e6} MB: {parts}, …"
    if page.name != "search.html" and any(file.name == "searchindex.js" for file in files):
        yield "loads the search index"


def main(arguments: Sequence[str]) -> int:
    """Print the faults of a site; 1 if there are any."""
    site = Path(arguments[0])
    if not (site / "index.html").is_file():
        print(f"{site}: there is no site; run make book first", file=sys.stderr)
        return 1
    try:
        faults = check_in_browser(site)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print(*faults, sep="\n", end="\n" if faults else "")
    print(f"{site}: {len(faults) or 'no'} faults in the browser")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
