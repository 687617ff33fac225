"""The build, from the stored chapters to the site."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dnrlib.book.durations import LAST, key_of, note, predicted, record
from dnrlib.book.execute import execute
from dnrlib.book.notebooks import BookError, chapters, defaults, pages, read_chapter
from dnrlib.book.parameters import fitted, load_profile
from dnrlib.book.prose import check_glue, check_prose
from dnrlib.book.site import check_site, render
from dnrlib.book.symbols import NOTATION, check_symbols, with_anchors
from dnrlib.errors import ConfigError
from dnrlib.units import duration

SOURCE = Path("_build/book-source")
SITE = Path("_build/html")


def build(profile: str = "quick", dataset: str | None = None, root: Path | str = ".") -> Path:
    """Execute every chapter, render the site and check it.

    There is a site afterwards only if everything went well: an earlier one is removed at the start.

    Args:
        profile: the name of a file in `book/profiles`.
        dataset: goes to every chapter with a parameter `dataset`; by default the profile decides.
        root: the folder of `_toc.yml`; chapters are executed in it.

    Returns:
        The site's first page.

    Raises:
        ConfigError: an unknown profile, or a parameter that does not fit.
        BookError: a chapter is not stored as it must be, a bare number in prose, a symbol that
            nobody explains, a failing cell, a warning of Jupyter Book, or a fault of the site.
    """
    root = Path(root).resolve()
    shutil.rmtree(root / SITE, ignore_errors=True)
    shutil.rmtree(root / SOURCE, ignore_errors=True)
    plan = _plan(root, profile, dataset)
    _refuse(_found(root, check_prose), "numbers in prose that are not bound")
    _refuse(_found(root, check_glue), "values of another page need a format, such as :.3f or :s")
    _refuse(check_symbols(root), "symbols that are not explained")
    began = time.time()
    for number, (name, path) in enumerate(chapters(root).items(), start=1):
        print(f"[{number}/{len(plan)}] {name}", flush=True)
        _execute(root / path, root / SOURCE / path, plan[name], root, profile)
    _copy_the_rest(root, since=began)
    rendered = render(root / SOURCE, pages(root)[0])
    _refuse(check_site(rendered), "faults of the site")
    os.replace(rendered, root / SITE)
    return root / SITE / "index.html"


def run_chapter(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    profile: str = "quick",
    dataset: str | None = None,
    root: Path | str = ".",
) -> Path:
    """Execute one chapter, without rendering it.

    Args:
        name: the file's name without its ending.
        parameters: what differs from the profile; see `parse_parameters` for those typed by hand.
        profile, dataset, root: as in `build`.

    Returns:
        The executed notebook, `_build/chapters/NAME.ipynb`.

    Raises:
        ConfigError: no such chapter or profile, or a parameter that does not fit.
        BookError: the chapter is not stored as it must be, or a cell failed.
    """
    root = Path(root).resolve()
    known = chapters(root)
    if name not in known:
        raise ConfigError(f"no chapter {name!r}; there are: {', '.join(known)}")
    chosen = load_profile(root, profile, known)[name]
    final = _parameters(root / known[name], chosen, dataset, parameters or {})
    target = root / "_build" / "chapters" / f"{name}.ipynb"
    _execute(root / known[name], target, final, root, profile, like_the_last=not parameters)
    return target


def _execute(
    source: Path,
    target: Path,
    parameters: Mapping[str, Any],
    root: Path,
    profile: str,
    like_the_last: bool = True,
) -> None:
    """Execute a chapter, say before what it will take and then what it took, and remember that.

    Where it is not like the last of its profile and data set, nothing is predicted or remembered.
    """
    name = source.stem
    dataset = {**defaults(read_chapter(source)), **parameters}.get("dataset", "no data set")
    key = key_of(name, profile, dataset)
    expected = predicted(root, key, _speed) if like_the_last else None
    said = "not known yet" if expected is None else duration(expected)
    print(f"{name}: predicted time: {said}", flush=True)
    seconds = execute(source, target, parameters, root, profile, expected)
    print(f"{name}: executed in {duration(seconds)} (predicted: {said})", flush=True)
    if like_the_last:
        note(root, key, seconds)


def _speed() -> float:
    from dnrlib.costs import reference_speed  # needs torch, which chapters have for themselves

    return reference_speed()


def record_durations(root: Path | str = ".") -> Path:
    """Write what chapters took on this machine to the file from which readers' are predicted.

    Raises:
        BookError: no chapter was executed on this machine yet.
    """
    root = Path(root).resolve()
    if not (root / LAST).exists():
        raise BookError(f"{LAST} is not there: execute the chapters first")
    return record(root, _speed())


def _plan(root: Path, profile: str, dataset: str | None) -> dict[str, dict[str, Any]]:
    """Chapter to parameters; everything that can be wrong is found before anything is executed."""
    known = chapters(root)
    chosen = load_profile(root, profile, known)
    return {name: _parameters(root / path, chosen[name], dataset) for name, path in known.items()}


def _parameters(
    path: Path,
    profile: Mapping[str, Any],
    dataset: str | None,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    own = defaults(read_chapter(path))
    shared = {"dataset": dataset} if dataset and "dataset" in own else {}
    return fitted({**profile, **shared, **(given or {})}, own, path.stem)


def _found(root: Path, check: Callable[[Path], list[str]]) -> list[str]:
    return [f"{page}, {fault}" for page in pages(root) for fault in check(root / page)]


def _refuse(faults: list[str], what: str) -> None:
    if faults:
        raise BookError(f"{what}:\n" + "\n".join(f"  {fault}" for fault in faults))


def _copy_the_rest(root: Path, since: float) -> None:
    """Copy what belongs to the book besides notebooks, and the figures that this build wrote."""
    source = root / SOURCE
    others = shutil.ignore_patterns("*.ipynb", "*.json", "flows", "profiles", "_static", ".*")
    shutil.copytree(root / "book", source / "book", ignore=others, dirs_exist_ok=True)
    if (notation := source / NOTATION).is_file():
        notation.write_text(with_anchors(notation.read_text("utf-8")), "utf-8")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copyfile(root / name, source / name)
    if (root / "book/_static").is_dir():
        shutil.copytree(root / "book/_static", source / "_static")
    (source / "figures").mkdir()
    for figure in (root / "figures").glob("*"):
        if figure.stat().st_mtime >= since:
            shutil.copyfile(figure, source / "figures" / figure.name)
