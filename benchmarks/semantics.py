"""What words cost when they serve: PRM, PRM that reads words, and language models, for a request.

A request has 50 candidates and 20 items of history; one thread, in PyTorch. The language models
have random weights, which does not change the time, and read the prompt with every candidate, as
`dnrlib.language_model.CausalScorer` does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch

from benchmarks.common import Figure, figure, interleaved
from benchmarks.inference import SIZES, random_lists, threads, timed
from dnrlib.data import SimulatedWorld
from dnrlib.language_model import CausalScorer, measured_flops, parameters, save_random_model
from dnrlib.lists import CandidateLists
from dnrlib.rerankers import Reranker, build
from dnrlib.rerankers.text import TextPRM
from dnrlib.semantics import DIM, simulated_texts, worded

TOPIC = "words"
MODELS = {"a small": (64, 2), "a larger": (256, 4)}
"""Random language model -> its width and layers."""


def texts() -> list[str]:
    """A made-up text for each item."""
    made = [*simulated_texts(SimulatedWorld()).values()]
    return [f"{made[item % len(made)]} ({1900 + item % 100})" for item in range(SIZES.items)]


def language_model(dim: int, layers: int) -> CausalScorer:
    """A language model that knows nothing."""
    with tempfile.TemporaryDirectory() as folder:
        save_random_model(folder, texts(), dim, layers)
        return CausalScorer.load(folder, texts())


def rerankers(lists: CandidateLists, quick: bool) -> dict[str, Reranker]:
    """What is timed, by name."""
    words = worded(lists, torch.randn(SIZES.items, DIM), "random")
    reads = build("prm-text", words)
    assert isinstance(reads, TextPRM)
    models = dict([*MODELS.items()][:1]) if quick else MODELS
    return {
        "PRM": build("prm", lists, score_use="concat").eval(),
        "PRM with words": reads.eval(),
        "PRM with words, folded": reads.folded(),
    } | {f"{name} language model": language_model(*sizes) for name, sizes in models.items()}


def request(reranker: Reranker, lists: CandidateLists) -> Callable[[], object]:
    """One request scored."""
    return lambda: reranker(lists, lists.scores)


def measure(quick: bool) -> list[Figure]:
    """Milliseconds a request, each with its parameters and operations; about two minutes."""
    lists = random_lists(1)
    with threads(1):
        found = rerankers(lists, quick)
        rounds = 3 if quick else 7
        values = {}
        # apart: what comes after a language model finds the processor's caches emptied by it
        for fast, calls in ((True, 100), (False, 1)):
            some = {n: one for n, one in found.items() if n.startswith("PRM") is fast}
            cases = {name: timed(request(one, lists), calls) for name, one in some.items()}
            values |= interleaved(cases, rounds)
    return [
        figure(
            TOPIC,
            name,
            [value * 1e3 for value in values[name]],
            "ms",
            f"one request of {SIZES.candidates} candidates, one thread, fp32, "
            f"{parameters(one):,} parameters, {measured_flops(one, lists) / 1e6:,.0f} MFLOP",
        )
        for name, one in found.items()
    ]
