"""A book is built: chapters side by side, their pages, and how a failure ends it."""

import os
import re
from pathlib import Path
from threading import Event, Thread

import nbformat
import pytest
from made_up_book import PARAMETERS, notebook, write_book

from dnrlib.book import BookError, build, durations, executed, jobs, run_chapter, stamps
from dnrlib.book.builder import alone_in
from dnrlib.book.execution import Execution, keep, kept
from dnrlib.book.plan import plan
from dnrlib.book.provenance import add_provenance
from dnrlib.errors import ConfigError
from dnrlib.identity import hash_of

CHAPTER = r"""
from dnrlib import figures
import matplotlib.pyplot as plt

figures.style()
figures.bind(share=0.25, users=6022, dataset=dataset, fingerprint="f00d")
fig, ax = plt.subplots()
ax.plot([0, size])
figures.save(plt.figure(), "unseen", "Nothing", "Of a page of text.")
figures.save(plt.figure(), "elsewhere", "Nothing", "Not of the book.", folder="_build")
figures.save(fig, "line", f'A line: "up" to {size}', "Where $x$ is, by {cite:t}`pei2019prm`.")
"""
TABLE = r"""
figures.table([{"method": "a|b", "lists": 6022, "NDCG@6": float("nan")}], "small", "A table.")
"""
PROSE = r"""
$$ e^{i\pi} = \boldsymbol{x} $$ (eq-one)

{numref}`fig-line`, {numref}`tab-small` and {eq}`eq-one`:
{glue:text}`share:.2f` of {glue:text}`users:,`.
"""
INDEX = """# Book

{numref}`fig-line` {glue:text}`one.ipynb::dataset:s` [one](one.ipynb)

```{image} /figures/unseen.svg
:alt: What a chapter writes for this page
```
"""
OTHER = "\nThere are {glue:text}`one.ipynb::users:,` users.\n"
WAIT = """
import os, time
from pathlib import Path

def wait_for(path):
    for _ in range(600):
        if Path(path).exists():
            return
        time.sleep(0.05)
    raise TimeoutError(path)
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch):
    """Write a book and return its root; of a library that nobody changes meanwhile."""
    monkeypatch.setattr("dnrlib.identity.PACKAGE", tmp_path / "package")
    monkeypatch.setattr("dnrlib.book.stamps.BUILDER", tmp_path / "package")
    return lambda **chapters: write_book(tmp_path, **chapters)


@pytest.mark.slow
def test_a_good_book_is_built_and_then_only_what_changed(write, capfd):
    two = notebook("2 + 2", name="two", prose=OTHER, parameters="size = 1  # of it")
    root = write(index=INDEX, one=notebook(CHAPTER, TABLE, prose=PROSE), two=two)
    index = build(root=root, dataset="simulated", workers=2)
    page = (index.parent / "book/one.html").read_text("utf-8")
    assert 'alt="A line: &quot;up&quot; to 4"' in page
    shown = ("Fig. 1.1", "Table 1.1", "(1.1)", "0.25", "6,022", "How this page was made", "f00d")
    assert [text for text in shown if text not in page] == []
    assert "simulated" in (index.parent / "book/index.html").read_text("utf-8")
    assert (index.parent / "_images/line.svg").is_file()
    assert "not known yet" in page
    out = capfd.readouterr().out
    assert "one: predicted time: not known yet\n" in out
    assert re.search(r"one: executed in [\d.]+ s \(predicted: not known yet\)\n", out)
    assert len(durations.read(root / durations.LAST)["seconds"]) == 2
    assert set(stamps.current(root).values()) == {None}

    nbformat.write(
        notebook(CHAPTER.replace("6022", "7033"), TABLE, prose=PROSE), root / "book/one.ipynb"
    )
    (root / "figures/line.svg").write_text("drawn since, with other parameters")
    assert stamps.current(root)["book/one.ipynb"] == "its code changed"
    build(root=root, dataset="simulated", workers=2)
    out = capfd.readouterr().out
    assert "two: nothing has changed since" in out
    assert "two: executed" not in out
    assert "7,033" in (index.parent / "book/two.html").read_text("utf-8")
    assert "drawn since" not in (index.parent / "_images/line.svg").read_text("utf-8")


@pytest.mark.slow
def test_chapters_are_executed_side_by_side_each_with_its_own_threads(write, capfd, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("dnrlib.book.jobs.cores", lambda: 5)
    code = (
        WAIT
        + """
