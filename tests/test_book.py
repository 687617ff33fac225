"""The builder accepts a good book and refuses each kind of bad one."""

import re
from pathlib import Path

import nbformat
import pytest
from matplotlib.figure import Figure

from dnrlib import figures
from dnrlib.book import (
    BookError,
    build,
    check_prose,
    durations,
    parse_parameters,
    record_durations,
    run_chapter,
)
from dnrlib.book.notebooks import chapters, defaults, pages, read_chapter
from dnrlib.book.parameters import fitted, load_profile
from dnrlib.book.prose import bare_numbers, check_glue
from dnrlib.book.provenance import add_provenance
from dnrlib.book.site import check_site
from dnrlib.errors import ConfigError

ROOT = Path(__file__).parents[1]
PARAMETERS = "size = 1\nrate = 0.1\nname = 'a'\nflag = True\nlimit = None\ndataset = 'auto'"
TOC = """
format: jb-book
root: book/index
options:
  numbered: true
chapters:
  - file: book/one
  - file: book/bibliography
"""
CHAPTER = r"""
from dnrlib import figures
import matplotlib.pyplot as plt

figures.style()
figures.bind(share=0.25, users=6022, dataset=dataset, fingerprint="f00d")
fig, ax = plt.subplots()
ax.plot([0, size])
figures.save(fig, "line", f'A line: "up" to {size}', "Where $x$ is, by {cite:t}`pei2019prm`.")
"""
TABLE = r"""
figures.table([{"method": "a|b", "lists": 6022, "NDCG@6": float("nan")}], "small", "A table.")
"""
PROSE = r"""
# One

$$ e^{i\pi} = \boldsymbol{x} $$ (eq-one)

{numref}`fig-line`, {numref}`tab-small` and {eq}`eq-one`:
{glue:text}`share:.2f` of {glue:text}`users:,`.
"""
INDEX = "# Book\n\n{numref}`fig-line` {glue:text}`one.ipynb::dataset:s` [one](one.ipynb)\n"


