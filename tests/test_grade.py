"""Marks for files of answers: right ones, empty ones, wrong ones, and those that go astray."""

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dnrlib.book.notebooks import chapters
from dnrlib.cli import main
from dnrlib.errors import DataError
from dnrlib.exercises import EXERCISES
from dnrlib.exercises.assignment import EXPERIMENT, MISTAKES, POINTS, SmallExperiment, student
from dnrlib.exercises.grade import TASKS, _run, _tried, answer_files, grade, read_cells

ROOT = Path(__file__).parents[1]
HANDED_OUT = ROOT / "book/assignment.py"
SOLUTION = re.compile(r"\{solution\} ex-(?P<label>\S+)\n.*?```python\n(?P<code>.*?)```", re.S)

EXPERIMENT_SOLUTION = """
def small_experiment(settings, seeds):
    from scipy import stats
    from dnrlib.experiments import run, run_config

    def row(method, seed):
        record = run(run_config({**settings, "method": method, "seed": seed}))
        return {"method": method, "seed": seed, "ndcg": record.metrics["test"]["ndcg@6"]}

    runs = [row("score", 0), *(row(m, s) for m in ("concat", "DNR-B") for s in seeds)]
    ndcg = {(one["method"], one["seed"]): one["ndcg"] for one in runs}
    gains = np.array([ndcg["DNR-B", seed] - ndcg["concat", seed] for seed in seeds])
    low, high = stats.t.interval(0.95, len(gains) - 1, gains.mean(), stats.sem(gains))
    return {"runs": runs, "gain": gains.mean(), "low": low, "high": high}
"""


def printed_solutions():
    """Those that the chapters print, by the names of their functions."""
    texts = [
        cell.source
        for path in chapters(ROOT).values()
        for cell in nbformat.read(ROOT / path, as_version=4).cells
        if cell.cell_type == "markdown"
    ]
    found = [match for text in texts for match in SOLUTION.finditer(text)]
    return {match["label"].replace("-", "_"): match["code"] for match in found}


def written(folder, text, name="answers.py"):
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def marked(folder, text, **options):
    return {mark.task: mark for mark in grade(written(folder, text), **options)}


def test_the_handed_out_file_has_every_task_and_no_points():
    marks = grade(HANDED_OUT, assignment=True)
    assert [mark.task for mark in marks] == list(POINTS)
    assert [mark.points for mark in marks] == [0] * len(POINTS)
    assert all("returned nothing" in mark.message for mark in marks)


@pytest.mark.slow
def test_every_printed_solution_is_right_and_so_is_the_experiment_of_nine_runs(tmp_path):
    printed = printed_solutions()
    assert set(POINTS) - {EXPERIMENT.name} <= set(printed) <= set(EXERCISES)
    text = "\n".join(printed.values()) + EXPERIMENT_SOLUTION
    marks = grade(written(tmp_path, text))
    assert {mark.task for mark in marks} == {*printed, EXPERIMENT.name}
    assert [mark for mark in marks if mark.points != 1] == []


@pytest.mark.slow
def test_answers_that_go_astray_do_not_harm_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    marks = marked(
        tmp_path,
        "import nowhere\nprint('noise', file=open('left.txt', 'w'))\n"
        "def expected_random_ndcg(positives, n, k):\n    while True: pass\n"
        "def posterior(p_x, p_z_given_x): exit()\n"
        "def bound_gap(phi, world):\n    import os; os._exit(1)\n"
        "def ks(a, b): return nowhere.ks(a, b)\n"
        "def told_same(low, high, margin):\n"
        "    print('mine')\n"
        "    return (high < margin and low > -margin) - (low > margin or high < -margin)\n"
        "def ndcg(labels, k): return labels[:k].mean()\n",
        seconds=3.0,
    )
    assert marks["expected_random_ndcg"].message == "ran for more than 3 s"
    assert marks["posterior"].message.startswith("raised SystemExit")
    assert marks["bound_gap"].message == "ended Python"
    assert "NameError" in marks["ks"].message
    assert "line 1: ModuleNotFoundError: No module named 'nowhere'" in marks["ks"].message
    assert not Path("left.txt").exists()
    assert marks["told_same"].points == 1
    assert marks["ndcg"].message.endswith("each place needs its discount.")
    assert sum(mark.points for mark in marks.values()) == 1


