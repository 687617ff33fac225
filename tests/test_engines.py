"""The runs of a grid are done on every engine once, whatever is lost on the way."""

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from dnrlib import engines
from dnrlib.costs import Rates, note_sizes
from dnrlib.engines import plan, run_locally, run_on_ray, threads_each
from dnrlib.errors import ConfigError, DataError, DnrError
from dnrlib.experiments import compute, merge, run_config, run_name
from dnrlib.identity import hash_of, plain
from dnrlib.prepare import prepare
from dnrlib.records import Record, load_records

SETTINGS = {
    "data": {
        "dataset": "simulated",
        "retriever": "noisy-truth",
        "train_lists": 200,
        "evaluation_lists": 50,
    },
    "options": {"dim": 8, "layers": 1, "feed_forward": 8},
    "training": {"epochs": 3, "lambda_e": 1},
}
RATES = {"prm": Rates(0.1, 0.2, 0.0, 1.0, 5.0, 9.0), "score": Rates(0.0, 0.0, 0.0, 1.0, 0.0, 0.0)}
RAY_LEAVES_OPEN = (
    "ignore::ResourceWarning",
    "ignore::FutureWarning:ray",
    "ignore::DeprecationWarning:ray",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


def configured(**settings):
    return run_config(merge(SETTINGS, settings))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which the lists are prepared."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(configured().data, folder)
    return folder


@pytest.fixture(autouse=True)
def workplace(prepared, tmp_path, monkeypatch):
    """An empty folder for records and checkpoints, with the prepared lists; one thread a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(prepared, tmp_path / "data/prepared")
    return tmp_path


def name_of(config):
    return run_name(config, prepare(config.data))


def left_behind(folder):
    """The files of a grid, without those of the lists."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path for path in files if path.parts[0] in ("results", "runs")}


def written(config, weights=("reranker",)):
    """The files of a run."""
    name = name_of(config)
    parts = [Path(f"runs/{name}/{part}.safetensors") for part in weights]
    return {Path(f"results/group/{name}.json"), Path(f"runs/{name}/checkpoint.pt"), *parts}


def same(record):
    """What must not depend on where a run was done, or on how often it was begun."""
    fields = asdict(record)
    cost, made = fields.pop("cost"), fields.pop("made")
    curves = [
        {key: row[key] for key in ("epoch", "phase", "losses", "validation")}
        for row in fields.pop("curves")
    ]
    return fields, curves, cost["parameters"], cost["threads"], made["commit"], made["versions"]


# On this machine --------------------------------------------------------------------------


def break_off(config, progress):
    """An error of more than a text, which has to go through a pipe."""
    if config.seed == 2:
        raise DataError("some file", f"broken off in epoch {progress.epoch}", 3)


def linger(folder, config, progress):
    """A run that says who does it and then takes long."""
    (folder / f"{os.getpid()}.pid").touch()
    time.sleep(0.2)


GRID = """
from functools import partial
from pathlib import Path
from test_engines import configured, linger
from dnrlib.engines import run_locally

if __name__ == "__main__":
    configs = [configured(seed=seed, training={"epochs": 1000}) for seed in range(4)]
    list(run_locally(configs, workers=2, on_progress=partial(linger, Path.cwd())))
"""


class PickyError(Exception):
    """Pickle would make it again from its text alone, and fail."""

    def __init__(self, epoch, more):
        super().__init__(f"broken off in epoch {epoch}")


def break_off_badly(config, progress):
    """An error that cannot go through a pipe."""
    if config.seed == 2:
        raise PickyError(progress.epoch, "and more")


def test_stacked_seeds_leave_the_records_that_other_engines_find(tmp_path, monkeypatch):
    grid = [
        configured(method=method, seed=seed)
        for method in ("score", "concat", "noise-G")
        for seed in (0, 1, 2)
    ]
    grid = list({hash_of(config): config for config in grid}.values())
    records = list(engines.run_stacked(grid, "group"))
    assert [record.config for record in records] == [plain(config) for config in grid]
    for record in records:
        saved = Record.load(tmp_path / f"results/group/{record.run}.json")
        assert (saved.metrics, saved.cost) == (record.metrics, record.cost)
        if record.best_epoch:
            assert (tmp_path / f"runs/{record.run}/reranker.safetensors").exists()
            assert len(record.curves) == record.config["training"]["epochs"]
    assert len({record.metrics["test"]["ndcg@6"] for record in records[1:4]}) == 3
    monkeypatch.setattr(engines, "Stack", None)  # nothing is trained again
    assert [r.run for r in engines.run_stacked(grid, "group")] == [r.run for r in records]
    alone = compute(grid[1], prepare(grid[1].data))[0]
    assert alone.metrics["test"]["ndcg@6"] == pytest.approx(
        records[1].metrics["test"]["ndcg@6"], abs=0.1
    )


def test_what_cannot_be_stacked_is_done_run_by_run(tmp_path):
    exact = {"noise": "gaussian", "estimator": "exact"}
    grid = [configured(training=exact, seed=seed) for seed in (0, 1)]
    records = list(engines.run_stacked(grid, "group"))
    assert [record.config["training"]["estimator"] for record in records] == ["exact"] * 2


@pytest.mark.slow
def test_an_error_that_cannot_be_pickled_does_not_take_the_other_runs_with_it(tmp_path):
    configs = [configured(seed=2), configured(method="score")]
    with pytest.raises(DnrError, match="PickyError: broken off in epoch 1"):
        list(run_locally(configs, "group", workers=1, on_progress=break_off_badly))
    (record,) = load_records(tmp_path / "results/group")
    assert record.method == "score"


@pytest.mark.slow
def test_a_failing_run_does_not_lose_the_others(tmp_path, capfd):
    configs = [configured(method="score"), configured(options={"heads": 3}), configured(seed=1)]
    with pytest.raises(ConfigError, match="dim = 8 is not a multiple of heads = 3"):
        list(run_locally(configs, "group", workers=2))
    names = sorted(record.run for record in load_records(tmp_path / "results/group"))
    assert len(names) == 2
    failure = "concat (simulated, shown+sampled, noisy-truth scores, seed 0) failed: dim = 8"
    assert failure in capfd.readouterr().err
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("results/group/*"))]
    configs = [configs[0], configs[2], configured(seed=2)]
    again = []
    with pytest.raises(DataError, match="some file, line 3: broken off in epoch 1") as error:
        again += run_locally(configs, "group", workers=1, on_progress=break_off)
    assert (error.value.path, error.value.line) == ("some file", 3)
    assert len(again) == 2
    assert times == [p.stat().st_mtime_ns for p in sorted(tmp_path.glob("results/group/*"))]


