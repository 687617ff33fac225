"""One chapter rendered alone, and two parameter sets of one side by side."""

import re
from pathlib import Path

import nbformat
import pytest
from made_up_book import notebook, write_book
from nbformat import NotebookNode

from dnrlib import cli
from dnrlib.book import BookError, builder, compare, executed, jobs, single
from dnrlib.book.execution import Execution, keep
from dnrlib.errors import ConfigError

DRAWING = """
from dnrlib import figures
import matplotlib.pyplot as plt

fig, ax = plt.subplots()
ax.plot([0, size])
figures.bind(length=size, name=name)
figures.save(fig, "NAME-line", "A line", "Where $x$ is.")
"""
REFERENCES = """
{numref}`fig-two-line`, {glue:text}`two.ipynb::length:.1f` and [two](two), {eq}`eq-two`.
"""
EQUATION = "\n$$ x = 1 $$ (eq-two)\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    chapters = {
        "one": notebook(DRAWING.replace("NAME", "one"), prose=REFERENCES),
        "two": notebook(DRAWING.replace("NAME", "two"), prose=EQUATION, name="two"),
    }
    return write_book(tmp_path, **chapters)


@pytest.mark.slow
def test_a_chapter_is_rendered_with_and_without_the_others(root):
    (root / "_build/html/book").mkdir(parents=True)
    (root / "_build/html/book/two.html").write_text("the site's")
    page = single.make_chapter("one", {"size": 9}, root=root).read_text("utf-8")
    assert "Fig. 1.1" in page
    assert 'src="../_images/one-line.svg"' in page
    assert ">see two</span>" in page
    assert ">a figure of two</span>" in page
    assert ">(2.1)<" in page
    assert "<code" in page
    assert ">9</span>" in page
    links = set(re.findall(r'href="([^"]*two\.html)', page))
    assert links == {"../../../html/book/two.html"}
    assert "bibliography.html" not in page  # the site does not have it

    target = root / executed.EXECUTED / "two.ipynb"
    builder.run_chapter("two", root=root, target=target)
    executed.save(nbformat.read(target, as_version=4), root)
    page = single.render_chapter(root / "_build/chapters/one.ipynb", root).read_text("utf-8")
    assert "Fig. 2.1" in page
    assert "1.0</span>" in page
    assert "see two" not in page


def test_a_label_of_the_page_itself_is_not_looked_for_elsewhere():
    made = nbformat.v4.new_output(
        "display_data", {"text/markdown": ":::{table} Own\n:name: tab-own\n:::"}
    )
    prose = nbformat.v4.new_markdown_cell("{numref}`tab-own` and {numref}`tab-theirs`")
    cells = [prose, nbformat.v4.new_code_cell("", outputs=[made])]
    page = nbformat.v4.new_notebook(cells=cells)
    single._without_absent(page, {"two": '"own", "theirs"'})
    assert prose.source == "{numref}`tab-own` and [a table of two](two)"


def test_nothing_is_opened_without_a_display_or_in_ci(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "CI"):
        monkeypatch.delenv(name, raising=False)
    assert not single.has_display()
    monkeypatch.setenv("DISPLAY", ":0")
    assert single.has_display()
    monkeypatch.setenv("CI", "true")
    assert not single.has_display()


def finished(size: int, *contents: tuple[str, str]) -> NotebookNode:
    """An executed chapter: its values, and what its one cell showed."""
    page = notebook(DRAWING, prose="\n## The <line>\n")
    glued = {"scrapbook": {"name": "length", "mime_prefix": "application/papermill.record/"}}
    value = {"application/papermill.record/text/plain": f"{size}.5"}
    same = {"scrapbook": {"name": "k", "mime_prefix": "application/papermill.record/"}}
    outputs = [(value, glued), ({"application/papermill.record/text/plain": "'a'"}, same)]
    outputs += [({"text/markdown": myst, "text/html": text}, {}) for myst, text in contents]
    for data, metadata in outputs:
        output = nbformat.v4.new_output("display_data", data, metadata=metadata)
        page.cells[2].outputs.append(output)
    keep(Execution("one", "ci", {"size": size}, 1.0, None, "now", "abc", "a machine", {}), page)
    return page


FIGURE = (
    ':::{figure} /figures/a.svg\n:name: fig-a\n:alt: "A"\n\nWhere $x_1$ is, in {eq}`eq-b`.\n:::'
)
TABLE = ":::{table} All of $n$.\n:name: tab-a\n\n| a | b |\n| :-- | --: |\n| x | 2 |\n:::"


def image(of: str) -> str:
    return f'<figure><img alt="{of}" src="data:image/svg+xml;base64,AAAA"></figure>'


