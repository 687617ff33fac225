"""Training speed: PRM with d = 128, 50 candidates, 20 items of history, dropout 0.1."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from benchmarks import references
from benchmarks.common import figure, interleaved, ratios, seconds
from benchmarks.inference import random_lists
from dnrlib.claims import paper_value
from dnrlib.data import resolve
from dnrlib.engines import cores
from dnrlib.estimators import gradient_variance
from dnrlib.lists import CandidateLists
from dnrlib.parallel import Hardware, train
from dnrlib.prepare import DataConfig, prepare
from dnrlib.rerankers import build
from dnrlib.stacked import Stack
from dnrlib.timings import Figure
from dnrlib.training import Trainer, TrainingConfig

TOPIC = "training"
DIRECT = TrainingConfig(epochs=2)
DNR = replace(DIRECT, noise="beta", generator="scores", lambda_e=1)
EXACT = replace(DNR, estimator="exact")
SEEDS = 4
REFERENCE_BATCH = 256


def measure(quick: bool) -> list[Figure]:
    """All figures of training; lists are ML-1M's where it is at hand, else random ones."""
    lists = _lists()
    part = lists[lists.split == 0][: 2_000 if quick else 6_000]
    return [
        *_against_others(part, lists, quick),
        *_overhead(part, quick),
        *_epoch(lists[:4_000] if quick else lists),
        *_estimators(part, quick),
        *_seeds(part, quick),
    ]


def _lists() -> CandidateLists:
    if resolve("auto", download=False)[0] == "ml-1m":
        return prepare(DataConfig())
    return random_lists(80_000)


