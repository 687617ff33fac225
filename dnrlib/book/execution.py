"""One execution of a chapter: what is known of it, kept in the executed notebook."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nbformat import NotebookNode

from dnrlib.book.notebooks import BookError

METADATA = "dnr"
"""Where a notebook's metadata hold its execution."""


@dataclass(frozen=True)
class Execution:
    """How a chapter was executed.

    Args:
        chapter: the file's name without its ending.
        profile: the name of a file in `book/profiles`.
        parameters: what papermill was given: the profile's, the data set and those by hand; the
            others had their defaults.
        seconds: that it took.
        predicted: seconds that it was expected to take; None where that was not known.
        executed: when it ended, as `2025-11-23T00:31:49+00:00`.
        commit: that was checked out, marked where files differed (`dnrlib.environment.commit`).
        machine: processor, cores and system.
        versions: of Python and of packages.
        stamp: hash of each thing that the execution depends on (`dnrlib.book.stamps`).
        figures: file in `figures/` that it has written -> hash of that file.
    """

    chapter: str
    profile: str
    parameters: Mapping[str, Any]
    seconds: float
    predicted: float | None
    executed: str
    commit: str
    machine: str
    versions: Mapping[str, str]
    stamp: Mapping[str, str] = dataclasses.field(default_factory=dict)
    figures: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def when(self) -> str:
        """The end, as people read it."""
        return datetime.fromisoformat(self.executed).strftime("%Y-%m-%d %H:%M UTC")


def keep(execution: Execution, notebook: NotebookNode) -> None:
    """Put an execution into its notebook's metadata."""
    notebook.metadata[METADATA] = dataclasses.asdict(execution)


def kept(notebook: NotebookNode) -> Execution:
    """The execution in a notebook's metadata.

    Raises:
        BookError: there is none, or it was written by another version of the builder.
    """
    try:
        plain = json.loads(json.dumps(notebook.metadata[METADATA]))
        return Execution(**plain)
    except (KeyError, TypeError) as error:
        raise BookError("the notebook was not executed by this builder") from error
