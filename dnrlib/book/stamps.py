"""What a page depends on, as hashes: whether it is what the sources would give now.

A chapter's execution depends on its code and parameters, on the library, on the records, on the
files of its data set and on the versions of packages. All of the library counts but this folder and
the command line: what a chapter reaches through names in configurations (a reranker, a regulariser)
is in no import. It counts as syntax trees, so that a comment or a docstring makes no page old. A
chapter that imports this folder tells of the build, and depends on that as well. All records count,
and the last commit that changed claims, rules or experiments, whose history the book tells. The
number of cores and the machine do not count.

The page depends on its text, too, and on the builder and the book's configuration. A change there
costs no execution.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import nbformat

from dnrlib import identity
from dnrlib.book.notebooks import (
    BookError,
    chapters,
    code_cells,
    defaults,
    is_parameters,
    pages,
    read_chapter,
)
from dnrlib.book.parameters import PROFILES, load_profile
from dnrlib.book.plan import plan
from dnrlib.environment import versions
from dnrlib.identity import code_hash, hash_of

SITE = Path("_build/html")
STAMPS = "stamps.json"
"""In the site: profile, data set, and page -> part -> hash."""

PARTS = {
    "code": "its code",
    "parameters": "its parameters",
    "library": "the library",
    "records": "the records",
    "files": "the files of its data set",
    "build": "the build that it tells of",
    "versions": "the versions of packages",
    "text": "what it says",
    "book": "the builder or the book's configuration",
}
"""What a page depends on -> how to say that it changed."""

RECORDS = (
    "results/**/*.json",
    "measurements/*.json",
    "experiments/*.yml",
    "online/*.yml",
    "data/*.csv",
    "data/*.yml",
    "benchmarks/records/**/*.json",
    "book/flows/*.yml",
)
HISTORY = ("data", "experiments")
BOOK = (
    "_config.yml",
    "_toc.yml",
    "book/*.bib",
    "book/*.py",
    "book/notation.md",
    "book/slides/*",
    "book/_*/**/*",
)
BUILD = ("_toc.yml", "book/durations.json")
"""What a chapter that tells of the build reads."""
PACKAGES = ("torch", "numpy", "scipy", "polars", "scikit-learn", "umap-learn", "matplotlib")
BUILDER = Path(__file__).parent
REFERENCE = Path("book/api")
"""The folder of the pages that are made from docstrings."""


def shared_parts(root: Path) -> dict[str, str]:
    """What the executions of all chapters depend on."""
    return {
        "library": library(),
        "records": hash_of(_hash_of_files(root, RECORDS), _last_commit(root)),
        "versions": hash_of(versions(PACKAGES)),
    }


def execution_parts(
    root: Path, path: Path, parameters: Mapping[str, Any], shared: Mapping[str, str]
) -> dict[str, str]:
    """Part -> hash of what the execution of one chapter depends on.

    Args:
        root: the folder of `_toc.yml`.
        path: the chapter, relative to it.
        parameters: what papermill is given.
        shared: see `shared_parts`.
    """
    notebook = read_chapter(root / path)
    final = {**defaults(notebook), **parameters}
    code = [cell.source for cell in code_cells(notebook) if not is_parameters(cell)]
    tells_of_the_build = any("dnrlib.book" in source for source in code)
    return {
        "code": hash_of(code),
        "parameters": hash_of(final),
        "files": data_files(root, final.get("dataset")),
        **({"build": _build(root)} if tells_of_the_build else {}),
        **shared,
    }


def _build(root: Path) -> str:
    return hash_of(_hash_of_files(root, BUILD), _hash_of_files(BUILDER, ["**/*.py"]))


def page_text(root: Path, path: Path, profiles: Iterable[Mapping[str, Any]]) -> str:
    """Hash of what a page says besides what its execution gave.

    Args:
        root: the folder of `_toc.yml`.
        path: the page, relative to it.
        profiles: each as `load_profile` gives it; a page may say how they differ.
    """
    if path.suffix != ".ipynb":
        documented = identity.PACKAGE if path.parent == REFERENCE else None
        shown = _hash_of_files(documented, ["**/*.py"]) if documented else ""
        return hash_of((root / path).read_text("utf-8"), shown)
    cells = nbformat.read(root / path, as_version=4).cells
    said = [cell.source for cell in cells if cell.cell_type != "code" or is_parameters(cell)]
    return hash_of(said, [profile[path.stem] for profile in profiles])


def site_stamps(
    root: Path,
    profile: str,
    dataset: str | None,
    executed: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, dict[str, str]]:
    """Page -> part -> hash, as the sources are now.

    Args:
        profile, dataset: as in `build`.
        executed: chapter -> the parts of its execution; by default those of now.
    """
    if executed is None:
        executed = executions(root, profile, dataset)
    book = hash_of(_hash_of_files(root, BOOK), _hash_of_files(BUILDER, ["**/*"]))
    names = sorted(file.stem for file in (root / PROFILES).glob("*.yml"))
    profiles = [load_profile(root, name, chapters(root)) for name in names]
    return {
        path.as_posix(): {
            "text": page_text(root, path, profiles),
            "book": book,
            **(executed[path.stem] if path.suffix == ".ipynb" else {}),
        }
        for path in pages(root)
    }


def executions(root: Path, profile: str, dataset: str | None) -> dict[str, dict[str, str]]:
    """Chapter -> part -> hash, as the sources are now; arguments as of `build`."""
    shared, parameters = shared_parts(root), plan(root, profile, dataset)
    return {
        name: execution_parts(root, path, parameters[name], shared)
        for name, path in chapters(root).items()
    }


def library() -> str:
    """Hash of the library, without the builder and the command line: see above."""
    package = identity.PACKAGE
    files = sorted(path for path in package.rglob("*") if path.is_file())
    names = (path.relative_to(package) for path in files if "__pycache__" not in path.parts)
    counted = [name for name in names if name.parts[0] not in ("book", "cli.py")]
    return hash_of([(name.as_posix(), _code(package, name)) for name in counted])


def _code(package: Path, name: Path) -> str:
    if name.suffix != ".py":
        return hash_of_file(package / name)
    state = (package / name).stat()
    return _tree(name.as_posix(), state.st_size, state.st_mtime_ns)


@cache
def _tree(name: str, size: int, changed: int) -> str:
    """Hash of a module's syntax tree; made once for each state of its file."""
    return code_hash.__wrapped__([name])  # which remembers a name whatever its state


