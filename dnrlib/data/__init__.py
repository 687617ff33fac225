"""Interactions from each source, and the steps from them to an exposure log."""

from dnrlib.data.interactions import Source
from dnrlib.data.prepare import count_steps, prepare_log, stages
from dnrlib.data.simulated import SimulatedWorld
from dnrlib.data.sources import DATASETS, load, resolve

__all__ = [
    "DATASETS",
    "SimulatedWorld",
    "Source",
    "count_steps",
    "load",
    "prepare_log",
    "resolve",
    "stages",
]
