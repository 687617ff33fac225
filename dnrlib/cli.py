"""The command line, ``dnr``: prepare data, train, evaluate, reproduce, build the book."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from dnrlib.environment import cores
from dnrlib.errors import ConfigError, DataError, DnrError, TrainingError
from dnrlib.identity import from_dict, hash_of
from dnrlib.units import duration

HELP = """Denoising training for rerankers, and the book that reproduces the paper.

Try it in a minute, without any data: dnr train --dataset simulated --epochs 4 --lambda-e 2

Exit codes: 0 done, 1 failed, 2 a wrong option or parameter, 3 data cannot be used, 4 training
cannot go on, 130 interrupted (a run goes on where it was when the command is given again).
"""
EXIT_CODES = {ConfigError: 2, DataError: 3, TrainingError: 4}
INTERRUPTED = 130

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
data_app = typer.Typer(help="Candidate lists from raw data.", no_args_is_help=True)
app.add_typer(data_app, name="data")
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

Dataset = Annotated[
    str,
    typer.Option(
        help="ml-1m, ml-100k, kuairand-pure, kuairand-1k, amazon-books-2014, amazon-books-2018, "
        "amazon-books-2023, simulated, lists (your own candidate lists: give --file), or auto "
        "(ml-1m if it can be had)."
    ),
]
Feedback = Annotated[
    str,
    typer.Option(
        help="What counts as liked where a data set has several, such as is_like or long_view of "
        "KuaiRand; not given: what is customary."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="ray: a cluster's HOST:PORT, or auto; not given: Ray on this machine."),
]
File = Annotated[
    str,
    typer.Option(help="With --dataset lists: the Parquet or CSV file, see `dnr data check`."),
]
Protocol = Annotated[str, typer.Option(help="shown+retrieved, shown+sampled or retrieved.")]
Scheme = Annotated[
    str,
    typer.Option(
        help="What the retriever may see: earlier, crossfit or in-sample; or noisy-truth, the "
        "simulated retriever of the simulated data."
    ),
]


def _settings_option(example: str) -> Any:
    text = (
        f"Any other setting, such as {example}; can be repeated. A wrong KEY lists the right ones."
    )
    return typer.Option("--set", metavar="KEY=VALUE", help=text)


def _pair(option: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ConfigError(f"{option} {text}: it needs a name and a value")
    return key, value


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read the value {text!r}") from error


def _settings(pairs: list[str] | None) -> dict[str, Any]:
    from dnrlib.experiments import merge, nested

    merged: dict[str, Any] = {}
    for key, value in (_pair("--set", pair) for pair in pairs or []):
        merged = merge(merged, nested(key, _value(value)))
    return merged


def _resolve(dataset: str) -> str:
    from dnrlib.data import resolve

    name, sentence = resolve(dataset)
    if dataset == "auto":
        console.print(sentence)
    return name


def _data(
    dataset: str, protocol: str, retriever: str, feedback: str, file: str, **more: Any
) -> dict[str, Any]:
    """The settings of the data that options name."""
    named = {"dataset": _resolve(dataset), "protocol": protocol, "retriever": retriever}
    given = {"feedback": feedback, "file": file}
    return {**named, **more, **{name: value for name, value in given.items() if value}}


@data_app.command("prepare")
def data_prepare(
    dataset: Dataset = "auto",
    protocol: Protocol = "shown+sampled",
    retriever: Scheme = "earlier",
    feedback: Feedback = "",
    file: File = "",
    out: Annotated[Path | None, typer.Option(help="Also save the lists to this file.")] = None,
    settings: Annotated[list[str] | None, _settings_option("history=10")] = None,
) -> None:
    """Make candidate lists and say what is in them."""
    from dnrlib.costs import note_sizes
    from dnrlib.experiments import merge
    from dnrlib.prepare import DataConfig, prepare

    named = _data(dataset, protocol, retriever, feedback, file)
    config = from_dict(DataConfig, merge(named, _settings(settings)))
    lists = prepare(config, say=console.print)
    note_sizes(config, lists)
    columns = ("split", "lists", "liked", "score", "reversed", "AUC", "of unshown", "of shown")
    table = Table(*columns, title=config.what)
    for name, row in _score_alone(lists).items():
        table.add_row(name, *row)
    console.print(table)
    console.print(
        "liked: liked candidates a list. score, reversed: NDCG@6 of the retriever's order.\n"
        "AUC, mean over lists: liked against all other candidates; of unshown: against those not "
        "shown;\nof shown: against those shown and not liked."
    )
    console.print(f"Fingerprint {lists.fingerprint}")
    if lists.meta["note"]:
        console.print(f"Note: {lists.meta['note']}")
    if out:
        lists.save(out)
        console.print(f"Saved to {out}")


@data_app.command("check")
def data_check(
    file: Annotated[Path, typer.Argument(help="Parquet or CSV: request, item, score, label.")],
) -> None:
    """Say how a file of your own candidate lists is understood, and what is odd about it."""
    from dnrlib.logged import check

    console.print(str(check(file)), markup=False)


@data_app.command("stream")
def data_stream(
    source: Annotated[
        Path, typer.Argument(help="Parquet file or folder: user, item, rating, time.")
    ],
    protocol: Protocol = "shown+sampled",
    retriever: Scheme = "earlier",
    out: Annotated[Path, typer.Option(help="The folder of all that is made.")] = Path(
        "data/prepared"
    ),
    parts: Annotated[
        int, typer.Option(min=0, help="Of the log, at most; 0: one for each million rows.")
    ] = 0,
    index: Annotated[
        str, typer.Option(help="How the catalogue is searched: exact, or faiss for a large one.")
    ] = "exact",
    settings: Annotated[list[str] | None, _settings_option("core=10")] = None,
) -> None:
    """Make candidate lists of a log larger than memory. Given again, it goes on where it was."""
    from dnrlib.experiments import merge
    from dnrlib.prepare import DataConfig
    from dnrlib.retriever import ExactIndex, FaissIndex
    from dnrlib.shards import prepare_streaming

    indices: dict[str, Any] = {"exact": ExactIndex, "faiss": FaissIndex}
    if index not in indices:
        raise ConfigError(f"index = {index!r}: choose one of {', '.join(indices)}")
    named = {"dataset": source.stem, "protocol": protocol, "retriever": retriever}
    config = from_dict(DataConfig, merge(named, _settings(settings)))
    shards = prepare_streaming(config, source, out, parts, indices[index], console.print)
    console.print(f"{len(shards)} files of candidate lists in {shards[0].parent}")


def _score_alone(lists: Any) -> dict[str, tuple[str, ...]]:
    from dnrlib.log import SPLITS
    from dnrlib.metrics import auc, auc_shown, ndcg, rank

    rows = {}
    for name in SPLITS:
        part = lists.of_split(name)
        ranked, turned = rank(part.scores, part.labels), rank(-part.scores, part.labels)
        shown = rank(part.scores, part.shown)
        aucs = [auc(ranked), auc_shown(ranked, ranked | ~shown), auc_shown(ranked, shown)]
        means = [part.labels.sum(1).double(), ndcg(ranked, 6), ndcg(turned, 6), *aucs]
        rows[name] = (f"{len(part):,}", *(f"{float(values.nanmean()):.3f}" for values in means))
    return rows


@app.command()
def train(
    dataset: Dataset = "auto",
    protocol: Protocol = "shown+sampled",
    retriever: Scheme = "earlier",
    feedback: Feedback = "",
    file: File = "",
    method: Annotated[
        str,
        typer.Option(
            help="Without training: score, score-reversed. Trained directly, by the use of the "
            "score: none, rank, concat, add, weight. Trained also on Gaussian or Beta noise: "
            "noise-G, noise-B; and then on generated noise: DNR-G, DNR-B."
        ),
    ] = "DNR-B",
    reranker: Annotated[
        str, typer.Option(help="The model that is trained, such as sasrec; a wrong name lists all.")
    ] = "prm",
    seed: Annotated[int, typer.Option(help="Of weights, batches, dropout and noise.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs in all.")] = 10,
    lambda_e: Annotated[
        int, typer.Option(min=0, help="The first epochs, before the noise is generated.")
    ] = 5,
    train_lists: Annotated[
        int, typer.Option(min=0, help="Use at most so many training lists; 0: all.")
    ] = 0,
    accelerator: Annotated[
        str, typer.Option(help="cpu, cuda, or auto (cuda where it is there).")
    ] = "auto",
    devices: Annotated[
        str,
        typer.Option(
            help="So many processes of a CPU or GPUs; auto: all, but one process for a short run."
        ),
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="32-true, bf16-mixed or, on GPUs, 16-mixed.")
    ] = "32-true",
    compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Compile the model first.")
    ] = False,
    settings: Annotated[list[str] | None, _settings_option("training.lambda_c=0.3")] = None,
) -> None:
    """Train and record one run. Given again after an interruption, it goes on."""
    from dnrlib.costs import choose
    from dnrlib.experiments import METHODS, merge, run, run_config

    named: dict[str, Any] = {
        "method": method,
        "data": _data(dataset, protocol, retriever, feedback, file, train_lists=train_lists),
        "training": {"epochs": epochs, "lambda_e": lambda_e},
        "seed": seed,
    }
    if "reranker" not in METHODS.get(method, {}):
        named["reranker"] = reranker
    config = run_config(merge(named, _settings(settings)))
    hardware = partial(
        choose, accelerator=accelerator, devices=devices, precision=precision, compile=compile
    )
    _use_all_cores()
    with _Display() as display:
        record = run(config, on_progress=display.show, say=display.say, hardware=hardware)
    _print_metrics(record)
    console.print(f"Recorded as {_find(record.run)}")


def _use_all_cores() -> None:
    """Torch counts no second thread of a core, and a cluster's cores that are others'."""
    if not os.environ.get("OMP_NUM_THREADS"):
        import torch

        torch.set_num_threads(cores())


class _Display:
    """A bar that moves within an epoch, and one line for each finished epoch."""

    def __init__(self) -> None:
        self.bar = Bar(
            TextColumn("{task.description}"), BarColumn(20),
            TextColumn("{task.fields[rest]}", table_column=Column()),
            console=console, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self.task: Any = None

    def __enter__(self) -> _Display:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        console.print(text)

    def show(self, progress: Any) -> None:
        losses = "  ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
        speed = f"{progress.lists_per_second:,.0f} lists/s"
        left = f"{_clock(progress.seconds_left)} left"
        name = f"epoch {progress.epoch}/{progress.epochs} phase {progress.phase}"
        if progress.validation is not None:
            star = " *" if progress.validation == progress.best else ""
            console.print(
                f"{name}  {losses}  validation NDCG@6 {progress.validation:.4f}{star}  "
                f"{speed}  {left}"
            )
            return
        if self.task is None:
            self.task = self.bar.add_task(name, total=progress.steps, rest="")
        self.bar.update(
            self.task, description=name, total=progress.steps, completed=progress.step,
            rest=f"{losses}  {speed}  {left}",
        )  # fmt: skip


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _print_metrics(record: Any) -> None:
    table = Table(
        "metric", "validation", "test", title=f"{record.run}, best epoch {record.best_epoch}"
    )
    for name, value in record.metrics["test"].items():
        if not name.endswith(":defined"):
            table.add_row(name, _number(record.metrics["validation"][name]), _number(value))
    console.print(table)


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.4f}"


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A run's name, or the path of its record.")],
    lists: Annotated[
        Path | None, typer.Option(help="Other lists (made by `dnr data prepare --out`).")
    ] = None,
) -> None:
    """Score the test lists again with a run's weights and compare with its record."""
    from dnrlib.experiments import config_of, evaluate, lists_of, load_reranker
    from dnrlib.lists import CandidateLists
    from dnrlib.records import Record

    record = Record.load(Path(run) if run.endswith(".json") else _find(run))
    bundle = CandidateLists.load(lists) if lists else lists_of(config_of(record), console.print)
    again = replace(record, **evaluate(load_reranker(record, bundle), bundle))
    _print_metrics(again)
    if lists:
        return
    if again.data["fingerprint"] != bundle.fingerprint:
        console.print("The lists made here differ from those of the record (another machine?).")
    off = max(
        abs(value - record.metrics["test"][name])
        for name, value in again.metrics["test"].items()
        if value == value
    )
    console.print(f"Largest difference from the record on the test lists: {off:.2g}")