def alive(process):
    """Whether a process is there and does something: one that ended may still be listed."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_grid_leaves_no_process_running(tmp_path, kind):
    (tmp_path / "grid.py").write_text(GRID)
    here = str(Path(__file__).parent)
    grid = subprocess.Popen([sys.executable, "grid.py"], env={**os.environ, "PYTHONPATH": here})
    wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert all(alive(worker) for worker in workers)
    grid.send_signal(kind)
    assert grid.wait() == -kind
    wait_for(lambda: not any(alive(worker) for worker in workers), seconds=20)


def test_a_plan_predicts_without_preparing_or_training(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "lists_of", lambda *_, **__: pytest.fail("prepared"))
    monkeypatch.setattr(engines, "known_rates", lambda work, place: RATES.get(work.reranker))
    configs = [configured(), configured(seed=1), configured(method="score")]
    assert plan(configs, 2) == [engines.UNKNOWN] * 3
    note_sizes(configs[0].data, prepare(configs[0].data))
    first, second, baseline = plan(configs, 2)
    assert first == second
    assert first.seconds == pytest.approx(5 + 200 * 3 * 0.1 + 100)
    assert baseline.seconds == pytest.approx(100)
    assert first.memory_mib > baseline.memory_mib > 100
    assert left_behind(tmp_path) == set()


@pytest.mark.slow
def test_a_plan_measures_what_is_not_known_once_and_says_what_cannot_be(tmp_path, capfd):
    configs = [configured(), configured(options={"heads": 3}), configured(seed=1)]
    note_sizes(configs[0].data, prepare(configs[0].data))
    first, impossible, again = plan(configs, 2)
    assert first == again
    assert first.seconds > 0
    assert impossible == "not known: dim = 8 is not a multiple of heads = 3"
    said = capfd.readouterr().err
    assert "Measuring 2 kinds of runs" in said
    assert [line.split(",")[0] for line in said.splitlines() if line.startswith("[")] == [
        "[1/2] prm", "[2/2] prm",
    ]  # fmt: skip
    assert plan(configs[::2], 2) == [first, again]
    assert "Measuring" not in capfd.readouterr().err


def test_the_cores_are_shared_and_the_user_may_want_fewer(monkeypatch):
    monkeypatch.setattr(engines, "cores", lambda: 8)
    for limit, threads in {"": 4, "3": 3, "9": 4, "2,1": 2, "0": 1, "many": 4}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
        assert threads_each(2) == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [threads_each(workers) for workers in (1, 3, 8, 9)] == [8, 2, 1, 1]


def test_only_cores_that_this_process_may_use_count(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    assert engines.cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert engines.cores() == os.cpu_count()


def test_computing_writes_nothing_but_the_checkpoint(tmp_path):
    config = configured(method="DNR-B")
    record, weights = compute(config, prepare(config.data))
    assert left_behind(tmp_path) == set()
    assert weights.keys() == {"reranker", "generator"}
    again, _ = compute(config, prepare(config.data), tmp_path / "runs/checkpoint.pt")
    assert left_behind(tmp_path) == {Path("runs/checkpoint.pt")}
    assert same(again) == same(record)


# On a Ray cluster -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """Ray on loopback: a head that does no runs, and one machine with one core."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)  # Ray sets its own
    quick = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 200}
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=0, include_dashboard=False, _system_config=quick)
        cluster.add_node(num_cpus=1)
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        signal.signal(signal.SIGTERM, handler)
        gc.collect()


