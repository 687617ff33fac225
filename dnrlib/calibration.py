"""Scores as probabilities, by a map of their own for training and for evaluation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import isotonic_regression
from torch import Tensor

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.log import TRAIN


def calibrated(lists: CandidateLists) -> CandidateLists:
    """The lists with P(z = 1 | x), by isotonic regression, in place of each score x.

    Scores are over-confident in lists that the retriever was trained on. One monotone map for all
    lists would leave that as it is. One fitted on the training lists for these, and one fitted on
    the validation lists for validation and test lists, make 0.9 mean the same in both. Validation
    figures are then a little too good, as its labels have been seen; the test labels are not read.

    The order within a list stays but for a few new ties. Where a higher score means a liked
    candidate less often, as under ``shown+retrieved``, the map falls, and the order is turned.

    Raises:
        ConfigError: no training lists or no validation lists to fit a map on.
    """
    train = lists.split == TRAIN
    scores = lists.scores.clone()
    for name, regime in (("train", train), ("validation", ~train)):
        known = lists.of_split(name)
        if not len(known):
            raise ConfigError(f"calibration = 'isotonic': there are no {name} lists to fit it on")
        scores[regime] = probabilities(known, scores[regime])
    return replace(lists, scores=scores, meta=lists.meta | {"calibration": "isotonic"})


def probabilities(
    known: CandidateLists, scores: Float[Tensor, "lists n"]
) -> Float[Tensor, "lists n"]:
    """P(z = 1 | x) of scores x, from the candidates of lists whose labels may be read.

    Centred isotonic regression (Oron and Flournoy, 2017): linear between the mean scores of the
    blocks in which the isotonic fit is constant, and constant beyond the outermost of these. A
    line departs from the fit where a wide block has a narrow neighbour of another height.
    """
    x, place, count = np.unique(
        known.scores.cpu().double().numpy(), return_inverse=True, return_counts=True
    )
    liked = np.bincount(place.ravel(), weights=known.labels.cpu().numpy().ravel())
    rises = (x - np.average(x, weights=count)) @ liked >= 0
    fit = isotonic_regression(liked / count, weights=count, increasing=bool(rises))
    first = fit.blocks[:-1]
    centres = np.add.reduceat(x * count, first) / np.add.reduceat(count, first)
    values = np.interp(scores.cpu().double().numpy(), centres, fit.x[first])
    return torch.from_numpy(values).clamp(0, 1).to(scores)
