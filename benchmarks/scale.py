"""How preparing lists scales: time and memory, Parquet streams, large catalogues.

Each case runs in a process of its own, so that its peak memory is its own:
``python -m benchmarks.scale CASE ARGUMENTS`` prints what one case measured.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import faiss
import numpy as np
import polars as pl
import torch

from benchmarks.common import Figure, figure, seconds
from dnrlib.data import Source, prepare_log, resolve
from dnrlib.data.interactions import SCHEMA
from dnrlib.data.stream import ROWS_A_PART, Cutting, LogParts, log_in_parts
from dnrlib.prepare import DataConfig, prepare
from dnrlib.protocols import PROTOCOLS, candidate_lists
from dnrlib.retriever import (
    LEAST_STEPS,
    ExactIndex,
    FaissIndex,
    MatrixFactorisation,
    RetrieverConfig,
    fit_parts,
    plan,
)
from dnrlib.shards import candidate_shards

TOPIC = "data"
DIM = 128
ITEMS, ROWS_A_USER = 3000, 78
"""Of the simulated logs: 13 lists of 6 a user, of which the first has no history."""
BILLION = {"rows": 10**9, "users": 10**7, "items": 10**6}
LIKED = 0.6
"""The part of the simulated ratings that is at least 3."""
LARGE_BATCH = 2**20
STAGES = ("log", "lists")
HARDWARE = f"{torch.get_num_threads()} of {os.cpu_count()} cores"


def measure(quick: bool) -> list[Figure]:
    """All figures of this file; ``quick`` takes small sizes and one round."""
    catalogue, query_seconds = _catalogue(quick)
    return [*_path(quick), *_linear(quick), *_streams(quick, query_seconds), *catalogue]


# From the zip to saved lists ----------------------------------------------------------------


def _path(quick: bool) -> list[Figure]:
    dataset, _ = resolve(download=False)
    rounds = [_alone("path", dataset) for _ in range(1 if quick else 3)]
    how = f"{dataset}, {HARDWARE}"
    figures = [
        figure(
            TOPIC, f"raw data to saved lists, {name}", [one[name] for one in rounds], "s",
            f"{how}, besides training the retriever", goal=10.0, at_least=False,
        )
        for name in PROTOCOLS
    ]  # fmt: skip
    trained = [one["training"] for one in rounds]
    return [
        *figures,
        figure(TOPIC, "training the retriever", trained, "s", how, goal=20.0, at_least=False),
    ]


def path(dataset: str) -> dict[str, float]:
    """Seconds of each protocol, and of training the retriever that they share."""
    took: dict[str, float] = {}
    said: list[tuple[float, str]] = []
    with TemporaryDirectory() as cache:
        for protocol in PROTOCOLS:
            said.clear()
            began = _now()
            config = DataConfig(dataset=dataset, protocol=protocol)
            prepare(config, Path(cache), lambda text: said.append((_now(), text)))
            times = [(end - start, text) for (start, text), (end, _) in pairwise(said)]
            training = sum(time for time, text in times if text.startswith("Training"))
            took[protocol] = _now() - began - training
            took["training"] = max(training, took.get("training", 0.0))
    return took


def _now() -> float:
    return time.perf_counter()


# The cost of more lists -----------------------------------------------------------------------


def _linear(quick: bool) -> list[Figure]:
    sizes = [3000, 10_000, 30_000] if quick else [10_000, 30_000, 100_000, 300_000, 1_000_000]
    rounds = [[_alone("lists", size) for size in sizes] for _ in range(3)]
    how = f"simulated log, {ITEMS} items, shown+retrieved, d = {DIM}, {HARDWARE}"
    figures = []
    for cases in zip(*rounds, strict=True):
        name = f"{round(cases[0]['lists'], -3):,.0f} lists"
        took, memory = ([case[key] for case in cases] for key in ("seconds", "memory"))
        figures += [
            figure(TOPIC, f"preparing {name}", took, "s", how),
            figure(TOPIC, f"preparing {name}: peak memory", memory, "GB", how),
        ]
    slopes = [
        (last["memory"] - first["memory"]) / (last["lists"] - first["lists"])
        for first, *_, last in rounds
    ]
    base = median(one[0]["memory"] for one in rounds)
    room = (_machine_memory() - base) / median(slopes)
    disk = [one[-1]["disk"] / one[-1]["lists"] * 1e9 for one in rounds]
    return [
        *figures,
        figure(
            TOPIC, "exponent of seconds in lists", [_exponent(one) for one in rounds], "",
            f"{how}, {len(sizes)} sizes", goal=1.1, at_least=False,
        ),
        figure(TOPIC, "peak memory a list", [slope * 1e9 for slope in slopes], "B", how),
        figure(TOPIC, "disk a list", disk, "B", how),
        figure(
            TOPIC, "lists that fit into this machine's memory", [room / 1e6], "million",
            f"{_machine_memory():.0f} GB, computed from the peak memory a list",
        ),
    ]  # fmt: skip


def _exponent(cases: list[dict[str, float]]) -> float:
    """The slope of log seconds in log lists."""
    number, took = (np.log([case[key] for case in cases]) for key in ("lists", "seconds"))
    return float(np.polyfit(number, took, 1)[0])


def lists(count: int) -> dict[str, float]:
    """Seconds, memory (GB), disk (GB) of about so many lists, from interactions in memory."""
    users = -(-count * 6 // (ROWS_A_USER - 6))
    frame = pl.concat(list(_interactions(users * ROWS_A_USER, users, ITEMS, 1)))
    with TemporaryDirectory() as folder:
        began = _now()
        log = prepare_log(Source("simulated log", frame), core=5)
        model = _untrained(log.users, log.items)
        made = candidate_lists(log, [model], plan(log, "in-sample"), "shown+retrieved")
        made.save(file := Path(folder) / "lists.safetensors")
        took = _now() - began
        disk = file.stat().st_size / 1e9
    return {"lists": len(made), "seconds": took, "memory": _peak_memory(), "disk": disk}


def _untrained(users: int, items: int) -> MatrixFactorisation:
    torch.manual_seed(0)
    return MatrixFactorisation(users, items, DIM).requires_grad_(False)


# Interactions that do not fit into memory -----------------------------------------------------


def _streams(quick: bool, query_seconds: float) -> list[Figure]:
    sizes = (300_000, 900_000) if quick else (10_000_000, 30_000_000)
    part = 100_000 if quick else ROWS_A_PART
    small, large = (_streamed(rows, part) for rows in sizes)
    figures = []
    for rows, case in zip(sizes, (small, large), strict=True):
        how = f"simulated Parquet of {rows:,} rows, parts of {part:,}, d = {DIM}, {HARDWARE}"
        figures += [
            figure(TOPIC, "streaming: log in parts", [case["log_rate"]], "rows/s", how),
            figure(TOPIC, "streaming: candidate lists", [case["lists_rate"]], "lists/s", how),
            figure(TOPIC, "streaming: peak memory of the log", [case["log_memory"]], "GB", how),
            figure(
                TOPIC, "streaming: peak memory of the lists besides the vectors",
                [case["lists_memory"]], "GB", how,
            ),
        ]  # fmt: skip
    growth = _most_memory(large) / _most_memory(small)
    grown = figure(
        TOPIC, "streaming: growth of peak memory besides the vectors", [growth], "x",
        f"{sizes[1]:,} over {sizes[0]:,} rows", goal=1.25, at_least=False,
    )  # fmt: skip
    return [*figures, grown, *_billion(small, large, query_seconds, _alone("steps", quick))]


def _most_memory(case: dict[str, float]) -> float:
    return max(case[f"{stage}_memory"] for stage in STAGES)


def _streamed(rows: int, part: int) -> dict[str, float]:
    """Each stage in a process of its own."""
    with TemporaryDirectory() as folder:
        _alone("generate", folder, rows)
        log = _alone("stream_log", folder, rows, part)
        return {"rows": rows, **log, **_alone("stream_lists", folder)}


def generate(folder: str, rows: int) -> dict[str, float]:
    """Parquet files of a million rows, sorted by time, users at random, 100 rows a user."""
    target = Path(folder) / "source"
    target.mkdir()
    frames = _interactions(rows, rows // 100, 10_000, max(1, rows // 10**6))
    for number, frame in enumerate(frames):
        frame.write_parquet(target / f"{number:05}.parquet")
    return {}


def stream_log(folder: str, rows: int, rows_a_part: int) -> dict[str, float]:
    """Rows a second, peak memory (GB) and bytes a row."""
    source, log = Path(folder) / "source", Path(folder) / "log"
    cutting = Cutting(core=20, parts=-(-rows // rows_a_part))
    took = seconds(lambda: log_in_parts(source, log, cutting, "simulated log"))
    return {
        "log_rate": rows / took,
        "log_memory": _peak_memory(),
        "lists_a_row": sum(LogParts.load(log).lists) / rows,
        "disk_a_row": (_disk(source) + _disk(log)) / rows,
    }


def stream_lists(folder: str) -> dict[str, float]:
    """Lists a second, peak memory (GB) besides the vectors, bytes a list; of three parts."""
    parts = LogParts.load(Path(folder) / "log")
    parts = replace(parts, lists=parts.lists[:3])
    model = _untrained(parts.users, parts.items)
    config = DataConfig(dataset="simulated log", protocol="shown+retrieved", retriever="in-sample")
    shards = Path(folder) / "shards"
    took = seconds(lambda: candidate_shards(parts, [model], config, shards))
    made = sum(parts.lists)
    return {
        "lists_rate": made / took,
        "lists_memory": _peak_memory() - _vectors(parts.users, parts.items),
        "disk_a_list": _disk(shards) / made,
    }


def steps(quick: bool) -> dict[str, float]:
    """Seconds of training for each positive, and for each vector and step: Adam moves them all."""
    users = 100_000 if quick else 500_000

    def step(users: int, config: RetrieverConfig) -> float:
        times = []
        for count in (LEAST_STEPS, LEAST_STEPS, 2 * LEAST_STEPS):  # the first warms up
            pairs = torch.randint(1, users, (2, count * config.batch_size))
            times.append(seconds(lambda: fit_parts([pairs], users, users, config, 0)))  # noqa: B023
        return (times[2] - times[1]) / LEAST_STEPS

    usual = RetrieverConfig(dim=DIM, epochs=1)
    tiny = replace(usual, batch_size=16, negatives=16)
    return {
        "pair": step(1000, usual) / usual.batch_size,
        "vector": step(users, tiny) / (2 * users),
    }


def _billion(
    small: dict[str, float], large: dict[str, float], query_seconds: float, step: dict[str, float]
) -> list[Figure]:
    """What 10^9 interactions take on the cores of these measurements.

    Memory grows on as it did between the two streams, and never shrinks; a query of the large
    catalogue comes on top of what a list took in the small one.
    """
    rows, users, items = BILLION.values()
    made = rows * large["lists_a_row"]
    log_memory, memory = (_extrapolated(small, large, f"{stage}_memory") for stage in STAGES)
    pairs = rows * LIKED
    epoch = pairs * step["pair"] + pairs / LARGE_BATCH * step["vector"] * (users + items)
    values = {
        "log in parts": (rows / large["log_rate"] / 3600, "h"),
        "candidates by FAISS": (made * (1 / large["lists_rate"] + query_seconds) / 3600, "h"),
        f"an epoch of the retriever, batches of {LARGE_BATCH:,}": (epoch / 3600, "h"),
        "lists": (made / 1e6, "million"),
        "disk": ((rows * large["disk_a_row"] + made * large["disk_a_list"]) / 1e9, "GB"),
        "memory for the log": (log_memory, "GB"),
        "memory for candidates": (memory + _vectors(users, items), "GB"),
        # vectors, gradients and Adam's two moments
        "memory to train the retriever": (memory + 4 * _vectors(users, items), "GB"),
    }
    how = f"computed from the streams above: {users:,} users, {items:,} items, {HARDWARE}"
    return [
        figure(TOPIC, f"10^9 interactions: {what}", [value], unit, how)
        for what, (value, unit) in values.items()
    ]


def _extrapolated(small: dict[str, float], large: dict[str, float], what: str) -> float:
    growth = (large[what] - small[what]) / (large["rows"] - small["rows"])
    return large[what] + max(growth, 0.0) * (BILLION["rows"] - large["rows"])


def _vectors(users: int, items: int) -> float:
    """Memory of the retriever's vectors and biases, in GB."""
    return 4 * (users + items + 1) * (DIM + 1) / 1e9


