"""Latency and throughput of serving PRM: d = 128, 50 candidates, 20 items of history."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Figure, figure, interleaved, ratios, seconds
from benchmarks.references import DIM, encoder
from dnrlib import costs
from dnrlib.costs import Sizes
from dnrlib.export import (
    INPUTS,
    export_program,
    first_difference,
    onnx_session,
    save_onnx,
    serving_inputs,
)
from dnrlib.lists import CandidateLists
from dnrlib.rerankers import PRM, Reranker, build
from dnrlib.training import Trainer, TrainingConfig

SIZES = Sizes(0, 0, 0, users=6_040, items=3_706, candidates=50, history=20)
BATCHES = (1, 256)
FAST, PLAIN = "encoder, fast path", "encoder, no fast path"
NAMES = {"eager": "PyTorch", "program": "torch.export", "onnx": "ONNX Runtime"}

Case = Callable[[], object]


def random_lists(count: int, seed: int = 0) -> CandidateLists:
    """Lists of ML-1M's sizes without its content, which does not change the time.

    Each eighth is for validation.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lists = costs.random_lists(count, SIZES)
    return replace(lists, split=(torch.arange(count) % 8 == 0).to(torch.int8))


def trained(lists: CandidateLists, score_use: str, **config: Any) -> Reranker:
    """PRM after a short training: time does not depend on the weights, but let them be real."""
    torch.manual_seed(0)
    reranker = build("prm", lists, score_use=score_use)
    assert isinstance(reranker, PRM)
    settings = TrainingConfig(**{"epochs": 2, "lambda_e": 1} | config)
    with threads(1):
        Trainer(reranker, lists.of_split("train"), lists.of_split("validation"), settings).run()
    return reranker.eval()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use so many threads within an operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def fast_path(enabled: bool) -> Iterator[None]:
    """Whether PyTorch's encoder may use its fused operation for inference."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def timed(work: Case, calls: int) -> Callable[[], float]:
    """Mean seconds of a call, over several calls without a gradient."""

    def case() -> float:
        with torch.inference_mode():
            return seconds(lambda: [work() for _ in range(calls)]) / calls

    return case


def serving_cases(reranker: Reranker, batch: CandidateLists, count: int) -> dict[str, Case]:
    """The ways to serve a reranker, and PyTorch's bare encoder; the input tensors are ready."""
    tensors = serving_inputs(batch)
    module = export_program(reranker, batch).module()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reranker.onnx"
        save_onnx(reranker, batch, path)
        session = onnx_session(path, threads=count)
    arrays = {name: tensor.numpy() for name, tensor in zip(INPUTS, tensors, strict=True)}
    bare, vectors = encoder().eval(), torch.randn(len(batch), SIZES.candidates, DIM)

    def without_fast_path() -> None:
        with fast_path(False):
            bare(vectors)

    return {
        "eager": lambda: reranker(batch, batch.scores),
        "program": lambda: module(*tensors),
        "onnx": lambda: session.run(None, arrays),
        FAST: lambda: bare(vectors),
        PLAIN: without_fast_path,
    }


def speed(reranker: Reranker, size: int, count: int, quick: bool) -> list[Figure]:
    """Time at one batch size and number of threads."""
    calls = (20 if quick else 200) if size == 1 else (2 if quick else 4)
    with threads(count):
        cases = serving_cases(reranker, random_lists(size), count)
        timings = {name: timed(case, calls) for name, case in cases.items()}
        values = interleaved(timings, rounds=3 if quick else 7)
    return speed_figures(values, size, count, calls)


def speed_figures(
    values: Mapping[str, list[float]], size: int, count: int, calls: int
) -> list[Figure]:
    """Rows from seconds a call: milliseconds at batch 1, else microseconds and lists/s a list."""
    how = (
        f"{count} thread{'s' if count > 1 else ''}, float32, d = {DIM}, "
        f"n = {SIZES.candidates}, batch {size}; mean of {calls} calls a round"
    )
    scale, unit = (1e3, "ms") if size == 1 else (1e6 / size, "µs a list")
    scaled = {name: [value * scale for value in row] for name, row in values.items()}
    encoders = {name: figure("inference", name, scaled[name], unit, how) for name in (FAST, PLAIN)}
    reference = "; ".join(f"bare {name}: {row.value:.3g} {unit}" for name, row in encoders.items())
    rows = []
    for name, label in NAMES.items():
        title = f"PRM, {label}, batch {size}"
        rows.append(figure("inference", title, scaled[name], unit, how, reference=reference))
        if size > 1:
            lists_per_second = [size / value for value in values[name]]
            rows.append(figure("inference", title, lists_per_second, "lists/s", how))
    return rows


def training_does_not_show(direct: Reranker, denoised: Reranker, size: int, quick: bool) -> Figure:
    """Latency of a reranker trained with DNR over that of one trained directly, in one thread.

    The graphs are compared as well: the ratio can only be noise.
    """
    batch = random_lists(size)
    same = first_difference(*(export_program(r, batch) for r in (direct, denoised))) is None
    calls = (10 if quick else 50) if size == 1 else 1
    with threads(1):
        values = interleaved(
            {
                "denoised": timed(lambda: denoised(batch, batch.scores), calls),
                "direct": timed(lambda: direct(batch, batch.scores), calls),
            },
            rounds=11 if quick else 41,
        )
    graphs = "the same, node by node" if same else "NOT the same"
    return figure(
        "inference",
        f"PRM trained with DNR / trained directly, batch {size}",
        ratios(values, "denoised", "direct"),
        "x",
        f"1 thread, {len(values['direct'])} rounds of {calls} calls, taking turns; "
        f"exported graphs {graphs}",
        reference="1.00: DNR changes the training alone",
        goal=1.005 if same else 0.0,
        at_least=False,
    )


def measure(quick: bool) -> list[Figure]:
    """All rows on serving; about two minutes, or half a minute if quick."""
    lists = random_lists(256)
    rank = trained(lists, "rank")
    direct = trained(lists, "concat")
    denoised = trained(lists, "concat", noise="beta", generator="epsilon")
    rows = [
        row
        for count in sorted({1, cores()})
        for size in BATCHES
        for row in speed(rank, size, count, quick)
    ]
    return rows + [training_does_not_show(direct, denoised, size, quick) for size in BATCHES]
