"""What a user of `dnr` sees: help, one line for each error, exit codes, progress."""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dnrlib import cli, experiments
from dnrlib.data import load
from dnrlib.engines import ENGINES
from dnrlib.lists import CandidateLists
from dnrlib.metrics import summarise
from dnrlib.prepare import DataConfig, prepare
from dnrlib.records import ranked_record
from dnrlib.training import Progress

LISTS = ["--dataset", "simulated", "--retriever", "noisy-truth"]
SIZE = ["--set", "data.evaluation_lists=100", "--set", "options={dim: 8, layers: 1}"]
TRAIN = ["train", *LISTS, "--train-lists", "300", "--epochs", "2", "--lambda-e", "1", *SIZE]

GRID = ["reproduce", "--experiment", "nosuch"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which the lists are prepared."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(DataConfig(dataset="simulated", retriever="noisy-truth"), folder)
    return folder


@pytest.fixture
def workplace(prepared, tmp_path, monkeypatch):
    """An empty folder for records and checkpoints, with the prepared lists."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the other tests have it
    shutil.copytree(prepared, tmp_path / "data/prepared")
    return tmp_path


@pytest.fixture
def dnr(workplace, capfd):
    """Run a command in the workplace: exit code, output, errors."""

    def run(*arguments):
        code = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


# Help -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["Denoising training", "data", "train", "evaluate", "reproduce", "book", "130"]),
        (["data"], ["prepare"]),
        (["data", "prepare"], ["noisy-truth", "--out", "history=10"]),
        (["data", "prepare"], ["amazon-books-2018", "kuairand-1k", "--feedback", "--file"]),
        (["data", "check"], ["Parquet or CSV", "request, item, score, label"]),
        (["reproduce"], ["--cell", "--seed", "--run", "tolerance"]),
        (["claims"], ["--id", "verdict"]),
        (["train"], ["--devices", "--accelerator", "--precision", "--no-compile"]),
        (["train"], ["DNR-B", "training.lambda_c=0.3", "--epochs", "goes on"]),
        (["evaluate"], ["--lists", "record"]),
        (["reproduce"], ["--workers", "--plan", "experiments/", "--engine", "--address"]),
        (["book"], ["-p KEY VALUE", "--chapter", "papermill"]),
    ],
)
def test_every_command_explains_itself(dnr, command, words):
    code, out, _ = dnr(*command, "--help")
    assert code == 0
    assert all(word in out for word in words)


def test_help_is_fast_and_needs_neither_torch_nor_the_books_packages():
    heavy = "torch polars papermill nbformat matplotlib"
    check = (
        "import sys; from dnrlib.cli import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print(sorted(set('{heavy}'.split()) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


# Errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["data", "prepare", "--dataset", "nosuch"], 2, "dataset is 'nosuch'"),
        (["train", *LISTS, "--protocol", "nosuch"], 2, "protocol = 'nosuch': choose one of shown"),
        (["train", *LISTS, "--method", "nosuch"], 2, "method 'nosuch' is unknown: choose one of"),
        (["train", *LISTS, "--reranker", "nosuch"], 2, "reranker 'nosuch' is unknown"),
        (["train", *LISTS, "--method", "rank", "--reranker", "score"], 2, "exclude each other"),
        (["train", *LISTS, "--set", "lambda_c"], 2, "--set lambda_c: it needs a name and a value"),
        (["train", *LISTS, "--set", "=3"], 2, "--set =3: it needs a name and a value"),
        (["train", *LISTS, "--set", "training.x=3"], 2, "unknown parameter training.x: choose"),
        (["train", *LISTS, "--set", "training.clip=x"], 2, "training.clip = 'x': must be a number"),
        (["train", *LISTS, "--set", "seed=[1"], 2, "cannot read the value '[1'"),
        (
            ["train", *LISTS, "--set", "options.nosuch=3"],
            2,
            "unknown parameter options.nosuch of prm: dim",
        ),
        (["train", *LISTS, "--epochs", "3"], 2, "lambda_e = 5 of 3 epochs"),
        (["train", *LISTS, "--devices", "x"], 2, "devices = 'x': must be auto or a whole number"),
        (["train", *LISTS, "--accelerator", "tpu"], 2, "accelerator = 'tpu': choose one of cpu"),
        (["train", *LISTS, "--precision", "8"], 2, "precision = '8': choose one of 32-true"),
        (["data", "prepare", "--set", "history=x", *LISTS], 2, "history = 'x': must be a whole"),
        (["data", "prepare", "--out", "/dev/null/x", *LISTS], 1, "/dev/null"),
        (["evaluate", "nosuch"], 3, "results: no record of a run 'nosuch'"),
        (["evaluate", "/nosuch"], 3, "results: no record of a run '/nosuch'"),
        (["evaluate", "nosuch.json"], 3, "nosuch.json: cannot be read (No such file"),
        (["reproduce", "--experiment", "nosuch"], 3, "nosuch.yml: no such experiment"),
        ([*GRID, "--engine", "slurm"], 2, "engine = 'slurm': choose one of local, ray"),
        ([*GRID, "--address", "auto"], 2, "--address is no option of --engine local"),
        ([*GRID, "--gpus-per-run", "1"], 2, "--gpus-per-run is no option of --engine local"),
        ([*GRID, "--engine", "ray", "--workers", "2"], 2, "--workers is no option of --engine ray"),
        (["reproduce", "--run", "nosuch"], 3, "results: no record of a run 'nosuch'"),
        ([*GRID, "--cell", "x", "--workers", "2"], 2, "done again by one process here"),
        (["data", "prepare", "--dataset", "lists"], 2, "dataset = 'lists' needs data.file"),
        (["train", *LISTS, "--file", "x.csv"], 2, "file = 'x.csv' needs dataset = 'lists'"),
        (["train", *LISTS, "--feedback", "x"], 2, "feedback is 'x', but simulated has one kind"),
        (["data", "check", "nosuch.csv"], 3, "nosuch.csv"),
        (["measure", "noise"], 2, "experiment = '': the measure 'noise' needs one"),
        (["measure", "worlds", "--experiment", "x"], 2, "'worlds' is of no experiment"),
        (["book", "-p", "x", "3"], 2, "-p needs --chapter NAME"),
        (["book", "--chapter", "x", "--check"], 2, "leave out --check or --chapter"),
        (["book", "--chapter", "x", "--fresh"], 2, "--fresh is for the whole book"),
        (["book", "--chapter", "x", "--workers", "1"], 2, "--workers is for the whole book"),
        (["book", "--dataset", "simulated", "--chapter", "x", "-p", "y"], 2, "-p y: it needs a"),
        (["book", "--dataset", "simulated", "--chapter", "x", "-p"], 2, "-p : it needs a name"),
    ],
)
def test_an_error_is_one_line_that_names_what_is_wrong(dnr, command, code, message):
    found, out, err = dnr(*command)
    assert found == code
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    "command",
    [
        ["nosuch"], ["train", "--nosuch"], ["reproduce"], ["train", "--epochs", "0"],
        [*GRID, "--run", "x"], [*GRID, "--seed", "1"], ["reproduce", "--run", "x", "--cell", "y"],
    ],
)  # fmt: skip
def test_wrong_usage_has_exit_code_2(dnr, command):
    code, _, err = dnr(*command)
    assert code == 2
    assert "Error: " in err


def test_a_folder_of_data_that_is_not_there_is_named(dnr, monkeypatch):
    monkeypatch.setenv("DNR_DATA_DIR", "/nosuch")
    code, _, err = dnr("data", "prepare", "--dataset", "ml-1m")
    assert (code, err) == (2, "error: DNR_DATA_DIR is '/nosuch', but there is no such folder\n")


def test_a_loss_that_is_not_finite_has_exit_code_4(dnr):
    code, _, err = dnr(*TRAIN, "--method", "concat", "--set", "training.learning_rate=1e30")
    assert code == 4
    assert re.match(r"error: epoch 1, step \d+: ", err)


# Training ---------------------------------------------------------------------------------


def test_training_prints_one_line_an_epoch_and_is_done_once(dnr, workplace):
    code, out, _ = dnr(*TRAIN)
    assert code == 0
    number = r"-?\d+\.\d{4}"
    rest = rf"  validation NDCG@6 {number}( \*)?  [\d,]+ lists/s  \d+:\d\d left\n"
    one, two = rf"L_direct {number}  L_z {number}", rf"  L_adv {number}  L_x {number}"
    assert re.search(rf"\nepoch 1/2 phase 1  {one}{rest}epoch 2/2 phase 2  {one}{two}{rest}", out)
    (record,) = workplace.glob("results/*.json")
    assert out.endswith(f"Recorded as results/{record.name}\n")
    amount = r"[\d.]+ s and [\d,]+ MiB"
    assert re.search(rf"\nPredicted: {amount} on 1 x cpu\n", out)
    assert re.search(rf"\nTook {amount} \(predicted: {amount}\)\n", out)
    assert "ndcg@6" in out
    record.rename(workplace / "results" / "moved")
    (workplace / "results/group").mkdir()
    (workplace / "results" / "moved").rename(workplace / "results/group" / record.name)
    code, out, _ = dnr(*TRAIN)
    assert code == 0
    assert f"{record.stem} is recorded already" in out
    assert "epoch 1/2" not in out
    assert out.endswith(f"Recorded as results/group/{record.name}\n")


def test_settings_reach_the_run(dnr, workplace):
    code, _, _ = dnr(
        *TRAIN, "--method", "none", "--seed", "-3", "--protocol", "shown+sampled",
        "--set", "training.beta=[1, 2]", "--set", "training.clip=1e1", "--set", "options.heads=2",
    )  # fmt: skip
    assert code == 0
    (path,) = workplace.glob("results/*.json")
    config = experiments.Record.load(path).config
    assert (config["method"], config["seed"]) == ("none", -3)
    assert config["options"] == {"score_use": "none", "dim": 8, "layers": 1, "heads": 2}
    assert (config["training"]["beta"], config["training"]["clip"]) == ([1.0, 2.0], 10.0)
    assert (config["data"]["train_lists"], config["data"]["evaluation_lists"]) == (300, 100)


def test_torch_has_all_cores_unless_the_user_wants_fewer(monkeypatch):
    asked = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    monkeypatch.setattr(cli, "cores", lambda: 7)
    for limit in ("1", ""):
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
        cli._use_all_cores()
    assert asked == [7]


def test_precision_reaches_the_record(dnr, workplace):
    assert dnr(*TRAIN, "--precision", "bf16-mixed", "--devices", "1")[0] == 0
    (path,) = workplace.glob("results/*.json")
    assert experiments.Record.load(path).cost["precision"] == "bf16-mixed"


@pytest.mark.parametrize("width", [80, 200])
def test_in_a_terminal_a_bar_says_it_all(dnr, monkeypatch, width):
    console = Console(force_terminal=True, width=width, highlight=False, soft_wrap=True)
    monkeypatch.setattr(cli, "console", console)
    code, out, _ = dnr(*TRAIN)
    assert code == 0
    assert "━" in out
    plain = " ".join(re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", out).split())
    assert re.search(
        r"epoch 2/2 phase 2 ━+ L_direct [\d.]+ L_z [\d.]+ L_adv -[\d.]+ L_x [\d.]+ [\d,]+ lists/s "
        r"0:00 left", plain
    )  # fmt: skip
    assert re.search(r"epoch 2/2 phase 2 L_direct .* validation NDCG@6 0\.\d{4}", plain)


@pytest.mark.slow
def test_an_interrupted_run_says_so_and_goes_on(dnr, workplace):
    command = [*TRAIN, "--epochs", "15"]
    started = subprocess.Popen(
        [sys.executable, "-m", "dnrlib.cli", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    next(line for line in started.stdout if line.startswith("epoch 1/15"))
    started.send_signal(signal.SIGINT)
    out, err = started.communicate()
    assert started.returncode == 130
    assert err == "Interrupted. The same command goes on from what is finished.\n"
    assert "epoch 15/15" not in out
    code, out, _ = dnr(*command)
    assert code == 0
    assert re.search(r"Going on from runs/.*checkpoint\.pt\nepoch ([2-9]|1\d)/15", out)


@pytest.mark.parametrize(("validation", "star"), [(0.3, ""), (0.4, " *")])
def test_the_best_epoch_so_far_has_a_star(capfd, validation, star):
    cli._Display().show(Progress(2, 5, 1, 9, 9, {"L_direct": 0.5}, 1234.5, 61, validation, 0.4))
    line = (
        "epoch 2/5 phase 1  L_direct 0.5000  "
        f"validation NDCG@6 {validation:.4f}{star}  1,234 lists/s  1:01 left\n"
    )
    assert capfd.readouterr().out == line


def test_clock():
    assert [cli._clock(s) for s in (0.4, 59.6, 3599, 3600, 7384)] == [
        "0:00", "1:00", "59:59", "1:00:00", "2:03:04",
    ]  # fmt: skip


# The other commands -----------------------------------------------------------------------


def test_lists_are_described_and_saved(dnr, workplace):
    code, out, _ = dnr("data", "prepare", *LISTS, "--out", "lists.st", "--set", "train_lists=50")
    assert code == 0
    assert re.search(r"train +│ 50 +│ 3\.\d{3} +│ 0\.\d{3} +│ 0\.\d{3} +│ 0\.\d{3}", out)
    saved = CandidateLists.load(workplace / "lists.st")
    assert f"Fingerprint {saved.fingerprint}\n" in out
    assert "Note: SimulatedWorld(users=600" in out
    assert len(saved.of_split("train")) == 50


def test_a_log_is_streamed_into_files_of_lists(dnr, workplace):
    load("simulated").frame.write_parquet(workplace / "log.parquet")
    stream = ["data", "stream", "log.parquet", "--out", "lists", "--parts", "2"]
    code, out, err = dnr(*stream, "--set", "core=5", "--set", "factorisation.epochs=1")
    assert (code, err) == (0, "")
    assert "2 files of candidate lists in lists/log-shown+sampled-earlier-" in out
    files = sorted(workplace.glob("lists/log-shown*/*.safetensors"))
    assert sum(len(CandidateLists.load(file)) for file in files) > 1000
    code, _, err = dnr(*stream, "--index", "nosuch")
    assert (code, err) == (2, "error: index = 'nosuch': choose one of exact, faiss\n")
    code, _, err = dnr("data", "stream", "nosuch.parquet")
    assert (code, err.startswith("error: nosuch.parquet: is neither a Parquet")) == (3, True)


def test_a_run_is_evaluated_again_by_name_path_and_on_other_lists(dnr, workplace):
    assert dnr(*TRAIN)[0] == 0
    (path,) = workplace.glob("results/*.json")
    for run in (path.stem, path):
        code, out, _ = dnr("evaluate", run)
        assert code == 0
        assert out.endswith("Largest difference from the record on the test lists: 0\n")
    assert dnr("data", "prepare", *LISTS, "--set", "seed=1", "--out", "other.st")[0] == 0
    code, out, _ = dnr("evaluate", path.stem, "--lists", "other.st")
    assert code == 0
    assert "ndcg@6" in out
    assert "Largest difference" not in out
    code, out, _ = dnr("export", path.stem, "reranker.onnx")
    assert (code, "Largest difference from PyTorch" in out) == (0, True)
    assert (workplace / "reranker.onnx").stat().st_size > 1000
    other = workplace / "other.st"
    other.write_bytes(other.read_bytes()[:5000])
    code, _, err = dnr("evaluate", path.stem, "--lists", "other.st")
    assert (code, err.startswith("error: other.st: not a file of candidate lists")) == (3, True)
    shutil.rmtree(workplace / "runs")
    code, _, err = dnr("evaluate", path.stem)
    assert code == 3
    assert "the weights are not on this machine" in err


def test_evaluation_tells_of_other_weights(dnr, workplace):
    for seed in ("0", "1"):
        assert dnr(*TRAIN, "--seed", seed)[0] == 0
    first, second = (path.stem for path in sorted(workplace.glob("results/*.json")))
    weights = "reranker.safetensors"
    shutil.copy(workplace / "runs" / second / weights, workplace / "runs" / first / weights)
    _, out, _ = dnr("evaluate", first)
    assert float(out.split()[-1]) > 0


def test_a_plan_says_what_is_recorded(dnr, workplace, monkeypatch):
    (workplace / "experiments").mkdir()
    (workplace / "experiments/tiny.yml").write_text(
        "base: {data: {dataset: simulated, retriever: noisy-truth, evaluation_lists: 100}}\n"
        "grid: {method: [score, score-reversed]}\n"
    )
    plan = ["reproduce", "--experiment", "tiny", "--plan"]
    code, out, _ = dnr(*plan)
    assert code == 0
    assert "tiny: 2 runs" in out
    assert "yes" not in out
    assert re.search(r"score +│ 0 +│ +│ – +│ –", out)
    assert "–: not known: the lists were not prepared here, and no record has their" in out
    assert "To do: 2 runs, of which 0 are predicted" in out
    baseline = ["train", *LISTS, "--set", "data.evaluation_lists=100", "--method", "score"]
    assert dnr(*baseline)[0] == 0
    out = dnr(*plan)[1]
    amount = r" +│ [\d.]+ s +│ [\d,]+ MiB"
    assert re.search(rf"score +│ 0 +│ yes{amount}", out)
    assert re.search(rf"score-reversed +│ 0 +│ +{amount}", out)
    assert "To do: 1 runs, of which 1 are predicted" in out
    assert re.search(r"with --workers 4, once lists are prepared: 0\.\d s\n", out)
    assert "of the cluster are not known" in dnr(*plan, "--engine", "ray")[1]
    monkeypatch.setattr(experiments, "run_code", lambda *parts: "changed")
    assert re.search(r"score +│ 0 +│ by other code", dnr(*plan)[1])
    monkeypatch.setitem(
        ENGINES, "local", lambda configs, *_, workers: map(experiments.run, configs)
    )
    code, out, _ = dnr(*plan[:-1], "--workers", "1")
    assert code == 0
    assert re.search(r"\[2/2\] simulated.*score-reversed.*: test NDCG@6 0\.\d{4}, .*predicted", out)
    (workplace / "results/damaged.json").write_text("{")
    code, _, err = dnr(*plan)
    assert (code, err.startswith("error: results/damaged.json: not a record")) == (3, True)


SMALL = """
base:
  data: {dataset: simulated, retriever: noisy-truth, train_lists: 300, evaluation_lists: 100}
  options: {dim: 8, layers: 1}
  training: {epochs: 2, lambda_e: 1}
grid: {method: [score, concat], seed: [0, 1]}
"""


@pytest.fixture
def small(workplace):
    """An experiment of which two runs are recorded, the score's and the first of concat."""
    (workplace / "experiments").mkdir()
    (workplace / "experiments/small.yml").write_text(SMALL)
    for config in experiments.load_experiment("small")[:2]:
        experiments.run(config)
    return ["reproduce", "--experiment", "small", "--cell"]


def test_a_cell_of_a_table_is_done_again_and_compared_with_its_record(dnr, workplace, small):
    before = sorted((workplace / "results").rglob("*"))
    code, out, _ = dnr(*small, "concat")
    assert code == 0
    (run,) = (path.stem for path in workplace.glob("results/*concat*"))
    assert f"recorded as {run}\n" in out
    assert re.search(r"epoch 2/2 phase 1 .* left\n", out)
    assert re.search(r"ndcg@6 +│ (0\.\d{4}) +│ \1 +│ \+0\.0000 +│ 0\.0100 +│ same", out)
    assert "versions and threads are as they were: expect the same\n" in out
    assert "Tolerance: 0.01, as fewer than 5 seeds are recorded" in out
    assert sorted((workplace / "results").rglob("*")) == before
    assert not (workplace / "runs/again").exists()
    of_run = dnr("reproduce", "--run", run)[1]
    assert out[out.index("Lists, code") :] == of_run[of_run.index("Lists, code") :]


def test_a_result_that_is_not_the_recorded_one_fails(dnr, workplace, small):
    (path,) = workplace.glob("results/*concat*")
    record = experiments.Record.load(path)
    labels, shown = (ranked.flip(1) for ranked in record.ranked())
    record.metrics["test"] |= summarise(labels, shown)
    record.made["machine"] = "an abacus"
    record.data["fingerprint"] = "other"
    replace(record, **ranked_record(labels, shown)).save()
    code, out, _ = dnr(*small, "concat@simulated@shown+sampled")
    assert code == 1
    assert re.search(r"ndcg@6 .*│ 0\.0100 +│ outside", out)
    assert "These are other lists" in out.split("Not as it was: machine: an abacus, now")[0]


def test_a_metric_that_is_not_of_its_ranking_fails(dnr, workplace, small):
    (path,) = workplace.glob("results/*concat*")
    record = experiments.Record.load(path)
    record.metrics["test"]["ndcg@6"] += 0.02
    record.save()
    code, out, _ = dnr(*small, "concat@simulated@shown+sampled")
    assert code == 1
    assert "The record contradicts itself" in out
    assert re.search(r"ndcg@6 .* -0\.0200 .*│ contradiction", out)


def test_a_cell_without_a_record_says_what_to_do(dnr, small):
    code, out, err = dnr(*small, "concat", "--seed", "1")
    assert code == 3
    assert "seed 1) is not recorded yet: `dnr reproduce --experiment small`" in out
    assert err == "error: results: there is no record to compare with\n"
    code, out, _ = dnr(*small, "concat", "--seed", "all")
    assert code == 0
    assert "seed 1) is not recorded yet" in out
    assert out.count("│ same") == 9


def test_a_cell_that_is_not_there_lists_those_that_are(dnr, small):
    place = "simulated@shown+sampled@noisy-truth"
    assert dnr(*small, "x")[2] == (
        "error: cell = 'x' is no cell of this experiment: choose one of "
        f"score@{place}, concat@{place}\n"
    )
    assert "seed = '7': choose one of 0, 1 or all" in dnr(*small, "concat", "--seed", "7")[2]


def test_the_plan_of_a_cell_counts_what_is_recorded_too(dnr, small):
    code, out, _ = dnr(*small, "concat", "--plan")
    assert code == 0
    assert re.search(r"concat +│ 0 +│ yes +│ [\d.]+ s", out)
    assert "To do: 1 runs, of which 1 are predicted" in out
    assert "epoch" not in out


def test_a_file_of_lists_is_checked(dnr, workplace):
    rows = [
        f"r{request},i{(request + place) % 7},{place / 6:.2f},{int(place == request % 4)}"
        for request in range(40)
        for place in range(5)
    ]
    (workplace / "own.csv").write_text("\n".join(["request,item,score,label", *rows]))
    code, out, _ = dnr("data", "check", "own.csv")
    assert code == 0
    assert "own.csv" in out
    assert "40" in out


def test_claims_are_printed(dnr, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "dnrlib.verdicts.print_verdicts", lambda console, id: asked.append((console, id))
    )
    assert dnr("claims")[0] == dnr("claims", "--id", "auc-drop")[0] == 0
    assert asked == [(cli.console, ""), (cli.console, "auc-drop")]


def test_parameters_of_a_chapter_are_read_as_papermill_has_them(dnr, monkeypatch):
    asked = []

    def chapter(*arguments):
        asked.append(arguments)
        return Path("page.html").absolute()

    monkeypatch.setattr("dnrlib.book.single.make_chapter", chapter)
    code, out, _ = dnr(
        "book", "--no-open", "--chapter", "one", "--dataset", "simulated", "--profile", "ci",
        "-p", "low", "-3", "-p", "flag", "false", "-p", "rate=-0.5", "-p", "name", "a=b",
        "-p", "sizes", "[1, 2]",
    )  # fmt: skip
    assert code == 0
    parameters = {"low": -3, "flag": False, "rate": -0.5, "name": "a=b", "sizes": [1, 2]}
    assert asked == [("one", parameters, "ci", "simulated")]
    assert out.startswith("Open ")


def test_the_book_is_built_with_profile_and_data(dnr, monkeypatch, tmp_path):
    asked, opened = [], []
    monkeypatch.setattr("dnrlib.book.build", lambda *given, **_: asked.append(given) or tmp_path)
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("dnrlib.data.resolve", lambda dataset: ("ml-100k", f"No {dataset} here."))
    monkeypatch.setattr("dnrlib.book.record_durations", lambda: "book/durations.json")
    code, out, _ = dnr("book", "--profile", "full", "--open", "--record-durations")
    assert code == 0
    assert out.startswith("No auto here.\n")
    assert "Wrote book/durations.json\n" in out
    assert (asked, opened) == ([("full", "ml-100k")], [tmp_path.as_uri()])


def test_a_measurement_is_asked_for_by_name(dnr, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "dnrlib.measurements.measure",
        lambda what, experiment, runs, say: asked.append((what, experiment, runs)) or "a file",
    )
    code, out, _ = dnr("measure", "noise", "--experiment", "seeds", "--runs", "elsewhere")
    assert (code, out) == (0, "Wrote a file\n")
    assert dnr("measure", "noise", "--experiment", "seeds")[0] == 0
    assert asked == [("noise", "seeds", Path("elsewhere")), ("noise", "seeds", Path("runs"))]


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["measure", "--help"], 0, ["--experiment", "--runs", "robustness", "counts", "worlds"]),
        (["measure", "x", "--experiment", "seeds"], 2, ["measure 'x' is unknown: choose one of"]),
        (["measure", "noise", "--experiment", "nosuch"], 3, ["no such experiment"]),
    ],
)
def test_measuring_explains_itself(dnr, command, code, words):
    found, out, err = dnr(*command)
    assert found == code
    assert all(word in out + err for word in words)
