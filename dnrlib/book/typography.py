"""How text looks on a page: a true minus, one form of per cent, names that stay whole.

Chapters, records and captions write `-0.5`, `95 %` or `95%` and `DNR-B`, as programs do. Here, when
Sphinx has put a page together, these become what is printed, in one place. Code, formulas and
what programs print stay as they are, and so do the keys by which tables are sorted.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]

_MINUS = re.compile(r"(?<![\w.,)\]%’'\"-])-(?=\.?\d)")
_PER_CENT = re.compile(r"(?<=[\d\]])[ \u00a0]?%(?![\w%])")
_APOSTROPHE = re.compile(r"(?<=[^\W\d])'(?=[^\W\d])")
_NAME = re.compile(r"((?:DNR|noise)-[BG]\b(?:-no-\w+)?|\b\d{4}-\d\d-\d\d\b)")
_TOGETHER = r'<span class="together">\1</span>'

# a tag, or all of an element whose text is no prose
_MARKUP = re.compile(r"(<(script|style|pre|code|svg|select)\b.*?</\2>|<[^>]*>)", re.DOTALL)
_NO_PROSE = (nodes.literal, nodes.math, nodes.math_block, nodes.FixedTextElement, nodes.raw)


def typeset(text: str) -> str:
    """A text with a minus before numbers, a curved apostrophe, and a narrow space before `%`."""
    return _APOSTROPHE.sub("’", _PER_CENT.sub("\u202f%", _MINUS.sub("\u2212", text)))


def typeset_html(page: str) -> str:
    """A piece of HTML whose prose is typeset; a method's name or a date stays on one line."""
    parts = _MARKUP.split(page)  # text, markup and the element's name, again and again
    parts[::3] = [_NAME.sub(_TOGETHER, typeset(text)) for text in parts[::3]]
    del parts[2::3]
    return "".join(parts)


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx, for which this module is an extension."""
    app.connect("doctree-resolved", lambda app, doctree, page: typeset_page(doctree))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def typeset_page(doctree: Any) -> None:
    """Typeset a page's prose and what cells return as HTML, in place."""
    for element in list(doctree.findall(nodes.TextElement)):
        if not _is_or_is_within(element, _NO_PROSE):
            children, element.children = element.children, []
            for child in children:
                is_text = isinstance(child, nodes.Text)
                element.extend(_together(typeset(str(child))) if is_text else [child])
    for raw in list(doctree.findall(nodes.raw)):
        if raw.get("format") == "html":
            changed = typeset_html(raw.astext())
            raw.replace_self(nodes.raw("", changed, **raw.attributes))


def _is_or_is_within(node: Any, kinds: tuple[type, ...]) -> bool:
    while node:
        if isinstance(node, kinds) or node.tagname.startswith("desc_sig"):
            return True
        node = node.parent
    return False


def _together(text: str) -> list[Any]:
    """The text, with an element around each name of a method and each date."""
    parts: list[Any] = [nodes.Text(part) for part in _NAME.split(text)]
    parts[1::2] = [nodes.inline("", "", name, classes=["together"]) for name in parts[1::2]]
    return [part for part in parts if part.astext()]
