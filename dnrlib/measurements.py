"""What is measured on the weights of recorded runs, where their records do not say it.

And what needs no run at all, but a record for the verdicts: counts of the data, and exact worlds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import nn
from torch.autograd.functional import jacobian

from dnrlib import theory
from dnrlib.comparisons import recorded
from dnrlib.data import DATASETS, count_steps, load, prepare_log
from dnrlib.distances import Sample, distances, floor
from dnrlib.errors import ConfigError, DataError
from dnrlib.experiments import (
    RUNS,
    compute,
    config_of,
    lists_of,
    load_generator,
    load_reranker,
    provenance,
)
from dnrlib.files import replacing
from dnrlib.lists import CandidateLists
from dnrlib.metrics import pooled_auc
from dnrlib.noise import BetaNoise, GaussianNoise, Noise
from dnrlib.records import Record
from dnrlib.variants import hears_label_alone

MEASUREMENTS = Path("measurements")
WORLDS = 200
SAME_RUN = 0.01
"""A run done again is the same if its test NDCG@6 differs from the record by no more than this."""

Row = dict[str, Any]
Measure = Callable[[Record, CandidateLists, nn.Module, Noise | None], list[Row]]


@dataclass(frozen=True)
class Measurement:
    """One measure of every run of an experiment, or (``experiment`` is "") of what is no run.

    Args:
        runs: of each run its name, method, seed, data fingerprint (``data``), hash of the code
            that trained it (``code``), and ``rows``, what was measured; of what is no run its name
            and ``rows``, and of a simulated online test also what `dnrlib.simulation.recorded`
            says of it.
        made: date, commit, machine, versions.
    """

    experiment: str
    what: str
    runs: list[dict[str, Any]]
    made: dict[str, Any]

    def rows(self) -> list[Row]:
        """The rows of all runs, each with the method and the seed of its run, if it has them."""
        return [
            {name: run[name] for name in ("method", "seed") if name in run} | row
            for run in self.runs
            for row in run["rows"]
        ]


# Measures ---------------------------------------------------------------------------------


def heuristic_noises(lambda_c: float) -> dict[str, Noise]:
    """The paper's two noises without parameters, N(0, 1) and Beta(0.5, 0.5)."""
    return {"Gaussian": GaussianNoise(lambda_c), "Beta": BetaNoise(lambda_c)}


def by_label(lists: CandidateLists, scores: Float[torch.Tensor, "lists n"]) -> dict[str, Sample]:
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
    record: Record, lists: CandidateLists, reranker: nn.Module, generator: Noise | None
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
    record: Record, lists: CandidateLists, reranker: nn.Module, generator: Noise | None
) -> list[Row]:
    from dnrlib import embeddings  # not needed, and slow to import, for the others

    return embeddings.measure(record, lists, reranker, generator)


def _robustness(
    record: Record, lists: CandidateLists, reranker: nn.Module, generator: Noise | None
) -> list[Row]:
    from dnrlib import robustness  # not needed for the others

    return robustness.measure(lists, reranker)


def _cold_items(
    record: Record, lists: CandidateLists, reranker: nn.Module, generator: Noise | None
) -> list[Row]:
    from dnrlib import cold_items  # not needed for the others

    return cold_items.measure(lists, reranker)


MEASURES: dict[str, Measure] = {
    "noise": noise,
    "embeddings": _embeddings,
    "robustness": _robustness,
    "cold-items": _cold_items,
}
"""Name -> what it measures of a record, its prepared lists, its reranker and its generator."""
WITHOUT_TRAINING = {"robustness": ("score",), "cold-items": ("score", "text-similarity")}
"""Measure -> the methods without anything to learn of which it is taken as well."""


# What needs no run ------------------------------------------------------------------------


