"""Errors that a user can act on: each says what is wrong, where, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class DnrError(Exception):
    """Base of every error that dnrlib raises on purpose."""


class ConfigError(DnrError):
    """A parameter has a value that cannot be used; the message names the parameter."""


class DataError(DnrError):
    """An input file cannot be used.

    Args:
        path: the file (or the member of an archive) that is at fault.
        reason: what is wrong and what to do about it.
        line: 1-based line number, where there is one.
    """

    def __init__(self, path: Path | str, reason: str, line: int | None = None):
        where = f"{path}, line {line}" if line else f"{path}"
        super().__init__(f"{where}: {reason}")
        self.path, self.reason, self.line = path, reason, line

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its arguments; by default an error is made again from its text alone."""
        return type(self), (self.path, self.reason, self.line)


class TrainingError(DnrError):
    """Training cannot go on; the message names epoch, step and the offending term."""