def notebook(*code: str, parameters: str | None = PARAMETERS, prose: str = "# One"):
    cells = [nbformat.v4.new_markdown_cell(prose)]
    if parameters is not None:
        cells += [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    return nbformat.v4.new_notebook(cells=[*cells, *map(nbformat.v4.new_code_cell, code)])


@pytest.fixture
def book(tmp_path: Path):
    """Write a book of one chapter, and return its root."""

    def write(chapter, profile: str = "one: {size: 4}") -> Path:
        (tmp_path / "book/profiles").mkdir(parents=True)
        (tmp_path / "_toc.yml").write_text(TOC)
        (tmp_path / "book/profiles/quick.yml").write_text(profile)
        (tmp_path / "book/index.md").write_text(INDEX)
        (tmp_path / "book/bibliography.md").write_text("# Works\n```{bibliography}\n```\n")
        (tmp_path / "book/references.bib").write_text((ROOT / "book/references.bib").read_text())
        (tmp_path / "_config.yml").write_text((ROOT / "_config.yml").read_text())
        (tmp_path / "book/_static").mkdir()
        (tmp_path / "book/_static/favicon.svg").write_text("<svg/>")
        nbformat.write(chapter, tmp_path / "book/one.ipynb")
        return tmp_path

    return write


@pytest.mark.slow
def test_a_good_book_is_built(book, capfd):
    root = book(notebook(CHAPTER, TABLE, prose=PROSE))
    index = build(root=root, dataset="simulated")
    page = (index.parent / "book/one.html").read_text("utf-8")
    assert 'alt="A line: &quot;up&quot; to 4"' in page
    for shown in (
        "Fig. 1.1",
        "Table 1.1",
        "(1.1)",
        "0.25",
        "6,022",
        "How this page was made",
        "f00d",
    ):
        assert shown in page
    assert "simulated" in (index.parent / "book/index.html").read_text("utf-8")
    assert (index.parent / "_images/line.svg").is_file()
    out = capfd.readouterr().out
    assert "[1/1] one\none: predicted time: not known yet\n" in out
    assert re.search(r"one: executed in [\d.]+ s \(predicted: not known yet\)\n", out)
    assert "not known yet" in page
    assert len(durations.read(root / durations.LAST)["seconds"]) == 1


@pytest.mark.slow
def test_a_failing_cell_fails_the_build_and_leaves_no_site(book):
    root = book(notebook("wrong = 1 / 0"))
    (root / "_build/html").mkdir(parents=True)
    with pytest.raises(
        BookError, match=r"(?s)chapter one: cell .*wrong = 1 / 0.*ZeroDivisionError"
    ):
        build(root=root)
    assert not (root / "_build/html").exists()


@pytest.mark.slow
def test_a_chapter_runs_alone_with_given_parameters(book):
    path = run_chapter("one", {"rate": 1}, root=book(notebook("print(size, rate, flag)")))
    executed = nbformat.read(path, as_version=4)
    assert executed.cells[-2].outputs[0].text == "4 1.0 True\n"
    assert "`rate = 1.0`" in executed.cells[-1].source


def test_a_warning_of_jupyter_book_fails_the_build(book, monkeypatch):
    monkeypatch.setattr("dnrlib.book.builder.execute", copy_instead)
    with pytest.raises(BookError, match="undefined label: 'fig-line'"):
        build(root=book(notebook()))


def copy_instead(source: Path, target: Path, *_) -> float:
    target.parent.mkdir(parents=True)
    target.write_bytes(source.read_bytes())
    return 0.0


def executed(book_root, monkeypatch, seconds, dataset="simulated", **parameters):
    """What a chapter that takes so long was predicted to take."""
    asked = []

    def execute(source, target, parameters, root, profile, predicted):
        asked.append(predicted)
        return seconds

    monkeypatch.setattr("dnrlib.book.builder.execute", execute)
    run_chapter("one", parameters, root=book_root, dataset=dataset)
    return asked[0]


def test_a_chapter_is_predicted_from_its_last_execution(book, monkeypatch, capfd):
    root = book(notebook())
    assert executed(root, monkeypatch, 20.0) is None
    assert executed(root, monkeypatch, 30.0) == 20.0
    assert "one: executed in 30 s (predicted: 20 s)\n" in capfd.readouterr().out
    assert executed(root, monkeypatch, 99.0, size=7) is None  # not like the others
    assert executed(root, monkeypatch, 9.0) == 30.0
    assert executed(root, monkeypatch, 50.0, dataset="ml-1m") is None
    assert executed(root, monkeypatch, 9.0) == 9.0
    (root / durations.LAST).write_text("{")
    assert executed(root, monkeypatch, 7.0) is None
    assert executed(root, monkeypatch, 7.0) == 7.0


def test_on_another_machine_recorded_durations_are_scaled_by_its_speed(book, monkeypatch):
    root = book(notebook())
    with pytest.raises(BookError, match=r"_build/durations.json is not there: execute the chap"):
        record_durations(root)
    executed(root, monkeypatch, 20.0)
    monkeypatch.setattr("dnrlib.book.builder._speed", lambda: 1000.0)
    assert record_durations(root) == root / "book/durations.json"
    monkeypatch.setattr("dnrlib.book.durations.machine", lambda: "another")
    monkeypatch.setattr("dnrlib.book.builder._speed", lambda: 250.0)
    assert executed(root, monkeypatch, 70.0) == 80.0
    assert executed(root, monkeypatch, 70.0) == 70.0
    assert list(durations.read(root / durations.LAST)["seconds"].values()) == [70.0]
    for damaged in ("", "[]", '{"seconds": 3}', '{"seconds": {"one, quick, auto": "x"}}'):
        (root / "book/durations.json").write_text(damaged)
        assert executed(root, monkeypatch, 1.0, dataset=None) is None
        (root / durations.LAST).unlink()


def test_a_page_says_what_was_predicted():
    for predicted, said in {None: "not known yet", 90.0: "90 s"}.items():
        page = notebook()
        add_provenance(page, ROOT, "one", "quick", {}, 61.0, predicted)
        assert f"- **Predicted:** {said}\n" in page.cells[-1].source
        assert ", in 61 s\n" in page.cells[-1].source


def test_unknown_profile_chapter_and_parameter_are_named(book):
    root = book(notebook(), profile="one: {sise: 4}")
    with pytest.raises(ConfigError, match="profile 'huge' does not exist; there are: quick"):
        build("huge", root=root)
    with pytest.raises(ConfigError, match="no parameter 'sise'; there are: size, rate"):
        build(root=root)
    with pytest.raises(ConfigError, match="no chapter 'two'; there are: one"):
        run_chapter("two", root=root)
    with pytest.raises(ConfigError, match="no chapter 'one'; there are: two"):
        load_profile(root, "quick", ["two"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("size", value) for value in (1.5, True, "4", None)],
        *[("rate", value) for value in ("fast", True)],
        *[("flag", value) for value in (1, "false")],
        *[("name", value) for value in (1, ["a"])],
    ],
)
def test_ill_typed_parameter_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"chapter one: parameter {name} = .* must be of type"):
        fitted({name: value}, defaults(notebook()), "one")