def data_files(root: Path, dataset: str | None) -> str:
    """Hash of a data set's name and of its files' names, sizes and times of change.

    Args:
        dataset: `auto` is what it stands for without a download; None where a chapter has none.
    """
    named = os.environ.get("DNR_DATA_DIR")
    folders = [*([Path(named).expanduser()] if named else []), root / "data" / "raw"]
    if dataset == "auto":
        dataset = "ml-1m" if _found("ml-1m", folders) else "simulated"
    files = [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for path in _found(dataset, folders)
        for file in ([path] if path.is_file() else sorted(path.rglob("*")))
    ]
    return hash_of(dataset, files)


def _found(dataset: str | None, folders: Iterable[Path]) -> list[Path]:
    """The file or folder of a published data set, if it is at hand."""
    from dnrlib.data.sources import PUBLISHERS  # needs torch, which rendering a page does not

    if (publisher := PUBLISHERS.get(dataset or "")) is None:
        return []
    path = publisher.find(publisher.PUBLICATIONS[dataset], folders)
    return [path] if path else []


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is not what it was, in words."""
    return [words for part, words in PARTS.items() if before.get(part) != now.get(part)]


def stale(
    built: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]
) -> dict[str, str | None]:
    """Page -> why it is not what the sources give now; None where it is."""
    return {page: _why(built.get(page), now.get(page)) for page in {**now, **built}}


def _why(built: Mapping[str, str] | None, now: Mapping[str, str] | None) -> str | None:
    if built is None:
        return "it is not in the site"
    if now is None:
        return "it is no longer in the book"
    return f"{' and '.join(changed)} changed" if (changed := changes(built, now)) else None


def current(root: Path | str = ".") -> dict[str, str | None]:
    """Compare the built site with the sources as they are now.

    Returns:
        Page, relative to `root`, -> why it is not what the sources give now; None where it is.

    Raises:
        BookError: there is no site.
        ConfigError: the site's profile is no longer there or does not fit.
    """
    root = Path(root).resolve()
    try:
        built = json.loads((root / SITE / STAMPS).read_text("utf-8"))
        pages_built, profile, dataset = (built[name] for name in ("pages", "profile", "dataset"))
    except OSError as error:
        raise BookError(f"{SITE / STAMPS} is not there: build the book first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BookError(f"{SITE / STAMPS} is broken: build the book again") from error
    return stale(pages_built, site_stamps(root, profile, dataset))


def write_stamps(
    site: Path, profile: str, dataset: str | None, built: Mapping[str, Mapping[str, str]]
) -> None:
    """Say in the site from what it was made."""
    content = {"profile": profile, "dataset": dataset, "pages": built}
    (site / STAMPS).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def hash_of_file(path: Path) -> str:
    """First 12 hexadecimal digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _hash_of_files(folder: Path, patterns: Iterable[str]) -> str:
    found = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    files = [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    return hash_of([(path.relative_to(folder).as_posix(), hash_of_file(path)) for path in files])


def _last_commit(root: Path) -> str:
    """That changed what the book tells the history of; nothing where git does not know."""
    command = ["git", "log", "-1", "--format=%H", "--", *HISTORY]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
