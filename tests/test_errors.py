"""Errors keep what they say when they go from one process to another."""

import copy
import pickle

import pytest

from dnrlib.errors import ConfigError, DataError, DnrError, TrainingError


@pytest.mark.parametrize(
    "error",
    [
        DnrError("a"),
        ConfigError("a"),
        TrainingError("a"),
        DataError("file", "is empty"),
        DataError("file", "is empty", 3),
        DataError("file", "is empty", line=3),
    ],
)
def test_an_error_can_be_pickled_and_copied(error):
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert (str(again), vars(again)) == (str(error), vars(error))