Path("NAME-is-here").touch()
wait_for("OTHER-is-here")
print("a line\\nthreads", os.environ["OMP_NUM_THREADS"], end="")
"""
    )
    one, two = (code.replace("NAME", a).replace("OTHER", b) for a, b in ["xy", "yx"])
    root = write(one=notebook(one), two=notebook(two, name="two"))
    jobs.run_all(list(all_jobs(root)), workers=2)
    lines = capfd.readouterr().out.splitlines()
    assert {line for line in lines if "time" not in line and "executed" not in line} == {
        f"{name}: {line}" for name in ("one", "two") for line in ("a line", "threads 2")
    }
    assert sorted(path.name for path in root.glob("*-*")) == ["x-is-here", "y-is-here"]


def all_jobs(root: Path, **predicted):
    """All chapters of a book as they are executed by a build."""
    paths = {"one": Path("book/one.ipynb"), "two": Path("book/two.ipynb")}
    for name, stamp in stamps.executions(root, "quick", None).items():
        parameters = plan(root, "quick", None)[name]
        yield jobs.Job(root, paths[name], "quick", parameters, predicted.get(name), stamp)


@pytest.mark.slow
def test_the_first_failure_stops_the_others_and_leaves_no_site(write):
    slow = (
        WAIT
        + """
