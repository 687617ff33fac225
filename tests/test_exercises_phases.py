"""The checkers of *When denoising helps*: stub, truth, and every known mistake."""

import numpy as np
import pytest

from dnrlib.exercises.phases import EXERCISES

NAMED = {exercise.name: exercise for exercise in EXERCISES}
MISTAKES = [(exercise.name, words) for exercise in EXERCISES for words in exercise.mistakes]


@pytest.mark.parametrize("name", NAMED)
def test_stub_is_not_yet(name):
    assert repr(NAMED[name].check(lambda *arguments: ...)).startswith("Not yet")


@pytest.mark.parametrize("name", NAMED)
def test_truth_passes(name):
    assert NAMED[name].check(NAMED[name].truth).passed


@pytest.mark.parametrize(("name", "words"), MISTAKES)
def test_mistake_is_named(name, words):
    found = NAMED[name].check(NAMED[name].mistakes[words])
    assert not found.passed
    assert words in found.message


def test_solutions_by_hand_pass():
    def denoised_counts(counts, phi, lambda_m):
        of_label = counts.sum(axis=1)
        invented = of_label[:, None, :] * phi.T[None]
        return counts + lambda_m * invented

    def unlimited_gain(joint, phi, lambda_m):
        def test_loss(law):
            q = law / law.sum(axis=2, keepdims=True)
            return -(joint * np.log(q)).sum()

        mixed = joint + lambda_m * joint.sum(axis=1)[:, None, :] * phi.T
        return test_loss(joint) - test_loss(mixed)

    def auc_of_levels(law):
        disliked, liked = law
        below = np.cumsum(disliked) - disliked
        return (liked * (below + disliked / 2)).sum()

    answers = (denoised_counts, unlimited_gain, auc_of_levels)
    for answer in answers:
        assert NAMED[answer.__name__].check(answer).passed
