"""With which parameters each chapter is executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnrlib.book.notebooks import chapters, defaults, read_chapter
from dnrlib.book.parameters import fitted, load_profile


def plan(root: Path, profile: str, dataset: str | None) -> dict[str, dict[str, Any]]:
    """Chapter -> the parameters that papermill is given.

    Raises:
        ConfigError: an unknown profile, or a parameter that does not fit.
        BookError: a chapter is not stored as it must be.
    """
    known = chapters(root)
    chosen = load_profile(root, profile, known)
    return {
        name: chapter_parameters(root / path, chosen[name], dataset) for name, path in known.items()
    }


def chapter_parameters(
    path: Path,
    profile: Mapping[str, Any],
    dataset: str | None = None,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The profile's parameters of one chapter, the data set if it has one, and those by hand.

    Raises:
        ConfigError: the chapter has no such parameter, or the value is of another type.
        BookError: the chapter is not stored as it must be.
    """
    own = defaults(read_chapter(path))
    shared = {"dataset": dataset} if dataset and "dataset" in own else {}
    return fitted({**profile, **shared, **(given or {})}, own, path.stem)
