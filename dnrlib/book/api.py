"""The API reference, from the library itself: signatures as they are written, and the commands.

A page of the reference names modules, in a line of its own, and so says what is behind it; a star
stands for what it does not name:

    % modules: rerankers.base, rerankers.*

In the same way ``% commands`` stands for the command line. Nothing else of it is written by hand.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import is_dataclass
from fnmatch import fnmatchcase
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import dnrlib

PACKAGE = dnrlib.__name__
"""Names of this package are links in signatures."""
ROOT = Path(inspect.getfile(dnrlib)).parent.parent
"""The folder that the package is in."""

_MODULES = re.compile(r"^% modules:(.*)$", re.MULTILINE)
_COMMANDS = re.compile(r"^% commands$", re.MULTILINE)
_LONG_LIST = re.compile(r"^( {4}[\w, ]+,)\n {8}(?=[\w, ]+: )", re.MULTILINE)
_LETTER = re.compile(r"(?<=: )(?=[A-Z]\.$)", re.MULTILINE)
_IN_RST = re.compile(r"(``.*?``)|\{(\w+)\}(?=`)|\|")
# the contents beside the page say the same, and nothing of it is cut off
_LISTED = re.compile(r"\*\*Commands\*\*:\n\n(?:\* .*\n)+\n")
_SECTION = """## `{module}`

