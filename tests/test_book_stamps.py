"""Each kind of change makes exactly the right chapters and pages old."""

import os
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from made_up_book import notebook, write_book

from dnrlib.book import BookError, build, executed, stamps
from dnrlib.book.execution import kept

BOTH = {"one", "two"}
FIGURE = {"text/markdown": ":::{figure} /figures/line.svg\n:name: fig-line\n:::"}
WITHOUT_DATA = "size = 1  # of the line"


@pytest.fixture
def root(tmp_path: Path, monkeypatch) -> Path:
    """A book of two chapters, of which the first reads data, in a project of its own."""
    package = tmp_path / "package"
    for file, text in {
        "log.py": "x = 1\n",
        "cli.py": "",
        "book/site.py": "",
        "page.css": "",
    }.items():
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text(text)
    monkeypatch.setattr("dnrlib.identity.PACKAGE", package)
    monkeypatch.setattr("dnrlib.book.stamps.BUILDER", package / "book")
    monkeypatch.setenv("DNR_DATA_DIR", str(tmp_path / "raw"))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/ml-1m.zip").write_text("ratings")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/a.json").write_text("{}")
    (tmp_path / "figures").mkdir()
    two = notebook("2 + 2", name="two", parameters=WITHOUT_DATA)
    return write_book(tmp_path, one=notebook("1 + 1"), two=two)


@pytest.fixture
def built(root: Path, monkeypatch):
    """Build without a kernel and without Jupyter Book; returns the chapters that are executed."""
    done: list[str] = []

    def execute(source, parameters, folder, kernels, output):
        done.append(source.stem)
        (folder / "figures/line.svg").write_text("<svg/>")
        chapter = nbformat.read(source, as_version=4)
        chapter.cells[2].outputs = [nbformat.v4.new_output("display_data", data=FIGURE)]
        return chapter, ["line.svg"]

    def render(source, first):
        (source / "html").mkdir()
        (source / "html/index.html").write_text("")
        return source / "html"

    def run(**arguments) -> set[str]:
        done.clear()
        build(root=root, dataset="ml-1m", workers=1, **arguments)
        return set(done)

    monkeypatch.setattr("dnrlib.book.jobs.execute", execute)
    monkeypatch.setattr("dnrlib.book.builder.render", render)
    return run


def change(path: str, old: str, new: str):
    """Replace some text of a file of the project."""

    def apply(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new))

    return apply


def touch(path: str):
    return lambda root: os.utime(root / path, ns=(1, 1))


def write(path: str, text: str = "{}"):
    return lambda root: (root / path).write_text(text)


def of(page: str):
    return {f"book/{page}.ipynb"}


