"""Exercises of the two theory chapters: right answers pass, known mistakes are named."""

import pytest

from dnrlib.exercises.theory import EXERCISES


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_truth_passes_and_a_stub_does_not(exercise):
    assert exercise.check(exercise.truth).passed
    assert "returned nothing" in exercise.check(lambda *arguments: None).message


@pytest.mark.parametrize(
    ("exercise", "words"),
    [(exercise, words) for exercise in EXERCISES for words in exercise.mistakes],
    ids=lambda value: getattr(value, "name", value)[:20],
)
def test_each_mistake_is_named(exercise, words):
    feedback = exercise.check(exercise.mistakes[words])
    assert not feedback.passed
    assert words in feedback.message or "should return (" in feedback.message
