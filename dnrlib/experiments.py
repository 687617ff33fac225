"""What a run is, how it is done once, and grids of runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import reduce
from itertools import product
from pathlib import Path
from resource import RUSAGE_CHILDREN
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dnrlib.behaviours import BehaviourLists
from dnrlib.costs import (
    Estimate,
    Place,
    Sizes,
    Work,
    bare_mib,
    epochs_done,
    note_sizes,
    peak_mib,
    predict,
    rates,
    resident_mib,
)  # fmt: skip
from dnrlib.enrich import ENRICHED
from dnrlib.environment import commit, cores, machine, versions
from dnrlib.errors import ConfigError, DataError, DnrError
from dnrlib.files import replacing
from dnrlib.identity import added, code_hash, files_of, from_dict, hash_of, plain
from dnrlib.lists import CandidateLists
from dnrlib.losses import REGULARISERS
from dnrlib.metrics import pooled_auc, ranking, summarise
from dnrlib.noise import Noise
from dnrlib.parallel import Hardware, train
from dnrlib.prepare import DataConfig, prepare
from dnrlib.records import RESULTS, Record, load_records, of_behaviour, ranked_record
from dnrlib.rerankers import build, class_of
from dnrlib.rerankers.several import score_behaviours
from dnrlib.training import Progress, Trainer, TrainingConfig, score_lists
from dnrlib.variants import trainer_of, untrained_generator

RUNS = Path("runs")
EXPERIMENTS = Path("experiments")

METHODS: dict[str, dict[str, Any]] = {
    "score": {"reranker": "score"},
    "score-reversed": {"reranker": "score-reversed"},
    "popularity": {"reranker": "popularity"},
    "oracle": {"reranker": "oracle"},
    "none": {"options": {"score_use": "none"}},
    "rank": {"options": {"score_use": "rank"}},
    "concat": {"options": {"score_use": "concat"}},
    "add": {"options": {"score_use": "add"}},
    "weight": {"options": {"score_use": "weight"}},
    "score-dropout": {"reranker": "prm-disturbed", "options": {"disturbance": "dropout"}},
    "score-jitter": {"reranker": "prm-disturbed", "options": {"disturbance": "jitter"}},
    "noise-G": {"training": {"noise": "gaussian"}},
    "noise-B": {"training": {"noise": "beta"}},
    "DNR-G": {"training": {"noise": "gaussian", "generator": "scores"}},
    "DNR-B": {"training": {"noise": "beta", "generator": "scores"}},
    "DNR-B-no-adv": {
        "training": {"noise": "beta", "generator": "scores", "adversarial_weight": 0.0}
    },
    "DNR-B-no-x": {"training": {"noise": "beta", "generator": "scores", "regulariser_weight": 0.0}},
    "light-beta": {
        "training": {"noise": "beta", "generator": "scores", "generator_learning_rate": 3e-2},
        "trainer": "light-beta",
    },
    "empirical": {"training": {"noise": "beta"}, "trainer": "empirical"},
    "empirical-lists": {"training": {"noise": "beta"}, "trainer": "empirical-lists"},
    "light-beta-exact": {
        "training": {"noise": "beta", "generator": "scores", "generator_learning_rate": 3e-2},
        "trainer": "light-beta-exact",
    },
    "bound": {
        "training": {"noise": "beta", "generator": "scores", "generator_learning_rate": 3e-2},
        "trainer": "bound",
    },
    "bound-request": {
        "training": {"noise": "beta", "generator": "scores", "generator_learning_rate": 3e-3},
        "trainer": "bound-request",
    },
    "text-similarity": {"reranker": "text-similarity"},
    "behaviours-score": {"reranker": "behaviours-score"},
    "behaviours-score-reversed": {"reranker": "behaviours-score-reversed"},
    "behaviours-popularity": {"reranker": "behaviours-popularity"},
    "behaviours-oracle": {"reranker": "behaviours-oracle"},
    "behaviours-concat": {"reranker": "prm-behaviours", "trainer": "behaviours"},
    "behaviours-noise-B": {
        "reranker": "prm-behaviours",
        "training": {"noise": "beta"},
        "trainer": "behaviours",
    },
    "behaviours-DNR-B": {
        "reranker": "prm-behaviours",
        "training": {"noise": "beta", "generator": "scores"},
        "trainer": "behaviours",
    },
}
"""Method -> what it changes in a `RunConfig`. Those with noise feed the score by ``concat``."""
UNTRAINED = ("score", "score-reversed", "popularity", "oracle")
"""Those of `FIXED` that stand in every table."""
FIXED = tuple(name for name, own in METHODS.items() if own.get("reranker") == name)
"""Methods without anything to learn, each a reranker of its own: one run, whatever the seed."""

Weights = dict[str, dict[str, torch.Tensor]]
"""Part of a run (``reranker``, ``generator``) -> its tensors, on the CPU."""


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
    trainer: str = added("")
    """"" trains as the paper does; else a name in `dnrlib.variants.VARIANTS`."""

    @property
    def what(self) -> str:
        """A few words for people."""
        return f"{self.model} ({self.data.what}, seed {self.seed})"

    @property
    def model(self) -> str:
        """The method, behind the reranker where that is neither PRM nor the method's own."""
        plain = self.reranker in ("prm", METHODS[self.method].get("reranker"))
        return self.method if plain else f"{self.reranker}-{self.method}"

    @property
    def code(self) -> str:
        """`run_code` of this run."""
        return run_code(self.reranker, self.training.regulariser, self.trainer)


