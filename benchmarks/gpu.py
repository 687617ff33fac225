"""One command for a GPU: ``python -m benchmarks gpu``.

It needs torch and Lightning and no data: lists are random ones of ML-1M's shape and number. The
same code runs on a CPU with few lists (``--quick``), so that all but the timing is tested there.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.common import figure, seconds
from benchmarks.inference import random_lists
from benchmarks.training import DNR, SEEDS
from dnrlib.lists import CandidateLists
from dnrlib.parallel import Hardware, train
from dnrlib.rerankers import build
from dnrlib.stacked import Stack
from dnrlib.timings import Figure
from dnrlib.training import Trainer

TOPIC = "GPU"
LISTS = 73_287
"""Training lists of ML-1M."""


def measure(quick: bool) -> list[Figure]:
    """Seconds of an epoch of PRM with DNR-B, phase two, for each precision, plain and compiled."""
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    lists = random_lists(300 if quick else LISTS)
    name = torch.cuda.get_device_name() if accelerator == "cuda" else "CPU"
    rows = []
    for precision in ("32-true", "bf16-mixed"):
        for compiled in (False, True):
            if quick and compiled:
                continue
            hardware = Hardware(accelerator, 1, precision, compiled)
            how = (
                f"{name}, {precision}, {'compiled' if compiled else 'eager'}, {len(lists):,} lists"
            )
            rows.append(figure(
                TOPIC, "an epoch of DNR-B", _epoch(lists, hardware, 2 if quick else 5), "s", how,
                reference="goal for an H100", goal=None if quick else 1.5, at_least=False,
            ))  # fmt: skip
    rows.append(_stacked(lists[:4096], accelerator, name))
    return rows


def _epoch(lists: CandidateLists, hardware: Hardware, epochs: int) -> list[float]:
    """Seconds of each epoch of phase two but the first, which compiles and warms up."""
    torch.manual_seed(0)
    reranker = build("prm", lists, score_use="concat")
    config = replace(DNR, lambda_e=0, epochs=epochs)
    trainer = train(reranker, lists, lists[:512], config, 0, hardware)
    return [row.seconds for row in trainer.curves[1:]]


def _stacked(lists: CandidateLists, accelerator: str, name: str) -> Figure:
    """Several seeds at once over one by one."""
    lists = lists.to(accelerator)
    validation = lists[:64]
    trainers = [
        Trainer(build("prm", lists, score_use="concat").to(accelerator), lists, validation, DNR, s)
        for s in range(2 * SEEDS)
    ]
    stack, alone = Stack(trainers[:SEEDS]), trainers[SEEDS:]
    values = []
    for _ in range(3):
        together = seconds(lambda: stack.epoch(2))
        one_by_one = seconds(lambda: [t.epoch(2, lambda _: None) for t in alone])
        values.append(one_by_one / together)
    return figure("many runs", f"{SEEDS} seeds stacked over one by one, {accelerator}",
                  values[1:], "x", name)  # fmt: skip