@app.command()
def report(
    file: Annotated[
        Path, typer.Argument(help="Parquet or CSV: request, item, score, label; see `data check`.")
    ],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    reranker: Annotated[
        str, typer.Option(help="The model to train, such as setrank; a wrong name lists all.")
    ] = "prm",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each method.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Of each run.")] = 10,
    train_lists: Annotated[
        int, typer.Option(min=0, help="Use at most so many training lists; 0: all.")
    ] = 0,
    learning_rates: Annotated[
        list[float] | None,
        typer.Option(
            "--learning-rate",
            help="Can be repeated: validation chooses one for each method; 0.002 and 0.01 if none "
            "is given.",
        ),
    ] = None,
    effect: Annotated[
        float, typer.Option(help="The smallest difference of NDCG@6 that matters to you.")
    ] = 0.01,
    budget: Annotated[
        float, typer.Option(min=0, help="Minutes that it may take, else it does not begin; 0: any.")
    ] = 0.0,
    workers: Annotated[
        int, typer.Option(min=0, help="Runs side by side; 0: one for each core, at most 4.")
    ] = 0,
    results: Annotated[Path, typer.Option(help="The folder of records.")] = Path("results"),
    runs: Annotated[Path, typer.Option(help="The folder of weights.")] = Path("runs"),
    settings: Annotated[list[str] | None, _settings_option("options.dim=32")] = None,
) -> None:
    """Does denoising help on your own candidate lists, by how much, at what cost? As an HTML file.

    Says what it will take before it begins. Given again after an interruption, it goes on.
    """
    from dnrlib.experiments import merge

    try:
        from dnrlib.report import Asked, find, write
    except ImportError as error:
        raise ConfigError(f"a report has figures: pip install 'dnrlib[book]' ({error})") from error
    given = _settings(settings)
    if train_lists:
        given = merge({"data": {"train_lists": train_lists}}, given)
    rates = tuple(learning_rates or Asked.learning_rates)
    asked = Asked(str(file), reranker, seeds, epochs, rates, effect, given)
    if out.is_dir():
        raise ConfigError(f"out = {str(out)!r}: is a folder; name the HTML file to write")
    say = partial(console.print, markup=False)
    found = find(asked, workers or min(4, cores()), results, runs, budget, say)
    write(found, out)
    console.print(f"{found.answer.headline}. {found.answer.sentence}", markup=False)
    for text in found.answer.besides:
        console.print(f"Before you believe it: {text}", markup=False)
    console.print(f"Wrote {out}")


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run's name, or the path of its record.")],
    out: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
) -> None:
    """Write a run's reranker as an ONNX file, checked under ONNX Runtime on its own test lists."""
    from dnrlib.experiments import config_of, lists_of, load_reranker
    from dnrlib.export import save_onnx
    from dnrlib.records import Record

    record = Record.load(Path(run) if run.endswith(".json") else _find(run))
    lists = lists_of(config_of(record), console.print)
    off = save_onnx(load_reranker(record, lists), lists.of_split("test")[:256], out)
    console.print(f"Saved to {out}. Largest difference from PyTorch: {off:.2g}")


