"""What a run takes: predicted from rates measured on this machine, set against what it took.

A prediction is arithmetic on `Rates`, and those are measured by a few training steps of exactly
that kind of run on random lists of its shape, once on each machine. It knows nothing of what else
the machine will be doing, nor that a run may stop early for want of patience.
"""

from __future__ import annotations

import heapq
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache as once
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from dnrlib.environment import cores, machine
from dnrlib.errors import ConfigError
from dnrlib.files import replacing
from dnrlib.identity import LISTS_CODE, code_hash, files_of, hash_of
from dnrlib.lists import CandidateLists
from dnrlib.log import SPLITS
from dnrlib.metrics import pooled_auc, ranking, summarise
from dnrlib.parallel import Hardware, train
from dnrlib.prepare import CACHE, DataConfig
from dnrlib.records import Record
from dnrlib.rerankers import build
from dnrlib.rerankers.text import WordedLists
from dnrlib.training import Trainer, TrainingConfig, score_lists, validation_ndcg
from dnrlib.units import duration
from dnrlib.variants import trainer_of

STEPS = {"cpu": 4, "cuda": 50}
"""Steps of each epoch that is measured."""
SCORED = 512
"""Lists that are scored to measure how fast that goes: a batch of `score_lists`."""
SMALL = 30.0
"""Seconds below which one process does a run: to start several takes about half as long."""
LISTS_EACH = 16
"""Lists of a batch below which another process is not worth its while."""
CODE = ("rerankers/*.py", *files_of("dnrlib.trainers"), "parallel.py", "costs.py")
"""What rates depend on."""
SPEED = (
    "batch_size", "estimator", "likelihood", "noise", "generator", "lambda_m", "regulariser",
)  # fmt: skip
"""The settings of training that change how fast it goes."""


def peak_mib(of: int = resource.RUSAGE_SELF) -> float:
    """Most memory so far of this process, or of the largest of its children that have ended."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(of).ru_maxrss * unit / 2**20


def resident_mib() -> float:
    """Memory of this process now; the most so far where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return peak_mib()
    return pages * resource.getpagesize() / 2**20


IMPORTED_MIB = resident_mib()
"""Memory of this process when it had little but the libraries."""


@once
def bare_mib() -> float:
    """Memory of a process that is ready to train but has no lists yet.

    The first step of a process makes torch load more of itself, which takes a second and a
    hundred MiB. Here this is done before anything is predicted or timed.
    """
    before = resident_mib()
    with torch.random.fork_rng(devices=[]):
        weight = nn.Parameter(torch.ones(1))
        optimiser = torch.optim.AdamW([weight], fused=True)
        weight.sum().backward()
        optimiser.step()
    return IMPORTED_MIB + max(0.0, resident_mib() - before)


# What is to be done -----------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """Of candidate lists: their numbers, and what decides the size of a reranker."""

    train: int
    validation: int
    test: int
    users: int
    items: int
    candidates: int
    history: int

    @classmethod
    def of_lists(cls, lists: CandidateLists) -> Sizes:
        """Of lists that are at hand."""
        counts = {name: int((lists.split == i).sum()) for i, name in enumerate(SPLITS)}
        return cls(
            **counts,
            users=lists.meta["users"],
            items=lists.meta["items"],
            candidates=lists.items.shape[1],
            history=lists.history.shape[1],
        )

    @classmethod
    def of_record(cls, record: Record) -> Sizes | None:
        """Of the lists of a recorded run; None where the record does not tell."""
        known = record.data | {"history": record.config["data"].get("history")}
        names = [size.name for size in fields(cls)]
        return cls(**{name: known[name] for name in names}) if known.keys() >= set(names) else None


@dataclass(frozen=True)
class Work:
    """What decides how long a run takes, besides the machine."""

    reranker: str
    options: dict[str, Any]
    training: TrainingConfig
    sizes: Sizes
    trainer: str = ""

    @property
    def batch(self) -> int:
        """Lists of a batch."""
        return min(self.training.batch_size, max(self.sizes.train, 1))

    @property
    def kind(self) -> dict[str, Any]:
        """All of the work for which one measurement holds."""
        sizes = asdict(replace(self.sizes, train=0, validation=0, test=0))
        settings = {name: getattr(self.training, name) for name in SPEED}
        given = {"reranker": self.reranker, "options": self.options}
        given |= {"trainer": self.trainer} if self.trainer else {}
        return {**given, **settings, "batch_size": self.batch, "sizes": sizes}


