"""Where the runs of a grid are done: in processes of this machine, on a cluster, or stacked."""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from dnrlib.costs import (
    Estimate,
    Place,
    Rates,
    Work,
    keep_rates,
    known_rates,
    known_sizes,
    measure,
    note_sizes,
    predict,
    start_of,
)
from dnrlib.environment import commit, cores
from dnrlib.errors import ConfigError, DnrError
from dnrlib.experiments import (
    RUNS,
    RunConfig,
    Weights,
    compute,
    finished,
    lists_key,
    lists_of,
    recorded,
    run,
    run_name,
    save,
    work_of,
)  # fmt: skip
from dnrlib.identity import hash_of
from dnrlib.lists import CandidateLists
from dnrlib.parallel import Hardware, exit_with
from dnrlib.prepare import DataConfig
from dnrlib.records import Record
from dnrlib.rerankers import OwnLoss, build
from dnrlib.stacked import Stack
from dnrlib.training import Progress, Trainer

RETRIES = 3
"""How often Ray starts a run again whose worker or machine was lost."""
CONNECT_SECONDS = 10
LOOK_EVERY = 30
"""Seconds without a finished run after which to look whether the cluster still has room for one."""

UNKNOWN = "not known: the lists were not prepared here, and no record has their sizes"
"""What a plan says of a run of which not even the sizes are known."""

Folders = tuple[Path | None, Path | None, str]
"""``results``, ``runs`` and ``group``, as in `dnrlib.experiments.run`."""
Hook = Callable[[RunConfig, Progress], None]
Finished = Generator[tuple[RunConfig, Callable[[], Record]], None, None]
"""Runs as they end, each with a function that returns its record or raises why there is none."""


def silent(config: RunConfig, progress: Progress) -> None:
    """A hook that tells nobody."""


def _data_of(configs: list[RunConfig]) -> dict[str, DataConfig]:
    return {hash_of(config.data): config.data for config in configs}


def _successes(finished: Finished) -> Iterator[Record]:
    """The records; what went wrong is printed, and the first of it raised at the end."""
    failure: Exception | None = None
    for config, result in finished:
        outcome = _outcome(result)
        if isinstance(outcome, Record):
            yield outcome
        else:
            failure = failure or outcome
            print(f"{config.what} failed: {outcome}", file=sys.stderr)
    if failure:
        raise failure


def _outcome(result: Callable[[], Record]) -> Record | Exception:
    try:
        return result()
    except Exception as error:
        return error


# Processes of this machine ----------------------------------------------------------------


def run_locally(
    configs: list[RunConfig],
    group: str = "",
    results: Path | None = None,
    runs: Path | None = None,
    *,
    workers: int = 4,
    on_progress: Hook = silent,
) -> Iterator[Record]:
    """Do runs side by side in processes that share the cores; yields each record as it is done.

    A run that fails does not stop the others; the first failure is raised at the end. Runs that
    share lists share the cache, so lists are prepared here, one after another, first. Runs that
    have not begun are dropped when the caller stops.

    Args:
        group, results, runs: as in `dnrlib.experiments.run`.
        workers: runs at a time; `threads_each` says how many threads one has.
        on_progress: called in the process of the run, so it must be a function of a module.

    Raises:
        ConfigError, DataError, TrainingError: as preparing does, or the first run that failed.
    """
    for config in {lists_key(config): config for config in configs}.values():
        note_sizes(config.data, lists_of(config, print))
    finished = _in_processes(configs, workers, (results, runs, group), on_progress)
    with closing(finished):
        yield from _successes(finished)


def _in_processes(
    configs: list[RunConfig], workers: int, folders: Folders, on_progress: Hook
) -> Finished:
    pool = _pool(workers)
    futures = {
        pool.submit(_run, config, folders, workers, on_progress): config for config in configs
    }
    try:
        for future in as_completed(futures):
            yield futures[future], future.result
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    given = (threads_each(workers), os.getpid())
    return ProcessPoolExecutor(workers, get_context("spawn"), _begin, given)


def _begin(threads: int, parent: int) -> None:
    exit_with(parent)
    torch.set_num_threads(threads)


def _run(config: RunConfig, folders: Folders, workers: int, on_progress: Hook) -> Record:
    """Do a run; an error that cannot be pickled would take the other runs with it."""
    try:
        return run(config, *folders, on_progress=partial(on_progress, config), workers=workers)
    except Exception as error:
        if _can_be_pickled(error):
            raise
        raise DnrError(f"{type(error).__name__}: {error}") from error


def _can_be_pickled(error: Exception) -> bool:
    try:
        return isinstance(pickle.loads(pickle.dumps(error)), Exception)
    except Exception:
        return False