def _find(run: str) -> Path:
    from dnrlib.records import RESULTS

    known = {path.stem: path for path in sorted(RESULTS.rglob("*.json"))}
    if run in known:
        return known[run]
    close = get_close_matches(run, known, n=1)
    meant = f"did you mean {close[0]}?" if close else f"its records are {RESULTS}/*/RUN.json"
    raise DataError(RESULTS, f"no record of a run {run!r}; {meant}")


@app.command()
def reproduce(
    experiment: Annotated[
        str | None, typer.Option(help="A file of experiments/, without its ending.")
    ] = None,
    cell: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL[@DATASET[@PROTOCOL]]",
            help="Do one cell of the experiment's table again and compare it with its record; "
            "besides, @SCORES or @any.setting=value. A wrong one lists the right ones.",
        ),
    ] = None,
    seed: Annotated[
        str, typer.Option(help="Of --cell: which run, or all; the first if not given.")
    ] = "",
    run: Annotated[
        str | None,
        typer.Option(help="Do the run of this name again and compare it with its record."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="Where to do them: local (processes of this machine), ray (many machines) or "
            "stacked (the seeds of a method at once, for a GPU)."
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="local: runs side by side; they share the cores; 4 if not given."),
    ] = None,
    address: Address = None,
    cpus_per_run: Annotated[
        float | None, typer.Option(help="ray: cores of a run; 1 if not given.")
    ] = None,
    gpus_per_run: Annotated[
        float | None, typer.Option(help="ray: GPUs of a run, such as 0.25; 0 if not given.")
    ] = None,
    accelerator: Annotated[
        str | None, typer.Option(help="stacked: cpu or cuda; cpu if not given.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only list the runs, and what they would take.")
    ] = False,
) -> None:
    """Do every run of an experiment that is not recorded yet, or one cell of it once more.

    Doing a cell or a run again leaves its record as it is. Exit code 1: a result is not the
    recorded one, by more than the tolerance that is printed.
    """
    from dnrlib.engines import ENGINES
    from dnrlib.experiments import load_experiment, took

    options = {
        "workers": workers, "address": address, "cpus_per_run": cpus_per_run,
        "gpus_per_run": gpus_per_run, "accelerator": accelerator,
    }  # fmt: skip
    execute = _engine(ENGINES, engine, **options)
    if (experiment is None) == (run is None) or (seed and not cell) or (cell and run):
        raise typer.BadParameter(
            "give --experiment NAME, with --cell and --seed or without, or --run NAME"
        )
    if cell or run:
        if engine != "local" or any(value is not None for value in options.values()):
            raise ConfigError("a cell or a run is done again by one process here: no engine")
        _once_more(experiment, cell, seed, run, plan)
        return
    assert experiment is not None

    configs = load_experiment(experiment)
    if plan:
        _print_plan(experiment, configs, workers or 4, engine)
        return
    for number, record in enumerate(execute(configs, experiment), start=1):
        result = _number(record.metrics["test"]["ndcg@6"])
        done = f"[{number}/{len(configs)}] {record.run}: test NDCG@6 {result}, {took(record)}"
        console.print(done, markup=False)