@dataclass(frozen=True)
class Place:
    """Where the work is done."""

    hardware: Hardware = field(default_factory=Hardware)
    threads: int = field(default_factory=torch.get_num_threads)
    """Of each process."""
    workers: int = 1
    """Runs side by side on the machine: the rates are measured while as many are at work."""


# Rates ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rates:
    """How fast one kind of work goes on this machine; seconds a list, 0 where nothing is trained.

    Args:
        phase_one, phase_two: of one training list in each phase.
        validating: of one validation list after an epoch.
        evaluating: of one list in the end, with all metrics.
        fixed: seconds to start and end training, processes and compilation with it.
        training_mib: memory that training adds, at least `kept_mib`; as measured, where a process
            has not needed more before.
    """

    phase_one: float
    phase_two: float
    validating: float
    evaluating: float
    fixed: float
    training_mib: float


def rates(work: Work, place: Place, cache: Path | None = None) -> Rates:
    """The rates of a kind of work, measured here (a second or two) unless that was done before.

    Args:
        cache: the folder of ``rates.json``, by default data/prepared. What cannot be read there
            is measured anew and replaced.

    Raises:
        ConfigError, TrainingError: the work itself is impossible, as the run would say.
    """
    if (known := known_rates(work, place, cache)) is None:
        known = measure(work, place.hardware)
        keep_rates(work, place, known, cache)
    return known


def keep_rates(work: Work, place: Place, known: Rates, cache: Path | None = None) -> None:
    """Remember what was measured."""
    _keep(cache, "rates.json", _key(work, place), asdict(known))


def known_rates(work: Work, place: Place, cache: Path | None = None) -> Rates | None:
    """The rates of a kind of work, if they were measured on this machine with this code."""
    try:
        kept = _kept(cache, "rates.json")[_key(work, place)]
        return Rates(**{rate.name: float(kept[rate.name]) for rate in fields(Rates)})
    except (LookupError, TypeError, ValueError):
        return None


def _key(work: Work, place: Place) -> str:
    return hash_of(work.kind, asdict(place), machine(), str(torch.__version__), code_hash(CODE))