def note(folder, held, config, progress):
    """Append a line for each epoch that is trained; the run of seed `held` waits in its second."""
    import ray

    if progress.validation is not None:
        return
    node = ray.get_runtime_context().get_node_id()
    with (folder / "notes.jsonl").open("a") as file:
        file.write(json.dumps([config.seed, progress.epoch, node, os.getpid()]) + "\n")
    until = time.monotonic() + 60
    while config.seed == held and progress.epoch == 2 and time.monotonic() < until:
        if (folder / "go").exists():
            return
        time.sleep(0.05)


def notes(folder):
    path = folder / "notes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def kill_machine_of(seed, cluster, folder):
    """Kill, without a word, the machine on which the run of a seed is in its second epoch."""
    wait_for(lambda: any(row[:2] == [seed, 2] for row in notes(folder)))
    ((machine, process),) = {
        (node, pid) for number, _, node, pid in notes(folder) if number == seed
    }
    (node,) = (node for node in cluster.worker_nodes if node.node_id == machine)
    cluster.remove_node(node, allow_graceful=False)
    with suppress(ProcessLookupError):  # workers outlive their machine's other processes a little
        os.kill(process, signal.SIGKILL)
    (folder / "go").touch()
    return machine


@pytest.mark.slow
@pytest.mark.filterwarnings(*RAY_LEAVES_OPEN)
def test_a_lost_machine_loses_no_run_and_repeats_none(cluster, tmp_path):
    cluster.add_node(num_cpus=1)
    configs = [configured(seed=seed, method="DNR-B") for seed in range(5)]
    hook = partial(note, tmp_path, 2)
    finished = run_on_ray(configs, "group", address=cluster.address, on_progress=hook)
    records = [next(finished), next(finished)]
    before = {record.seed for record in records}
    assert 2 not in before
    lost = kill_machine_of(2, cluster, tmp_path)
    records += finished

    # Every record is there, whole, and the same as this machine's.
    assert sorted(record.seed for record in records) == [0, 1, 2, 3, 4]
    weights = ("reranker", "generator")
    files = set.union(*(written(config, weights) for config in configs))
    assert left_behind(tmp_path) - {Path("notes.jsonl")} == files
    here = tmp_path / "here"
    locally = run_locally(configs, "group", here / "results", here / "runs", workers=1)
    for record in locally:
        path = Path(f"results/group/{record.run}.json")
        assert same(Record.load(path)) == same(Record.load(here / path))
        for part in weights:
            path = Path(f"runs/{record.run}/{part}.safetensors")
            ours, theirs = load_file(path), load_file(here / path)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    # Nothing was done twice but the epoch in which the machine was lost.
    trained = {seed: [row[1] for row in notes(tmp_path) if row[0] == seed] for seed in range(5)}
    assert trained.pop(2) == [1, 2, 2, 3]
    assert all(epochs == [1, 2, 3] for epochs in trained.values())
    machines = {(seed, node) for seed, _, node, _ in notes(tmp_path)}
    assert len(machines) == 6
    assert lost in {node for seed, node in machines if seed in before}

    # A second time nothing is done, and Ray is not even asked.
    times = {path: path.stat().st_mtime_ns for path in files}
    count = len(notes(tmp_path))
    again = run_on_ray(configs, "group", address="nowhere:1", on_progress=hook)
    assert [record.seed for record in again] == [0, 1, 2, 3, 4]
    assert {path: path.stat().st_mtime_ns for path in files} == times
    assert len(notes(tmp_path)) == count


