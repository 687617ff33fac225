"""What is measured on the weights of recorded runs, where their records do not say it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from dnrlib.comparisons import recorded
from dnrlib.distances import Sample, distances, floor
from dnrlib.errors import ConfigError, DataError
from dnrlib.experiments import RUNS, RunConfig, compute, load_generator, load_reranker, provenance
from dnrlib.files import replacing
from dnrlib.identity import from_dict
from dnrlib.lists import CandidateLists
from dnrlib.metrics import pooled_auc
from dnrlib.noise import BetaNoise, GaussianNoise, MLPNoise, Noise
from dnrlib.prepare import DataConfig, prepare
from dnrlib.records import Record

MEASUREMENTS = Path("measurements")
SAME_RUN = 0.01
"""A run done again is the same if its test NDCG@6 differs from the record by no more than this."""

Row = dict[str, Any]
Measure = Callable[[Record, CandidateLists, nn.Module, MLPNoise | None], list[Row]]


@dataclass(frozen=True)
class Measurement:
    """One measure of every run of an experiment.

    Args:
        runs: of each run its name, method, seed, data fingerprint (``data``), hash of the code
            that trained it (``code``), and ``rows``, what was measured.
        made: date, commit, machine, versions.
    """

    experiment: str
    what: str
    runs: list[dict[str, Any]]
    made: dict[str, Any]

    def rows(self) -> list[Row]:
        """The rows of all runs, each with the method and the seed of its run."""
        return [
            {"method": run["method"], "seed": run["seed"], **row}
            for run in self.runs
            for row in run["rows"]
        ]


# Measures ---------------------------------------------------------------------------------


def heuristic_noises(lambda_c: float) -> dict[str, Noise]:
    """The paper's two noises without parameters, N(0, 1) and Beta(0.5, 0.5)."""
    return {"Gaussian": GaussianNoise(lambda_c), "Beta": BetaNoise(lambda_c)}


def by_label(lists: CandidateLists, scores: torch.Tensor) -> dict[str, Sample]:
    """The noise x - z of real or synthetic scores: pooled, given z = 0 and given z = 1.

    Raises:
        ConfigError: no candidate has one of the labels.
    """
    noise = (scores.detach().double() - lists.labels.double()).numpy()
    labels, users = lists.labels.numpy(), lists.users.numpy()
    return {
        "pooled": Sample(noise, users=users),
        "z = 0": Sample(noise, ~labels, users),
        "z = 1": Sample(noise, labels, users),
    }


def noise(
    record: Record, lists: CandidateLists, reranker: nn.Module, generator: MLPNoise | None
) -> list[Row]:
    """How far each synthetic noise lies from the real one on the test lists, pooled and given z.

    A row a noise, with the pooled AUC of its scores for the label. In the rows of ``real`` the
    distances are those between two halves of the real noise (`dnrlib.distances.floor`). A run
    without a generator has no rows.
    """
    if generator is None:
        return []
    test = lists.of_split("test")
    real = by_label(test, test.scores)
    noises = heuristic_noises(record.config["training"]["lambda_c"]) | {"generator": generator}
    auc = pooled_auc(test.scores, test.labels)
    rows = [
        {"noise": "real", "given": name, "auc": auc, **floor(sample)}
        for name, sample in real.items()
    ]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(record.seed)
        for name, draw in noises.items():
            synthetic = draw(test.labels)
            auc = pooled_auc(synthetic, test.labels)
            rows += [
                {"noise": name, "given": part, "auc": auc, **distances(real[part], sample)}
                for part, sample in by_label(test, synthetic).items()
            ]
    return rows


def _embeddings(
    record: Record, lists: CandidateLists, reranker: nn.Module, generator: MLPNoise | None
) -> list[Row]:
    from dnrlib import embeddings  # not needed, and slow to import, for the others

    return embeddings.measure(record, lists, reranker, generator)


