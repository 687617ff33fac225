"""The exercises on deviations and failures: stubs, right answers in other words, and mistakes."""

import numpy as np
import pytest

from dnrlib.exercises import check
from dnrlib.exercises.failures import EXERCISES


def own_forked_gain(method, baseline):
    gains = [a - b for a, b in zip(method, baseline, strict=True)]
    return [max(gains), sum(gains) / len(gains)]


def own_forced_share(forced, effect):
    known = [(f, e * e) for f, e in zip(forced, effect, strict=True) if e == e]
    return sum(square for f, square in known if f) / sum(square for _, square in known)


def own_with_patience(validation, patience):
    kept, epoch = 1, 0
    while epoch < len(validation) and epoch - kept < patience:
        epoch += 1
        if validation[epoch - 1] > max(validation[: epoch - 1], default=-1):
            kept = epoch
    return [epoch, kept]


def own_came_true(low, high, side):
    both = zip(low * side, high * side, strict=True)
    ends = [sorted(pair) for pair in both]
    return [1 if a > 0 else -1 if b < 0 else 0 for a, b in ends]


ANSWERS = {
    "forked_gain": own_forked_gain,
    "forced_share": own_forced_share,
    "with_patience": own_with_patience,
    "came_true": own_came_true,
}
MISTAKES = [(one, words) for one in EXERCISES for words in one.mistakes]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_right_answers_pass_and_stubs_do_not(exercise):
    assert repr(check(exercise.name, exercise.truth)).startswith("Right: ")
    assert repr(check(exercise.name, ANSWERS[exercise.name])).startswith("Right: ")
    assert repr(check(exercise.name, lambda *given: ...)).startswith("Not yet: ")


@pytest.mark.parametrize(("exercise", "words"), MISTAKES, ids=[words for _, words in MISTAKES])
def test_each_mistake_is_named(exercise, words):
    assert check(exercise.name, exercise.mistakes[words]).message.endswith(words)


def test_patience_without_end_is_the_whole_curve():
    curve = np.random.default_rng(0).random(30)
    [exercise] = [one for one in EXERCISES if one.name == "with_patience"]
    assert list(exercise.truth(curve, 30)) == [30, curve.argmax() + 1]
