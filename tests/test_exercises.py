"""The book's exercises: enough of them, each with a solution, and checkers that tell right from
wrong."""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import torch

from dnrlib import exercises
from dnrlib.book.notebooks import chapters, code_cells, pages
from dnrlib.errors import ConfigError
from dnrlib.exercises import EXERCISES, Exercise

ROOT = Path(__file__).parents[1]
PATHS = chapters(ROOT)
MARKDOWN = [page for page in pages(ROOT) if page.suffix == ".md"]
NOT_TAUGHT = ("teaching",)  # for instructors
NOTEBOOKS = {
    name: nbformat.read(ROOT / path, as_version=4)
    for name, path in PATHS.items()
    if name not in NOT_TAUGHT
}
EXERCISE = re.compile(r"^[:`]{3,}\{exercise(?:-start)?\}[^\n]*\n:label: (?P<label>\S+)", re.M)
SOLUTION = re.compile(
    r"^(?P<fence>[:`]{3,})\{solution(?P<kind>-start)?\} (?P<label>\S+)\n"
    r"(?P<options>(?::\w+:[^\n]*\n)*)(?P<text>.*?)^(?P=fence)",
    re.M | re.S,
)
CHECK = re.compile(r'^exercises\.check\("(?P<name>\w+)", (?P<function>\w+)\)$', re.M)
PYTHON = re.compile(r"^```python\n(?P<code>.*?)^```$", re.M | re.S)
NO_EXERCISE = ("Summary", "Further reading")  # they teach nothing of their own


def prose(chapter: str) -> str:
    cells = NOTEBOOKS[chapter].cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def checked() -> Iterator[tuple[str, str, str]]:
    """Chapter, code and name of each exercise in code."""
    for chapter, notebook in NOTEBOOKS.items():
        for cell in code_cells(notebook):
            for match in CHECK.finditer(cell.source):
                yield chapter, cell.source, match["name"]


def defined_by(code: str, name: str) -> object:
    namespace: dict[str, object] = {}
    exec(code, namespace)
    return namespace[name]


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_a_chapter_has_four_exercises_with_a_folded_solution_each(chapter):
    labels = EXERCISE.findall(prose(chapter))
    solutions = list(SOLUTION.finditer(prose(chapter)))
    assert len(labels) >= 4
    assert sorted(solution["label"] for solution in solutions) == sorted(labels)
    open_ones = [s["label"] for s in solutions if ":class: dropdown" not in s["options"]]
    assert open_ones == []
    assert len(labels) == len(re.findall(r"\{exercise(?:-start)?\}", prose(chapter)))


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.stem)
def test_an_exercise_of_a_page_in_markdown_has_a_folded_solution_and_no_code(page):
    """Code to be checked needs a cell, which only notebooks have."""
    text = (ROOT / page).read_text("utf-8")
    labels, solutions = EXERCISE.findall(text), list(SOLUTION.finditer(text))
    assert len(labels) == len(re.findall(r"\{exercise(?:-start)?\}", text))
    assert sorted(solution["label"] for solution in solutions) == sorted(labels)
    assert all(":class: dropdown" in solution["options"] for solution in solutions)
    assert not any(PYTHON.search(solution["text"]) for solution in solutions)
    assert labels or not page.stem.startswith("reranker-")


def test_labels_of_exercises_are_unique():
    texts = [*map(prose, NOTEBOOKS), *((ROOT / page).read_text("utf-8") for page in MARKDOWN)]
    labels = [label for text in texts for label in EXERCISE.findall(text)]
    assert sorted(labels) == sorted(set(labels))


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_two_exercises_of_a_chapter_are_in_code(chapter):
    assert len({name for where, _, name in checked() if where == chapter}) >= 2


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_each_section_has_an_exercise(chapter):
    sections = re.split(r"^## ", prose(chapter), flags=re.M)[1:]
    without = [text.split("\n")[0] for text in sections if not EXERCISE.search(text)]
    assert sections
    assert [title for title in without if title not in NO_EXERCISE] == []


def test_each_checker_is_used_by_one_chapter():
    names = [name for _, _, name in checked()]
    assert sorted(names) == sorted(EXERCISES)


