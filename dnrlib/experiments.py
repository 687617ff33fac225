"""What a run is, how it is done once, and grids of runs."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from dnrlib.environment import commit, machine, versions
from dnrlib.errors import ConfigError, DataError
from dnrlib.identity import code_hash, from_dict, hash_of
from dnrlib.lists import CandidateLists
from dnrlib.metrics import pooled_auc, ranking, summarise
from dnrlib.noise import MLPNoise
from dnrlib.prepare import DataConfig, prepare
from dnrlib.records import RESULTS, Record, ranked_record
from dnrlib.rerankers import build
from dnrlib.training import Progress, Trainer, TrainingConfig, score_lists

RUNS = Path("runs")
EXPERIMENTS = Path("experiments")

METHODS: dict[str, dict[str, Any]] = {
    "score": {"reranker": "score"},
    "score-reversed": {"reranker": "score-reversed"},
    "none": {"options": {"score_use": "none"}},
    "rank": {"options": {"score_use": "rank"}},
    "concat": {"options": {"score_use": "concat"}},
    "add": {"options": {"score_use": "add"}},
    "weight": {"options": {"score_use": "weight"}},
    "noise-G": {"training": {"noise": "gaussian"}},
    "noise-B": {"training": {"noise": "beta"}},
    "DNR-G": {"training": {"noise": "gaussian", "generator": "scores"}},
    "DNR-B": {"training": {"noise": "beta", "generator": "scores"}},
}
"""Method -> what it changes in a `RunConfig`. The last four feed the score by ``concat``."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run."""

    method: str = "concat"
    """A name in `METHODS`: its settings are the defaults that the other fields change."""
    data: DataConfig = field(default_factory=DataConfig)
    reranker: str = "prm"
    options: dict[str, Any] = field(default_factory=lambda: {"score_use": "concat"})
    """Arguments of the reranker, such as ``dim`` or ``score_use``."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0


def run_config(settings: Mapping[str, Any]) -> RunConfig:
    """A run from nested settings; the method's own settings come first.

    Raises:
        ConfigError: unknown method or parameter, or a value that does not fit.
    """
    method = settings.get("method", RunConfig.method)
    if method not in METHODS:
        raise ConfigError(f"method {method!r} is unknown: choose one of {', '.join(METHODS)}")
    merged = _merge(METHODS[method], settings)
    if merged.get("reranker", "prm") in ("score", "score-reversed"):
        merged = {"method": method, "reranker": merged["reranker"], "options": {},
                  "data": merged.get("data", {})}  # fmt: skip
    else:
        merged = _merge({"options": {"score_use": "concat"}}, merged)
    return from_dict(RunConfig, merged)


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings joined; where both have a value the second's counts."""
    merged = dict(first)
    for name, value in second.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


def nested(path: str, value: Any) -> dict[str, Any]:
    """``nested("training.lambda_c", 0.3)`` is ``{"training": {"lambda_c": 0.3}}``."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def run_name(config: RunConfig, lists: CandidateLists) -> str:
    """Data set, protocol, method and seed, and the hash of configuration, data and code."""
    identity = hash_of(config, lists.fingerprint, code_hash())
    parts = (config.data.dataset, config.data.protocol, config.method, config.seed, identity)
    return ".".join(str(part) for part in parts)


def run(
    config: RunConfig,
    results: Path | None = None,
    runs: Path | None = None,
    group: str = "",
    on_progress: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda text: None,
) -> Record:
    """Do a run, or go on with it, or return its record if it is done.

    Args:
        results: the folder of records, by default results/; all below it is looked through.
        runs: the folder of checkpoints and weights, by default runs/.
        group: the folder below ``results`` in which to write the record.
        on_progress: told how training goes.
        say: told what is being done besides.

    Raises:
        ConfigError, DataError, TrainingError: as preparing and training do.
    """
    results, runs = results or RESULTS, runs or RUNS
    lists = prepare(config.data, say=say)
    name = run_name(config, lists)
    for path in results.rglob(f"{name}.json"):
        say(f"{name} is recorded already")
        return Record.load(path)
    torch.manual_seed(config.seed)
    reranker = build(config.reranker, lists, **config.options)
    began = time.perf_counter()
    trainer = _train(reranker, lists, config, runs / name, on_progress, say)
    record = Record(
        run=name,
        method=config.method,
        config=asdict(config),
        code=code_hash(),
        data=_describe(lists),
        **evaluate(reranker, lists),
        curves=[asdict(row) for row in trainer.curves] if trainer else [],
        best_epoch=trainer.best_epoch if trainer else 0,
        cost=_cost(reranker, trainer, time.perf_counter() - began),
        made=provenance(),
    )
    if trainer:
        save_file(reranker.state_dict(), runs / name / "reranker.safetensors")
    if trainer and trainer.generator:
        save_file(trainer.generator.state_dict(), runs / name / "generator.safetensors")
    record.save(results / group)
    return record


def _train(
    reranker: nn.Module,
    lists: CandidateLists,
    config: RunConfig,
    folder: Path,
    on_progress: Callable[[Progress], None],
    say: Callable[[str], None],
) -> Trainer | None:
    """Train what can be trained, from the checkpoint where there is one."""
    if not any(True for _ in reranker.parameters()):
        return None
    train, validation = lists.of_split("train"), lists.of_split("validation")
    trainer = Trainer(reranker, train, validation, config.training, config.seed)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        say(f"Going on from {checkpoint}")
    trainer.run(checkpoint, on_progress)
    return trainer


def evaluate(reranker: nn.Module, lists: CandidateLists) -> dict[str, Any]:
    """The fields ``metrics``, ``ranked_labels`` and ``ranked_shown`` of a record."""
    metrics = {}
    for split in ("validation", "test"):
        part = lists.of_split(split)
        logits = score_lists(reranker, part)
        order = ranking(logits)
        labels, shown = part.labels.gather(1, order), part.shown.gather(1, order)
        metrics[split] = summarise(labels, shown) | {"auc_pooled": pooled_auc(logits, part.labels)}
    return {"metrics": metrics, **ranked_record(labels, shown)}


def _describe(lists: CandidateLists) -> dict[str, Any]:
    sizes = {name: len(lists.of_split(name)) for name in ("train", "validation", "test")}
    return {
        "fingerprint": lists.fingerprint, **sizes, "candidates": lists.items.shape[1], **lists.meta
    }  # fmt: skip


def _cost(reranker: nn.Module, trainer: Trainer | None, seconds: float) -> dict[str, float]:
    """Wall seconds of this process; speed is the median epoch's, a resumed run's too."""
    speeds = [row.lists_per_second for row in trainer.curves] if trainer else []
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "seconds": seconds,
        "training_seconds": sum(row.seconds for row in trainer.curves) if trainer else 0.0,
        "lists_per_second": sorted(speeds)[len(speeds) // 2] if speeds else 0.0,
        "peak_memory_mib": peak / 2**20,
        "parameters": sum(p.numel() for p in reranker.parameters()),
        "threads": torch.get_num_threads(),
    }


def provenance() -> dict[str, Any]:
    """When, from which commit, with what and on what."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"date": now, "commit": commit(), "machine": machine(), "versions": versions()}