def note_and_fail(folder, config, progress):
    """The run of seed 0 fails in its second epoch; that of seed 3 loses its process there."""
    note(folder, None, config, progress)
    if progress.epoch == 2 and config.seed == 0:
        raise ValueError("no luck")
    if progress.epoch == 2 and config.seed == 3:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.filterwarnings(*RAY_LEAVES_OPEN)
def test_only_a_lost_worker_is_a_reason_to_try_again(cluster, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(engines, "RETRIES", 1)
    failing = [configured(seed=seed) for seed in (0, 1, 2, 3)]
    failing[1] = configured(seed=1, options={"heads": 3})
    damaged = tmp_path / "runs" / name_of(failing[2]) / "checkpoint.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"damaged")
    fine = [configured(seed=4), configured(method="score")]
    hook, records = partial(note_and_fail, tmp_path), []
    grid = run_on_ray(failing + fine, "group", address=cluster.address, on_progress=hook)
    with pytest.raises(Exception, match=r".") as error:
        records += grid
    names = {name_of(config) for config in fine}
    assert {record.run for record in records} == names
    assert {path.stem for path in tmp_path.glob("results/group/*")} == names
    failures = dict(re.findall(r"seed (\d)\) failed: (.*)", capfd.readouterr().err))
    assert str(error.value) in failures.values()
    assert failures["0"] == "no luck"
    assert failures["1"] == "dim = 8 is not a multiple of heads = 3"
    assert re.match(r"/.*/runs/.*/checkpoint\.pt: not a checkpoint", failures["2"])
    assert failures["3"].startswith("Ray could not do it: ")
    epochs = {seed: [row[1] for row in notes(tmp_path) if row[0] == seed] for seed in range(5)}
    assert epochs == {0: [1, 2], 1: [], 2: [], 3: [1, 2, 2], 4: [1, 2, 3]}


@pytest.mark.slow
@pytest.mark.filterwarnings(*RAY_LEAVES_OPEN)
def test_a_caller_who_stops_leaves_nothing_running_but_their_own_ray(cluster, tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(cluster.address, log_to_driver=False)
    try:
        configs = [configured(seed=seed) for seed in range(4)]
        finished = run_on_ray(configs, on_progress=partial(note, tmp_path, None))
        first = next(finished)
        finished.close()
        assert ray.is_initialized()
        for _ in range(600):  # what had begun may take a while to end
            if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
                break
            time.sleep(0.1)
        else:
            pytest.fail("something is still running")
        # nobody has begun the last one, though there was room for it
        assert {row[0] for row in notes(tmp_path)} < {0, 1, 2, 3}
        assert [record.run for record in load_records()] == [first.run]
    finally:
        ray.shutdown()


def test_while_no_machine_has_room_the_grid_waits_and_says_so(tmp_path, capfd):
    answers = iter([([], ["run"]), (["run"], [])])
    task = SimpleNamespace(remote=lambda *_: "run")
    ray = SimpleNamespace(
        remote=lambda _: SimpleNamespace(options=lambda **_: task),
        wait=lambda *_, **__: next(answers),
        exceptions=SimpleNamespace(RayError=Exception),
        nodes=lambda: [{"Alive": False, "Resources": {"CPU": 8}}],
    )
    config, wanted = configured(), {"CPU": 1.0, "GPU": 0.0}
    lists = {hash_of(config.data): "lists"}
    ((done, _),) = engines._as_tasks(
        ray, {"some": config}, lists, wanted, (None, None, ""), engines.silent
    )
    assert done == config
    assert capfd.readouterr().err.startswith("Waiting: a run takes 1 CPU and 0 GPU, but no machine")


def test_a_worker_without_the_folder_leaves_nothing_and_other_code_is_refused(tmp_path):
    config, nowhere = configured(), tmp_path / "nosuch/runs/some"
    one_core = {"CPU": 1.0, "GPU": 0.0}
    lists = prepare(config.data)
    engines._compute(config, lists, config.code, one_core, nowhere, engines.silent)
    assert left_behind(tmp_path) == set()
    assert not nowhere.parent.exists()
    with pytest.raises(ConfigError, match="dnrlib on .* has other code than here"):
        engines._compute(config, lists, "other", one_core, nowhere, engines.silent)


@pytest.mark.filterwarnings(*RAY_LEAVES_OPEN)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpus_per_run": 64}, "64 CPU and 0 GPU, but no machine .*: 0 CPU and 0 GPU; 1 CPU"),
        ({"gpus_per_run": 0.5}, "a run takes 1 CPU and 0.5 GPU, but no machine of the Ray cluster"),
    ],
)
def test_a_cluster_without_room_for_a_run_is_refused(cluster, options, message):
    with pytest.raises(ConfigError, match=message):
        next(run_on_ray([configured()], address=cluster.address, **options))