def _once_more(
    experiment: str | None, cell: str | None, seed: str, run: str | None, plan: bool
) -> None:
    """Do recorded runs again and say how far they are from their records."""
    from dnrlib.reruns import again

    runs = [(run, *_recorded(run))] if run else _of_cell(str(experiment), str(cell), seed)
    if plan:
        _print_plan(cell or str(run), [config for _, config, _ in runs], 1, "local", redo=True)
        return
    missing = [name for name, _, record in runs if record is None]
    for name in missing:
        console.print(f"{name} is not recorded yet: `dnr reproduce --experiment {experiment}`")
    if len(missing) == len(runs):
        raise DataError("results", "there is no record to compare with")
    hold = True
    for name, _, record in runs:
        if record:
            console.print(f"Doing {name} again: recorded as {record.run}", markup=False)
            with _Display() as display:
                found = again(record, on_progress=display.show, say=display.say)
            _print_again(found)
            hold &= found.holds
    if not hold:
        raise typer.Exit(1)


def _recorded(run: str) -> tuple[Any, Any]:
    """The configuration and the record of a run."""
    from dnrlib.experiments import RunConfig
    from dnrlib.records import Record

    record = Record.load(Path(run) if run.endswith(".json") else _find(run))
    return from_dict(RunConfig, record.config), record


