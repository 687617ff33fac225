"""What each noise adds to the steps of training: PRM with d = 128, 50 candidates, batches of 64."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.common import figure, interleaved, ratios, seconds
from benchmarks.inference import random_lists, threads
from dnrlib.experiments import run_config
from dnrlib.lists import CandidateLists
from dnrlib.rerankers import build
from dnrlib.timings import Figure
from dnrlib.variants import trainer_of

TOPIC = "noises"
METHODS = (
    "noise-G", "noise-B", "DNR-B", "light-beta", "empirical", "empirical-lists",
    "light-beta-exact", "bound", "bound-request",
)  # fmt: skip
"""Of `dnrlib.experiments.METHODS`, each against ``concat``."""
TRAINING = {"epochs": 2, "lambda_e": 1, "batch_size": 64}


def measure(quick: bool) -> list[Figure]:
    """Time of an epoch's steps, the generator's with them, over those of direct training, less one.

    In phase two where there is a generator, else in the only one. Lists are random.
    """
    lists = random_lists(256 if quick else 1024)
    with threads(1):
        values = interleaved(
            {name: _steps(name, lists) for name in ("concat", *METHODS)}, 2 if quick else 9
        )
    how = "one thread, fp32, batches of 64, in turn; per epoch, without validation"
    return [
        figure(TOPIC, name, [100 * (r - 1) for r in ratios(values, name, "concat")], "%", how)
        for name in METHODS
    ]


def _steps(method: str, lists: CandidateLists) -> Callable[[], float]:
    """Seconds of an epoch's steps."""
    config = run_config({"method": method, "training": TRAINING})
    torch.manual_seed(0)
    reranker = build("prm", lists, **config.options)
    make = trainer_of(type(reranker), config.trainer)
    trainer = make(reranker, lists, lists[:64], config.training)
    trainer.reranker.train()
    phase = config.training.phase(config.training.epochs)

    def work() -> None:
        for batch, _ in trainer.batches(1):
            trainer.step(batch, phase)

    return lambda: seconds(work)
