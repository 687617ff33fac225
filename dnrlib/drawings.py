"""Schematic pictures: how things hang together, drawn from made-up values."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
