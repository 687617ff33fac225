"""Every displayed equation of the theory has a label and is exercised by a test."""

import ast
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from dnrlib.book.notebooks import pages

ROOT = Path(__file__).parents[1]
THEORY = (
    "denoising-view",
    "what-direct-training-misses",
    "noise",
    "adversarial-game",
    "when-denoising-helps",
    "embeddings",
    "baselines",
    "bring-your-own",
    "neighbours",
    "an-online-test",
    "several-kinds-of-feedback",
    "light-generators",
    "a-better-objective",
    *(page.stem for page in pages(ROOT) if page.stem.startswith("reranker-")),
)
"""Pages whose displayed equations are all exercised."""
CODE = re.compile(r"^(?P<fence>`{3,})(?!\{).*?^(?P=fence)`*\s*$", re.MULTILINE | re.DOTALL)
DISPLAYED = re.compile(r"\$\$(?P<formula>.+?)\$\$(?:[ \t]*\((?P<label>[^)\n]*)\))?", re.DOTALL)
ENVIRONMENT = re.compile(r"^\\begin\{(?:align|equation|gather|multline)\*?\}", re.MULTILINE)


def prose(path: Path) -> str:
    if path.suffix == ".md":
        return CODE.sub("", path.read_text("utf-8"))
    cells = nbformat.read(path, as_version=4).cells
    return CODE.sub("", "\n\n".join(c.source for c in cells if c.cell_type == "markdown"))


def labels(text: str) -> list[str]:
    return [match["label"] for match in DISPLAYED.finditer(text) if match["label"]]


def without_label(text: str) -> list[str]:
    unlabelled = [m["formula"].strip() for m in DISPLAYED.finditer(text) if not m["label"]]
    return unlabelled + [match.group() for match in ENVIRONMENT.finditer(text)]


def exercised(source: str) -> set[str]:
    """The labels in the `equation` marks of a test file."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    marks = (call for call in calls if ast.unparse(call.func).endswith("mark.equation"))
    return {ast.literal_eval(argument) for mark in marks for argument in mark.args}


BOOK = {page.stem: prose(ROOT / page) for page in pages(ROOT)}
MARKED = {path.name: exercised(path.read_text("utf-8")) for path in ROOT.glob("tests/*.py")}


def test_a_label_belongs_to_one_equation():
    counts = Counter(label for text in BOOK.values() for label in labels(text))
    assert [label for label, count in counts.items() if count > 1] == []
    assert [label for label in counts if not re.fullmatch(r"eq-[a-z0-9-]+", label)] == []


@pytest.mark.parametrize("chapter", THEORY)
def test_each_displayed_equation_of_the_theory_has_a_label(chapter):
    assert without_label(BOOK[chapter]) == []


@pytest.mark.parametrize("chapter", THEORY)
def test_each_displayed_equation_of_the_theory_is_exercised(chapter):
    missing = set(labels(BOOK[chapter])) - set().union(*MARKED.values())
    assert not missing, f"no test is marked with {sorted(missing)}, displayed in {chapter}"


def test_each_mark_names_an_equation_of_the_book():
    known = {label for text in BOOK.values() for label in labels(text)}
    unknown = {name: found - known for name, found in MARKED.items() if found - known}
    assert unknown == {}, "marks name equations that no page displays"


def test_equations_and_marks_are_found():
    text = "$$ a $$ (eq-a)\n\n$$\nb\n$$\n\n$$c$$ (eq-c)\n\n```python\n$$ d $$ (eq-d)\n```\n$e$"
    assert labels(CODE.sub("", text)) == ["eq-a", "eq-c"]
    assert without_label(CODE.sub("", text)) == ["b"]
    assert without_label("\\begin{align}\nx\n\\end{align}") == ["\\begin{align}"]
    marked = "@pytest.mark.equation('eq-a', 'eq-b')\n@pytest.mark.slow\ndef test(): ..."
    assert exercised(marked + "\n\n@mark.equation('eq-c')\ndef more(): ...") == {
        "eq-a",
        "eq-b",
        "eq-c",
    }