def test_a_comparison_shows_what_differs_and_loads_nothing(tmp_path):
    a = finished(3, (FIGURE, image("short")), (TABLE, ""))
    b = finished(5, (FIGURE, image("long")), (TABLE, ""))
    page = compare.write_comparison(a, b, tmp_path / "c.html").read_text("utf-8")
    assert "<td>size</td><td><code>3</code></td><td><code>5</code></td>" in page
    assert "<td>length</td><td>3.5</td><td>5.5</td><td>+2</td>" in page
    assert "1 of 2 bound values are the same in both" in page
    assert "<td>k</td>" not in page
    assert (
        page.index("The &lt;line&gt;</h2>") < page.index('alt="short"') < page.index('alt="long"')
    )
    assert page.count("A and B: the same") == page.count('<td style="text-align:right">2</td>') == 1
    assert page.count('class="math" alt="x_1"') == 2
    assert page.count('class="math" alt="n"') == 1
    assert "in equation b." in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "<script" not in page


def test_a_figure_that_only_one_has_stands_beside_a_dash(tmp_path):
    a = finished(3, (FIGURE, image("short")))
    b = finished(5)
    page = compare.write_comparison(a, b, tmp_path / "c.html").read_text("utf-8")
    assert re.search(r'<div class="b"><p class="name">B</p>–</div>', page)


def test_a_formula_that_cannot_be_drawn_is_code(tmp_path):
    myst = FIGURE.replace("x_1", r"\nonsense{a}<b")
    a = finished(3, (myst, image("short")))
    b = finished(5, (FIGURE, image("long")))
    page = compare.write_comparison(a, b, tmp_path / "c.html").read_text("utf-8")
    assert r"<code>\nonsense{a}&lt;b</code>" in page


def test_a_failure_names_the_set_that_it_is_of(root, monkeypatch):
    def run(job, kernels):
        if job.parameters["size"] == 9:
            raise BookError("cell [2] failed")

    monkeypatch.setattr(jobs, "run", run)
    with pytest.raises(BookError, match=r"^B \(size 9\): cell \[2\] failed"):
        compare.compare("one", {"size": 4}, {"size": 9}, root=root)
    with pytest.raises(BookError, match=r"^A \(size 9\): cell"):
        compare.compare("one", {"size": 9}, {}, root=root)


def test_two_sets_must_differ(root):
    with pytest.raises(ConfigError, match="both sets are the same"):
        compare.compare("one", {}, {"size": 4}, root=root)  # as in the profile


@pytest.mark.slow
def test_two_sets_are_executed_at_once(root):
    page = compare.compare("one", {"size": 4}, {"size": 9, "name": "b c"}, root=root)
    text = page.read_text("utf-8")
    assert page == root / "_build/chapters/one-A-and-B.html"
    assert "<td>size</td><td><code>4</code></td><td><code>9</code></td>" in text
    assert "<td><code>b c</code></td>" in text
    assert "<td>length</td><td>4</td><td>9</td><td>+5</td>" in text
    with pytest.raises(ConfigError, match="no parameter 'sise'; did you mean size"):
        compare.compare("one", {"size": 4}, {"sise": 9}, root=root)


def command(monkeypatch, *arguments: str) -> dict:
    """What `dnr book` gave to the function that does it."""
    asked = {}

    def done(*given, **named):
        asked.update(given=given, named=named)
        return Path("/page.html")

    monkeypatch.setattr("dnrlib.book.compare.compare", done)
    monkeypatch.setattr("dnrlib.book.single.make_chapter", done)
    monkeypatch.setattr("dnrlib.book.build", done)
    monkeypatch.setattr("dnrlib.book.single.has_display", lambda: True)
    monkeypatch.setattr("webbrowser.open", lambda address: asked.update(opened=address))
    with pytest.raises(SystemExit) as stop:
        cli.main(["book", "--dataset", "simulated", *arguments])
    assert stop.value.code == 0
    return asked


def test_the_command_takes_two_sets(monkeypatch):
    first, second = ("-p", "size", "4", "-p", "name", "a"), ("--beside", "size", "9")
    words = ("--chapter", "one", *first, *second, "--no-open", "--profile", "ci")
    asked = command(monkeypatch, *words)
    assert asked["given"] == ("one", {"size": 4, "name": "a"}, {"size": 9}, "ci", "simulated")
    assert "opened" not in asked


def test_the_command_opens_a_chapter_and_the_book_only_if_told(monkeypatch):
    assert "opened" in command(monkeypatch, "--chapter", "one", "-p", "size", "4")
    assert "opened" not in command(monkeypatch)
    asked = command(monkeypatch, "--open", "--workers", "2", "--fresh")
    assert "opened" in asked
    assert asked["named"] == {"workers": 2, "fresh": True}


def test_the_check_fails_where_a_page_is_old(monkeypatch, capsys):
    for found, code, said in (
        ({"book/one.ipynb": None}, 0, "Every page is current"),
        ({"book/one.ipynb": "the library changed"}, 1, "book/one.ipynb: the library changed"),
    ):
        monkeypatch.setattr("dnrlib.book.current", lambda found=found: found)
        with pytest.raises(SystemExit) as stop:
            cli.main(["book", "--check"])
        assert stop.value.code == code
        assert said in capsys.readouterr().out