def _kept(cache: Path | None, name: str) -> dict[str, Any]:
    """What is in a file of the cache; nothing if it is not there or damaged."""
    try:
        content = json.loads(((cache or CACHE) / name).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _keep(cache: Path | None, name: str, key: str, value: Any) -> None:
    folder = cache or CACHE
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"), replacing(folder / name) as partial:
        content = {**_kept(cache, name), key: value}
        partial.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def measure(work: Work, hardware: Hardware) -> Rates:
    """Train for two short epochs of each phase, of which the second counts, and score lists."""
    sizes, count = work.sizes, STEPS[hardware.accelerator] * work.batch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lists, scored = random_lists(count, sizes), random_lists(SCORED, sizes)
        worded = with_empty_words(lists, work.options.get("text_dim", 256))
        reranker = build(work.reranker, worded, **work.options)
        if not any(True for _ in reranker.parameters()):
            evaluating = _seconds(lambda: _evaluate(reranker, scored)) / SCORED
            return Rates(0.0, 0.0, 0.0, evaluating, 0.0, 0.0)
        bare_mib()
        before, peak, began = resident_mib(), peak_mib(), time.perf_counter()
        make = trainer_of(type(reranker), work.trainer)
        few = scored[: hardware.devices]
        trainer = train(reranker, lists, few, _short(work), 0, hardware, make=make)
        steady = trainer.curves[1].seconds, trainer.curves[-1].seconds
        fixed = time.perf_counter() - began - len(trainer.curves) * sum(steady) / 2
        reranker.to(hardware.device)
        scored = scored.to(hardware.device)
        validating = _seconds(lambda: validation_ndcg(reranker, scored)) / hardware.devices
        evaluating = _seconds(lambda: _evaluate(reranker, scored))
        grown = peak_mib() - before if peak_mib() > peak else 0.0
        return Rates(
            phase_one=steady[0] / count,
            phase_two=steady[1] / count,
            validating=validating / SCORED,
            evaluating=evaluating / SCORED,
            fixed=max(fixed, 0.0),
            training_mib=max(grown, kept_mib(trainer)),
        )


def _short(work: Work) -> TrainingConfig:
    settings = {name: getattr(work.training, name) for name in SPEED}
    phases = 1 if work.training.generator == "none" else 2
    return TrainingConfig(**settings | {"batch_size": work.batch}, epochs=2 * phases, lambda_e=2)


def random_lists(count: int, sizes: Sizes) -> CandidateLists:
    """Training lists of the given shape with nothing in them; one candidate of each is liked."""

    def upto(most: int, *shape: int) -> torch.Tensor:
        return torch.randint(most, (count, *shape), dtype=torch.int32)

    liked = torch.zeros(count, sizes.candidates, dtype=torch.bool)
    liked[:, 0] = True
    return CandidateLists(
        users=upto(sizes.users), history=1 + upto(sizes.items, sizes.history),
        items=1 + upto(sizes.items, sizes.candidates), scores=torch.rand(liked.shape),
        labels=liked, shown=liked, split=torch.zeros(count, dtype=torch.int8), list=upto(1),
        meta={"users": sizes.users, "items": sizes.items},
    )  # fmt: skip


def with_empty_words(lists: CandidateLists, size: int = 256) -> WordedLists:
    """The lists with words about the items that say nothing, for rerankers that read some."""
    words = torch.zeros(lists.meta["items"] + 1, size)
    return WordedLists(**vars(lists), words=words)


def _evaluate(reranker: nn.Module, lists: CandidateLists) -> None:
    """What `dnrlib.experiments.evaluate` does for a split."""
    logits = score_lists(reranker, lists)
    order = ranking(logits)
    summarise(lists.labels.gather(1, order).cpu(), lists.shown.gather(1, order).cpu())
    pooled_auc(logits, lists.labels)


def _seconds(function: Callable[[], Any]) -> float:
    """Of the faster of two calls: the first also warms up."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def kept_mib(trainer: Trainer) -> float:
    """Memory that training keeps; takes a step.

    Weights, gradients, two moments of each and the best weights so far, by their number; and what
    a step saves for its backward pass. What is needed for a moment only is not in it.
    """
    own = {parameter.data_ptr() for parameter in trainer.reranker.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch, _ = next(trainer.batches(1))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        trainer.step(batch, trainer.config.phase(trainer.config.epochs))
    weights = sum(p.numel() * p.element_size() for p in trainer.reranker.parameters())
    return (5 * weights + sum(kept.values())) / 2**20


def reference_speed(cache: Path | None = None) -> float:
    """Training lists a second of PRM with a generator on MovieLens-1M: compares machines."""
    config = TrainingConfig(noise="beta", generator="scores")
    sizes = Sizes(20000, 6000, 6000, users=6000, items=3000, candidates=50, history=20)
    work = Work("prm", {"score_use": "concat"}, config, sizes)
    return 1 / rates(work, Place(), cache).phase_two


# Predictions ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What a run is going to take."""

    seconds: float
    memory_mib: float

    def __str__(self) -> str:
        return f"{duration(self.seconds)} and {self.memory_mib:,.0f} MiB"


def predict(
    work: Work, known: Rates, place: Place, epochs_done: int = 0, start_mib: float | None = None
) -> Estimate:
    """Seconds from the first step to the record, and the most memory.

    Args:
        epochs_done: those that an earlier, interrupted process did.
        start_mib: memory with the lists at hand; by default that of a bare process and the lists.
    """
    sizes, config = work.sizes, work.training
    phases = [config.phase(epoch) for epoch in range(epochs_done + 1, config.epochs + 1)]
    epochs = phases.count(1) * known.phase_one + phases.count(2) * known.phase_two
    seconds = (
        known.fixed
        + sizes.train * epochs
        + sizes.validation * len(phases) * known.validating
        + (sizes.validation + sizes.test) * known.evaluating
    )
    start = start_of(sizes) if start_mib is None else start_mib
    return Estimate(seconds, start + _added_mib(work, known, place))


def start_of(sizes: Sizes) -> float:
    """MiB of a process that has read the lists, which are there twice for a moment."""
    return bare_mib() + 2 * lists_mib(sizes)


def _added_mib(work: Work, known: Rates, place: Place) -> float:
    """The splits are copies of the lists; each of several processes has them too, and libraries."""
    here = lists_mib(work.sizes) + known.training_mib
    others = place.hardware.devices if place.hardware.devices > 1 else 0
    return here + others * (bare_mib() + here)


def lists_mib(sizes: Sizes) -> float:
    """Memory of candidate lists, whose numbers have four bytes and marks one."""
    lists = sizes.train + sizes.validation + sizes.test
    return lists * (9 + 4 * sizes.history + 10 * sizes.candidates) / 2**20


def epochs_done(checkpoint: Path | None) -> int:
    """Epochs in a checkpoint; 0 if there is none or, as training will say, it cannot be used."""
    try:
        return len(torch.load(checkpoint, weights_only=True)["curves"]) if checkpoint else 0
    except Exception:
        return 0


def side_by_side(seconds: Iterable[float], workers: int) -> float:
    """Until the last run is done, when each starts as soon as a worker is free, in order."""
    free = [0.0] * workers
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)


