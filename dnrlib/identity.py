"""What makes two computations the same: their settings, their data and the code that matters."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from dnrlib.errors import ConfigError

PACKAGE = Path(__file__).parent
LISTS_CODE = (
    "data/*.py",
    "log.py",
    "retriever.py",
    "protocols.py",
    "lists.py",
    "prepare.py",
    "shards.py",
)
"""What candidate lists depend on."""
PLUMBING = {"dnrlib.errors", "dnrlib.files", "dnrlib.identity", "dnrlib.lists", "dnrlib.log"}
"""Modules that carry what a run computes, but compute nothing of it."""

WANTED = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}

Config = TypeVar("Config")


def hash_of(*values: Any) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the values as JSON."""
    text = json.dumps(values, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def plain(config: Any) -> dict[str, Any]:
    """A configuration dataclass as nested dictionaries.

    A field that was `added` later is left out where it has its default, so that a new setting
    makes no recorded run old.
    """
    values = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if not (field.metadata.get("added") and getattr(config, field.name) == field.default)
    }
    return {
        name: plain(value) if dataclasses.is_dataclass(value) else value
        for name, value in values.items()
    }


def added(default: Any) -> Any:
    """A field of a configuration that records made before it do not have: see `plain`."""
    return dataclasses.field(default=default, metadata={"added": True})


@cache
def code_hash(patterns: Iterable[str]) -> str:
    """Hash of the package's files as syntax trees: comments, docstrings and layout do not count."""
    files = sorted(path for pattern in patterns for path in PACKAGE.glob(pattern))
    return hash_of([(path.name, _tree(ast.parse(path.read_text("utf-8")))) for path in files])


@cache
def files_of(*modules: str) -> tuple[str, ...]:
    """The files of modules and of all that they import from the package, but for the `PLUMBING`."""
    found: set[str] = set()
    waiting = set(modules)
    while waiting := {name for name in waiting if name not in found | PLUMBING}:
        found |= waiting
        trees = [ast.parse((PACKAGE.parent / _file(name)).read_text("utf-8")) for name in waiting]
        nodes = (node for tree in trees for node in ast.walk(tree))
        imports = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
        waiting = {name for name in imports if name and name.startswith(f"{PACKAGE.name}.")}
    return tuple(sorted(_file(name).removeprefix(f"{PACKAGE.name}/") for name in found))


def _file(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if (PACKAGE.parent / path).is_dir() else f"{path}.py"


def _tree(node: Any) -> Any:
    """A syntax tree as nested lists, without docstrings and without what is empty."""
    if isinstance(node, ast.AST):
        fields = {name: _tree(value) for name, value in ast.iter_fields(node)}
        return [type(node).__name__, {k: v for k, v in fields.items() if v not in (None, [])}]
    if isinstance(node, list):
        return [_tree(item) for item in node if not _is_docstring(item)]
    return node if isinstance(node, (str, int, float, bool, type(None))) else repr(node)


def _is_docstring(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def from_dict(kind: type[Config], values: Mapping[str, Any], where: str = "") -> Config:
    """A configuration dataclass from nested mappings; an unknown or ill-typed value is an error.

    A whole number fits a float, and so does a numeral such as ``1e-3``, which is text in YAML.

    Raises:
        ConfigError: names the parameter, as in ``training.lambda_c``.
    """
    hints = _hints(kind)  # type: ignore[arg-type]
    given = {}
    for name, value in values.items():
        if name not in hints:
            known = ", ".join(hints)
            raise ConfigError(f"unknown parameter {where}{name}: choose one of {known}")
        given[name] = fitted(hints[name], value, f"{where}{name}")
    return kind(**given)


_hints = cache(get_type_hints)  # each time it would compile every annotation once more


def fitted(hint: Any, value: Any, name: str) -> Any:
    """The value as the type that is wanted, or ConfigError that names the parameter."""
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value, f"{name}.")  # type: ignore[arg-type]
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != len(inner):
            raise ConfigError(f"{name} = {value!r}: must be a list of {len(inner)} values")
        return tuple(fitted(one, item, name) for one, item in zip(inner, value, strict=True))
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        with suppress(ValueError):
            return float(value)
    accepted = Mapping if kind is dict else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        wanted = WANTED.get(kind, f"a group of settings ({name}.…)")
        raise ConfigError(f"{name} = {value!r}: must be {wanted}")
    return value
