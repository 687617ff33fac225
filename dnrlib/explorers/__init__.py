"""Explorers: figures that a reader can move, in the page, without a server or a network.

Each is a numbered figure with data beside it. Where scripts run, `explorers.js` puts controls and a
drawing of the data in the place of the picture; in print and without scripts the picture stays.
What the data are is computed when the chapter is executed: aggregates, or a few lists without
identifiers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from dnrlib import comparisons, figures
from dnrlib.errors import ConfigError
from dnrlib.metrics import ranking
from dnrlib.noise import Noise
from dnrlib.studies import PROTOCOLS, SCHEMES, Study

KINDS = ("noise", "list", "protocols")
"""The explorers that `explorers.js` has."""

CELLS = 200
"""Steps of a distribution function between 0 and 1; `explorers.js` has the same."""

DRAWS = 50_000
"""Scores that are drawn from a generator for each label."""

Data = dict[str, Any]


def show(
    kind: str,
    data: Mapping[str, Any],
    fig: Figure,
    name: str,
    alt: str,
    caption: str,
    folder: Path | str = "figures",
) -> figures.Display:
    """The numbered figure `fig-NAME` with an explorer in it.

    Args:
        kind: one of `KINDS`.
        data: from `noise_data`, `list_data` or `protocol_data`.
        fig: the picture for print and for readers without scripts.
        name, alt, caption, folder: as in `dnrlib.figures.save`.

    Raises:
        ConfigError: an explorer of this kind does not exist.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind = {kind!r}: must be one of {', '.join(KINDS)}")
    picture = figures.save(fig, name, alt, caption, folder)
    scripts = _scripts(kind, data, f"fig-{name}")
    return figures.Display(
        f"{picture.myst}\n\n```{{raw}} html\n{scripts}\n```\n",
        f'<div id="fig-{name}">{picture.html}</div>\n{scripts}',
    )


def _scripts(kind: str, data: Mapping[str, Any], figure: str) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", r"<\/")
    return (
        f"<style>{_asset('css')}</style>\n"
        f'<script type="application/json" id="{figure}-data">{text}</script>\n'
        f'<script>{_asset("js")}dnrExplorers.mount("{kind}", "{figure}");</script>'
    )


@cache
def _asset(suffix: str) -> str:
    return Path(__file__).with_name(f"explorers.{suffix}").read_text("utf-8")


# What each explorer shows -----------------------------------------------------------------


def noise_data(
    scores: Float[Tensor, "lists n"],
    labels: Bool[Tensor, "lists n"],
    generators: Mapping[str, Noise],
    lambda_c: float,
    lambda_m: float,
    noise: str = "Beta",
) -> Data:
    """The laws of real scores in [0, 1] given z = 0 and z = 1, and of trained generators' scores.

    Args:
        generators: name -> noise whose scores lie in [0, 1].
        lambda_c, lambda_m, noise: where the explorer begins.
    """
    both = torch.tensor([[False], [True]]).repeat(1, DRAWS)
    with torch.no_grad():
        made = {name: _laws(generator(both), both) for name, generator in generators.items()}
    return {
        "title": "Move the noise",
        "real": _laws(scores, labels),
        "generators": made,
        "liked": round(labels.double().mean().item(), 4),
        "lambda_c": lambda_c,
        "lambda_m": lambda_m,
        "noise": noise,
    }


def _laws(scores: Float[Tensor, "lists n"], labels: Bool[Tensor, "lists n"]) -> list[list[float]]:
    """Share of scores at or below 0, 1 / CELLS, ..., 1: of candidates with z = 0, and z = 1."""
    at = torch.linspace(0, 1, CELLS + 1, dtype=torch.float64)
    laws = []
    for part in (scores[~labels].double(), scores[labels].double()):
        below = torch.searchsorted(part.sort().values, at, right=True)
        laws.append([round(share, 4) for share in (below / len(part)).tolist()])
    return laws


def list_data(
    labels: Bool[Tensor, "lists n"],
    views: Mapping[str, tuple[str, Float[Tensor, "lists n"]]],
    k: int = 6,
) -> Data:
    """A few lists in several orders: labels, values rounded to two decimals, and orders.

    Args:
        views: title -> what the values are, and the values in [0, 1] by which it orders.
        k: places that are shown.
    """
    orders = [ranking(values).tolist() for _, values in views.values()]
    rounded = [values.double().round(decimals=2).tolist() for _, values in views.values()]
    return {
        "title": "A list, from scores to places",
        "k": k,
        "views": [{"title": title, "axis": axis} for title, (axis, _) in views.items()],
        "lists": [
            {
                "liked": liked,
                "values": [values[row] for values in rounded],
                "orders": [order[row] for order in orders],
            }
            for row, liked in enumerate(labels.int().tolist())
        ],
    }


MEASURES = {
    "ndcg@6": "NDCG@6",
    "gain": "NDCG@6 minus concat",
    "auc_shown": "AUC among the shown",
    "auc_shown_vs_rest": "AUC, shown or not",
}
"""What `protocol_data` has of each method -> its title. The first two have intervals, the second is
of trained methods alone."""


def protocol_data(study: Study, titles: Mapping[str, str], scheme: str = "earlier") -> Data:
    """Every cell of the protocol study: methods with their measures and intervals.

    Args:
        titles: label of a method -> how it is called, in the order of the table.
        scheme: where the explorer begins.
    """
    cells = {
        f"{protocol} {scheme}": {
            name: _measures(study, (protocol, scheme), name)
            for name in titles
            if study.records((protocol, scheme), name)
        }
        for protocol in PROTOCOLS
        for scheme in SCHEMES
    }
    return {
        "title": "Choose a protocol",
        "protocols": PROTOCOLS,
        "schemes": SCHEMES,
        "scheme": scheme,
        "methods": [
            {"name": name, "title": title, "colour": figures.METHOD_COLOURS.get(name, "#ffffff")}
            for name, title in titles.items()
        ],
        "measures": [_scale(name, title, cells) for name, title in MEASURES.items()],
        "cells": cells,
    }


def _measures(study: Study, cell: tuple[str, str], name: str) -> dict[str, list[float]]:
    """Measure -> value, and the ends of its interval where it has one."""
    records = study.records(cell, name)
    found = {"ndcg@6": comparisons.mean(records)}
    if records[0].best_epoch and name != "concat" and (gain := study.gain(cell, name)):
        found["gain"] = gain
    values = {key: [one.mean, one.low, one.high] for key, one in found.items()}
    for metric in ("auc_shown", "auc_shown_vs_rest"):
        values[metric] = [sum(one.metrics["test"][metric] for one in records) / len(records)]
    return {key: [round(value, 3) for value in row] for key, row in values.items()}


def _scale(name: str, title: str, cells: Mapping[str, Mapping[str, Any]]) -> Data:
    """A measure with the ends of all its values, so that a scale is the same in every cell."""
    rows: list[Sequence[float]] = [
        values[name] for cell in cells.values() for values in cell.values() if name in values
    ]
    if not rows:
        return {"name": name, "title": title, "low": 0, "high": 1, "zero": None}
    zero = {"gain": 0.0, "ndcg@6": None}.get(name, 0.5)
    ends = [value for row in rows for value in row] + ([] if zero is None else [zero])
    return {"name": name, "title": title, "low": min(ends), "high": max(ends), "zero": zero}