def test_well_typed_parameters_pass():
    given = parse_parameters([("size", "4"), ("rate", "1e-3"), ("flag", "false"), ("limit", "[1]")])
    assert fitted(given, defaults(notebook()), "one") == {
        "size": 4,
        "rate": 0.001,
        "flag": False,
        "limit": [1],
    }


def test_a_parameter_that_is_no_yaml_is_refused():
    with pytest.raises(ConfigError, match="parameter x"):
        parse_parameters([("x", "[1")])


@pytest.mark.parametrize("cell", ["size = 2 * 3", "import torch", "a = b = 1", "size += 1"])
def test_parameters_cell_holds_literals_only(cell):
    with pytest.raises(ConfigError, match=r"parameter|parameters cell"):
        defaults(notebook(parameters=cell))


def test_annotated_parameters_are_read():
    assert defaults(notebook(parameters="size: int = -1")) == {"size": -1}


def test_chapter_needs_exactly_one_parameters_cell(book):
    with pytest.raises(BookError, match="0 cells have the tag `parameters`"):
        build(root=book(notebook(parameters=None)))


def test_chapter_is_stored_without_outputs(book):
    chapter = notebook("1 + 1")
    chapter.cells[-1].outputs = [nbformat.v4.new_output("stream", text="2")]
    with pytest.raises(BookError, match="stored with outputs"):
        build(root=book(chapter))


def test_a_file_that_is_no_notebook_is_refused(tmp_path):
    (tmp_path / "one.ipynb").write_text("{")
    with pytest.raises(BookError, match="not a notebook"):
        read_chapter(tmp_path / "one.ipynb")


def test_pages_come_in_the_order_of_the_contents(book):
    root = book(notebook())
    assert [page.name for page in pages(root)] == ["index.md", "one.ipynb", "bibliography.md"]
    assert chapters(root) == {"one": Path("book/one.ipynb")}
    (root / "book/one.ipynb").unlink()
    with pytest.raises(BookError, match=r"_toc\.yml names book/one"):
        pages(root)
    with pytest.raises(BookError, match=r"there is no _toc\.yml"):
        pages(root / "book")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("PRM has 72.85 and gains **5 %**", ["72.85", "5 %"]),
        ("We keep 6,022 users, 30 per cent", ["6,022", "30 per cent"]),
        ("falls by -0.5 to 1e-3, or 40–100", ["0.5", "1e-3", "100"]),
        ("| a | b |\n|---|---|\n| 0.5 | 2 |", ["0.5"]),
        (":::{note} T 0.7\n:class: x300\n\nb 300\n:::", ["0.7", "300"]),
        ("::::{admonition} a\n```{figure} a.svg\n:width: 300\n\nCap 0.5\n```\n::::", ["0.5"]),
        ("# A heading of 0.5", ["0.5"]),
    ],
)
def test_bare_numbers_are_found(text, found):
    assert [number for _, number in bare_numbers(text)] == found


@pytest.mark.parametrize(
    "text",
    [
        "The top 6 of 50 in 2019, see section 3.",
        "$n = 128$, `0.5`, {glue:text}`a:.3f`, {cite}`x.2019`, {numref}`fig-100`",
        "[pages 0.5](https://example.org/0.5) <https://example.org/100> https://example.org/100",
        "ML-1M, ML-100K, NDCG@100, version 1.2.3",
        "```python\nx = 0.5\n```\n\n```{code-block} python\nx = 0.5\n```",
        "$$ 0.5 $$ (eq-a)\n\n\\begin{align}\n0.5\n\\end{align}",
        "<!-- 0.5 -->\n\n% 0.5\n\n(label-100)=\n# Title",
    ],
)
def test_what_is_not_a_bare_number_passes(text):
    assert bare_numbers(text) == []


def test_a_bare_number_fails_the_build_and_is_located(book):
    root = book(notebook(prose="# One\n\nIt is\n0.773 here."))
    assert check_prose(root / "book/one.ipynb") == ["cell 1, line 4: 0.773"]
    with pytest.raises(BookError, match=r"book/one.ipynb, cell 1, line 4: 0.773"):
        build(root=root)


def test_a_value_of_another_page_needs_a_format(book):
    good = "# One\n\n{glue:text}`one.ipynb::a:.3f`, {glue:text}`a`, {glue:text}`one.ipynb::b:s`"
    root = book(notebook(prose=good + "\n{glue:text}`one.ipynb::a`"))
    fault = "cell 1, line 4: {glue:text}`one.ipynb::a`"
    assert check_glue(root / "book/one.ipynb") == [fault]
    with pytest.raises(BookError, match=re.escape(fault)):
        build(root=root)