def _of_cell(experiment: str, wanted: str, seed: str) -> list[tuple[str, Any, Any]]:
    """In words, configuration and record (or None) of the runs of a cell."""
    from dnrlib.experiments import load_experiment, newest
    from dnrlib.reruns import cell, of_seed

    configs, records = of_seed(cell(load_experiment(experiment), wanted), seed), newest()
    return [(config.what, config, records.get(hash_of(config))) for config in configs]


def _print_again(found: Any) -> None:
    for difference in found.other:
        console.print(f"Not as it was: {difference}", markup=False)
        if difference.startswith("candidate lists"):
            console.print("These are other lists: what is compared are means, list by list nothing")
    if not found.other:
        console.print(
            "Lists, code, machine, versions and threads are as they were: expect the same"
        )
    columns = ("test metric", "recorded", "again", "difference", "tolerance", "")
    table = Table(*columns, title=found.recorded.run)
    for name, allowed in found.tolerance.items():
        then, now = (one.metrics["test"][name] for one in (found.recorded, found.again))
        off = found.difference(name)
        cells = [_number(then), _number(now), "–" if off != off else f"{off:+.4f}"]
        limit = f"{allowed:.4f}" if allowed >= 5e-5 else f"{allowed:.0e}"
        table.add_row(name, *cells, limit, found.verdict(name))
    console.print(table)
    console.print(f"Tolerance: {found.why}", markup=False)


