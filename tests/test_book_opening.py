"""The opening of a chapter, its table of parameters, and what every chapter must have."""

import json
from pathlib import Path

import nbformat
import pytest
from made_up_book import notebook, write_book

from dnrlib.book import BookError
from dnrlib.book.builder import check_sources
from dnrlib.book.execution import Execution
from dnrlib.book.opening import add_opening, check_chapters, faults, reading_minutes
from dnrlib.book.parameter_table import add_parameter_table, parameters_of

ROOT = Path(__file__).parents[1]


def execution(**parameters) -> Execution:
    return Execution("one", "ci", parameters, 31.0, None, "", "", "", {})


def with_cell(text: str, page=None):
    page = page or notebook()
    page.cells.append(nbformat.v4.new_markdown_cell(text))
    return page


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("## Summary", "## In short", "there is no `## Summary`"),
        ("**Further reading.**", "Read on.", "there is no `**Further reading.**`"),
        ("{exercise}", "{note}", "there is no `{exercise}`"),
        ("After this chapter you can", "Aims", "there is no box"),
        ("size 5", "sise 5", "no parameter 'sise'; did you mean size?"),
        ("size 5", "size much", "parameter size = 'much' is of type str"),
        ("`dnr book --chapter one -p size 5`", "a pen", "shows no other run"),
    ],
)
def test_what_a_chapter_lacks_is_named(old, new, fault):
    page = notebook()
    for cell in page.cells:
        cell.source = cell.source.replace(old, new)
    found = faults("one", page)
    assert len(found) == 1
    assert fault in found[0]


def test_a_whole_chapter_lacks_nothing_and_a_hollow_one_fails_the_build(tmp_path):
    root = write_book(tmp_path, one=notebook())
    assert check_chapters(root) == []
    check_sources(root)
    hollow = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# One")])
    hollow.cells += [nbformat.v4.new_code_cell("", metadata={"tags": ["parameters"]})]
    nbformat.write(hollow, root / "book/one.ipynb")
    with pytest.raises(BookError, match=r"(?s)book/one.ipynb: there is no box.*Summary.*exerc"):
        check_sources(root)


def test_chapters_of_the_book_have_all_parts():
    assert check_chapters(ROOT) == []


def test_reading_takes_what_is_open():
    words = "word " * 230
    short = reading_minutes(notebook(parameters=None))
    assert reading_minutes(with_cell(words)) == short + 1
    assert reading_minutes(with_cell(f"$$ a $$\n\n$$ b $$ (eq-b)\n\n{words}")) == short + 2
    folded = f":::{{solution}} ex\n:class: dropdown\n\n{words}\n:::"
    gated = f"```{{solution-start}} ex\n```\n\n{words}\n\n```{{solution-end}}\n```"
    for text in (folded, gated, f"```python\n{words}\n```"):
        assert reading_minutes(with_cell(text)) == short
    open_directive = f"::::{{admonition}} A\n\n:::{{prf:theorem}}\n:label: a\n\n{words}\n:::\n::::"
    assert reading_minutes(with_cell(open_directive)) == short + 1


def test_code_counts_unless_it_is_folded():
    code = "\n".join(["x = 1"] * 60)
    page, folded = notebook(code), notebook(code)
    folded.cells[-2].metadata["tags"] = ["hide-input"]
    assert reading_minutes(page) == reading_minutes(folded) + 3


def test_the_opening_says_what_the_chapter_takes(tmp_path):
    root = write_book(tmp_path)
    (root / "book/profiles/full.yml").write_text("")
    recorded = {
        "one, quick, simulated": 44.0,
        "one, quick, ml-1m": 9.0,
        "one, full, simulated": 600,
    }
    durations = {"machine": "a slow one", "seconds": recorded, "speed": 1.0}
    (root / "book/durations.json").write_text(json.dumps(durations))
    page = notebook("exercises.check('a', a)")
    add_opening(page, root, execution(dataset="simulated"))
    opening = page.cells[0].source
    assert opening.rstrip().endswith(
        "**To run:** 31 s here (`ci`), {abbr}`recorded (on a slow one)`: `full` 10.0 min, `quick` "
        "44 s · **Exercises:** 1, 1 of them in code, with a checker\n:::"
    )
    assert "**To read:** {abbr}`1 min (230 words a minute" in opening


def test_the_table_has_name_value_default_type_and_meaning(tmp_path):
    root = write_book(tmp_path, profile="one: {size: 4, rate: 0.5}")
    (root / "book/profiles/ci.yml").write_text("one: {size: 4}")
    page = notebook()
    page.cells.insert(
        2, nbformat.v4.new_code_cell("size = 7", metadata={"tags": ["injected-parameters"]})
    )
    add_parameter_table(page, root, execution(size=7, name="a|b", limit=[1]))
    table = page.cells[3].source
    for row in (
        "| `size` | `7` | Of the line. `int`, default `1`; ci, quick: `4` |",
        "| `rate` | `0.1` | Per step. `float`, the default; quick: `0.5` |",
        r"| `name` | `a\|b` | Of nothing. `str`, default `a` |",
        "| `flag` | `true` | Or not. `bool`, the default |",
        "| `limit` | `[1]` | Of all. anything, default `null` |",
    ):
        assert row in table.splitlines()
    assert "The 6 parameters of this page" in table
    assert all("hide-input" in cell.metadata["tags"] for cell in page.cells[1:3])
    assert "hide-input" not in page.cells[4].metadata.get("tags", [])


def test_a_meaning_that_begins_with_a_value_keeps_it(tmp_path):
    root = write_book(tmp_path, profile="one: {}")
    page = notebook(parameters="a = 'x'  # x, or y\nb = 'm'  # ml-1m or m\nc = 'z'  # which one")
    add_parameter_table(page, root, execution())
    table = next(cell.source for cell in page.cells if "| `a` |" in cell.source)
    for row in ("| x, or y. `str`", "| ml-1m or m. `str`", "| Which one. `str`"):
        assert row in table


def test_a_parameter_without_a_comment_is_refused():
    with pytest.raises(BookError, match="without a meaning: size, rate; write it as a comment"):
        parameters_of(notebook(parameters="size = 1\nrate = 0.1  #\nflag = True  # or not"))


def test_a_comment_behind_several_lines_is_read():
    page = notebook(parameters="sizes: list = [\n    1,\n    2,\n]  # of lines\na = '# no'  # of a")
    assert [(one.name, one.meaning) for one in parameters_of(page)] == [
        ("sizes", "of lines"),
        ("a", "of a"),
    ]


def test_every_parameter_of_the_book_has_a_meaning():
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        parameters_of(nbformat.read(path, as_version=4))