@pytest.mark.parametrize(
    ("around", "reason"),
    [
        ("while True: pass", "was not tried: the file ran for more than 1 s"),
        ("import os; os._exit(0)", "was not tried: the file ended Python"),
    ],
)
def test_a_file_that_does_not_come_to_its_end_is_tried_once(tmp_path, around, reason):
    text = f"def ks(a, b): return 0\ndef ndcg(labels, k): return 0\n{around}\n"
    marks = marked(tmp_path, text, seconds=1.0)
    assert {mark.message for mark in marks.values()} == {reason}


def tried(path, name):
    """As in the process of `grade`, but in this one."""
    return _tried(name, *_run(read_cells(path)))


def test_a_program_that_cannot_be_read_says_where(tmp_path):
    said = tried(written(tmp_path, "def ndcg(labels, k):\n    return (1\n"), "ndcg")
    assert re.search(r"is not defined \(line 2: .*never closed\)", said.message)


def test_a_notebook_may_have_magic_and_a_broken_cell(tmp_path):
    cells = [
        new_markdown_cell("def ks(a, b): return 0"),
        new_code_cell("%matplotlib inline\n!ls\nimport numpy as np"),
        new_code_cell("def broken("),
        new_code_cell(printed_solutions()["ndcg"]),
    ]
    path = tmp_path / "answers.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    assert tried(path, "ndcg").passed
    assert tried(path, "ks").message == "is not defined (line 1: '(' was never closed)"


def test_what_is_no_file_of_answers_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"absent.py: there is no such file"):
        read_cells(tmp_path / "absent.py")
    with pytest.raises(DataError, match=r"torn.ipynb: neither a program nor a notebook"):
        read_cells(written(tmp_path, "{", "torn.ipynb"))


@pytest.fixture
def without_a_process(monkeypatch):
    """Answers are tried in this process: the command line is what is tested."""
    monkeypatch.setattr(
        "dnrlib.exercises.grade._in_a_process",
        lambda cells, names, seconds: [_tried(name, *_run(cells)) for name in names],
    )


def printed_by(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["grade", *map(str, arguments)])
    printed = capsys.readouterr()
    return stop.value.code, printed.out or printed.err


def test_marks_are_printed_for_people_programs_and_classes(tmp_path, capsys, without_a_process):
    folder = tmp_path / "class" / "anna"
    folder.mkdir(parents=True)
    mine = written(folder, printed_solutions()["told_same"])
    code, text = printed_by(capsys, mine)
    assert re.search(r"told_same .* 1 of 1 ", text)
    assert code == 0
    [found] = json.loads(printed_by(capsys, mine, "--json")[1])
    assert (found["points"], found["of"], found["tasks"][0]["task"]) == (1, 1, "told_same")
    written(tmp_path / "class", "def told_same(low, high, margin): return 5\n", "ben.py")
    assert len(answer_files(tmp_path / "class")) == 2
    head, *rows = printed_by(capsys, tmp_path / "class", "--csv")[1].splitlines()
    assert head == "file,told_same,all"
    assert rows == ["anna/answers.py,1,1", "ben.py,0,0"]
    assert re.search(r"ben.py\W+0\W+0\W", printed_by(capsys, tmp_path / "class")[1])


def test_a_file_that_cannot_be_read_does_not_keep_the_class_from_its_marks(
    tmp_path, capsys, without_a_process
):
    written(tmp_path, printed_solutions()["told_same"])
    (tmp_path / "ben.ipynb").write_bytes(b"\x89PNG\x00\xff")
    with pytest.raises(SystemExit) as stop:
        main(["grade", str(tmp_path), "--csv"])
    printed = capsys.readouterr()
    assert stop.value.code == 0
    assert printed.out.splitlines()[1:] == ["answers.py,1,1", "ben.ipynb,0,0"]
    assert "ben.ipynb: neither a program nor a notebook" in printed.err