def _print_plan(
    experiment: str, configs: list[Any], workers: int, engine: str, redo: bool = False
) -> None:
    """Print the runs and what they would take; ``redo``: those that are recorded too."""
    from dnrlib.costs import side_by_side
    from dnrlib.engines import plan
    from dnrlib.records import load_records

    records = [*load_records()]
    estimates = plan(configs, workers, records)
    codes = {hash_of(record.config): record.code for record in records}
    columns = ("data", "model", "seed", "recorded", "time", "memory")
    table = Table(*columns, title=f"{experiment}: {len(configs)} runs")
    left = []
    for config, estimate in zip(configs, estimates, strict=True):
        state = {None: "", config.code: "yes"}.get(codes.get(hash_of(config)), "by other code")
        if redo or state != "yes":
            left.append(estimate)
        table.add_row(config.data.what, config.model, str(config.seed), state, *_cells(estimate))
    console.print(table)
    for why in sorted({one for one in estimates if isinstance(one, str)}):
        console.print(f"–: {why}", markup=False)
    known = [one.seconds for one in left if not isinstance(one, str)]
    console.print(f"To do: {len(left)} runs, of which {len(known)} are predicted")
    if engine != "local":
        console.print("Times are of this machine; those of the cluster are not known")
    elif known:
        total = duration(side_by_side(known, workers))
        console.print(
            f"Predicted for these with --workers {workers}, once lists are prepared: {total}"
        )


def _cells(estimate: Any) -> tuple[str, str]:
    if isinstance(estimate, str):
        return "–", "–"
    return duration(estimate.seconds), f"{estimate.memory_mib:,.0f} MiB"


def _engine(engines: Mapping[str, Callable[..., Any]], name: str, **options: Any) -> Any:
    """The engine with those of the options that were given; each must be one of its own."""
    if name not in engines:
        raise ConfigError(f"engine = {name!r}: choose one of {', '.join(engines)}")
    given = {option: value for option, value in options.items() if value is not None}
    for option in given.keys() - signature(engines[name]).parameters.keys():
        raise ConfigError(f"--{option.replace('_', '-')} is no option of --engine {name}")
    return partial(engines[name], **given)


