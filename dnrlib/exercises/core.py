"""What an exercise in code is, and how an answer is looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

Answer = Callable[..., Any]


@dataclass(frozen=True)
class Feedback:
    """Whether an answer is right and, if it is not, what is wrong with it."""

    passed: bool
    message: str

    def __repr__(self) -> str:
        return f"{'Right' if self.passed else 'Not yet'}: {self.message}"


@dataclass(frozen=True)
class Exercise:
    """A function of the reader's, which returns a number or a tensor.

    Args:
        name: of the function.
        truth: a right answer.
        cases: what is special about a case -> the arguments.
        mistakes: what to say -> a function that makes this mistake.
        tolerance: of the largest difference.
    """

    name: str
    truth: Answer
    cases: Mapping[str, Sequence[Any]]
    mistakes: Mapping[str, Answer] = field(default_factory=dict)
    tolerance: float = 1e-6

    @property
    def label(self) -> str:
        """Of the exercise in its chapter."""
        return f"ex-{self.name.replace('_', '-')}"

    def check(self, answer: Answer) -> Feedback:
        """Try an answer on every case, up to the first fault; what it raises is a fault too."""
        for case, arguments in self.cases.items():
            if fault := self._fault(answer, arguments):
                return Feedback(False, f"{self.name} ({case}) {fault}.{self._named(answer)}")
        return Feedback(True, f"{self.name} agrees on {len(self.cases)} cases")

    def _fault(self, answer: Answer, arguments: Sequence[Any]) -> str:
        try:
            given = _call(answer, arguments)
        except Exception as error:
            return f"raised {type(error).__name__}: {error}"
        if given is None or given is ...:
            return "returned nothing: write it and run the cell again"
        try:
            found = _numbers(given)
        except (TypeError, ValueError, RuntimeError):
            return f"returned {type(given).__name__}, but should return numbers"
        return self._difference(found, _numbers(_call(self.truth, arguments)))

    def _difference(self, found: Tensor, wanted: Tensor) -> str:
        if found.shape != wanted.shape:
            return f"returned {_shape(found)}, but should return {_shape(wanted)}"
        wrong = ~self._close(found, wanted)
        if not wrong.any():
            return ""
        place = tuple(wrong.nonzero()[0].tolist())
        where = f" at {list(place)}" if place else ""
        return f"returned {found[place]:.6g}{where}, but should return {wanted[place]:.6g}"

    def _close(self, found: Tensor, wanted: Tensor) -> Tensor:
        return found.isclose(wanted, rtol=0, atol=self.tolerance, equal_nan=True)

    def _named(self, answer: Answer) -> str:
        """What to say of the known mistake that gives the same as the answer in every case."""
        for words, mistake in self.mistakes.items():
            if all(self._same(answer, mistake, arguments) for arguments in self.cases.values()):
                return f" {words}"
        return ""

    def _same(self, answer: Answer, mistake: Answer, arguments: Sequence[Any]) -> bool:
        try:
            given, wrong = (_numbers(_call(one, arguments)) for one in (answer, mistake))
        except Exception:
            return False
        return given.shape == wrong.shape and bool(self._close(given, wrong).all())


def _call(answer: Answer, arguments: Sequence[Any]) -> Any:
    # an answer may write to its arguments
    return answer(*deepcopy(arguments))


def _numbers(value: Any) -> Tensor:
    if isinstance(value, np.ndarray):
        value = value.copy()  # torch refuses one that runs backwards
    return torch.as_tensor(value, dtype=torch.float64).detach()


def _shape(tensor: Tensor) -> str:
    return f"shape {list(tensor.shape)}" if tensor.dim() else "a single number"
