"""What holds of every exercise in code."""

from dnrlib.exercises import EXERCISES


def check_exercise(exercise, answer):
    """Readers find it, an answer in other words is right, and each mistake is named."""
    assert EXERCISES[exercise.name] is exercise
    assert exercise.check(exercise.truth).passed
    assert exercise.check(answer).passed, exercise.check(answer).message
    assert repr(exercise.check(lambda *given: ...)).startswith("Not yet")
    for words, mistake in exercise.mistakes.items():
        feedback = exercise.check(mistake)
        assert not feedback.passed, words
        assert feedback.message.endswith(words)