@pytest.mark.filterwarnings(*RAY_LEAVES_OPEN)
def test_a_gpu_that_torch_does_not_find_is_named(cluster):
    machine = cluster.add_node(num_cpus=1, num_gpus=1)
    with pytest.raises(ConfigError, match="gpus_per_run > 0, but torch on .* finds no GPU"):
        next(run_on_ray([configured()], address=cluster.address, gpus_per_run=0.5))
    cluster.remove_node(machine)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpus_per_run": 0.0}, "cpus_per_run = 0.0: must be positive"),
        ({"cpus_per_run": float("nan")}, "cpus_per_run = nan: must be positive"),
        ({"gpus_per_run": -1.0}, "gpus_per_run = -1.0: must be 0, a part of 1, or a whole number"),
        ({"gpus_per_run": 1.5}, "gpus_per_run = 1.5: must be"),
        ({"address": "nowhere"}, "address = 'nowhere': must be auto or HOST:PORT"),
        ({"address": "127.0.0.1:1"}, "address = '127.0.0.1:1': nothing answers there"),
    ],
)
def test_wrong_options_are_named_at_once(options, message):
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=message):
        next(run_on_ray([configured()], **options))


def test_without_ray_the_way_to_install_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"engine = 'ray' needs Ray: pip install 'dnrlib\[ray\]'"):
        next(run_on_ray([configured()]))


@pytest.mark.slow
def test_without_an_address_ray_starts_here(tmp_path):
    """In a process of its own: Ray does not stand two clusters in the life of one."""
    pytest.importorskip("ray")
    base = {"data": SETTINGS["data"]}
    grid = {"method": ["score", "score-reversed"]}
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/tiny.yml").write_text(json.dumps({"base": base, "grid": grid}))
    command = ["reproduce", "--experiment", "tiny", "--engine", "ray", "--cpus-per-run", "0.5"]
    done = subprocess.run(
        [sys.executable, "-m", "dnrlib.cli", *command], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"\[2/2\] simulated.*: test NDCG@6 0\.\d{4}, .* MiB\n$", done.stdout)
    assert {record.cost["threads"] for record in load_records()} == {1}