# Large catalogues -----------------------------------------------------------------------------


def _catalogue(quick: bool) -> tuple[list[Figure], float]:
    """The figures, and the seconds of a query."""
    items = 100_000 if quick else 1_000_000
    figures = []
    cases = {kind: _alone("catalogue", items, kind) for kind in ("clustered", "unstructured")}
    for kind, case in cases.items():
        how = f"{items:,} simulated {kind} vectors, d = {DIM}, {HARDWARE}"
        exact = f"exact: {case['exact']:.2f} ms"
        figures += [
            figure(TOPIC, "top 50 by FAISS", [case["faiss"]], "ms", how, reference=exact),
            figure(TOPIC, "top 50 by FAISS: recall", [case["recall"]], "", how),
            figure(TOPIC, "FAISS: building the index", [case["build"]], "s", how),
            figure(TOPIC, "FAISS: size of the index", [case["size"]], "GB", how),
            figure(TOPIC, "FAISS: peak memory of all", [case["memory"]], "GB", how),
        ]
    return figures, cases["clustered"]["faiss"] / 1e3


def catalogue(items: int, kind: str, users: int = 512) -> dict[str, float]:
    """Milliseconds a user for 50 items without 20 that were met before; recall; the index."""
    model = _world(items, users, kind)
    exact = ExactIndex(model)
    some = torch.arange(users).split(32)
    nothing = torch.zeros(32, 1, dtype=torch.long)
    met = [exact.top_n(part, 20, nothing) for part in some]
    found = []

    def search(index: ExactIndex | FaissIndex) -> None:
        found.append(torch.cat([index.top_n(p, 50, m) for p, m in zip(some, met, strict=True)]))

    exact_seconds = seconds(lambda: search(exact))
    began = _now()
    index = FaissIndex(model)
    build = _now() - began
    faiss_seconds = seconds(lambda: search(index))
    memory = _peak_memory()
    return {
        "exact": exact_seconds / users * 1e3,
        "faiss": faiss_seconds / users * 1e3,
        "recall": float((found[0][:, :, None] == found[1][:, None]).any(dim=2).float().mean()),
        "build": build,
        "size": faiss.serialize_index(index._index).nbytes / 1e9,
        "memory": memory,
    }