def run_config(settings: Mapping[str, Any]) -> RunConfig:
    """A run from nested settings; the method's own settings come first.

    A method that is not trained has neither options, training nor seed: what is given is dropped.

    Raises:
        ConfigError: unknown method or parameter, or a value that does not fit.
    """
    method = settings.get("method", RunConfig.method)
    if method not in METHODS:
        raise ConfigError(f"method {method!r} is unknown: choose one of {', '.join(METHODS)}")
    own = merge({"options": {"score_use": "concat"}}, METHODS[method])
    config = from_dict(RunConfig, merge(own, settings))
    if config.reranker in FIXED or method in FIXED:
        if config.reranker != method:
            raise ConfigError(
                f"method = {method!r} and reranker = {config.reranker!r} exclude each other"
            )
        config = replace(config, options={}, training=TrainingConfig(), seed=0, trainer="")
    return config


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings joined; where both have a value the second's counts."""
    merged = dict(first)
    for name, value in second.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if both else value
    return merged


def nested(path: str, value: Any) -> dict[str, Any]:
    """``nested("training.lambda_c", 0.3)`` is ``{"training": {"lambda_c": 0.3}}``."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def run_code(reranker: str, regulariser: str, trainer: str = "") -> str:
    """Hash of the code that matters for a run: training, its own reranker and its own regulariser.

    So a new reranker makes no recorded run of another one old.

    Raises:
        ConfigError: unknown reranker or trainer.
    """
    kind = class_of(reranker)
    parts = (trainer_of(kind, trainer), kind, REGULARISERS[regulariser])
    return code_hash(files_of(*(part.__module__ for part in parts)))


def config_of(record: Record) -> RunConfig:
    """The configuration of a recorded run."""
    return from_dict(RunConfig, record.config)


def lists_of(config: RunConfig, say: Callable[[str], None] = lambda text: None) -> CandidateLists:
    """The lists of a run: those of its data, with what else its reranker wants.

    Raises:
        ConfigError, DataError: as preparing does.
    """
    lists = prepare(config.data, say=say)
    enrich = ENRICHED.get(config.reranker)
    return enrich(lists, config.data) if enrich else lists


def lists_key(config: RunConfig) -> str:
    """The same for runs that have the same lists."""
    enrich = ENRICHED.get(config.reranker)
    return hash_of(config.data, *([enrich.__qualname__] if enrich else []))


def run_name(config: RunConfig, lists: CandidateLists) -> str:
    """Data set, protocol, model and seed, and the hash of configuration, data and code.

    The hardware is no part of it: it changes rounding and, on several devices, which random
    numbers are drawn, but not what is computed. A run that was begun on one can go on on another,
    and its record says on which it ended.
    """
    identity = hash_of(config, lists.fingerprint, config.code)
    parts = (config.data.dataset, config.data.protocol, config.model, config.seed, identity)
    return ".".join(str(part) for part in parts)


def run(
    config: RunConfig,
    results: Path | None = None,
    runs: Path | None = None,
    group: str = "",
    on_progress: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda text: None,
    hardware: Hardware | Callable[[Work], Hardware] | None = None,
    workers: int = 1,
) -> Record:
    """Do a run, or go on with it, or return its record if it is done.

    Says what it will take before it begins, and in the end what it took.

    Args:
        results: the folder of records, by default results/; all below it is looked through.
        runs: the folder of checkpoints and weights, by default runs/.
        group: the folder below ``results`` in which to write the record.
        on_progress: told how training goes.
        say: told what is being done besides.
        hardware: on what to train, or how to choose that (`dnrlib.costs.choose`); by default one
            process on the CPU.
        workers: runs side by side on this machine, which the prediction takes into account.

    Raises:
        ConfigError, DataError, TrainingError: as preparing and training do.
    """
    lists = lists_of(config, say)
    name = run_name(config, lists)
    if record := recorded(name, results):
        say(f"{name} is recorded already")
        return record
    checkpoint = (runs or RUNS) / name / "checkpoint.pt"
    note_sizes(config.data, lists)
    work = work_of(config, Sizes.of_lists(lists))
    chosen = hardware(work) if callable(hardware) else hardware or Hardware()
    estimate = _estimate(work, Place(chosen, workers=workers), checkpoint, say)
    record, weights = compute(config, lists, checkpoint, chosen, on_progress, say, estimate)
    save(record, weights, results, runs, group)
    say(f"Took {took(record)}")
    return record


def work_of(config: RunConfig, sizes: Sizes) -> Work:
    """What of a run decides how long it takes."""
    return Work(config.reranker, config.options, config.training, sizes, config.trainer)


def _estimate(
    work: Work, place: Place, checkpoint: Path, say: Callable[[str], None]
) -> Estimate | None:
    """What is left to do; None, with the reason said, if that cannot be measured."""
    bare_mib()
    start_mib = resident_mib()
    try:
        known = rates(work, place)
    except DnrError as error:
        say(f"Not predicted: {error}")
        return None
    done = epochs_done(checkpoint if checkpoint.exists() else None)
    estimate = predict(work, known, place, done, start_mib)
    # What preparing took counts too: the record holds the most memory of the whole process.
    estimate = replace(estimate, memory_mib=max(estimate.memory_mib, peak_mib()))
    say(f"Predicted: {estimate} on {place.hardware.devices} x {place.hardware.accelerator}")
    return estimate


def took(record: Record) -> str:
    """Time and memory of a run, with what was predicted if anything was."""
    cost = record.cost
    actual = Estimate(float(cost["seconds"]), float(cost["peak_memory_mib"]))
    if "predicted_seconds" not in cost:
        return str(actual)
    expected = Estimate(float(cost["predicted_seconds"]), float(cost["predicted_memory_mib"]))
    return f"{actual} (predicted: {expected})"


def recorded(name: str, results: Path | None = None) -> Record | None:
    """The record of a run, wherever it stands below ``results``, if the run is done.

    Raises:
        DataError: the record cannot be read.
    """
    paths = (results or RESULTS).rglob(f"{name}.json")
    return next((Record.load(path) for path in paths), None)


def compute(
    config: RunConfig,
    lists: CandidateLists,
    checkpoint: Path | None = None,
    hardware: Hardware | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda text: None,
    estimate: Estimate | None = None,
) -> tuple[Record, Weights]:
    """Do a run on lists that are at hand; nothing but the checkpoint is read or written.

    Args:
        checkpoint: where training leaves what the next epoch needs, and goes on from if it is
            there; None: nowhere.
        hardware: on what to train; by default one process on the CPU.
        estimate: what the run was predicted to take, for its record.

    Raises:
        ConfigError, DataError, TrainingError: as training does.
    """
    hardware = hardware or Hardware()
    torch.manual_seed(config.seed)
    reranker = build(config.reranker, lists, **config.options)
    began = time.perf_counter()
    trainer = _train(reranker, lists, config, hardware, checkpoint, on_progress, say)
    seconds = time.perf_counter() - began
    return finished(config, lists, reranker, trainer, seconds, hardware, estimate)


def finished(
    config: RunConfig,
    lists: CandidateLists,
    reranker: nn.Module,
    trainer: Trainer | None,
    seconds: float,
    hardware: Hardware,
    estimate: Estimate | None = None,
) -> tuple[Record, Weights]:
    """Evaluate what was trained (None: nothing was); its record, and the weights for `save`."""
    began = time.perf_counter()
    reranker.to(hardware.device)
    record = Record(
        run=run_name(config, lists),
        method=config.method,
        config=plain(config),
        code=config.code,
        data=_describe(lists),
        **evaluate(reranker, lists, hardware.device),
        curves=[asdict(row) for row in trainer.curves] if trainer else [],
        best_epoch=trainer.best_epoch if trainer else 0,
        cost=_cost(reranker, trainer, seconds + time.perf_counter() - began, hardware, estimate),
        made=provenance(hardware),
    )
    modules = {"reranker": reranker, "generator": trainer.generator} if trainer else {}
    return record, {part: _on_cpu(module) for part, module in modules.items() if module is not None}


def _on_cpu(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in module.state_dict().items()}


def save(
    record: Record,
    weights: Weights,
    results: Path | None = None,
    runs: Path | None = None,
    group: str = "",
) -> None:
    """Write what `compute` returned: the weights, then the record, with which the run is done."""
    for part, tensors in weights.items():
        folder = (runs or RUNS) / record.run
        with replacing(folder / f"{part}.safetensors") as partial:
            save_file(tensors, partial)
    record.save((results or RESULTS) / group)


def _train(
    reranker: nn.Module,
    lists: CandidateLists,
    config: RunConfig,
    hardware: Hardware,
    checkpoint: Path | None,
    on_progress: Callable[[Progress], None],
    say: Callable[[str], None],
) -> Trainer | None:
    """Train what can be trained, from the checkpoint where there is one."""
    if not any(True for _ in reranker.parameters()):
        return None
    if checkpoint and checkpoint.exists():
        say(f"Going on from {checkpoint}")
    return train(
        reranker, lists.of_split("train"), lists.of_split("validation"), config.training,
        config.seed, hardware, checkpoint, on_progress, trainer_of(type(reranker), config.trainer),
    )  # fmt: skip


def evaluate(reranker: nn.Module, lists: CandidateLists, device: str = "cpu") -> dict[str, Any]:
    """The fields of a record that tell of the ranking: ``metrics``, ``ranked_labels`` and so on.

    Args:
        device: where the reranker is; the lists may be elsewhere.
    """
    metrics = {}
    for split in ("validation", "test"):
        part = lists.of_split(split)
        logits = score_lists(reranker, part.to(device)).to(part.labels.device)
        order = ranking(logits)
        labels, shown = part.labels.gather(1, order), part.shown.gather(1, order)
        metrics[split] = summarise(labels, shown) | {"auc_pooled": pooled_auc(logits, part.labels)}
        kinds = _rankings(reranker, part, device) if isinstance(part, BehaviourLists) else {}
        for name, ranked in kinds.items():
            metrics[split] |= of_behaviour(name, summarise(*ranked))
    packed = {name: ranked_record(*ranked) for name, ranked in kinds.items()}
    return {"metrics": metrics, **ranked_record(labels, shown), "behaviours": packed}


def _rankings(
    reranker: nn.Module, lists: BehaviourLists, device: str
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Kind of feedback -> it and the shown mask, in the order that the reranker has for it."""
    logits = score_behaviours(reranker, lists.to(device)).to(lists.labels.device)
    orders = [ranking(logit) for logit in logits.unbind(dim=2)]
    return {
        name: (labels.gather(1, order), lists.shown.gather(1, order))
        for name, labels, order in zip(
            lists.names, lists.behaviours.unbind(dim=2), orders, strict=True
        )
    }