def test_nothing_to_mark_is_refused(tmp_path, capsys, without_a_process):
    code, said = printed_by(capsys, written(tmp_path, "x = 1"))
    assert (code, "no function has the name of an exercise" in said) == (3, True)
    (tmp_path / "empty").mkdir()
    code, said = printed_by(capsys, tmp_path / "empty")
    assert (code, "no program and no notebook" in said) == (3, True)
    assert printed_by(capsys, tmp_path, "--json", "--csv")[0] == 2


class MadeUp(SmallExperiment):
    """The experiment without training: a run has what this formula says."""

    def again(self, method, seed):
        return {"score": 0.3, "concat": 0.4, "DNR-B": 0.41}[method] + (
            0 if method == "score" else 0.01 * (seed % 3) + 0.003 * (method == "DNR-B") * seed
        )


MADE_UP = MadeUp({"data": {}}, (3, 5, 8))


def made_up_table(**changes):
    runs = {("score", 0): 0.3} | {
        (method, seed): MADE_UP.again(method, seed)
        for method in ("concat", "DNR-B")
        for seed in MADE_UP.seeds
    }
    runs |= changes.pop("runs", {})
    dnr, concat = (np.array([runs[m, s] for s in MADE_UP.seeds]) for m in ("DNR-B", "concat"))
    ends = changes.pop("ends", student)(dnr, concat)
    rows = [{"method": m, "seed": s, "ndcg": v} for (m, s), v in runs.items() if v is not None]
    return {"runs": rows, **dict(zip(("gain", "low", "high"), ends, strict=True))} | changes


def said_of(table):
    return MADE_UP.check(lambda settings, seeds: table).message


def test_student_is_the_textbook_interval():
    differences = np.array([0.01, 0.02, 0.06])
    gain, low, high = student(differences + 0.5, np.full(3, 0.5))
    half = 4.302653 * differences.std(ddof=1) / 3**0.5
    assert [gain, low, high] == pytest.approx([0.03, 0.03 - half, 0.03 + half])


def test_a_sound_table_passes_whoever_wins():
    assert MADE_UP.check(lambda settings, seeds: made_up_table()).passed


@pytest.mark.parametrize("words", MISTAKES)
def test_a_wrong_interval_is_named(words):
    assert said_of(made_up_table(ends=MISTAKES[words])).endswith(words)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "returned nothing"),
        ({"runs": []}, "returned a table without 'gain'"),
        (made_up_table(runs={("score", 0): 0.5}), "has 0.5000 for the score alone"),
        (made_up_table(runs={("concat", 3): 0.5}), "has 0.5000 for concat with seed 3"),
        (made_up_table(runs={("DNR-B", 8): 0.5}), "has 0.5000 for DNR-B with seed 8"),
        (
            made_up_table(runs={("concat", seed): 0.4 for seed in (3, 5, 8)}),
            "has the same NDCG@6 for concat with every seed",
        ),
        (made_up_table(low=0.0), "has other ends than its runs"),
        (3, "raised TypeError"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(table, message):
    assert said_of(table).startswith(f"small_experiment {message}")


@pytest.mark.parametrize(
    ("method", "message"),
    [("score", "has no row of the method score"), ("concat", "has no run of concat with seed 3")],
)
def test_a_missing_run_is_named(method, message):
    table = made_up_table()
    table["runs"] = [row for row in table["runs"] if row["method"] != method]
    assert said_of(table).startswith(f"small_experiment {message}")


def test_the_points_add_up_and_tasks_exist():
    assert sum(POINTS.values()) == 100
    assert set(POINTS) <= set(TASKS)
    assert EXPERIMENT.name not in EXERCISES