def load_reranker(record: Record, lists: CandidateLists, runs: Path | None = None) -> nn.Module:
    """The trained reranker of a run.

    Raises:
        DataError: its weights are not on this machine.
    """
    reranker = build(record.config["reranker"], lists, **record.config["options"])
    if any(True for _ in reranker.parameters()):
        reranker.load_state_dict(_weights(record, "reranker", runs))
    return reranker


def load_generator(record: Record, runs: Path | None = None) -> MLPNoise:
    """The trained noise generator of a run, as it was after the last epoch.

    Raises:
        DataError: the run had none, or its weights are not on this machine.
    """
    settings = record.config["training"]
    weights = _weights(record, "generator", runs)
    generator = MLPNoise(settings["generator"], settings["lambda_c"])
    generator.load_state_dict(weights)
    return generator


def _weights(record: Record, part: str, runs: Path | None) -> dict[str, torch.Tensor]:
    path = (runs or RUNS) / record.run / f"{part}.safetensors"
    if not path.exists():
        raise DataError(path, "no weights here: do the run again with `dnr train`")
    return load_file(path)


# Grids of runs ----------------------------------------------------------------------------


def load_experiment(name: str, folder: Path | None = None) -> list[RunConfig]:
    """The runs of experiments/NAME.yml: every combination of the ``grid`` over the ``base``.

    Raises:
        DataError: there is no such file, or it is not an experiment.
        ConfigError: it has an unknown parameter or value.
    """
    path = (folder or EXPERIMENTS) / f"{name}.yml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yml"))) or "none"
        raise DataError(path, f"no such experiment; there are: {known}")
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
        base, grid = content["base"], content["grid"]
        axes = [[(key, value) for value in values] for key, values in grid.items()]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise DataError(path, f"not an experiment: needs `base` and `grid` ({error})") from error
    return [run_config(_with(base, point)) for point in product(*axes)]


def _with(base: Mapping[str, Any], point: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    settings = dict(base)
    for key, value in point:
        settings = _merge(settings, nested(key, value))
    return settings


def reproduce(
    configs: list[RunConfig],
    workers: int,
    group: str = "",
    results: Path | None = None,
    runs: Path | None = None,
) -> Iterator[Record]:
    """Do runs side by side in processes that share the cores; yields each record as it is done.

    A run that fails does not stop the others; the first failure is raised at the end. Runs that
    share lists share the cache, so lists are prepared here, one after another, first.
    """
    for data in {hash_of(config.data): config.data for config in configs}.values():
        prepare(data, say=print)
    threads = max(1, (os.cpu_count() or 1) // workers)
    failure: BaseException | None = None
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads,
        initargs=(threads,),
    ) as pool:  # fmt: skip
        futures = [pool.submit(run, config, results, runs, group) for config in configs]
        for future in as_completed(futures):
            if error := future.exception():
                failure = failure or error
                print(f"A run failed: {error}", file=sys.stderr)
            else:
                yield future.result()
    if failure:
        raise failure
