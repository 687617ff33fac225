"""Which names of the library a page uses, found in the syntax trees of its code."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from dnrlib.book.api import home, imported

_FENCE = re.compile(r"^( *)```\{?(?:python|ipython3)\}?$(.*?)^\1```", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r'(?<=<div class="highlight"><pre>)(?:(?!</pre>).)*(?=</pre>)', re.DOTALL)
_LINE = re.compile(r'<dd>(<em class="sig-param">.*?)</dd>', re.DOTALL)
_LINES = re.compile(rf"<dl>((?:\s*{_LINE.pattern})+\s*)</dl>", re.DOTALL)


def uses(path: Path) -> dict[str, str]:
    """What a page writes for names of the package -> where these are defined.

    So ``exercises.check`` is ``dnrlib.exercises.core.check`` where a cell has
    ``from dnrlib import exercises``. Names that are reached through a value, such as the method of
    an object, are not found.

    Args:
        path: a notebook, or a page in Markdown, of which the blocks of Python count.
    """
    trees = list(_trees(path))
    known = {name: origin for tree in trees for name, origin in imported(tree)}
    written = {name for tree in trees for name in _dotted(tree)}
    found = {name: _defined(name, known) for name in sorted(written | known.keys())}
    return {name: defined for name, defined in found.items() if defined}


def _trees(path: Path) -> Iterator[ast.Module]:
    for block in _code(path):
        with suppress(SyntaxError):
            yield ast.parse(block)


def _code(path: Path) -> Iterator[str]:
    text = path.read_text("utf-8")
    cells = json.loads(text)["cells"] if path.suffix == ".ipynb" else []
    for cell in cells or [{"cell_type": "markdown", "source": text}]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            yield source
        else:
            yield from (block for _, block in _FENCE.findall(source))


def _dotted(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def _defined(written: str, known: Mapping[str, str]) -> str | None:
    first, *rest = written.split(".")
    return home(".".join([known[first], *rest])) if first in known else None


def linked(html: str, addresses: Mapping[str, str]) -> str:
    """A rendered page in which names in the code are links.

    Args:
        html: with code as Pygments marks it.
        addresses: what the page writes -> where that leads.
    """
    if not addresses:
        return html
    written = sorted(addresses, key=len, reverse=True)
    names = {_marked(name): name for name in written}
    # neither an attribute of something else nor the name of an argument
    pattern = re.compile(
        r'(?<!<span class="o">\.</span>)(?:'
        + "|".join(f"({marked})" for marked in names)
        + r')(?!<span class="o">=</span>)'
    )
    targets = [addresses[name] for name in names.values()]

    def link(match: re.Match[str]) -> str:
        return f'<a class="api" href="{targets[(match.lastindex or 1) - 1]}">{match[0]}</a>'

    return _BLOCK.sub(lambda block: pattern.sub(link, block[0]), html)


def without_lists(html: str) -> str:
    """A page of the reference whose signatures over several lines are no lists.

    Sphinx makes them definition lists without a term, which a screen reader stumbles over.
    """
    return _LINES.sub(lambda lines: _LINE.sub(r'<span class="sig-line">\1</span>', lines[1]), html)


def _marked(name: str) -> str:
    parts = (rf'<span class="n[a-z]*">{re.escape(part)}</span>' for part in name.split("."))
    return r'<span class="o">\.</span>'.join(parts)
