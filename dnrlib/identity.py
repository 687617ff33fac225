"""What makes two computations the same: their settings, their data and the code that matters."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from dnrlib.errors import ConfigError

PACKAGE = Path(__file__).parent
LISTS_CODE = ("data/*.py", "log.py", "retriever.py", "protocols.py", "lists.py")
"""What candidate lists depend on."""
RUN_CODE = ("rerankers/*.py", "noise.py", "losses.py", "training.py", "metrics.py")
"""What a run depends on besides its lists."""

Config = TypeVar("Config")


def hash_of(*values: Any) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the values as JSON."""
    text = json.dumps(values, sort_keys=True, default=dataclasses.asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def code_hash(patterns: Iterable[str] = RUN_CODE) -> str:
    """Hash of the package's files as syntax trees: comments, docstrings and layout do not count."""
    files = sorted(path for pattern in patterns for path in PACKAGE.glob(pattern))
    return hash_of([(path.name, _tree(ast.parse(path.read_text("utf-8")))) for path in files])


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

    Raises:
        ConfigError: names the parameter, as in ``training.lambda_c``.
    """
    hints = get_type_hints(kind)
    given = {}
    for name, value in values.items():
        if name not in hints:
            known = ", ".join(hints)
            raise ConfigError(f"unknown parameter {where}{name}: choose one of {known}")
        given[name] = _fitted(hints[name], value, f"{where}{name}")
    return kind(**given)


def _fitted(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value, f"{name}.")  # type: ignore[arg-type]
    origin = getattr(hint, "__origin__", None)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(value)
    allowed = {float: (int, float), dict: (Mapping,)}.get(origin or hint, (origin or hint,))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        allowed = (hint,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{name} = {value!r}: must be {getattr(hint, '__name__', hint)}")
    return float(value) if hint is float else value