def _reranker(lists: CandidateLists, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build("prm", lists, score_use="concat")


def _split(lists: CandidateLists) -> tuple[CandidateLists, CandidateLists]:
    """Training lists, and a few to validate on: validation is not part of a training speed."""
    training = lists.of_split("train")
    return training, (lists.of_split("validation") if len(lists) > len(training) else training)[
        :512
    ]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


# Against other code -----------------------------------------------------------------------


def _against_others(part: CandidateLists, lists: CandidateLists, quick: bool) -> list[Figure]:
    """Direct training from end to end: batches, history, optimiser and all."""
    count, training = cores(), _split(part)

    def ours(devices: int, config: TrainingConfig = DIRECT) -> float:
        hardware = Hardware(devices=devices)
        return train(_reranker(lists), *training, config, 0, hardware).curves[-1].lists_per_second

    large = replace(DIRECT, batch_size=REFERENCE_BATCH)
    cases: dict[str, Callable[[], float]] = {
        "ours": lambda: ours(count),
        "ours, large batch": lambda: ours(count, large),
    }
    with _threads(count):
        for name, reference in references.available().items():
            cases[name] = reference(part, REFERENCE_BATCH, 0.1)
        values = interleaved(cases, 1 if quick else 3)
    with _threads(1):
        alone = interleaved({"one": lambda: ours(1)}, 1 if quick else 2)["one"]
    how = f"{count} processes of one thread, fp32, batch {DIRECT.batch_size}, dropout 0.1"
    theirs = f"{count} threads, fp32, batch {REFERENCE_BATCH}, dropout 0.1"
    goals = {"allRank": 3.8, "ReChorus PRM": 3.0}
    rows = [
        figure(TOPIC, "direct training", values["ours"], "lists/s", how, goal=2500.0),
        figure(TOPIC, "direct training, large batches", values["ours, large batch"], "lists/s",
               how.replace(f"batch {DIRECT.batch_size}", f"batch {REFERENCE_BATCH}"), goal=2500.0),
        figure(TOPIC, "direct training, one process", alone, "lists/s", "one thread, fp32"),
    ]  # fmt: skip
    for name in list(cases)[2:]:
        rows.append(figure(TOPIC, name, values[name], "lists/s", theirs))
        rows.append(figure(
            TOPIC, f"direct training over {name}", ratios(values, "ours", name), "x",
            "same lists, in turn", reference=f"{statistics.median(values[name]):,.0f} lists/s",
            goal=goals.get(name),
        ))  # fmt: skip
    return rows


# What denoising adds ----------------------------------------------------------------------


def _overhead(part: CandidateLists, quick: bool) -> list[Figure]:
    """Time of an epoch of DNR over one of direct training, minus one, one thread."""
    lists = part[: 512 if quick else 1024]
    kinds = {"direct": (DIRECT, 1)}
    for name, config in {"mixed": DNR, "exact": EXACT}.items():
        kinds |= {f"{name}, phase one": (config, 1), f"{name}, phase two": (config, 2)}
    cases = {name: _steps(lists, *kind) for name, kind in kinds.items()}
    with _threads(1):
        values = interleaved(cases, 2 if quick else 9)
    rows = []
    for name in list(kinds)[1:]:
        percent = [100 * (ratio - 1) for ratio in ratios(values, name, "direct")]
        goal = 5.0 if name.startswith("mixed") else None
        rows.append(figure(
            TOPIC, f"DNR-B over direct, {name}", percent, "%",
            "one thread, fp32, in turn; per epoch, without validation",
            reference=f"the paper: {paper_value('cost-training'):.0f} %", goal=goal, at_least=False,
        ))  # fmt: skip
    return rows


def _steps(lists: CandidateLists, config: TrainingConfig, phase: int) -> Callable[[], float]:
    """Seconds of an epoch's steps."""
    trainer = Trainer(_reranker(lists), lists, lists[:64], config)
    trainer.reranker.train()

    def work() -> None:
        for batch, _ in trainer.batches(1):
            trainer.step(batch, phase)

    return lambda: seconds(work)


def _epoch(lists: CandidateLists) -> list[Figure]:
    """PRM with DNR-B over all training lists: an epoch of each phase."""
    training, validation = _split(lists)
    hardware = Hardware(devices=cores())
    runs = [
        train(_reranker(lists, seed), training, validation, DNR, seed, hardware).curves
        for seed in range(2)
    ]
    how = f"{len(training):,} lists, {cores()} processes, fp32"
    paper = f"the paper: {paper_value('cost-epoch'):.0f} s, on hardware that it does not name"
    return [
        figure(TOPIC, f"an epoch of DNR-B, phase {phase}", [run[at].seconds for run in runs], "s",
               how, reference=paper, goal=60.0, at_least=False)
        for at, phase in enumerate(("one", "two"))
    ]  # fmt: skip


# The price of one pass --------------------------------------------------------------------


def _estimators(part: CandidateLists, quick: bool) -> list[Figure]:
    """Variance of the gradient of θ: one pass over two, for a reranker after an epoch."""
    lists = part[: 512 if quick else 4096]
    trainer = Trainer(_reranker(lists), lists, lists[:64], DNR)
    trainer.epoch(1, lambda _: None)
    share = DNR.lambda_m / (1 + DNR.lambda_m)
    found = [gradient_variance(trainer, 20 if quick else 200, seed=seed) for seed in range(3)]
    return [
        figure(
            TOPIC, "variance of the gradient, one pass over two",
            [variance.mixed(share) / variance.exact for variance in found], "x",
            "phase one, summed over the weights, after an epoch",
            reference="for equal and uncorrelated gradients (1 + λ)² / (1 + λ²) = "
            f"{(1 + DNR.lambda_m) ** 2 / (1 + DNR.lambda_m**2):.2f}",
        )
    ]  # fmt: skip


# Several seeds ----------------------------------------------------------------------------


def _seeds(part: CandidateLists, quick: bool) -> list[Figure]:
    """Several seeds stacked in one process over the same one after another, one thread."""
    lists = part[: 512 if quick else 1024]
    validation = lists[:64]

    def trainers() -> list[Trainer]:
        return [
            Trainer(_reranker(lists, seed), lists, validation, DNR, seed) for seed in range(SEEDS)
        ]

    stack, alone = Stack(trainers()), trainers()

    def stacked() -> None:
        for parts in zip(*(t.batches(1) for t in stack.trainers), strict=True):
            stack.step([batch for batch, _ in parts], phase=2)

    def one_by_one() -> None:
        for trainer in alone:
            for batch, _ in trainer.batches(1):
                trainer.step(batch, phase=2)

    for trainer in (*stack.trainers, *alone):
        trainer.reranker.train()
    cases = {"stacked": lambda: seconds(stacked), "alone": lambda: seconds(one_by_one)}
    with _threads(1):
        values = interleaved(cases, 1 if quick else 3)
    return [figure("many runs", f"{SEEDS} seeds stacked over one by one",
                   ratios(values, "alone", "stacked"), "x", "one thread, fp32, speed")]  # fmt: skip
