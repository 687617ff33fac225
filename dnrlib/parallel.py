"""One run on several devices, or on a GPU in low precision, through Lightning Fabric."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch import nn

from dnrlib import divergences  # noqa: F401 (adds its regularisers, in the processes too)
from dnrlib.errors import ConfigError, DnrError
from dnrlib.lists import CandidateLists
from dnrlib.trainers import trainer_for
from dnrlib.training import Progress, Trainer, TrainingConfig

# Set here, so that it holds in the processes too, each of which imports this module.
for _package in ("lightning_fabric", "lightning.fabric"):
    for _module in ("rank_zero", "distributed"):
        logging.getLogger(f"{_package}.utilities.{_module}").setLevel(logging.WARNING)

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def exit_with(parent: int) -> None:
    """End this process, within a second, once its parent is gone: killed, it ends no children."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class Hardware:
    """On what a run is trained. It changes rounding and random draws, not what is computed."""

    accelerator: str = "cpu"
    """``cpu`` or ``cuda``."""
    devices: int = 1
    """Processes on a CPU, GPUs on CUDA; the lists of each batch are shared among them."""
    precision: str = "32-true"
    """``32-true``, ``bf16-mixed`` or ``16-mixed``."""
    compile: bool = False
    """Compile the reranker (`torch.compile`): some seconds to a minute at the start of a run."""

    def __post_init__(self) -> None:
        if self.accelerator not in ("cpu", "cuda"):
            raise ConfigError(f"accelerator = {self.accelerator!r}: choose one of cpu, cuda")
        if self.precision not in PRECISIONS:
            allowed = ", ".join(PRECISIONS)
            raise ConfigError(f"precision = {self.precision!r}: choose one of {allowed}")
        if self.precision == "16-mixed" and self.accelerator == "cpu":
            raise ConfigError("precision = '16-mixed' needs a GPU: use 'bf16-mixed' on a CPU")
        if self.devices < 1:
            raise ConfigError(f"devices = {self.devices}: must be at least 1")
        if self.accelerator == "cuda" and torch.cuda.device_count() < self.devices:
            raise ConfigError(
                f"{self.devices} GPUs are asked for and {torch.cuda.device_count()} are there: "
                "lower devices or use accelerator = 'cpu'"
            )

    @property
    def device(self) -> str:
        """Where the lists and the reranker belong when one process does it all."""
        return self.accelerator


def fabric_of(hardware: Hardware) -> Any:
    """A ``Fabric`` that is not launched yet.

    Raises:
        ConfigError: Lightning is not installed.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError:
        try:
            from lightning.fabric import Fabric  # type: ignore[import-not-found, no-redef]
        except ImportError as error:
            advice = "pip install lightning-fabric"
            raise ConfigError(f"several devices or low precision need Fabric: {advice}") from error
    return Fabric(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        precision=hardware.precision,  # type: ignore[arg-type]
        strategy="ddp_spawn" if hardware.devices > 1 else "auto",
    )


def train(
    reranker: nn.Module,
    train: CandidateLists,
    validation: CandidateLists,
    config: TrainingConfig,
    seed: int = 0,
    hardware: Hardware | None = None,
    checkpoint: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    make: type[Trainer] | None = None,
) -> Trainer:
    """Train as `Trainer.run` does, on the given hardware; returns the trainer at its end.

    With several devices each is a process of its own, which is started anew: a script that calls
    this must do so under ``if __name__ == "__main__":``, and a reranker must be defined in a
    module that can be imported. The gradients are averaged after each batch, so that all keep
    the same weights.

    Args:
        make: the trainer to use; by default `dnrlib.trainers.trainer_for` chooses it.

    Raises:
        ConfigError, DataError, TrainingError: as `Trainer` and its ``run`` do.
    """
    hardware = hardware or Hardware()
    arguments = (reranker, train, validation, config, seed)
    make = make or trainer_for(type(reranker))
    if hardware == Hardware():
        trainer = make(*arguments)
        trainer.run(checkpoint, on_progress)
        return trainer
    if hardware.devices == 1:
        fabric = fabric_of(hardware)
        fabric.launch()
        trainer = _on_device(fabric, hardware, make, arguments)
        trainer.run(checkpoint, on_progress)
        return trainer
    make(*arguments)  # its errors before any process is started
    if len(validation) < hardware.devices:
        raise ConfigError(
            f"devices = {hardware.devices}: more than the {len(validation)} validation lists"
        )
    with tempfile.TemporaryDirectory() as folder:
        job, checkpoint = Path(folder) / "job.pt", checkpoint or Path(folder) / "checkpoint.pt"
        torch.save((os.getpid(), hardware, make, arguments), job)
        _launch(hardware, job, checkpoint, on_progress)
        trainer = make(*arguments)
        trainer.run(checkpoint)
    return trainer


def _on_device(
    fabric: Any, hardware: Hardware, make: type[Trainer], arguments: tuple[Any, ...]
) -> Trainer:
    reranker, train, validation, config, seed = arguments
    device = fabric.device
    reranker = reranker.to(device)
    if hardware.compile:
        reranker.compile(mode="reduce-overhead" if device.type == "cuda" else "default")
    lists = train.to(device), validation.to(device)
    return make(reranker, *lists, config, seed, fabric)


def _launch(
    hardware: Hardware, job: Path, checkpoint: Path, on_progress: Callable[[Progress], None]
) -> None:
    """Start the processes, pass on what the first of them reports, and wait for all."""
    reports = get_context("spawn").SimpleQueue()
    failures: list[DnrError] = []

    def listen() -> None:
        while (report := reports.get()) is not None:
            if isinstance(report, Progress):
                on_progress(report)
            else:
                failures.append(report)

    listener = Thread(target=listen, daemon=True)
    listener.start()
    try:
        with _memory_is_kept():
            fabric_of(hardware).launch(_work, job, checkpoint, reports)
    finally:
        reports.put(None)
        listener.join()
    if failures:
        raise failures[0]


@contextmanager
def _memory_is_kept() -> Iterator[None]:
    """Tell glibc in the processes not to give memory back after each step: some percent faster."""
    before = dict(os.environ)
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        os.environ.setdefault(name, str(2**32))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _work(fabric: Any, job: Path, checkpoint: Path, reports: Any) -> None:
    """What each process does. All fail at the same place, and the first says so."""
    report = reports.put if fabric.is_global_zero else lambda _: None
    try:
        parent, hardware, make, arguments = torch.load(job, map_location="cpu", weights_only=False)
        exit_with(parent)
        _on_device(fabric, hardware, make, arguments).run(checkpoint, report)
    except DnrError as error:
        report(error)
