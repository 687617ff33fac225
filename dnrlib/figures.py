"""What a chapter shows: figures, tables and numbers, in one visual language.

A cell that ends in `save` or `table` becomes a numbered figure or table of the page, with caption,
alternative text and a label for `{numref}`; `bind` gives numbers to the prose.
"""

from __future__ import annotations

import html
import io
import json
import math
import os
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.figure import Figure
from myst_nb import glue

from dnrlib.files import replacing

# Okabe and Ito's colours, with Tol's indigo and wine: told apart with every common colour vision.
METHOD_COLOURS = {
    "score": "#4D4D4D",
    "score-reversed": "#999999",
    "popularity": "#117733",
    "none": "#56B4E9",
    "rank": "#332288",
    "concat": "#0072B2",
    "add": "#009E73",
    "weight": "#882255",
    "score-dropout": "#44AA99",
    "score-jitter": "#CC79A7",
    "calibrated": "#661100",
    "noise-G": "#F0C674",  # heuristic noise alone: the lighter tone of the method that it leads to
    "noise-B": "#EBA27C",
    "DNR-G": "#E69F00",
    "DNR-B": "#D55E00",
    "DNR-B-no-adv": "#AA4499",
    "DNR-B-no-x": "#222222",
    "light-beta": "#6929C4",
    "light-beta-exact": "#9F1853",
    "empirical": "#005D5D",
    "empirical-lists": "#1FA187",
    "bound": "#B28600",
    "bound-request": "#570408",
}
"""Method -> colour, the same in every figure."""
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#4D4D4D"]
"""For all else, in this order."""

KIND_COLOURS = {"liked": PALETTE[0], "not liked": PALETTE[1], "not shown": "#999999"}
"""Of candidates, by what the user made of them."""

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

WRITTEN = "DNR_FIGURES_WRITTEN"
"""The environment's variable for the file in which the names of written figures are put down."""

STYLE: dict[str, Any] = {
    "figure.figsize": (5.2, 3.3),  # at this size the text can be read at the width of a phone
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "grid.color": "#E5E5E5",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def style() -> None:
    """Make every later figure follow the book's style. Called in a chapter's first code cell."""
    plt.style.use(STYLE)


@dataclass(frozen=True)
class Display:
    """What a cell returns: MyST for the book, HTML for a notebook that is open in Jupyter."""

    myst: str
    html: str

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/markdown": self.myst, "text/html": self.html, "text/plain": self.myst}


def save(fig: Figure, name: str, alt: str, caption: str, folder: Path | str = "figures") -> Display:
    """Write `figures/NAME.svg` and return the numbered figure `fig-NAME`.

    The file is the same, byte for byte, whenever the figure is; the figure is closed.

    Args:
        fig: a Matplotlib figure.
        name: lower-case letters, digits and hyphens; ``{numref}`fig-NAME``` refers to it.
        alt: what the figure shows, for those who cannot see it; plain text.
        caption: MyST, so that formulas, citations and references work.
        folder: where to write.

    Raises:
        ValueError: for a name that cannot be a label, an empty `alt` or an empty `caption`.
    """
    _check(name, alt=alt, caption=caption)
    svg = _svg(fig, name)
    plt.close(fig)
    _write(Path(folder) / f"{name}.svg", svg)
    _note(Path(folder) / f"{name}.svg")
    alt = " ".join(alt.split())
    myst = (
        f":::{{figure}} /figures/{name}.svg\n:name: fig-{name}\n"
        f":alt: {json.dumps(alt, ensure_ascii=False)}\n\n{caption.strip()}\n:::"
    )
    source = f"data:image/svg+xml;base64,{b64encode(svg).decode()}"
    page = (
        f'<figure><img alt="{html.escape(alt)}" src="{source}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
    return Display(myst, page)


def table(
    rows: Iterable[Mapping[str, Any]] | Any,
    name: str,
    caption: str,
    digits: int = 3,
    folded: str = "",
) -> Display:
    """Return the numbered table `tab-NAME`.

    Args:
        rows: a Polars frame, or mappings from column title to value with the same keys in each.
        name: lower-case letters, digits and hyphens; ``{numref}`tab-NAME``` refers to it.
        caption: MyST.
        digits: decimals of a floating-point value; None and NaN are shown as a dash, and what
            stands between backticks in a text as code.
        folded: what the closed box says that holds the table; by default the table is open.

    Raises:
        ValueError: for a name that cannot be a label, an empty caption, or no rows.
    """
    _check(name, caption=caption)
    records = rows.to_dicts() if hasattr(rows, "to_dicts") else list(rows)
    if not records:
        raise ValueError(f"table {name!r} has no rows")
    numeric = [all(_is_number(row[title]) for row in records) for title in records[0]]
    body = [[_cell(value, digits) for value in row.values()] for row in records]
    lines = [list(records[0]), ["--:" if right else ":--" for right in numeric], *body]
    grid = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    myst = f":::{{table}} {' '.join(caption.split())}\n:name: tab-{name}\n\n{grid}\n:::"
    if folded:
        myst = f"::::{{dropdown}} {folded}\n{myst}\n::::"
    return Display(myst, _html_table(list(records[0]), body, caption))


def bind(**values: Any) -> None:
    """Give values to the prose of this page: ``{glue:text}`NAME:.3f``` prints one.

    Another page reads it as ``{glue:text}`PAGE.ipynb::NAME:.3f```. A string needs no format.

    Args:
        values: numbers (Python, NumPy or torch scalars) and strings.
    """
    for name, value in values.items():
        glue(name, value.item() if hasattr(value, "item") else value, display=False)


def scientific(value: float, digits: int = 0) -> str:
    """A very small or large number for the prose, as in 2·10⁻¹⁷.

    Args:
        digits: decimals of the factor.
    """
    if value == 0:
        return "0"
    factor, exponent = f"{value:.{digits}e}".split("e")
    return f"{factor}·10{str(int(exponent)).translate(_RAISED)}"


def _check(name: str, **texts: str) -> None:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"name={name!r}: use lower-case letters, digits and hyphens")
    for what, text in texts.items():
        if not text.strip():
            raise ValueError(f"{name}: {what} is empty")


def _svg(fig: Figure, name: str) -> bytes:
    buffer = io.BytesIO()
    # the salt keeps identifiers the same between builds, and different between figures
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as partial:
        partial.write_bytes(content)


def _note(path: Path) -> None:
    """Say that this chapter has written a figure of the book, when the builder wants to know."""
    if (written := os.environ.get(WRITTEN)) and path.parent == Path("figures"):
        with Path(written).open("a", encoding="utf-8") as names:
            names.write(f"{path.name}\n")


def _is_number(value: Any) -> bool:
    """Or what is shown as a dash."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number or value is None or value == "–"


def _cell(value: Any, digits: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        parts = re.split(r"(`[^`|]+`)", str(value).replace("\n", " "))
        parts[::2] = map(_plain, parts[::2])  # between them is code
        return "".join(parts)
    # the zero that is added makes a plus of a minus before zeros alone
    return f"{value:,}" if isinstance(value, int) else f"{round(value, digits) + 0.0:,.{digits}f}"


def _plain(text: str) -> str:
    """MyST that shows a text as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|$~])", r"\\\1", text)


def _html_table(titles: list[str], body: list[list[str]], caption: str) -> str:
    def row(tag: str, cells: list[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    rows = "".join([row("th", titles), *(row("td", line) for line in body)])
    return f"<table><caption>{html.escape(caption)}</caption>{rows}</table>"
