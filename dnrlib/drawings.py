"""Schematic pictures: how things hang together, drawn from made-up values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from dnrlib.errors import ConfigError
from dnrlib.figures import PALETTE


def cascade(items: int, candidates: int, places: int) -> Figure:
    """The two stages: catalogue, candidates by descending score, and what is shown.

    Args:
        items: in the catalogue.
        candidates: n, what the retriever keeps.
        places: K, what the reranker shows.
    """
    rng = np.random.default_rng(8)
    score = np.linspace(1, 0, candidates)
    liked = np.isin(
        np.arange(candidates), np.argsort(score + rng.normal(0, 0.7, candidates))[-places:]
    )
    fig, ax = plt.subplots(figsize=(5.2, 3.4))
    ax.set(xlim=(0, 10.4), ylim=(-0.9, 6.1))
    ax.set_axis_off()
    _narrowing(ax, (2.9, 4.4), (4.5, 3.8), "retriever", "scores all")
    _narrowing(ax, (6.5, 8.4), (3.8, 3.0), "reranker", f"orders {candidates}")
    x, y = rng.uniform([[0.1], [0.3]], [[2.7], [4.7]], (2, 350))
    ax.scatter(x, y, s=5, color="#999999", lw=0)
    place = np.arange(candidates)
    rows = -(-candidates // 5)
    _dots(ax, 4.6 + place // rows * 0.42, 4.3 - place % rows * 3.6 / rows, score, liked)
    _dots(ax, np.full(places, 9.1), np.linspace(3.7, 1.3, places), score[liked], liked[liked])
    for middle, title, size in (
        (1.4, "catalogue", f"{items:,} items"),
        (5.45, "candidates", f"n = {candidates}"),
        (9.1, "shown", f"K = {places}"),
    ):
        ax.text(middle, 5.6, title, ha="center", weight="bold")
        ax.text(middle, 5.1, size, ha="center")
    ax.text(5.2, -0.5, "darker: higher score x      ring: liked, z = 1", ha="center")
    return fig


def idea(items: int, candidates: int, places: int) -> Figure:
    """The whole idea: noisy scores and their cure above, and below what the cure is trained on.

    Simulated: probit feedback, Beta noise with λ_c = 0.6, and a reranker without fault.

    Args:
        items: in the catalogue.
        candidates: n, what the retriever keeps.
        places: K, what the reranker shows, and how many candidates are liked.
    """
    rng = np.random.default_rng(14)
    score = np.sort(rng.beta(1.6, 1.2, candidates))[::-1]
    liked = np.isin(
        np.arange(candidates), np.argsort(score + rng.normal(0, 0.7, candidates))[-places:]
    )
    synthetic = 0.4 * liked + 0.6 * rng.beta(0.5, 0.5, candidates)
    found = np.sort(np.where(liked, 0.97 - 0.1 * (1 - score), 0.3 * score))[::-1]
    fig, ax = plt.subplots(figsize=(5.2, 5.6))
    ax.set(xlim=(0, 10.4), ylim=(0, 11.6))
    ax.set_axis_off()
    cloud = rng.uniform([[0.2], [6.6]], [[2.2], [9.6]], (2, 250))
    ax.scatter(cloud[0], cloud[1], s=6, color="#999999", lw=0)
    _ranked(ax, (4.1, 6.5), score, liked)
    _ranked(ax, (8.1, 6.5), found, np.arange(candidates) < places, places)
    _ranked(ax, (0.1, 0.2), liked.astype(float), liked)
    _ranked(ax, (4.1, 0.2), synthetic, liked)
    for x, y, title, what in (
        (1.2, 10.5, "catalogue", f"{items:,} items"),
        (5.2, 10.5, "scores $x$: noisy", f"{candidates} candidates"),
        (9.2, 10.5, "liked first", f"{places} are shown"),
        (1.2, 4.2, "feedback $z$", "what was liked"),
        (5.2, 4.2, "synthetic $x'$", "$z$ made noisy"),
    ):
        ax.text(x, y, title, ha="center", weight="bold")
        ax.text(x, y - 0.5, what, ha="center", size=10)
    for y, words in ((11.2, "serving"), (4.9, "training")):
        ax.text(0.1, y + 0.1, words, style="italic", color="#595959")
        ax.plot([0.1, 10.3], [y, y], color="#CCCCCC", lw=0.8)
    for x, y, words in ((2.5, 8.1, "retriever"), (6.5, 8.1, "reranker"), (2.5, 1.8, "+ noise")):
        ax.annotate("", (x + 1.4, y), (x, y), arrowprops={"arrowstyle": "-|>", "lw": 1.6})
        ax.text(x + 0.7, y + 0.25, words, ha="center", size=10)
    ax.plot([6.5, 7.2, 7.2], [1.8, 1.8, 7.75], color=PALETTE[1], lw=2)
    ax.plot(7.2, 7.75, "^", color=PALETTE[1], ms=8)
    ax.text(9.2, 5.75, "blue: liked", ha="center", color=PALETTE[0])
    ax.text(7.5, 1.9, "the reranker\nlearns to find\n$z$ in $x'$", color="#A34700", va="center")
    return fig


def _ranked(
    ax: Axes,
    corner: tuple[float, float],
    values: np.ndarray,
    liked: np.ndarray,
    shown: int = 0,
) -> None:
    """Candidates from top to bottom, each a bar as long as its value; a frame around the first."""
    (left, bottom), height, n = corner, 3.2, len(values)
    rows, thick = bottom + height * (1 - (np.arange(n) + 0.5) / n), height / n
    length = np.maximum(2.2 * values, 0.05)
    ax.barh(rows[~liked], length[~liked], 0.7 * thick, left, color="#BBBBBB")
    ax.barh(rows[liked], length[liked], 1.1 * thick, left, color=PALETTE[0])
    if shown:
        frame = (left - 0.12, bottom + height - shown * thick - 0.02), 2.4, shown * thick + 0.1
        ax.add_patch(FancyBboxPatch(*frame, boxstyle="square,pad=0", fc="none", ec="#222222"))


def _narrowing(
    ax: Axes, x: tuple[float, float], height: tuple[float, float], name: str, what: str
) -> None:
    left, right = (half / 2 for half in height)
    middle = 2.5
    corners = [middle - left, middle - right, middle + right, middle + left]
    ax.fill([x[0], x[1], x[1], x[0]], corners, color="#EEEEEE", lw=0)
    ax.annotate("", (x[1], middle), (x[0], middle), arrowprops={"arrowstyle": "->"})
    ax.text(sum(x) / 2, middle + 0.25, name, ha="center")
    ax.text(sum(x) / 2, middle - 0.55, what, ha="center", size=9)


def _dots(ax: Axes, x: np.ndarray, y: np.ndarray, score: np.ndarray, liked: np.ndarray) -> None:
    rings = [PALETTE[1] if like else "none" for like in liked]
    ax.scatter(x, y, s=55, c=score, cmap="Blues", vmin=-0.3, vmax=1, edgecolors=rings, lw=1.8)


FLOW_COLOURS = {
    "input": "#EEEEEE",
    "learned": "#CCE3F0",
    "loss": "#F7DDCB",
    "output": "#CCECE3",
}
"""What a box of a `flow` is -> its colour."""


def flow(boxes: Mapping[str, Mapping[str, Any]], arrows: Sequence[Sequence[Any]]) -> Figure:
    """How data flow through a model, from top to bottom.

    Args:
        boxes: name -> ``at`` (column, row; 0 is left and top, halves are allowed), ``text`` and
            ``kind``, a name in `FLOW_COLOURS`; ``width`` in columns is 1 if not given.
        arrows: from, to and, if wanted, words beside it.

    Raises:
        ConfigError: an arrow begins or ends at no box, or a kind is unknown.
    """
    columns = max(box["at"][0] + box.get("width", 1) / 2 for box in boxes.values()) + 0.5
    rows = max(box["at"][1] for box in boxes.values()) + 1
    fig, ax = plt.subplots(figsize=(5.2, 0.2 + 0.85 * rows))
    ax.set(xlim=(-0.05, columns + 0.05), ylim=(rows - 0.45, -0.55))
    ax.set_axis_off()
    for name, box in boxes.items():
        if box["kind"] not in FLOW_COLOURS:
            known = ", ".join(FLOW_COLOURS)
            raise ConfigError(f"box {name}: kind {box['kind']!r} is unknown: choose one of {known}")
        (column, row), width = box["at"], box.get("width", 1)
        middle = column + 0.5
        style = "square,pad=0" if box["kind"] == "input" else "round,pad=0,rounding_size=0.1"
        size = (middle - width * 0.46, row - 0.28), width * 0.92, 0.56
        colour = FLOW_COLOURS[box["kind"]]
        ax.add_patch(FancyBboxPatch(*size, boxstyle=style, fc=colour, ec="#666666", lw=0.8))
        ax.text(middle, row, box["text"], ha="center", va="center", size=9.5, linespacing=1.1)
    for begin, end, *words in arrows:
        for name in (begin, end):
            if name not in boxes:
                raise ConfigError(f"an arrow from {begin} to {end}: there is no box {name!r}")
        _flow_arrow(ax, boxes[begin]["at"], boxes[end]["at"], words)
    return fig


def _flow_arrow(
    ax: Axes, begin: Sequence[float], end: Sequence[float], words: Sequence[str]
) -> None:
    """Straight from edge to edge: downwards between rows, sideways within a row."""
    step = (end[1] > begin[1]) - (end[1] < begin[1])
    sideways = 0.46 * ((end[0] > begin[0]) - (end[0] < begin[0])) if not step else 0.0
    start = (begin[0] + 0.5 + sideways, begin[1] + 0.28 * step)
    stop = (end[0] + 0.5 - sideways, end[1] - 0.28 * step)
    ax.annotate("", stop, start, arrowprops={"arrowstyle": "->", "color": "#444444", "lw": 1.1})
    for text in words:
        place = ((start[0] + stop[0]) / 2 + 0.04, (start[1] + stop[1]) / 2)
        ax.text(*place, text, size=8.5, va="center", color="#444444")