@app.command()
def measure(
    what: Annotated[
        str,
        typer.Argument(
            help="Of the weights of an experiment: noise, embeddings or robustness. Without one: "
            "counts (of the data sets at hand) or worlds (of the theory, summed exactly)."
        ),
    ],
    experiment: Annotated[
        str, typer.Option(help="A file of experiments/, without its ending.")
    ] = "",
    runs: Annotated[
        Path, typer.Option(help="The folder of weights; runs that it lacks are done again.")
    ] = Path("runs"),
) -> None:
    """Measure what records do not say, and write it down."""
    from dnrlib.measurements import measure

    console.print(f"Wrote {measure(what, experiment, runs=runs, say=console.print)}")


@app.command()
def simulate(
    name: Annotated[str, typer.Argument(help="A file of online/, without its ending.")],
    engine: Annotated[
        str,
        typer.Option(help="Where: local (processes of this machine) or ray (many machines)."),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="local: processes that share the users; 2 if not given."),
    ] = None,
    address: Address = None,
    cpus_per_run: Annotated[
        float | None, typer.Option(help="ray: cores of a block of users; 1 if not given.")
    ] = None,
    runs: Annotated[
        Path, typer.Option(help="The folder of weights; rerankers that it lacks are trained.")
    ] = Path("runs"),
) -> None:
    """Do a simulated online test with each of its seeds, and write down what users did."""
    from dnrlib.simulation.online import ENGINES
    from dnrlib.simulation.recorded import load_definition, record

    options = {"workers": workers, "address": address, "cpus_per_run": cpus_per_run}
    chosen = _engine(ENGINES, engine, **options)
    done = record(load_definition(name), console.print, chosen, runs=runs)
    console.print(f"Wrote {done}")


@app.command()
def claims(
    id: Annotated[str, typer.Option(help="Only this claim, with its runs.")] = "",
) -> None:
    """The verdict on every claim of the paper, computed from the records."""
    import torch

    from dnrlib.verdicts import print_verdicts

    torch.set_num_threads(1)  # sums over small tables, where threads only wait for each other
    print_verdicts(console, id)


@app.command()
def book(
    profile: Annotated[str, typer.Option(help="How much to compute: quick, ci or full.")] = "quick",
    dataset: Annotated[
        str, typer.Option(help="Goes to every chapter with a parameter `dataset`.")
    ] = "auto",
    chapter: Annotated[str | None, typer.Option(help="Execute only this chapter.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="KEY VALUE", help="A parameter of the chapter, as YAML."),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY VALUE", help="One of a second set of parameters, to compare."),
    ] = None,
    show: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open",
            help="Open the result in a browser; by default that of a chapter, where there is a "
            "display.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Chapters at once; by default one for each core.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Execute again what nothing has changed for.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only say which pages of the site are old, and why."),
    ] = False,
    durations: Annotated[
        bool,
        typer.Option(
            "--record-durations",
            help="Also write book/durations.json, to predict from. Use it in a new clone: what is "
            "done already takes no time.",
        ),
    ] = False,
) -> None:
    """Execute the chapters with papermill and render the site, or one chapter."""
    from dnrlib.book import build, parse_parameters, record_durations
    from dnrlib.book.builder import alone_in
    from dnrlib.book.compare import compare
    from dnrlib.book.single import has_display, make_chapter

    if (parameter or beside) and not chapter:
        option = "-p" if parameter else "--beside"
        raise ConfigError(f"{option} needs --chapter NAME: which chapter is the parameter for?")
    of_all = {"--check": check, "--workers": workers, "--fresh": fresh}
    if chapter and (given := [option for option, value in of_all.items() if value]):
        raise ConfigError(
            f"{given[0]} is for the whole book, and one chapter is always executed: leave out "
            f"{given[0]} or --chapter"
        )
    if check:
        _check_pages()
        return
    name = _resolve(dataset)
    first, second = (
        parse_parameters(_pair(option, pair) for pair in pairs or [])
        for option, pairs in (("-p", parameter), ("--beside", beside))
    )
    with alone_in(Path()):
        if chapter and beside:
            page = compare(chapter, first, second, profile, name)
        elif chapter:
            page = make_chapter(chapter, first, profile, name)
        else:
            page = build(profile, name, workers=workers, fresh=fresh)
        if durations:
            console.print(f"Wrote {record_durations()}")
    console.print(f"Open {page}", soft_wrap=True)
    if show or (show is None and chapter and has_display()):
        webbrowser.open(page.as_uri())