def threads_each(workers: int) -> int:
    """Threads of each of so many workers: a share of the cores, ``OMP_NUM_THREADS`` at most."""
    share = max(1, cores() // workers)
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(share, max(1, int(limit))) if limit.isdecimal() else share


def plan(
    configs: list[RunConfig], workers: int = 4, records: Sequence[Record] = ()
) -> list[Estimate | str]:
    """What each run would take with so many side by side here; a text says why it is not known.

    Nothing is prepared or trained; rates that are not known yet are measured, some seconds each,
    with as many processes at work as there will be.

    Args:
        records: from which to learn the sizes of lists that were not prepared here.
    """
    place = Place(Hardware(), threads_each(workers), workers)
    sizes = {key: known_sizes(data, records) for key, data in _data_of(configs).items()}
    works = [
        (work_of(config, size), start) if size else None
        for config in configs
        for size, start in [sizes[hash_of(config.data)]]
    ]
    kinds = {hash_of(work.kind): work for work, _ in filter(None, works)}
    known = _rates_of(kinds, place)
    return [_planned(known, place, *work) if work else UNKNOWN for work in works]


def _planned(
    known: dict[str, Rates | str], place: Place, work: Work, start_mib: float | None
) -> Estimate | str:
    found = known[hash_of(work.kind)]
    if isinstance(found, str):
        return found
    start_mib = max(start_mib or 0.0, start_of(work.sizes))
    return predict(work, found, place, start_mib=start_mib)


def _rates_of(kinds: dict[str, Work], place: Place) -> dict[str, Rates | str]:
    known: dict[str, Rates | str] = {
        key: found for key, work in kinds.items() if (found := known_rates(work, place))
    }
    if missing := {key: work for key, work in kinds.items() if key not in known}:
        print(f"Measuring {len(missing)} kinds of runs on this machine", file=sys.stderr)
        tasks = [*missing.values()]
        # The last once more for each other worker: it too is measured while all are at work.
        tasks += tasks[-1:] * (place.workers - 1)
        with _pool(place.workers) as pool:
            measured = pool.map(_rates_or_why, tasks, [place] * len(tasks))
            # Each is kept as it comes, so that a plan that is stopped goes on from there.
            for number, (key, outcome) in enumerate(zip(missing, measured, strict=False), start=1):
                known[key] = outcome
                if isinstance(outcome, Rates):
                    keep_rates(missing[key], place, outcome)
                print(f"[{number}/{len(missing)}] {_kind(missing[key])}", file=sys.stderr)
    return known


def _kind(work: Work) -> str:
    """A few words for people; two kinds can have the same."""
    return (
        f"{work.reranker}, noise {work.training.noise}, generator {work.training.generator}, "
        f"{work.sizes.items:,} items, batches of {work.batch}"
    )


def _rates_or_why(work: Work, place: Place) -> Rates | str:
    try:
        return measure(work, place.hardware)
    except DnrError as error:
        return f"not known: {error}"


# A Ray cluster ----------------------------------------------------------------------------


def run_on_ray(
    configs: list[RunConfig],
    group: str = "",
    results: Path | None = None,
    runs: Path | None = None,
    *,
    address: str | None = None,
    cpus_per_run: float = 1.0,
    gpus_per_run: float = 0.0,
    on_progress: Hook = silent,
) -> Iterator[Record]:
    """Do runs as tasks of a Ray cluster; yields each record as it is done.

    The lists are prepared here and travel to the workers; record and weights travel back and are
    written here. So a worker needs dnrlib with the same code, but neither data nor folders.

    A run whose worker or machine is lost is done again elsewhere, up to `RETRIES` times. It goes
    on from its last epoch where the folder ``runs`` is seen at the same path, as on a shared file
    system, and starts over where it is not. A run that fails by itself is not repeated and does
    not stop the others; the first failure is raised at the end. What is under way when the caller
    stops is cancelled.

    Args:
        group, results, runs: as in `dnrlib.experiments.run`.
        address: of the cluster: HOST:PORT, or ``auto`` for that to which this machine belongs.
            None starts Ray on this machine for as long as the runs take. If this process is
            connected to Ray already, that is used.
        cpus_per_run: cores of a run, and its threads (one for a part of a core).
        gpus_per_run: GPUs of a run, such as 0.25 where four runs share one; 0 trains on the CPU.
        on_progress: called in the worker of the run, which must be able to import it.

    Raises:
        ConfigError: Ray is not installed; nothing answers at the address; no machine of the
            cluster has what a run wants; dnrlib has other code there.
        ConfigError, DataError, TrainingError: as preparing does, or the first run that failed.
        DnrError: the workers of a run were lost too often.
    """
    ray = _ray()
    wanted = _wanted(cpus_per_run, gpus_per_run)
    unlike = {lists_key(config): config for config in configs}
    lists = {key: lists_of(config, print) for key, config in unlike.items()}
    todo: dict[str, RunConfig] = {}
    for config in configs:
        name = run_name(config, lists[lists_key(config)])
        if record := recorded(name, results):
            yield record
        else:
            todo[name] = config
    if not todo:
        return
    with _connected(ray, address):
        if lack := _lack(ray, wanted):
            raise ConfigError(lack)
        # Once for all runs that share them; a machine that does several fetches them once.
        there = {key: ray.put(lists[key]) for key in map(lists_key, todo.values())}
        tasks = _as_tasks(ray, todo, there, wanted, (results, runs, group), on_progress)
        with closing(tasks):
            yield from _successes(tasks)


def map_on_ray(
    function: Callable[..., Any],
    shared: Any,
    tasks: Sequence[tuple[Any, ...]],
    *,
    address: str | None = None,
    cpus: float = 1.0,
) -> Iterator[Any]:
    """``function(shared, *task)`` of each task, in their order, as tasks of a Ray cluster.

    What is shared travels once to each machine. A task whose worker is lost is done again, up to
    `RETRIES` times; what is under way when the caller stops is cancelled.

    Args:
        function: of a module that the workers have.
        address: as in `run_on_ray`.
        cpus: cores of a task.

    Raises:
        ConfigError: as `run_on_ray` does; besides, whatever the function raises.
        DnrError: the workers of a task were lost too often.
    """
    ray, wanted = _ray(), _wanted(cpus, 0)
    with _connected(ray, address):
        if lack := _lack(ray, wanted):
            raise ConfigError(lack)
        there = ray.put(shared)
        remote = ray.remote(function).options(
            num_cpus=wanted["CPU"], max_retries=RETRIES, retry_exceptions=[ray.exceptions.RayError]
        )
        begun = [remote.remote(there, *task) for task in tasks]
        try:
            for one in begun:
                yield _fetch(ray, one)
        finally:
            for left in begun:
                ray.cancel(left)


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError("engine = 'ray' needs Ray: pip install 'dnrlib[ray]'") from error


def _wanted(cpus: float, gpus: float) -> dict[str, float]:
    """Ray's names of what a run takes; Ray counts in steps of 1/10,000."""
    if not 0.0001 <= cpus < float("inf"):
        raise ConfigError(f"cpus_per_run = {cpus}: must be positive")
    if not 0 <= gpus < float("inf") or (gpus > 1 and gpus % 1):
        raise ConfigError(f"gpus_per_run = {gpus}: must be 0, a part of 1, or a whole number")
    return {"CPU": round(cpus, 4), "GPU": round(gpus, 4)}


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Ray at the address, or started here; what was there before is still there after."""
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves this machine
        options |= {"num_cpus": cores(), "include_dashboard": False}
    elif address != "auto":
        _check_answer(address)
    try:
        ray.init(address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        what = f"address = {address!r}: no connection to Ray" if address else "Ray does not start"
        raise ConfigError(f"{what}: {' '.join(str(error).split())}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answer(address: str) -> None:
    """Ray itself would wait for more than ten minutes for a cluster that is not there."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"address = {address!r}: must be auto or HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"address = {address!r}: nothing answers there ({error})") from error