def _describe(lists: CandidateLists) -> dict[str, Any]:
    sizes = {name: len(lists.of_split(name)) for name in ("train", "validation", "test")}
    return {
        "fingerprint": lists.fingerprint, **sizes, "candidates": lists.items.shape[1], **lists.meta
    }  # fmt: skip


def _cost(
    reranker: nn.Module,
    trainer: Trainer | None,
    seconds: float,
    hardware: Hardware,
    estimate: Estimate | None,
) -> dict[str, float | str | bool]:
    """Wall seconds of this process; speed is the median epoch's, a resumed run's too."""
    speeds = [row.lists_per_second for row in trainer.curves] if trainer else []
    several = hardware.devices > 1 and trainer is not None
    predicted = {
        "predicted_seconds": estimate.seconds, "predicted_memory_mib": estimate.memory_mib
    } if estimate else {}  # fmt: skip
    return {
        "seconds": seconds,
        "training_seconds": sum(row.seconds for row in trainer.curves) if trainer else 0.0,
        "lists_per_second": sorted(speeds)[len(speeds) // 2] if speeds else 0.0,
        # Of the processes only the largest is known: no more than so many times as much.
        "peak_memory_mib": peak_mib() + several * hardware.devices * peak_mib(RUSAGE_CHILDREN),
        **predicted,
        "parameters": sum(p.numel() for p in reranker.parameters()),
        "threads": max(1, cores() // hardware.devices) if several else torch.get_num_threads(),
        "accelerator": hardware.accelerator,
        "devices": hardware.devices,
        "precision": hardware.precision,
        "compiled": hardware.compile,
    }


def provenance(hardware: Hardware | None = None) -> dict[str, Any]:
    """When, from which commit, with what and on what."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    where = machine()
    if hardware and hardware.accelerator == "cuda":
        where += f", {hardware.devices} x {torch.cuda.get_device_name()}"
    return {"date": now, "commit": commit(), "machine": where, "versions": versions()}


def load_reranker(record: Record, lists: CandidateLists, runs: Path | None = None) -> nn.Module:
    """The trained reranker of a run.

    Raises:
        DataError: its weights are not on this machine, or do not fit the lists.
    """
    reranker = build(record.config["reranker"], lists, **record.config["options"])
    if any(True for _ in reranker.parameters()):
        weights = _weights(record, "reranker", runs)
        try:
            reranker.load_state_dict(weights)
        except RuntimeError as error:
            raise DataError(record.run, "the weights are of other users, items or n") from error
    return reranker


def load_generator(record: Record, runs: Path | None = None) -> Noise:
    """The trained noise generator of a run, as it was after the last epoch.

    Raises:
        DataError: the run had none, or its weights are not on this machine.
    """
    weights = _weights(record, "generator", runs)
    config = record.config
    generator = untrained_generator(
        config["training"], config.get("trainer", ""), config["options"]
    )
    generator.load_state_dict(weights)
    return generator


def _weights(record: Record, part: str, runs: Path | None) -> dict[str, torch.Tensor]:
    path = (runs or RUNS) / record.run / f"{part}.safetensors"
    advice = "to do the run again with `dnr train`, move its record out of results/"
    if not path.exists():
        raise DataError(path, f"the weights are not on this machine; {advice}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(path, f"the weights are damaged; {advice}") from error


# Grids of runs ----------------------------------------------------------------------------


def load_experiment(
    name: str, folder: Path | None = None, results: Path | None = None
) -> list[RunConfig]:
    """The runs of experiments/NAME.yml: every combination of the ``grid`` over the ``base``.

    A value of the grid is that of one setting (``data.protocol: [retrieved, …]``) or of several
    (``training: [{}, {lambda_m: 0.1}]``), which are then joined with the base's. Of a list of grids
    each is laid over the base, one after the other. A combination that comes to the same run as an
    earlier one is left out.

    With ``tuned: {experiment: OTHER, settings: [training.learning_rate]}`` in place of the
    ``base``, the grid is laid over the runs of another experiment: of those that differ in these
    settings alone, the one with the best recorded validation NDCG@6. ``only: {reranker: [prm]}``
    beside them takes the runs with one of these rerankers (or methods) and no others.

    Raises:
        DataError: there is no such file, it is not an experiment, or a run that it is tuned on
            has no record.
        ConfigError: it has an unknown parameter or value, is tuned on itself, or comes to no run.
    """
    return _load(name, folder or EXPERIMENTS, results, ())


def _load(
    name: str, folder: Path, results: Path | None, asking: tuple[str, ...]
) -> list[RunConfig]:
    """As `load_experiment`; ``asking`` are the experiments that are tuned on this one."""
    path = folder / f"{name}.yml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yml"))) or "none"
        raise DataError(path, f"no such experiment; there are: {known}")
    try:
        if name in asking:
            raise ConfigError(
                f"tuned.experiment: {' is tuned on '.join((*asking, name))}, so that there is "
                "nothing to begin with; name an experiment with a `base`"
            )
        content = yaml.safe_load(path.read_text("utf-8"))
        _refuse_unknown(content, ("base", "tuned", "grid"))
        if {"base", "tuned"} <= content.keys():
            raise ConfigError("`base` counts for nothing beside `tuned`: delete one of them")
        bases = (
            [content["base"]]
            if "tuned" not in content
            else _tuned(content["tuned"], folder, results, (*asking, name))
        )
        grids = content["grid"] if isinstance(content["grid"], list) else [content["grid"]]
        points = (point for grid in grids for base in bases for point in _points(base, grid))
        configs = [run_config(point) for point in points]
        if not configs:
            raise ConfigError("comes to no run: give every list of `grid` at least one value")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            path,
            "not an experiment: needs `base` (settings) or `tuned` (experiment and settings), and "
            f"`grid` (lists): {reason}",
        ) from error
    return list({hash_of(config): config for config in configs}.values())


def _points(base: Any, grid: Any) -> Iterator[dict[str, Any]]:
    """The settings of every combination; what comes from a file can be anything at all."""
    if not all(isinstance(values, list) for values in grid.values()):
        raise TypeError("a value of `grid` is not a list")
    for values in product(*grid.values()):
        yield reduce(merge, map(nested, grid, values), dict(base))


def _refuse_unknown(given: Any, known: Sequence[str], where: str = "") -> None:
    for name in given.keys() - {*known}:
        raise ConfigError(f"unknown parameter {where}{name}: choose one of {', '.join(known)}")


def _tuned(
    tuned: Any, folder: Path, results: Path | None, asking: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The settings of the best run, by validation, of each case of an experiment."""
    _refuse_unknown(tuned, ("experiment", "settings", "only"), "tuned.")
    experiment, settings = tuned["experiment"], tuned["settings"]
    configs = _only(_load(experiment, folder, results, asking), tuned.get("only", {}), experiment)
    _check_settings(settings, configs, experiment)
    records = newest(results)
    best: dict[str, tuple[float, dict[str, Any]]] = {}
    for config in configs:
        record = records.get(hash_of(config))
        if record is None:
            raise DataError(
                results or RESULTS,
                f"{config.what} has no record, and it is tuned on that: do it with "
                f"`dnr reproduce --experiment {experiment}`",
            )
        case = hash_of(reduce(lambda whole, path: merge(whole, nested(path, None)), settings,
                              plain(config)))  # fmt: skip
        found = record.metrics["validation"]["ndcg@6"], plain(config)
        best[case] = max(best.get(case, found), found, key=lambda pair: pair[0])
    return [config for _, config in best.values()]


def _only(configs: list[RunConfig], only: Any, experiment: str) -> list[RunConfig]:
    """The runs with one of the values of each of reranker and method that is given."""
    _refuse_unknown(only, ("reranker", "method"), "tuned.only.")
    for name, values in only.items():
        if not isinstance(values, list):
            raise ConfigError(f"tuned.only.{name} = {values!r}: must be a list, as in [{values}]")
        known = dict.fromkeys(getattr(config, name) for config in configs)
        if other := [str(value) for value in values if value not in known]:
            raise ConfigError(
                f"tuned.only.{name}: no run of {experiment} has {', '.join(other)}; choose from "
                f"{', '.join(known)}"
            )
    kept = [
        config
        for config in configs
        if all(getattr(config, name) in values for name, values in only.items())
    ]
    if not kept:
        raise ConfigError(f"tuned.only leaves no run of {experiment}: name what one run has")
    return kept


def _check_settings(settings: Any, configs: Sequence[RunConfig], experiment: str) -> None:
    """Each must be one of some run: else every run would be a case of its own, the best of one."""
    if not isinstance(settings, list) or not settings:
        raise ConfigError(
            f"tuned.settings = {settings!r}: must be a list, as in [training.learning_rate]"
        )
    values = [asdict(config) for config in configs]
    for path in settings:
        if not any(_has(one, path) for one in values):
            raise ConfigError(
                f"tuned.settings: no run of {experiment} has the setting {path}; give whole "
                "names, as in training.learning_rate"
            )


def _has(settings: Any, path: str) -> bool:
    """Whether there is such a setting in nested ones."""
    for name in path.split("."):
        if not isinstance(settings, Mapping) or name not in settings:
            return False
        settings = settings[name]
    return True


def newest(results: Path | None = None) -> dict[str, Record]:
    """Hash of a configuration -> its newest record."""
    records = sorted(load_records(results), key=lambda record: record.made["date"])
    return {hash_of(record.config): record for record in records}