def _check_pages() -> None:
    """Print which pages are not what the sources would give; exit code 1 if there are any."""
    from dnrlib.book import current

    old = {page: why for page, why in current().items() if why}
    for page, why in old.items():
        console.print(f"{page}: {why}", markup=False, soft_wrap=True)
    console.print("make book renews them." if old else "Every page is current.")
    if old:
        raise typer.Exit(1)


@app.command()
def pdf() -> None:
    """Print the site that `dnr book` made as one PDF, by Chromium."""
    try:
        from dnrlib.book.print import print_book
    except ImportError as error:
        raise ConfigError(
            f"to print takes: pip install 'dnrlib[book,browser]' ({error})"
        ) from error
    console.print(f"Wrote {print_book()}", soft_wrap=True)


@app.command()
def grade(
    answers: Annotated[
        Path, typer.Argument(help="A program or notebook, or a folder with those of a class.")
    ],
    assignment: Annotated[
        bool,
        typer.Option("--assignment", help="Count the assignment's tasks, with their points."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a row for each file.")] = False,
    seconds: Annotated[float, typer.Option(min=1, help="Time limit of each task.")] = 60.0,
) -> None:
    """Points and feedback for answers to the book's exercises, by the names of their functions.

    The answers are run, in a process of their own: that of strangers belongs in a container.
    """
    from dnrlib.exercises.grade import answer_files, grade, print_marks

    if as_json and as_csv:
        raise ConfigError("--json and --csv: choose one")
    folder = answers if answers.is_dir() else answers.parent
    files = answer_files(answers) if answers.is_dir() else [answers]
    if not files:
        raise DataError(answers, "there is no program and no notebook in this folder")
    marks = {}
    for path in files:
        try:
            found = grade(path, assignment, seconds)
        except DataError as error:
            if path == answers:
                raise
            errors.print(f"no points: {error}", style="yellow", markup=False)
            found = []
        marks[path.relative_to(folder)] = found
    if not any(marks.values()):
        raise DataError(answers, "no function has the name of an exercise, such as ndcg")
    print_marks(console, marks, "json" if as_json else "csv" if as_csv else "")


@app.command()
def slides() -> None:
    """Write the lectures into the rendered site again, after a change in book/slides."""
    from dnrlib.book.slides import write_slides
    from dnrlib.book.stamps import SITE

    if not SITE.is_dir():
        raise DataError(SITE, "there is no site yet: run `dnr book` first")
    for deck in write_slides(SITE, Path()):
        console.print(f"Open {deck}")


def _exit_code(error: Exception) -> int:
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


def _join_pairs(arguments: list[str]) -> list[str]:
    """``-p key value``, as papermill has it, as ``-p key=value``, which Typer can read.

    So it is with ``--beside``.
    """
    joined: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        joined.append(argument)
        if argument in ("-p", "--beside"):
            key = next(rest, "")
            joined.append(key if "=" in key else "=".join([key, *islice(rest, 1)]))
    return joined


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a DnrError becomes a message and an exit code."""
    try:
        app(_join_pairs(sys.argv[1:] if arguments is None else arguments))
    except (DnrError, OSError) as error:
        errors.print(f"error: {error}", markup=False)
        sys.exit(_exit_code(error))
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            errors.print("Interrupted. The same command goes on from what is finished.")
        raise


if __name__ == "__main__":
    main()