MEASURES: dict[str, Measure] = {"noise": noise, "embeddings": _embeddings}
"""Name -> what it measures of a record, its prepared lists, its reranker and its generator."""


# Of all runs of an experiment -------------------------------------------------------------


def measure(
    what: str,
    experiment: str,
    results: Path | None = None,
    runs: Path | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Measure every trained run of an experiment and write the measurement.

    A run whose weights are not on this machine is done again, and its weights are kept.

    Args:
        what: a name in `MEASURES`.
        results: the folder of records, by default results/.
        runs: the folder of weights, by default runs/.
        folder: where to write, by default measurements/.
        say: told what is being done.

    Raises:
        ConfigError: unknown measure.
        DataError: a run has no record, or was done again with another result.
    """
    if what not in MEASURES:
        raise ConfigError(f"measure {what!r} is unknown: choose one of {', '.join(MEASURES)}")
    records = [record for record in recorded(experiment, results) if record.best_epoch]
    if what == "noise":
        records = [record for record in records if has_generator(record)]
    found = [_measured(what, record, runs or RUNS, say) for record in records]
    path = (folder or MEASUREMENTS) / f"{experiment}-{what}.json"
    with replacing(path) as partial:
        content = asdict(Measurement(experiment, what, found, provenance()))
        partial.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return path


def has_generator(record: Record) -> bool:
    """Whether the run trained a noise generator."""
    return record.config["training"]["generator"] != "none"


def _measured(what: str, record: Record, runs: Path, say: Callable[[str], None]) -> dict[str, Any]:
    lists = prepare(from_dict(DataConfig, record.config["data"]))
    if lists.fingerprint != record.data["fingerprint"]:
        say(f"{record.run}: the lists made here differ from those of the record")
    if not (runs / record.run / "reranker.safetensors").exists():
        _again(record, lists, runs, say)
    say(f"Measuring {what} of {record.run}")
    reranker = load_reranker(record, lists, runs).eval()
    generator = load_generator(record, runs) if has_generator(record) else None
    return {
        "run": record.run, "method": record.method, "seed": record.seed,
        "data": lists.fingerprint, "code": record.code,
        "rows": MEASURES[what](record, lists, reranker, generator),
    }  # fmt: skip


def _again(record: Record, lists: CandidateLists, runs: Path, say: Callable[[str], None]) -> None:
    """Do a run once more for its weights; they are kept only if it is the same run."""
    say(f"The weights of {record.run} are not in {runs}: doing the run again")
    config, folder = from_dict(RunConfig, record.config), runs / record.run
    again, weights = compute(config, lists, folder / "checkpoint.pt", say=say)
    first, second = (one.metrics["test"]["ndcg@6"] for one in (record, again))
    if not abs(first - second) <= SAME_RUN:
        raise DataError(
            record.run,
            f"done again, its test NDCG@6 is {second:.3f}, but {first:.3f} in its record: not the "
            "same run. Give --runs the folder that holds its weights, or do the experiment anew",
        )
    for part, tensors in weights.items():
        with replacing(folder / f"{part}.safetensors") as partial:
            save_file(tensors, partial)


def load_measurement(experiment: str, what: str, folder: Path | None = None) -> Measurement:
    """What `measure` wrote.

    Raises:
        DataError: it is not there, or is not a measurement.
    """
    path = (folder or MEASUREMENTS) / f"{experiment}-{what}.json"
    if not path.exists():
        raise DataError(
            path,
            f"no such measurement: make it with `dnr measure {what} --experiment {experiment}`",
        )
    try:
        return Measurement(**json.loads(path.read_text("utf-8")))
    except (TypeError, ValueError) as error:
        raise DataError(path, f"not a measurement ({error})") from error


def nearest(rows: Sequence[Row], distance: str) -> str:
    """The noise at the least distance from the real one, among rows of one run and one label."""
    candidates = [row for row in rows if row["noise"] != "real"]
    return min(candidates, key=lambda row: row[distance])["noise"]
