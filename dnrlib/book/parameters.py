"""The parameters of a chapter: where they come from, and whether they fit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from dnrlib.book.notebooks import read_yaml
from dnrlib.errors import ConfigError

PROFILES = Path("book/profiles")


def parse_parameters(pairs: Iterable[Sequence[str]]) -> dict[str, Any]:
    """Parameters from a command line; each value is YAML, so that `x false` gives a bool.

    Args:
        pairs: name and value of each.

    Raises:
        ConfigError: a value is not YAML.
    """
    return {name: _parse(name, value) for name, value in pairs}


def _parse(name: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"parameter {name}: {value!r} is not YAML") from error


def load_profile(root: Path, profile: str, chapters: Collection[str]) -> dict[str, dict[str, Any]]:
    """Read `book/profiles/PROFILE.yml`: chapter -> parameters.

    Raises:
        ConfigError: there is no such profile, it names a chapter that the book does not have, or
            it has something else than parameters for one.
        BookError: it is not YAML.
    """
    path = root / PROFILES / f"{profile}.yml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yml")))
        raise ConfigError(f"profile {profile!r} does not exist; there are: {known}")
    content = read_yaml(path) or {}
    values = content.values() if isinstance(content, dict) else [content]
    if not all(isinstance(of or {}, dict) for of in values):
        raise ConfigError(f"{path}: give parameters by chapter, as in CHAPTER: {{NAME: VALUE}}")
    if unknown := sorted(set(content) - set(chapters)):
        raise ConfigError(f"profile {profile}: no chapter {unknown[0]!r}; {_known(chapters)}")
    return {chapter: content.get(chapter) or {} for chapter in chapters}


def fitted(
    parameters: Mapping[str, Any], defaults: Mapping[str, Any], chapter: str
) -> dict[str, Any]:
    """Parameters of the type of their defaults.

    A whole number or a numeral such as `1e-3` fits a float; anything fits a default of None.

    Raises:
        ConfigError: the chapter has no such parameter, or the value is of another type.
    """
    for name in parameters:
        if name not in defaults:
            raise ConfigError(f"chapter {chapter}: no parameter {name!r}; {meant(name, defaults)}")
    return {
        name: _fitted(f"chapter {chapter}: parameter {name}", value, defaults[name])
        for name, value in parameters.items()
    }


def _fitted(what: str, value: Any, default: Any) -> Any:
    if default is None or type(value) is type(default):
        return value
    if isinstance(default, float) and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise ConfigError(
        f"{what} = {value!r} is of type {type(value).__name__}; "
        f"it must be of type {type(default).__name__}, like its default {default!r}"
    )


def meant(name: str, names: Iterable[str]) -> str:
    """What to say of a name that is none of those known: the nearest of them, and all of them."""
    known = list(names)
    close = get_close_matches(name, known, n=1)
    return "".join([*(f"did you mean {one}? " for one in close), _known(known)])


def _known(names: Iterable[str]) -> str:
    return "there are: " + (", ".join(names) or "none")