def _world(items: int, users: int, kind: str) -> MatrixFactorisation:
    """Vectors around 2000 centres in 24 of the dimensions; or independent ones, the worst case."""
    generator = torch.Generator().manual_seed(0)
    model = _untrained(users, items)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    centres, rotation = normal(2000, 24), torch.linalg.qr(normal(DIM, 24)).Q.T
    for weight in (model.user.weight, model.item.weight):
        weight.copy_(0.1 * normal(*weight.shape))
        if kind == "clustered":
            place = torch.randint(2000, (len(weight),), generator=generator)
            weight += (centres[place] + 0.5 * normal(len(weight), 24)) @ rotation
    model.bias.weight.copy_((0.5 if kind == "clustered" else 0.15) * normal(items + 1, 1))
    return model


# Tools ----------------------------------------------------------------------------------------


def _interactions(rows: int, users: int, items: int, parts: int) -> Iterator[pl.DataFrame]:
    """Frames of about equal size, one after the other in time: popular items, users at random.

    Each part has items of its own, so that a pair of user and item occurs once in all.
    """
    rng = np.random.default_rng(0)
    for part, count in enumerate([rows // parts] * parts):
        user = rng.integers(users, size=int(count * 1.1))
        place = rng.random(len(user)) ** 1.5 * (items // parts)
        item = place.astype(np.int64) * parts + part
        first = np.sort(np.unique(user * items + item, return_index=True)[1])[:count]
        columns = {
            "user": user[first],
            "item": item[first],
            "rating": rng.integers(1, 6, size=len(first)),
            "time": part * 86_400 + np.sort(rng.integers(86_400, size=len(first))),
        }
        yield pl.DataFrame(columns).cast(SCHEMA)


def _alone(case: str, *arguments: Any) -> dict[str, float]:
    """What a case measures in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", case, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _peak_memory() -> float:
    """The most memory of this process so far, in GB.

    Linux's getrusage would count the parent's as well if that was larger.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return _status_line(status, "VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _status_line(status: Path, name: str) -> float:
    line = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e9


def _machine_memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


CASES: dict[str, Callable[..., dict[str, float]]] = {
    function.__name__: function
    for function in (path, lists, generate, stream_log, stream_lists, steps, catalogue)
}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](*json.loads(sys.argv[2]))))