@pytest.mark.parametrize(("chapter", "code", "name"), [*checked()])
def test_an_exercise_in_code(chapter, code, name):
    """The cell as it stands is told "Not yet", and the printed solution is right."""
    exercise = EXERCISES[name]
    assert exercise.label in EXERCISE.findall(prose(chapter))
    [match] = CHECK.finditer(code)
    assert match["function"] == name
    stub = defined_by("from __future__ import annotations\n" + CHECK.sub("", code), name)
    assert repr(exercise.check(stub)).startswith(f"Not yet: {name} (")
    [solution] = [s for s in SOLUTION.finditer(prose(chapter)) if s["label"] == exercise.label]
    [printed] = PYTHON.findall(solution["text"])
    assert repr(exercise.check(defined_by(printed, name))).startswith("Right: ")


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_the_truth_is_right_and_each_mistake_is_named(exercise):
    assert exercise.check(exercise.truth).passed
    assert exercise.mistakes
    for words, mistake in exercise.mistakes.items():
        feedback = exercise.check(mistake)
        assert not feedback.passed
        assert feedback.message.endswith(words)


def test_an_unknown_exercise_is_refused():
    with pytest.raises(ConfigError, match="no exercise 'nothing': there are"):
        exercises.check("nothing", abs)


SCORES = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
ROW_MEANS = Exercise(
    "row_means",
    lambda scores: scores.mean(1),
    {"a square": [SCORES], "one row": [SCORES[:1]]},
    {"This is the mean of the columns.": lambda scores: scores.mean(0)},
)


def said(answer, exercise=ROW_MEANS) -> str:
    feedback = exercise.check(answer)
    assert feedback.passed == repr(feedback).startswith("Right: ")
    return repr(feedback)


def test_a_right_answer_may_be_a_tensor_an_array_or_a_list():
    assert said(lambda scores: scores.mean(1)) == "Right: row_means agrees on 2 cases"
    assert said(lambda scores: scores.numpy().mean(1)).startswith("Right")
    assert said(lambda scores: scores.numpy()[::-1].mean(1)[::-1]).startswith("Right")
    assert said(lambda scores: [sum(row) / 2 for row in scores.tolist()]).startswith("Right")
    assert said(lambda scores: scores.requires_grad_().mean(1)).startswith("Right")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda scores: None, "(a square) returned nothing: write it and run the cell again."),
        (lambda scores: ..., "(a square) returned nothing: write it and run the cell again."),
        (lambda scores: scores.mean(1, bad=1), "(a square) raised TypeError: "),
        (lambda: 1, "(a square) raised TypeError: "),
        (lambda scores: 1 / 0, "(a square) raised ZeroDivisionError: division by zero."),
        (lambda scores: "a", "(a square) returned str, but should return numbers."),
        (lambda scores: {"a": 1}, "(a square) returned dict, but should return numbers."),
        (
            lambda scores: scores.mean(),
            "(a square) returned a single number, but should return shape [2].",
        ),
        (lambda scores: scores, "(a square) returned shape [2, 2], but should return shape [2]."),
        (
            lambda scores: scores.mean(1) * torch.tensor([1, 2])[: len(scores)],
            "(a square) returned 8 at [1], but should return 4.",
        ),
        (
            lambda scores: scores.mean(1) * torch.nan,
            "(a square) returned nan at [0], but should return 1.5.",
        ),
        (lambda scores: torch.tensor([1.5, 4.0]), "(one row) returned shape [2], but should"),
        (
            lambda scores: scores.mean(0),
            "(a square) returned 2 at [0], but should return 1.5. This is the mean of the columns.",
        ),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(answer, message):
    assert said(answer).startswith(f"Not yet: row_means {message}")


def test_a_mistake_is_named_only_where_all_cases_agree_with_it():
    answer = lambda scores: scores.mean(0) if len(scores) > 1 else scores.mean(1)  # noqa: E731
    assert said(answer).endswith("but should return 1.5.")


def test_an_answer_that_writes_to_its_arguments_harms_nobody():
    assert said(lambda scores: scores.mul_(2).mean(1)).startswith("Not yet: row_means (a square)")
    assert SCORES.tolist() == [[1, 2], [3, 5]]


def test_a_number_is_compared_within_the_tolerance():
    exercise = Exercise("half", lambda x: x / 2, {"one": [1.0]}, tolerance=0.1)
    assert said(lambda x: 0.55, exercise) == "Right: half agrees on 1 cases"
    assert said(lambda x: 0.65, exercise).endswith("(one) returned 0.65, but should return 0.5.")
    assert exercise.label == "ex-half"


def test_places_that_are_equally_infinite_or_undefined_agree():
    values = torch.tensor([torch.inf, torch.nan, 1.0])
    exercise = Exercise("odd_values", lambda: values, {"all": []})
    assert said(lambda: values, exercise).startswith("Right")
    wrong = torch.tensor([torch.inf, torch.nan, 2.0])
    assert said(lambda: wrong, exercise).endswith("returned 2 at [2], but should return 1.")
    assert exercise.label == "ex-odd-values"