PAGES = {"book/index.md", "book/one.ipynb", "book/two.ipynb", "book/bibliography.md"}
CHAPTERS = of("one") | of("two")
CHANGES = {
    "nothing": (lambda root: None, set(), set(), None),
    "code": (change("book/one.ipynb", "1 + 1", "1 + 3"), {"one"}, of("one"), "its code"),
    "a sentence": (
        change("book/one.ipynb", "None.", "Much."), set(), of("one"), "what it says"
    ),
    "the meaning of a parameter": (
        change("book/one.ipynb", "# per step", "# a step"), set(), of("one"), "what it says"
    ),
    "a default": (
        change("book/one.ipynb", "rate = 0.1", "rate = 0.2"), {"one"}, of("one"),
        "its parameters and what it says",
    ),
    "the profile": (
        write("book/profiles/quick.yml", "one: {size: 4}\ntwo: {size: 3}"), {"two"}, of("two"),
        "its parameters and what it says",
    ),
    "the profile, to the default": (
        write("book/profiles/quick.yml", "one: {size: 4}\ntwo: {size: 1}"), set(), of("two"),
        "what it says",
    ),
    "another profile": (
        write("book/profiles/ci.yml", "one: {size: 2}"), set(), CHAPTERS, "what it says"
    ),
    "the library": (change("package/log.py", "1", "2"), BOTH, CHAPTERS, "the library"),
    "a style sheet of it": (write("package/page.css", "p {}"), BOTH, CHAPTERS, "the library"),
    "a comment in it": (change("package/log.py", "x", "# x\nx"), set(), set(), None),
    "the command line": (write("package/cli.py", "x = 1"), set(), set(), None),
    "the builder": (
        write("package/book/site.py", "x = 1"), set(), PAGES,
        "the builder or the book's configuration",
    ),
    "the configuration": (
        write("book/references.bib", ""), set(), PAGES, "the builder or the book's configuration"
    ),
    "a page of text": (
        write("book/index.md", "# Books"), set(), {"book/index.md"}, "what it says"
    ),
    "a record": (write("results/b.json"), BOTH, CHAPTERS, "the records"),
    "the data": (touch("raw/ml-1m.zip"), {"one"}, of("one"), "the files of its data set"),
    "other data": (write("raw/ml-100k.zip"), set(), set(), None),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_makes_old_what_depends_on_it(kind, root, built, capfd):
    apply, executed, pages, reason = CHANGES[kind]
    assert built() == BOTH
    assert stamps.current(root) == dict.fromkeys(PAGES)
    apply(root)
    why = {page: text for page, text in stamps.current(root).items() if text}
    assert why == dict.fromkeys(pages, f"{reason} changed")
    capfd.readouterr()
    assert built() == executed
    out = capfd.readouterr().out
    for name in BOTH - executed:
        assert re.search(
            rf"{name}: nothing has changed since [\d :-]+ UTC; not executed again\n", out
        )
    for name in executed:
        assert re.search(rf"^{name}: .* changed$", out, re.MULTILINE)
    assert stamps.current(root) == dict.fromkeys(PAGES)


def test_other_versions_of_packages_make_chapters_old(root, built, monkeypatch):
    built()
    monkeypatch.setattr("dnrlib.book.stamps.versions", lambda packages: {"torch": "9.9"})
    assert stamps.current(root)["book/one.ipynb"] == "the versions of packages changed"
    assert built() == BOTH


def test_auto_is_another_data_set_once_one_is_there(root):
    before = stamps.data_files(root, "auto")
    assert before == stamps.data_files(root, "ml-1m") != stamps.data_files(root, "simulated")
    (root / "raw/ml-1m.zip").unlink()
    assert stamps.data_files(root, "auto") == stamps.data_files(root, "simulated")
    (root / "raw/ml-1m").mkdir()
    folder = stamps.data_files(root, "auto")
    (root / "raw/ml-1m/ratings.dat").write_text("1::1::5::1")
    assert len({before, folder, stamps.data_files(root, "auto")}) == 3


def test_all_is_executed_when_it_is_asked_for(built):
    assert built() == built(fresh=True) == BOTH
    assert built() == set()


def test_what_is_not_as_it_was_left_is_executed_again(root, built):
    built()
    folder = root / "_build/executed"
    for damage in (
        lambda: (folder / "one.ipynb").write_text("{"),
        lambda: (folder / "one.ipynb").unlink(),
        lambda: nbformat.write(notebook("1 + 1"), folder / "one.ipynb"),  # by hand
    ):
        damage()
        assert built() == {"one"}
    for damage in (
        lambda: (folder / "figures/line.svg").write_text("<svg></svg>"),
        lambda: (folder / "figures/line.svg").unlink(),
    ):
        damage()
        assert built() == BOTH  # both show it


def test_an_execution_that_is_used_again_has_the_profile_of_the_build(root, built):
    built()
    (root / "book/profiles/ci.yml").write_text("one: {size: 4}")
    assert built(profile="ci") == set()
    page = nbformat.read(root / "_build/book-source/book/one.ipynb", as_version=4)
    assert "- **Profile:** ci\n" in page.cells[-1].source
    assert "dnr book --chapter one --profile ci -p dataset ml-1m`" in page.cells[-1].source


def test_after_a_failure_the_chapter_is_executed_again(root, built, monkeypatch):
    built()
    good = (root / "book/one.ipynb").read_text()
    change("book/one.ipynb", "1 + 1", "1 / 0")(root)

    def fail(*_):
        raise BookError("no")

    with monkeypatch.context() as patch:
        patch.setattr("dnrlib.book.jobs.execute", fail)
        with pytest.raises(BookError, match="no"):
            built()
    (root / "book/one.ipynb").write_text(good)
    assert built() == {"one"}


def test_sources_that_change_while_the_site_is_rendered_refuse_it(root, built, monkeypatch):
    def render(source, first):
        write("book/index.md", "# Books")(root)
        write("results/b.json")(root)
        (source / "html").mkdir()
        return source / "html"

    monkeypatch.setattr("dnrlib.book.builder.render", render)
    with pytest.raises(BookError, match="sources changed while the site was made") as error:
        built()
    for line in (
        "book/index.md: what it says changed",
        "book/one.ipynb: the records changed",
        "book/two.ipynb: the records changed",
    ):
        assert f"  {line}" in str(error.value).splitlines()
    assert "bibliography" not in str(error.value)
    assert not (root / "_build/html").exists()


def test_a_text_that_changes_behind_its_reader_refuses_the_site(root, built, monkeypatch):
    def decorate(notebook, folder):
        if kept(notebook).chapter == "two":
            change("book/one.ipynb", "None.", "Much.")(root)

    monkeypatch.setattr("dnrlib.book.builder.decorate", decorate)
    with pytest.raises(BookError, match=r"book/one\.ipynb: what it says changed"):
        built()


def test_sources_that_change_while_a_chapter_is_executed_refuse_it(root, built, monkeypatch):
    def execute(source, *_):
        change("package/log.py", "1", "2")(root)
        return nbformat.read(source, as_version=4), []

    monkeypatch.setattr("dnrlib.book.jobs.execute", execute)
    with pytest.raises(BookError, match="chapter one: the library changed while it was executed"):
        built()
    assert executed.load(root, "one") is None


def test_data_that_are_downloaded_while_a_chapter_is_executed_are_its_data(
    root, built, monkeypatch
):
    (root / "raw/ml-1m.zip").unlink()

    def execute(source, *_):
        if not (root / "raw/ml-1m.zip").exists():
            write("raw/ml-1m.zip")(root)
        return nbformat.read(source, as_version=4), []

    with monkeypatch.context() as patch:
        patch.setattr("dnrlib.book.jobs.execute", execute)
        built()
    assert built() == set()


def test_pages_that_come_and_go_are_named(root, built):
    built()
    change("_toc.yml", "book/bibliography", "book/new")(root)
    write("book/new.md", "# New")(root)
    why = stamps.current(root)
    assert why["book/new.md"] == "it is not in the site"
    assert why["book/bibliography.md"] == "it is no longer in the book"


def test_a_chapter_that_tells_of_the_build_gets_old_with_it(root, built):
    nbformat.write(notebook("from dnrlib.book import durations"), root / "book/one.ipynb")
    built()
    write("book/durations.json")(root)
    why = stamps.current(root)
    assert why["book/one.ipynb"] == "the build that it tells of changed"
    assert why["book/two.ipynb"] is None
    assert built() == {"one"}


def test_without_a_site_nothing_can_be_compared(root):
    with pytest.raises(BookError, match=r"stamps.json is not there: build the book first"):
        stamps.current(root)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_broken_stamps_say_what_to_do(root, text):
    (root / "_build/html").mkdir(parents=True)
    (root / "_build/html/stamps.json").write_text(text)
    with pytest.raises(BookError, match=r"stamps.json is broken: build the book again"):
        stamps.current(root)


def test_the_page_of_an_execution_has_the_present_text(root, built):
    built()
    loaded = executed.load(root, "one")
    source = notebook("1 + 1")
    source.cells.insert(0, nbformat.v4.new_markdown_cell("(here)="))
    source.cells[2].source += "# what they mean"
    page = executed.with_text_of(loaded, source)
    assert [cell.source for cell in page.cells] == [cell.source for cell in source.cells]
    assert page.cells[3].outputs == loaded.cells[2].outputs != []
    assert kept(page) == kept(loaded)
    injected = nbformat.v4.new_code_cell("size = 4", metadata={"tags": ["injected-parameters"]})
    loaded.cells.insert(2, injected)
    page = executed.with_text_of(loaded, notebook("1 + 1"))
    assert [cell.source for cell in page.cells] == [cell.source for cell in loaded.cells]


def test_the_history_of_claims_and_rules_counts(root):
    def git(*arguments):
        names = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", root, *names, *arguments], check=True)

    git("init", "-q")
    (root / "data").mkdir()
    write("data/rules.yml")(root)
    git("add", "book")
    git("commit", "-qm", "pages")
    before = stamps.shared_parts(root)
    git("add", "package")
    git("commit", "-qm", "code")
    assert stamps.shared_parts(root) == before
    git("add", "data")
    git("commit", "-qm", "rules")
    assert stamps.shared_parts(root)["records"] != before["records"]