def counts(say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Users, items, interactions and lists after preprocessing, of each data set that is at hand.

    The settings are the defaults of `dnrlib.prepare.DataConfig`. ``note`` says how the file differs
    from the publisher's.
    """
    found = []
    for dataset in DATASETS:
        try:
            source = load(dataset, download=False)
        except (ConfigError, DataError) as error:
            say(f"Left out: {error}")
            continue
        say(f"Counting {dataset}")
        log, last = prepare_log(source), count_steps(source).row(-1, named=True)
        row = {name: last[name] for name in ("users", "items", "interactions", "lists")}
        found.append({"run": dataset, "data": log.fingerprint, "note": source.note, "rows": [row]})
    return found


def worlds(say: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """What the theory's claims come to in `WORLDS` random worlds, which are summed exactly.

    One to four requests, one to three candidates and two to four levels; the reranker and the
    generator are random tables. In nats, the largest over the feedbacks z:

    - ``direct``: | L_direct + L_1 + L_2 + log p(z) |
    - ``dnr``: | L_z + L_adv + L_x + δ_x + log p(z) |
    - ``l1``: the derivative of L_1 in a logit of the reranker. L_2 has no reranker in it.
    - ``bound``: L_1 + L_2, which is -log p(z) - L_direct
    """
    say(f"Summing {WORLDS} worlds")
    return [
        {"run": f"world {seed}", "seed": seed, "rows": [_world(seed)]} for seed in range(WORLDS)
    ]


def _world(seed: int) -> Row:
    world = theory.random_world(seed, 1 + seed % 4, 1 + seed // 4 % 3, 2 + seed // 12 % 3)
    vectors, feedbacks = world.p_z_given_x.shape
    q = theory.random_table(vectors, feedbacks, seed)
    phi = theory.random_table(feedbacks, vectors, seed + 1)
    first = theory.l_direct(q, world) + theory.l_1(q, world) + theory.l_2(world)
    second = theory.l_z(q, phi) + theory.l_adv(q, phi, world)
    second = second + theory.l_x(phi, world) + theory.delta_x(phi, world)
    slopes = jacobian(lambda logits: theory.l_1(logits.softmax(1), world), q.log())
    return {
        "direct": float((first - world.evidence).abs().max()),
        "dnr": float((second - world.evidence).abs().max()),
        "l1": float(slopes.abs().max()),
        "bound": float((theory.l_1(q, world) + theory.l_2(world)).max()),
    }


WITHOUT_RUNS: dict[str, Callable[[Callable[[str], None]], list[dict[str, Any]]]] = {
    "counts": counts,
    "worlds": worlds,
}
"""Name -> what it measures without any experiment."""


# Of all runs of an experiment -------------------------------------------------------------


def measure(
    what: str,
    experiment: str = "",
    results: Path | None = None,
    runs: Path | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Measure every trained run of an experiment and write the measurement.

    A run whose weights are not on this machine is done again, and its weights are kept.

    Args:
        what: a name in `MEASURES`, or one in `WITHOUT_RUNS`, which has no experiment.
        results: the folder of records, by default results/.
        runs: the folder of weights, by default runs/.
        folder: where to write, by default measurements/.
        say: told what is being done.

    Raises:
        ConfigError: unknown measure, or it needs an experiment, or has none.
        DataError: a run has no record, or was done again with another result.
    """
    if what not in MEASURES | WITHOUT_RUNS:
        known = ", ".join(MEASURES | WITHOUT_RUNS)
        raise ConfigError(f"measure {what!r} is unknown: choose one of {known}")
    if (what in MEASURES) != bool(experiment):
        needs = "needs one, say which" if what in MEASURES else "is of no experiment"
        raise ConfigError(f"experiment = {experiment!r}: the measure {what!r} {needs}")
    if what in WITHOUT_RUNS:
        return write(Measurement("", what, WITHOUT_RUNS[what](say), provenance()), folder)
    untrained = WITHOUT_TRAINING.get(what, ())
    records = [
        record
        for record in recorded(experiment, results)
        if record.best_epoch or record.method in untrained
    ]
    if what == "noise":
        records = [record for record in records if has_generator(record)]
    found = [_measured(what, record, runs or RUNS, say) for record in records]
    return write(Measurement(experiment, what, found, provenance()), folder)


def measurement_path(experiment: str, what: str, folder: Path | None = None) -> Path:
    """Where a measurement is written."""
    return (folder or MEASUREMENTS) / f"{'-'.join(filter(None, (experiment, what)))}.json"


def write(measurement: Measurement, folder: Path | None = None) -> Path:
    """Write a measurement to its file, by default in measurements/; nothing is half written."""
    path = measurement_path(measurement.experiment, measurement.what, folder)
    with replacing(path) as partial:
        partial.write_text(json.dumps(asdict(measurement), indent=1) + "\n", "utf-8")
    return path


def has_generator(record: Record) -> bool:
    """Whether the run trained a noise generator that makes scores of the label alone."""
    trained = record.config["training"]["generator"] != "none"
    return trained and hears_label_alone(record.config.get("trainer", ""))


def _measured(what: str, record: Record, runs: Path, say: Callable[[str], None]) -> dict[str, Any]:
    lists = lists_of(config_of(record))
    if lists.fingerprint != record.data["fingerprint"]:
        say(f"{record.run}: the lists made here differ from those of the record")
    if record.best_epoch and not (runs / record.run / "reranker.safetensors").exists():
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
    config, folder = config_of(record), runs / record.run
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
    path = measurement_path(experiment, what, folder)
    if not path.exists():
        raise DataError(path, f"no such measurement: make it with `{_command(experiment, what)}`")
    try:
        return Measurement(**json.loads(path.read_text("utf-8")))
    except (TypeError, ValueError) as error:
        raise DataError(path, f"not a measurement ({error})") from error


def _command(experiment: str, what: str) -> str:
    if what.startswith("online-"):
        return f"dnr simulate {what.removeprefix('online-')}"
    return f"dnr measure {what}" + (f" --experiment {experiment}" if experiment else "")


def nearest(rows: Sequence[Row], distance: str) -> str:
    """The noise at the least distance from the real one, among rows of one run and one label."""
    candidates = [row for row in rows if row["noise"] != "real"]
    return min(candidates, key=lambda row: row[distance])["noise"]