def test_numbers_in_outputs_and_code_are_no_prose(book):
    assert check_prose(book(notebook("x = 0.773")) / "book/one.ipynb") == []


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ('<script src="https://cdn.example/x.js"></script>', "loads https://cdn.example/x.js"),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', "loads //cdn.example/x.css"),
        ('<img alt="A cat" src="http://example.org/x.png">', "loads http://example.org/x.png"),
        ('<img alt="A" srcset="a.png 1x, https://e.org/b.png 2x">', "loads https://e.org/b.png 2x"),
        ('<iframe src="https://example.org"></iframe>', "loads https://example.org"),
        ('<p style="background: url(https://e.org/a.png)">', "loads https://e.org/a.png"),
        ("<style>@import 'https://e.org/a.css';</style>", "loads https://e.org/a.css"),
        ('<img src="a.png">', "image a.png has no alternative text"),
        ('<img src="a.png" alt="../_images/a.png">', "image a.png has no alternative text"),
        ('<a href="two.html">', "link to two.html, which does not exist"),
        ('<a href="#there">', "link to #there, an anchor that does not exist"),
    ],
)
def test_a_fault_of_a_page_is_found(tmp_path, html, fault):
    (tmp_path / "one.html").write_text(html)
    assert check_site(tmp_path) == [f"one.html: {fault}"]


def test_a_good_page_passes(tmp_path):
    (tmp_path / "one.html").write_text(
        '<link rel="canonical" href="https://e.org"><a href="https://e.org">out</a>'
        '<p id="here"><a href="#here"><a href="./#here"><img src="a.svg" alt="A cat">'
        '<script src="a.js"></script>'
    )
    (tmp_path / "index.html").write_text('<p id="here"><a href="one.html?x=1#here">')
    (tmp_path / "a.css").write_text("a {background: url(data:image/png;base64,AAAA)}")
    assert check_site(tmp_path) == []


def test_a_style_sheet_that_loads_from_elsewhere_is_found(tmp_path):
    (tmp_path / "a.css").write_text('@import url("https://fonts.example/a.css");')
    assert check_site(tmp_path) == ["a.css: loads https://fonts.example/a.css"]


def figure(height: float = 1.0) -> Figure:
    fig = Figure(figsize=(2, 1))
    fig.add_subplot().plot([0, height], label="x")
    return fig


def test_a_figure_is_the_same_whenever_it_is_saved(tmp_path):
    files = [
        (tmp_path / folder, figures.save(figure(), "a-line", "A line", "C.", tmp_path / folder))
        for folder in "ab"
    ]
    first, second = [(folder / "a-line.svg").read_bytes() for folder, _ in files]
    assert first == second
    assert b"<dc:date>" not in first
    assert [path.name for path in files[0][0].iterdir()] == ["a-line.svg"]


def test_a_figure_is_myst_for_the_book_and_html_for_jupyter(tmp_path):
    shown = figures.save(figure(), "a-line", 'Up: "1"\n# 2', "C $x$.", tmp_path)
    bundle = shown._repr_mimebundle_()
    assert ':name: fig-a-line\n:alt: "Up: \\"1\\" # 2"\n\nC $x$.' in bundle["text/markdown"]
    assert '<img alt="Up: &quot;1&quot; # 2" src="data:image/svg+xml' in bundle["text/html"]


@pytest.mark.parametrize(
    ("name", "alt", "caption"), [("A b", "a", "c"), ("a", " ", "c"), ("a", "a", "")]
)
def test_a_figure_without_name_text_or_caption_is_refused(tmp_path, name, alt, caption):
    with pytest.raises(ValueError, match=r"name=|is empty"):
        figures.save(figure(), name, alt, caption, tmp_path)


def test_a_table_formats_by_type():
    rows = [{"m": "a|b", "n": 6022, "x": 0.5}, {"m": "c", "n": None, "x": float("nan")}]
    text = figures.table(rows, "t", "C.", digits=2).myst
    assert "| :-- | --: | --: |\n| a\\|b | 6,022 | 0.50 |\n| c | – | – |" in text
    with pytest.raises(ValueError, match="no rows"):
        figures.table([], "t", "C.")


def test_methods_have_colours_of_their_own():
    assert len(set(figures.METHOD_COLOURS.values())) == len(figures.METHOD_COLOURS)
