"""Speed of every reranker beside PRM: d = 128, 50 candidates, one thread."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.common import figure, interleaved, ratios, seconds
from benchmarks.inference import random_lists, threads
from dnrlib.costs import with_empty_words
from dnrlib.experiments import FIXED
from dnrlib.lists import CandidateLists
from dnrlib.rerankers import RERANKERS, OwnLoss, build
from dnrlib.timings import Figure
from dnrlib.trainers import trainer_for
from dnrlib.training import TrainingConfig, score_lists

TOPIC = "rerankers"
REFERENCE = "prm"
EPOCHS = 3
"""Short ones, so that each stage of a training in stages counts."""


def measure(quick: bool) -> list[Figure]:
    """Lists a second, and the time of PRM over the reranker's own, in training and in serving."""
    lists = with_empty_words(random_lists(64 if quick else 512))
    names = [name for name in RERANKERS if name not in FIXED]
    rows = []
    for name in names:
        pair = [REFERENCE, name] if name != REFERENCE else [REFERENCE]
        with threads(1):
            training = interleaved({one: _training(one, lists) for one in pair}, 1 if quick else 3)
            serving = interleaved({one: _serving(one, lists) for one in pair}, 1 if quick else 5)
        how = "one thread, fp32, score_use concat"
        for what, values, count in (
            ("training", training, EPOCHS * len(lists)),
            ("serving", serving, len(lists)),
        ):
            speeds = [count / value for value in values[name]]
            detail = f"batches of {TrainingConfig.batch_size}" if what == "training" else "of 512"
            rows += [
                figure(TOPIC, f"{name}, {what}", speeds, "lists/s", f"{how}, {detail}"),
                figure(
                    TOPIC, f"{name}, {what}, time over PRM's", ratios(values, name, REFERENCE), "x",
                    "same lists, in turn", reference="PRM",
                ),
            ]  # fmt: skip
    return rows


def _training(name: str, lists: CandidateLists) -> Callable[[], float]:
    """Seconds of all steps of a training in its stages."""
    torch.manual_seed(0)
    reranker = build(name, lists, score_use="concat")
    trainer = trainer_for(type(reranker))(
        reranker, lists, lists[:64], TrainingConfig(epochs=EPOCHS)
    )

    def work() -> None:
        reranker.train()
        for epoch in range(1, EPOCHS + 1):
            if isinstance(reranker, OwnLoss):
                reranker.begin_epoch(epoch, EPOCHS, lists)
            for batch, weight in trainer.batches(epoch):
                trainer.step(batch, 1, weight)

    return lambda: seconds(work)


def _serving(name: str, lists: CandidateLists) -> Callable[[], float]:
    """Seconds to score all lists, from embedding to logits."""
    torch.manual_seed(0)
    reranker = build(name, lists, score_use="concat").eval()
    return lambda: seconds(lambda: score_lists(reranker, lists))