def choose(
    work: Work,
    accelerator: str = "auto",
    devices: str = "auto",
    precision: str = "32-true",
    compile: bool = False,
    cache: Path | None = None,
) -> Hardware:
    """The hardware of a run, where ``auto`` leaves it open.

    Accelerator: CUDA if it is there. Devices: all GPUs among which the batch divides evenly; on a
    CPU a process for each core, but one for a run that it does in less than `SMALL` seconds. No
    device gets fewer than `LISTS_EACH` lists of a batch.

    Raises:
        ConfigError: a value that cannot be used, or hardware that is not there.
    """
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    one = Hardware(accelerator, 1, precision, compile)
    if devices != "auto":
        if not devices.isdecimal():
            raise ConfigError(f"devices = {devices!r}: must be auto or a whole number")
        return replace(one, devices=int(devices))
    most = max(1, work.batch // LISTS_EACH)
    if accelerator == "cuda":
        there = min(most, torch.cuda.device_count())
        return replace(one, devices=max(n for n in range(1, there + 1) if work.batch % n == 0))
    most = min(most, cores())
    if most > 1 and predict(work, rates(work, Place(one), cache), Place(one)).seconds < SMALL:
        most = 1
    return replace(one, devices=most)


# Sizes of lists that are not at hand ------------------------------------------------------


def note_sizes(data: DataConfig, lists: CandidateLists, cache: Path | None = None) -> None:
    """Remember the sizes of prepared lists, and the memory of the process that has them."""
    key = hash_of(data, code_hash(LISTS_CODE))
    if key not in _kept(cache, "sizes.json"):
        sizes = asdict(Sizes.of_lists(lists))
        entry = {"dataset": data.dataset, "sizes": sizes, "start_mib": peak_mib()}
        _keep(cache, "sizes.json", key, entry)


def known_sizes(
    data: DataConfig, records: Iterable[Record] = (), cache: Path | None = None
) -> tuple[Sizes | None, float | None]:
    """Sizes of lists without preparing them, and the memory that preparing took, if known.

    From lists that were prepared here, else from records of the same lists, else, where
    ``train_lists`` says how many there are, from what is known of other lists of the data set.
    """
    others = []
    with suppress(LookupError, TypeError):  # a damaged file tells nothing
        kept = _kept(cache, "sizes.json")
        if found := kept.get(hash_of(data, code_hash(LISTS_CODE))):
            return Sizes(**found["sizes"]), float(found["start_mib"])
        others = [Sizes(**one["sizes"]) for one in kept.values() if one["dataset"] == data.dataset]
    for record in records:
        if record.config["data"]["dataset"] != data.dataset or not (of := Sizes.of_record(record)):
            continue
        if hash_of(record.config["data"]) == hash_of(data):
            return of, None
        others.append(of)
    return (_like(others[0], data) if others and data.train_lists else None), None


def _like(other: Sizes, data: DataConfig) -> Sizes:
    most = data.evaluation_lists or math.inf
    return replace(
        other, train=data.train_lists, validation=int(min(other.validation, most)),
        test=int(min(other.test, most)), candidates=data.candidates, history=data.history,
    )  # fmt: skip


# Afterwards -------------------------------------------------------------------------------


def predicted_against_actual(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One row for each record that has a prediction: seconds and MiB, and actual / predicted."""
    rows = []
    for record in records:
        if "predicted_seconds" not in record.cost:
            continue
        names = ("predicted_seconds", "seconds", "predicted_memory_mib", "peak_memory_mib")
        expected, seconds, expected_mib, mib = (float(record.cost[name]) for name in names)
        rows.append({
            "data": record.config["data"]["dataset"], "method": record.method,
            "seed": record.seed, "lists": record.data.get("train"),
            "predicted s": expected, "s": seconds, "s / predicted": seconds / expected,
            "predicted MiB": expected_mib, "MiB": mib, "MiB / predicted": mib / expected_mib,
        })  # fmt: skip
    return rows
