"""What the builder does without executing: it accepts what is good and refuses each fault."""

import re
from pathlib import Path

import nbformat
import pytest
from made_up_book import notebook, write_book
from matplotlib.figure import Figure

from dnrlib import figures
from dnrlib.book import BookError, build, check_prose, parse_parameters, run_chapter
from dnrlib.book.notebooks import chapters, defaults, pages, read_chapter
from dnrlib.book.parameters import fitted, load_profile
from dnrlib.book.prose import bare_numbers, check_glue
from dnrlib.book.site import check_site
from dnrlib.errors import ConfigError


@pytest.fixture
def book(tmp_path: Path):
    """Write a book of one chapter, and return its root."""

    def write(chapter, profile: str = "one: {size: 4}") -> Path:
        return write_book(tmp_path, profile, one=chapter)

    return write


def test_unknown_profile_chapter_and_parameter_are_named(book):
    root = book(notebook(), profile="one: {sise: 4}")
    with pytest.raises(ConfigError, match="profile 'huge' does not exist; there are: quick"):
        build("huge", root=root)
    with pytest.raises(
        ConfigError, match=r"no parameter 'sise'; did you mean size\? there are: size"
    ):
        build(root=root)
    with pytest.raises(ConfigError, match="no chapter 'two'; there are: one"):
        run_chapter("two", root=root)
    with pytest.raises(ConfigError, match="no chapter 'one'; there are: two"):
        load_profile(root, "quick", ["two"])


@pytest.mark.parametrize("profile", ["one: 3", "- one", "fast"])
def test_a_profile_without_parameters_by_chapter_is_refused(book, profile):
    root = book(notebook(), profile=profile)
    with pytest.raises(ConfigError, match=r"quick\.yml: give parameters by chapter"):
        load_profile(root, "quick", ["one"])


@pytest.mark.parametrize(
    "file", ["_config.yml", "_toc.yml", "book/profiles/quick.yml", "book/slides/a.yml"]
)
def test_a_file_that_is_not_yaml_is_named_before_anything_is_executed(book, monkeypatch, file):
    root = book(notebook())
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text("title: [")
    monkeypatch.setattr("dnrlib.book.jobs.run_all", lambda *_: pytest.fail("executed"))
    with pytest.raises(BookError, match=rf"{file}: not YAML"):
        build(root=root, dataset="simulated")


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
    chapter.cells[2].outputs = [nbformat.v4.new_output("stream", text="2")]
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
    root = book(notebook(prose="\nIt is\n0.773 here."))
    assert check_prose(root / "book/one.ipynb") == ["cell 1, line 8: 0.773"]
    with pytest.raises(BookError, match=r"book/one.ipynb, cell 1, line 8: 0.773"):
        build(root=root)


def test_a_value_of_another_page_needs_a_format(book):
    good = "\n{glue:text}`one.ipynb::a:.3f`, {glue:text}`a`, {glue:text}`one.ipynb::b:s`"
    root = book(notebook(prose=good + "\n{glue:text}`one.ipynb::a`"))
    fault = "cell 1, line 8: {glue:text}`one.ipynb::a`"
    assert check_glue(root / "book/one.ipynb") == [fault]
    with pytest.raises(BookError, match=re.escape(fault)):
        build(root=root)


def test_a_value_within_code_is_refused(book):
    root = book(notebook(prose="\nWith {glue:text}`a`,\nnot `{glue:text}`a:s``."))
    assert check_glue(root / "book/one.ipynb") == ["cell 1, line 8: `{glue:text}`a:s`"]


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


def test_a_table_has_no_minus_before_zeros_alone():
    text = figures.table([{"x": -0.0004, "y": -0.0006}], "t", "C.").myst
    assert "| 0.000 | -0.001 |" in text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.0, 1, "0"), (2.04e-17, 0, "2·10⁻¹⁷"), (1.46e-6, 1, "1.5·10⁻⁶"), (-3e12, 0, "-3·10¹²")],
)
def test_a_very_small_number_is_written_with_a_power_of_ten(value, digits, text):
    assert figures.scientific(value, digits) == text


def test_a_table_shows_code_as_code_and_all_else_as_it_is():
    text = figures.table([{"m": "0 of *5*: `dnr run --all_of *` or `a"}], "t", "C.").myst
    assert "| 0 of \\*5\\*: `dnr run --all_of *` or \\`a |" in text


def test_a_folded_table_is_in_a_closed_box():
    open_table = figures.table([{"m": 1}], "t", "C.").myst
    folded = figures.table([{"m": 1}], "t", "C.", folded="Every metric").myst
    assert folded == f"::::{{dropdown}} Every metric\n{open_table}\n::::"


def test_methods_have_colours_of_their_own():
    assert len(set(figures.METHOD_COLOURS.values())) == len(figures.METHOD_COLOURS)
