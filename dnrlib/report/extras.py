"""What a report measures besides: disturbed scores, cost in training and serving, the map."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import nn

from dnrlib import phases, robustness
from dnrlib.costs import kept_mib
from dnrlib.errors import ConfigError, DataError
from dnrlib.experiments import RunConfig, load_reranker
from dnrlib.identity import from_dict
from dnrlib.lists import CandidateLists
from dnrlib.records import Record
from dnrlib.report.runs import REFERENCE
from dnrlib.rerankers import build, class_of
from dnrlib.statistics import Estimate, Interval, estimate
from dnrlib.trainers import trainer_for

POINTS = (
    robustness.CLEAN, ("noise", 1.0), ("noise", 4.0), ("permuted", 1.0), ("constant", 1.0),
    ("reversed", 1.0),
)  # fmt: skip
"""Disturbances that a report shows, the scores as they are first."""
REPEATS = 30
"""Requests of one list that are timed, in turns."""
REPLICATES, RICH_REPLICATES = 20, 3
"""Data sets of the exact world, in its small and in its full size."""
WORLD = phases.Candidates()
RICH_PAIRS = 20_000_000
"""Pairs of a context and a data set beyond which the full-size reading is not made."""


# Disturbed scores --------------------------------------------------------------------------


@dataclass(frozen=True)
class Robustness:
    """NDCG@6 on the test lists when their scores are disturbed, as `dnrlib.robustness` does.

    Args:
        means: method -> kind and level -> mean over lists and seeds.
        drops: kind and level -> method -> by how much less it drops than the score as a plain
            feature; the p-values are not adjusted.
    """

    means: dict[str, dict[tuple[str, float], float]]
    drops: dict[tuple[str, float], dict[str, Estimate]]


def robust(
    records: Mapping[str, Sequence[Record]],
    lists: CandidateLists,
    runs: Path | None = None,
    clusters: Shaped[np.ndarray, " lists"] | None = None,
) -> Robustness | None:
    """Measure trained weights; None where some are not on this machine.

    Args:
        clusters: of the test lists.
    """
    test = lists.of_split("test")
    values: dict[str, dict[tuple[str, float], np.ndarray]] = {}
    try:
        for method, group in records.items():
            models = [load_reranker(record, lists, runs) for record in group]
            values[method] = {
                point: np.stack([_ndcg(model, test, *point) for model in models])
                for point in POINTS
            }
    except DataError:
        return None
    drops = {
        point: {
            name: estimate(_drop(values[REFERENCE], point) - _drop(found, point), clusters)
            for name, found in values.items()
            if name not in (REFERENCE, "score")
        }
        for point in POINTS[1:]
    }
    means = {
        name: {point: float(np.nanmean(found[point])) for point in POINTS}
        for name, found in values.items()
    }
    return Robustness(means, drops)


def _ndcg(model: nn.Module, test: CandidateLists, kind: str, level: float) -> np.ndarray:
    labels = robustness.ranked(model, test, kind, level)
    return robustness.ndcg(labels, robustness.K).numpy()


def _drop(values: Mapping[tuple[str, float], np.ndarray], point: tuple[str, float]) -> np.ndarray:
    return values[robustness.CLEAN] - values[point]


# Cost --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Serving:
    """What a method costs when it serves.

    Args:
        milliseconds: for one list, median over requests of the test lists.
        same_graph: whether it is served by the same operations as the score as a plain feature;
            None where that cannot be told.
    """

    milliseconds: float
    same_graph: bool | None


def training_mib(record: Record, lists: CandidateLists) -> float:
    """Memory that training keeps: weights, gradients, moments and what a step saves."""
    config = from_dict(RunConfig, record.config)
    torch.manual_seed(config.seed)
    model = build(config.reranker, lists, **config.options)
    few = lists.of_split("train")[: config.training.batch_size]
    few = few if len(few) > 1 else lists.of_split("train")
    make = trainer_for(class_of(config.reranker))
    return kept_mib(make(model, few, lists.of_split("validation"), config.training, config.seed))


def serving(
    records: Mapping[str, Record], lists: CandidateLists, runs: Path | None = None
) -> dict[str, Serving]:
    """Method -> what it costs to serve, timed in turns; nothing where weights are missing."""
    test = lists.of_split("test")
    try:
        models = {name: load_reranker(one, lists, runs).eval() for name, one in records.items()}
    except DataError:
        return {}
    taken: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for number in range(REPEATS + 1):
            request = test[number % len(test) : number % len(test) + 1]
            for name, model in models.items():
                began = time.perf_counter()
                model(request, request.scores)
                taken[name].append(1000 * (time.perf_counter() - began))
    graphs = _graphs(models, test)
    # the first request also warms up
    return {name: Serving(float(np.median(all_[1:])), graphs[name]) for name, all_ in taken.items()}


def _graphs(models: Mapping[str, nn.Module], lists: CandidateLists) -> dict[str, bool | None]:
    """Method -> whether its program is that of the reference."""
    from dnrlib.export import export_program, same_program

    try:
        programs = {name: export_program(model, lists) for name, model in models.items()}
    except ConfigError:
        return dict.fromkeys(models)
    return {name: same_program(one, programs[REFERENCE]) for name, one in programs.items()}


# The map -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where the lists stand on the map of the chapter *When denoising helps*.

    Args:
        per_parameter: training pairs for each parameter of the reranker.
        poor, rich: gain in AUC with Beta noise in the exact world, with the pairs per parameter of
            the reranker, and with all pairs and as many contexts as users and items; None where
            that is not computed.
        within: whether that world can have such scores at all.
    """

    seen: phases.Observed
    per_parameter: float
    poor: Interval | None
    rich: Interval | None
    within: bool


def place(lists: CandidateLists, parameters: float, seed: int = 0) -> Place:
    """Read the map for lists and a reranker of so many parameters."""
    seen = phases.observe(lists)
    density = seen.pairs / parameters
    low, high = phases.attainable(replace(WORLD, bias=seen.bias, width=max(seen.width, 1e-3)))
    within = bool(seen.width > 1e-3 and low < seen.test_auc < high)
    if not within:
        return Place(seen, density, None, None, False)
    world = phases.like(seen, WORLD)
    pairs = max(1, round(density * (world.contexts + world.levels)))
    poor = _reading(world, pairs, REPLICATES, seed)
    if seen.contexts * seen.pairs > RICH_PAIRS * WORLD.contexts:
        return Place(seen, density, poor, None, True)
    rich = _reading(replace(world, contexts=seen.contexts), seen.pairs, RICH_REPLICATES, seed)
    return Place(seen, density, poor, rich, True)


def _reading(world: phases.Candidates, pairs: int, replicates: int, seed: int) -> Interval:
    recipes: dict[str, Any] = {
        "direct": phases.Recipe(),
        "beta": phases.Recipe(phases.generator("beta", world), lambda_m=(0.5,)),
    }
    found = phases.trial(world, pairs, recipes, replicates, seed)
    return phases.gain(found["beta"], found["direct"], "auc")