def _lack(ray: Any, wanted: dict[str, float]) -> str:
    """Why no machine of the cluster could do a run, were it idle; empty if one could."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for machine in machines:
        if all(machine.get(name, 0) >= amount for name, amount in wanted.items()):
            return ""
    has = "; ".join(sorted(_amounts({name: m.get(name, 0) for name in wanted}) for m in machines))
    return f"a run takes {_amounts(wanted)}, but no machine of the Ray cluster has these: {has}"


def _amounts(resources: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _as_tasks(
    ray: Any,
    todo: dict[str, RunConfig],
    lists: dict[str, Any],
    wanted: dict[str, float],
    folders: Folders,
    on_progress: Hook,
) -> Finished:
    task = ray.remote(_compute)
    options = {
        "num_cpus": wanted["CPU"], "num_gpus": wanted["GPU"], "max_retries": RETRIES,
        # Besides lost workers; a run's own code raises none of these.
        "retry_exceptions": [ray.exceptions.RayError],
    }  # fmt: skip
    checkpoints = (folders[1] or RUNS).resolve()
    checkpoints.mkdir(parents=True, exist_ok=True)
    pending = {}
    for name, config in todo.items():
        given = (config, lists[lists_key(config)], config.code, wanted)
        begun = task.options(name=name, **options)
        pending[begun.remote(*given, checkpoints / name, on_progress)] = config
    made_of = commit()
    try:
        while pending:
            ready, _ = ray.wait([*pending], timeout=LOOK_EVERY)
            if not ready and (lack := _lack(ray, wanted)):
                print(f"Waiting: {lack}", file=sys.stderr)
            for done in ready:
                yield pending.pop(done), partial(_collect, ray, done, made_of, folders)
    finally:
        for left in pending:
            ray.cancel(left)


def _compute(
    config: RunConfig,
    lists: CandidateLists,
    code: str,
    wanted: dict[str, float],
    folder: Path,
    on_progress: Hook,
) -> tuple[Record, Weights]:
    """A run, in a worker; what it is retried with is in ``folder`` if the worker can see that."""
    if config.code != code:
        raise ConfigError(f"dnrlib on {socket.gethostname()} has other code than here")
    if wanted["GPU"] and not torch.cuda.is_available():
        raise ConfigError(f"gpus_per_run > 0, but torch on {socket.gethostname()} finds no GPU")
    torch.set_num_threads(max(1, int(wanted["CPU"])))
    shared = os.access(folder.parent, os.W_OK)
    checkpoint = folder / "checkpoint.pt" if shared else None
    hardware = Hardware("cuda" if wanted["GPU"] else "cpu")
    return compute(config, lists, checkpoint, hardware, partial(on_progress, config))


def _fetch(ray: Any, done: Any) -> Any:
    """What a task returned, or raised."""
    try:
        return ray.get(done)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, ray.exceptions.RayError):
            cause = DnrError(f"Ray could not do it: {str(cause).splitlines()[0]}")
        raise cause from error


def _collect(ray: Any, done: Any, made_of: str, folders: Folders) -> Record:
    """Write what a task returned; the worker does not know the commit, but has its code."""
    results, runs, group = folders
    record, weights = _fetch(ray, done)
    record = replace(record, made=record.made | {"commit": made_of})
    save(record, weights, results, runs, group)
    for half in ((runs or RUNS) / record.run).glob("*.part"):  # of workers that were killed
        half.unlink(missing_ok=True)
    return record


# Several seeds at once on one device --------------------------------------------------------


def run_stacked(
    configs: list[RunConfig],
    group: str = "",
    results: Path | None = None,
    runs: Path | None = None,
    *,
    accelerator: str = "cpu",
) -> Iterator[Record]:
    """Train runs that differ in their seeds alone at once, with stacked parameters.

    It pays on a GPU; on a CPU `run_locally` is faster. What cannot be stacked (nothing to train, a
    loss of its own, the exact estimator, patience, another trainer) is done run by run. A stack
    leaves no checkpoint: when it is interrupted, its runs begin again.

    Raises:
        ConfigError, DataError, TrainingError: as preparing and training do.
    """
    hardware = Hardware(accelerator)
    alike: dict[str, list[RunConfig]] = {}
    for config in configs:
        alike.setdefault(hash_of(replace(config, seed=0)), []).append(config)
    for one, *others in alike.values():
        lists = lists_of(one, print)
        todo = []
        for config in (one, *others):
            if record := recorded(run_name(config, lists), results):
                yield record
            else:
                todo.append(config)
        if len(todo) < 2 or not _can_be_stacked(todo[0], lists):
            for config in todo:
                yield run(config, results, runs, group, hardware=hardware)
            continue
        for record, weights in _stack(todo, lists, hardware):
            save(record, weights, results, runs, group)
            yield record


def _can_be_stacked(config: RunConfig, lists: CandidateLists) -> bool:
    if config.trainer:
        return False
    reranker = build(config.reranker, lists, **config.options)
    trained = any(True for _ in reranker.parameters()) and not isinstance(reranker, OwnLoss)
    exact = config.training.estimator == "exact" and config.training.noise != "none"
    return trained and not exact and not config.training.patience


def _stack(
    configs: list[RunConfig], lists: CandidateLists, hardware: Hardware
) -> Iterator[tuple[Record, Weights]]:
    began = time.perf_counter()
    here = lists.to(hardware.device)
    parts = here.of_split("train"), here.of_split("validation")
    trainers = []
    for config in configs:
        torch.manual_seed(config.seed)
        reranker = build(config.reranker, lists, **config.options).to(hardware.device)
        trainers.append(Trainer(reranker, *parts, config.training, config.seed))
    Stack(trainers).run()
    share = (time.perf_counter() - began) / len(configs)
    for config, trainer in zip(configs, trainers, strict=True):
        yield finished(config, lists, trainer.reranker, trainer, share, hardware)


ENGINES: dict[str, Callable[..., Iterator[Record]]] = {
    "local": run_locally,
    "ray": run_on_ray,
    "stacked": run_stacked,
}
"""Name -> generator that does the configurations it is given; the options differ."""