```{{eval-rst}}
.. automodule:: {module}
```
"""


def expanded(text: str) -> str:
    """A page of the reference, with what its lines ``% modules`` and ``% commands`` stand for."""
    sections = "\n".join(_SECTION.format(module=module) for module in modules_of(text))
    text = _MODULES.sub(lambda match: sections, text, count=1)
    return _COMMANDS.sub(lambda match: commands(), text)


def modules_of(text: str) -> list[str]:
    """The modules that a page of the reference names, with the package, in its order."""
    patterns = [f"{PACKAGE}.{name.strip()}" for name in ",".join(_MODULES.findall(text)).split(",")]
    known = all_modules()
    found = [(one, name) for one in patterns for name in known if fnmatchcase(name, one)]
    return list(dict.fromkeys(name for one, name in found if one == name or name not in patterns))


@cache
def all_modules() -> tuple[str, ...]:
    """Every module of the package, by name."""
    paths = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / PACKAGE).rglob("*.py"))
    return tuple(sorted(".".join(path.parts).removesuffix(".__init__") for path in paths))


def commands() -> str:
    """Each command of ``dnr`` with its arguments and options, in Markdown, from its definition."""
    import typer
    from typer.cli import get_docs_for_click

    from dnrlib.cli import app

    group = typer.main.get_command(app)
    context: Any = typer.Context(group, info_name="dnr")
    text = get_docs_for_click(obj=group, ctx=context, name="dnr", indent=1)
    return _LISTED.sub("", text)


def as_rst(docstring: str) -> str:
    """A docstring with MyST's roles, such as {eq}`eq-theta`, in the form that RST has.

    A bar in a formula, which begins a substitution in RST, stays a bar, and a letter that is all of
    a description begins no list; a list of arguments that share a description stands in one line,
    as Sphinx needs it.
    """
    text = _LETTER.sub(r"\\", _LONG_LIST.sub(r"\1 ", docstring))
    return _IN_RST.sub(lambda match: match[1] or (f":{match[2]}:" if match[2] else r"\|"), text)


def signature(named: Any) -> tuple[str, str | None] | None:
    """Arguments and what is returned, as in the source: shapes, aliases and defaults.

    Args:
        named: a function, a method or a class.

    Returns:
        None for anything else, and for what is not written in the package.
    """
    if inspect.isclass(named):
        return _signature_of_class(named), None
    written = inspect.unwrap(named) if callable(named) else named
    return _signature_of_function(written) if _is_ours(written) else None


def _is_ours(named: Any) -> bool:
    return inspect.isfunction(named) and named.__module__.split(".")[0] == PACKAGE


def _signature_of_function(function: Any) -> tuple[str, str | None]:
    written = definition(function.__module__, function.__qualname__)
    if not isinstance(written, ast.FunctionDef):  # made by a decorator of the standard library
        return "", None
    arguments = _readable(written.args, function.__module__)
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        del arguments.args[0]
    returned = written.returns and _readable(written.returns, function.__module__)
    return f"({ast.unparse(arguments)})", ast.unparse(returned) if returned else None


def _signature_of_class(kind: Any) -> str:
    if is_dataclass(kind) or hasattr(kind, "_fields"):
        return f"({', '.join(_fields(kind))})"
    return _signature_of_function(kind.__init__)[0] if _is_ours(kind.__init__) else ""


def _fields(kind: type) -> Iterator[str]:
    """The fields of a dataclass or a named tuple, those that it inherits first."""
    for base in reversed(kind.__mro__):
        written = definition(base.__module__, base.__qualname__)
        for field in written.body if isinstance(written, ast.ClassDef) else []:
            if isinstance(field, ast.AnnAssign):
                yield ast.unparse(_as_argument(_readable(field, base.__module__)))


def _as_argument(field: ast.AnnAssign) -> ast.AnnAssign:
    """A field with the default that a caller sees, in place of how dataclasses spell it."""
    if isinstance(field.value, ast.Call):
        named = {keyword.arg: keyword.value for keyword in field.value.keywords}
        match ast.unparse(field.value.func).split(".")[-1], named.get("default_factory"):
            case "added", _:
                field.value = field.value.args[0]
            case "field", ast.Lambda(body=body):
                field.value = body
            case "field", ast.expr() as factory:
                field.value = ast.Call(factory, [], [])
    return field


def _readable(node: Any, module: str) -> Any:
    return _Readable(module).visit(deepcopy(node))


class _Readable(ast.NodeTransformer):
    """Full names for what the package defines, so that they are links; shapes without padding.

    An alias that has no docstring, and so no entry, is what it stands for. A field keeps its name,
    whatever else has it, and so does a type variable.
    """

    def __init__(self, module: str):
        self.module = module

    def visit_Name(self, node: ast.Name) -> ast.expr:
        name = home(f"{self.module}.{node.id}")
        if isinstance(node.ctx, ast.Store) or not name or "._" in name:
            return node
        module, _, last = name.rpartition(".")
        written = definition(module, last)
        if isinstance(written, ast.Assign) and last not in documented(module):
            is_variable = ast.unparse(written.value).startswith("TypeVar(")
            return node if is_variable else self.visit(deepcopy(written.value))
        return ast.Name(name)

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant(node.value.strip()) if isinstance(node.value, str) else node


def home(name: str) -> str | None:
    """Where a name of the package is defined that may have been imported on the way.

    So ``dnrlib.exercises.check`` is ``dnrlib.exercises.core.check``. None where nothing defines it.
    """
    if name in all_modules():
        return name
    parent, _, last = name.rpartition(".")
    if parent not in all_modules():
        outer = home(parent) if "." in parent else None
        return f"{outer}.{last}" if outer else None
    if definition(parent, last):
        return name
    imported = _imports(parent).get(last)
    return home(imported) if imported else None


@cache
def _imports(module: str) -> dict[str, str]:
    """The names that a module imports from the package -> what they are there."""
    return dict(imported(_tree(module)))


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The names that a syntax tree imports from the package, and what they are there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def alias_of(name: str) -> str | None:
    """The type that a name of a module stands for, as in the source."""
    module, _, last = name.rpartition(".")
    written = definition(module, last)
    value = written.value if isinstance(written, ast.Assign) else None
    is_type = isinstance(value, (ast.Subscript, ast.BinOp))
    return ast.unparse(_readable(value, module)) if is_type else None


def definition(module: str, name: str) -> ast.stmt | None:
    """What defines a name in a module of the package: a class, a function or an assignment."""
    found: Any = _tree(module) if module in all_modules() else None
    for part in name.split("."):
        found = next((s for s in getattr(found, "body", ()) if part in names_of(s)), None)
    return found


def names_of(statement: ast.stmt) -> list[str]:
    """The names that a statement defines."""
    match statement:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


@cache
def documented(module: str) -> frozenset[str]:
    """The constants and aliases of a module that have a docstring."""
    pairs = pairwise(_tree(module).body)
    return frozenset(name for first, then in pairs if _is_text(then) for name in names_of(first))


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


@cache
def _tree(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text("utf-8"))
