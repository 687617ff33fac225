"""Last changes to the rendered pages: less to load, and names that the theme forgets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

# A second copy of the icons, 1.5 MB beside the font, and the search tools, which a page needs only
# to search while one types: the theme's layout loads them, and has no option for it.
_SCRIPT = r'\s*<script[^>]*src="[^"]*(?:{})\.js[^"]*"[^>]*></script>'
_ICONS = re.compile(_SCRIPT.format("fontawesome"))
_UNUSED_SCRIPTS = re.compile(_SCRIPT.format("fontawesome|searchtools|language_data|searchindex"))
# In one file MathJax has a menu that nobody needs; _config.yml names the parts that are used.
_ALL_OF_MATHJAX = "/mathjax/tex-chtml.js"
_PARTS_OF_MATHJAX = "/mathjax/startup.js"

_TOGGLE = re.compile(r"(<a [^>]*>)([^<]*)(</a><details[^>]*><summary)(?=>)")
_SYMBOL_LINK = re.compile(r'(<a [^>]*href="[^"]*#symbol-([a-z0-9-]+)")(?![^>]*aria-label)')

_RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")
_LEAD = re.compile(r"(?:.*(?:;|\*/))?", re.DOTALL)
_CLASS = re.compile(r"\.(-?[A-Za-z_][\w-]*)")
_NOT = re.compile(r":not\([^()]*\)")
_WORD = re.compile(r"[A-Za-z_][\w-]*")
# classes that scripts put together from parts
_MADE_BY_SCRIPTS = ("bs-", "tippy-", "mjx-")


def finish(site: Path) -> None:
    """Change a rendered site in place: lighter pages, and a name for every control.

    Scripts that nothing uses go, and so do the rules of the theme's style sheets for classes that
    no page and no script of the site names. What folds a part of the contents and what leads to a
    symbol gets a name that a screen reader can say.
    """
    pages = [page for page in site.rglob("*.html") if "_static" not in page.parts]
    for page in pages:
        text = page.read_text("utf-8")
        page.write_text(_named(_lighter(text, searches=page.name == "search.html")), "utf-8")
    (site / "_static/scripts/fontawesome.js").unlink(missing_ok=True)
    words = _words([*pages, *_scripts(site)])
    for sheet in (site / "_static").rglob("*.css"):
        sheet.write_text(_without_unused(sheet.read_text("utf-8"), words), "utf-8")


def _lighter(page: str, searches: bool) -> str:
    page = page.replace(_ALL_OF_MATHJAX, _PARTS_OF_MATHJAX)
    return (_ICONS if searches else _UNUSED_SCRIPTS).sub("", page)


def _named(page: str) -> str:
    page = _TOGGLE.sub(r'\1\2\3 aria-label="Pages under \2"', page)
    # the role that docutils gives to an entry may not stand in the list that it makes around it
    page = page.replace('role="doc-biblioentry"', 'role="listitem"')
    return _SYMBOL_LINK.sub(lambda link: f'{link[1]} aria-label="symbol {_said(link[2])}"', page)


def _said(name: str) -> str:
    return name.replace("-", " ")


def _scripts(site: Path) -> Iterable[Path]:
    return (path for path in site.rglob("*.js") if not {"mathjax", "locales"} & set(path.parts))


def _words(files: Iterable[Path]) -> set[str]:
    return {word for file in files for word in _WORD.findall(file.read_text("utf-8"))}


def _without_unused(sheet: str, words: set[str]) -> str:
    """A style sheet without the rules that need a class that is not among `words`."""

    def kept(rule: re.Match[str]) -> str:
        lead, selectors = _split_lead(rule[1])
        used = [selector for selector in selectors.split(",") if _may_apply(selector, words)]
        return f"{lead}{','.join(used)}{{{rule[2]}}}" if used else lead

    return _RULE.sub(kept, sheet)


def _split_lead(text: str) -> tuple[str, str]:
    """What stands before a rule's selectors (comments, statements such as @charset), and these."""
    end = len(_LEAD.match(text)[0])  # type: ignore[index]  # it matches nothing at least
    return text[:end], text[end:]


def _may_apply(selector: str, words: set[str]) -> bool:
    # of `:is(.a, .b)` one would do, and the comma has cut it in two: such a rule stays
    plain = _NOT.sub("", selector)
    if "(" in plain or ")" in plain or plain.lstrip().startswith("@"):
        return True
    needed = _CLASS.findall(plain)
    return all(name in words or name.startswith(_MADE_BY_SCRIPTS) for name in needed)