Path("kernel").write_text(str(os.getpid()))
wait_for("never")
"""
    )
    failing = WAIT + "wait_for('kernel')\nwrong = 1 / 0"
    root = write(one=notebook(slow), two=notebook(failing, name="two"))
    (root / "_build/html").mkdir(parents=True)
    with pytest.raises(
        BookError, match=r"(?s)chapter two: cell .*wrong = 1 / 0.*ZeroDivisionError"
    ):
        build(root=root, workers=2)
    assert not (root / "_build/html").exists()
    assert executed.load(root, "one") is executed.load(root, "two") is None
    with pytest.raises(ProcessLookupError):
        os.kill(int((root / "kernel").read_text()), 0)


@pytest.mark.slow
def test_a_second_build_in_a_folder_waits_for_the_first(tmp_path, monkeypatch):
    told, order = Event(), []
    monkeypatch.setattr("builtins.print", lambda *words, **_: (order.append(words[0]), told.set()))

    def second():
        with alone_in(tmp_path):
            order.append("second")

    other = Thread(target=second)
    with alone_in(tmp_path):
        other.start()
        told.wait()
        order.append("first is done")
    other.join()
    assert order == [
        "Another build has this folder (_build/.lock): waiting until it is done",
        "first is done",
        "second",
    ]


def test_a_kernel_that_dies_is_named(write):
    with pytest.raises(BookError, match="chapter one: its kernel died, as when memory runs out"):
        run_chapter("one", root=write(one=notebook("import os; os._exit(1)")))


@pytest.mark.slow
def test_a_chapter_runs_alone_with_given_parameters(write):
    root = write(one=notebook("print(size, rate, flag)"))
    path = run_chapter("one", {"rate": 1}, root=root)
    page = nbformat.read(path, as_version=4)
    (printed,) = (out.text for cell in page.cells for out in cell.get("outputs", []))
    assert printed == "4 1.0 True\n"
    assert "`rate = 1.0`" in page.cells[-1].source
    assert kept(page).parameters == {"size": 4, "rate": 1.0}
    other = run_chapter("one", {"size": 5}, root=root, target=root / "other.ipynb")
    assert kept(nbformat.read(other, as_version=4)).parameters == {"size": 5}


def without_a_kernel(source, *_):
    return nbformat.read(source, as_version=4), []


def test_a_warning_of_jupyter_book_fails_the_build(write, monkeypatch):
    monkeypatch.setattr("dnrlib.book.jobs.execute", without_a_kernel)
    with pytest.raises(BookError, match="undefined label: 'fig-line'"):
        build(root=write(index="# Book\n\n{numref}`fig-line`\n"))


def test_no_worker_is_no_way_to_build(write):
    with pytest.raises(ConfigError, match="workers = -1: must be at least 1"):
        build(root=write(), workers=-1)


def test_the_longest_come_first_and_what_measures_speed_alone_at_the_end(write, monkeypatch, capfd):
    monkeypatch.setattr("dnrlib.book.jobs.ALONE", ("one",))
    monkeypatch.setattr("dnrlib.book.jobs.cores", lambda: 8)
    order = []

    def execute(source, parameters, root, kernels, output):
        order.append((source.stem, kernels.threads))
        return nbformat.read(source, as_version=4), []

    monkeypatch.setattr("dnrlib.book.jobs.execute", execute)
    root = write(one=notebook(), two=notebook(name="two"))
    jobs.run_all(list(all_jobs(root, one=90.0, two=5.0)), workers=4)
    assert order == [("two", 2), ("one", 8)]
    assert "2 chapters to execute, 4 at a time; predicted time: 95 s\n" in capfd.readouterr().out
    monkeypatch.setattr("dnrlib.book.jobs.ALONE", ())
    for predicted, first in (({"one": 3.0, "two": 5.0}, "two"), ({"two": 99.0}, "one")):
        order.clear()
        jobs.run_all(list(all_jobs(root, **predicted)), workers=1)
        assert order[0] == (first, 8)
    assert jobs._in_all(list(all_jobs(root, one=9.0, two=5.0)), [], 2).endswith(": 9.0 s")


def test_each_page_of_a_build_has_all_that_the_builder_adds(write, monkeypatch):
    monkeypatch.setattr("dnrlib.book.jobs.execute", without_a_kernel)
    monkeypatch.setattr("dnrlib.book.builder.render", stop)
    root = write()
    with pytest.raises(StopIteration):
        build(root=root)
    text = (root / "_build/book-source/book/one.ipynb").read_text()
    for added in ("How this page was made", "**To read:**"):
        assert added in text


def stop(*_):
    raise StopIteration


def test_the_provenance_of_a_page(write):
    root = write()
    execution = Execution(
        chapter="one", profile="quick", parameters={"size": 5, "rate": 0.1}, seconds=61.0,
        predicted=90.0, executed="2025-11-23T00:31:49+00:00", commit="abc with local changes",
        machine="a machine, 4 cores", versions={"torch": "2.6"},
        stamp={"library": "11b", "records": "4ec"},
    )  # fmt: skip
    page = notebook()
    add_provenance(page, root, execution)
    box = page.cells[-1].source
    for line in (
        "**Executed:** 2025-11-23 00:31 UTC, in 61 s",
        "**Predicted:** 90 s",
        "**Commit:** abc with local changes",
        "**Library:** `11b`",
        "**Records:** `4ec`",
        "**Parameters:** `size = 5`",  # the other is the default
        "**Profile:** quick",
        "**Figures of this page:** `dnr book --chapter one --profile quick -p size 5 -p rate 0.1`",
        "**Machine:** a machine, 4 cores",
        "**Versions:** torch 2.6",
    ):
        assert f"- {line}\n" in box
    assert f"- **Stamp:** `{hash_of(execution.stamp)}`, of all that" in box
    assert "`dnr book --check` says whether" in box


def test_an_execution_is_kept_in_its_notebook_and_read_back():
    page = notebook(parameters=PARAMETERS)
    with pytest.raises(BookError, match="was not executed by this builder"):
        kept(page)
    one = Execution("one", "ci", {"a": [1], "b": {"c": None}}, 1.5, None, "now", "c", "m", {}, {})
    keep(one, page)
    again = kept(nbformat.reads(nbformat.writes(page), as_version=4))
    assert again == one
    assert type(again.parameters["b"]) is dict
