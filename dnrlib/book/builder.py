"""The build, from the stored chapters to the site.

First every chapter is executed whose last execution (`dnrlib.book.executed`) is no longer what the
sources would give (`dnrlib.book.stamps`), several at once. Then each is decorated
(`dnrlib.book.decorate`) and all pages are rendered together: only there does a page see values of
another one, so that a chapter that is not executed again still shows the others' new values.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
from filelock import FileLock, Timeout
from nbformat import NotebookNode

from dnrlib.book import executed, jobs, stamps
from dnrlib.book.decorate import decorate
from dnrlib.book.durations import LAST, record
from dnrlib.book.execute import Kernels
from dnrlib.book.execution import keep, kept
from dnrlib.book.jobs import Job
from dnrlib.book.notebooks import BookError, chapters, pages, read_chapter, read_yaml
from dnrlib.book.opening import check_chapters
from dnrlib.book.parameters import load_profile, meant
from dnrlib.book.plan import chapter_parameters, plan
from dnrlib.book.prose import check_glue, check_prose
from dnrlib.book.repository import find_repository, write_config
from dnrlib.book.site import check_site, render
from dnrlib.book.slides import read_decks, write_slides
from dnrlib.book.stamps import SITE
from dnrlib.book.symbols import NOTATION, check_symbols, with_anchors
from dnrlib.environment import cores
from dnrlib.errors import ConfigError

SOURCE = Path("_build/book-source")
LOCK = Path("_build/.lock")


@contextmanager
def alone_in(root: Path) -> Iterator[None]:
    """Only one build at a time writes to `_build` of a folder; another one waits, and says so.

    Args:
        root: the folder of `_toc.yml`.
    """
    (root / LOCK.parent).mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Another build has this folder ({LOCK}): waiting until it is done", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def build(
    profile: str = "quick",
    dataset: str | None = None,
    root: Path | str = ".",
    workers: int | None = None,
    fresh: bool = False,
) -> Path:
    """Execute the chapters, render the site and check it.

    There is a site afterwards only if everything went well: an earlier one is removed at the start.
    Chapters that were executed stay so, and are not executed again until something that they depend
    on changes.

    Args:
        profile: the name of a file in `book/profiles`.
        dataset: goes to every chapter with a parameter `dataset`; by default the profile decides.
        root: the folder of `_toc.yml`; chapters are executed in it.
        workers: chapters at once, by default one for each core, which then has one thread.
        fresh: execute every chapter, whatever has changed.

    Returns:
        The site's first page.

    Raises:
        ConfigError: an unknown profile, or a parameter that does not fit.
        BookError: a chapter is not stored as it must be, a bare number in prose, a symbol that
            nobody explains, a failing cell, a warning of Jupyter Book, a fault of the site, or
            sources that changed while it was built.
    """
    root, workers = Path(root).resolve(), workers or cores()
    if workers < 1:
        raise ConfigError(f"workers = {workers}: must be at least 1")
    for folder in (SITE, SOURCE):
        shutil.rmtree(root / folder, ignore_errors=True)
    parameters = plan(root, profile, dataset)
    check_sources(root)
    now = stamps.executions(root, profile, dataset)
    waiting = [name for name in parameters if fresh or not _is_current(root, name, now[name])]
    paths = chapters(root)
    jobs.run_all(
        [Job.of(root, paths[name], profile, parameters[name], now[name]) for name in waiting],
        workers,
    )
    built = write_pages(root, profile, dataset)
    rendered = render(root / SOURCE, pages(root)[0])
    write_slides(rendered, root)
    _refuse(check_site(rendered), "faults of the site")
    why = stamps.stale(built, stamps.site_stamps(root, profile, dataset))
    _refuse(
        [f"{page}: {reason}" for page, reason in why.items() if reason],
        "sources changed while the site was made; build it again",
    )
    stamps.write_stamps(rendered, profile, dataset, built)
    os.replace(rendered, root / SITE)
    return root / SITE / "index.html"


def check_sources(root: Path) -> None:
    """What can be wrong with the pages is found before anything is executed.

    Raises:
        BookError: names page and fault.
    """
    find_repository(read_yaml(root / "_config.yml"), root)
    _refuse(_found(root, check_prose), "numbers in prose that are not bound")
    _refuse(_found(root, check_glue), "values within code, or of another page without a format")
    _refuse(check_symbols(root), "symbols that are not explained")
    _refuse(check_chapters(root), "chapters that lack what every chapter has")
    read_decks(root)


def _is_current(root: Path, name: str, now: Mapping[str, str]) -> bool:
    """Whether the last execution is what the sources would give now; says so, or why not."""
    if (notebook := executed.load(root, name)) is None:
        return False
    execution = kept(notebook)
    if changed := stamps.changes(execution.stamp, now):
        print(f"{name}: {' and '.join(changed)} changed", flush=True)
        return False
    print(f"{name}: nothing has changed since {execution.when}; not executed again", flush=True)
    return True


def write_pages(root: Path, profile: str, dataset: str | None) -> dict[str, dict[str, str]]:
    """Decorate the executed chapters, and put all of the book where it is rendered, in `SOURCE`.

    Returns:
        Page -> part -> hash, of what it was made from.
    """
    notebooks = {name: _executed(root, name) for name in chapters(root)}
    known = {name: dict(kept(notebook).stamp) for name, notebook in notebooks.items()}
    # before any text is read: what changes after that is found when all is made
    built = stamps.site_stamps(root, profile, dataset, known)
    for name, path in chapters(root).items():
        notebook = notebooks[name]
        # the same parameters may belong to another profile
        keep(replace(kept(notebook), profile=profile), notebook)
        page = executed.with_text_of(notebook, read_chapter(root / path))
        write_page(page, root, root / SOURCE / path)
    copy_the_rest(root, root / SOURCE)
    return built


def _executed(root: Path, name: str) -> NotebookNode:
    if (notebook := executed.load(root, name)) is None:
        raise BookError(f"chapter {name} was not executed")
    return notebook


def write_page(notebook: NotebookNode, root: Path, target: Path) -> None:
    """Decorate an executed chapter and write it."""
    decorate(notebook, root)
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)


def run_chapter(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    profile: str = "quick",
    dataset: str | None = None,
    root: Path | str = ".",
    target: Path | None = None,
    kernels: Kernels | None = None,
) -> Path:
    """Execute one chapter, without rendering it.

    Args:
        name: the file's name without its ending.
        parameters: what differs from the profile; see `parse_parameters` for those typed by hand.
        profile, dataset, root: as in `build`.
        target: where to write the executed notebook, by default `_build/chapters/NAME.ipynb`.
        kernels: of those that run side by side; by default one that uses all cores.

    Returns:
        The executed notebook.

    Raises:
        ConfigError: no such chapter or profile, or a parameter that does not fit.
        BookError: the chapter is not stored as it must be, or a cell failed.
    """
    root = Path(root).resolve()
    job = chapter_job(name, parameters or {}, profile, dataset, root)
    (notebook,) = jobs.side_by_side(jobs.run, [job], 1, kernels or Kernels(cores()))
    target = target or root / "_build" / "chapters" / f"{name}.ipynb"
    write_page(notebook, root, target)
    return target


def chapter_job(
    name: str, parameters: Mapping[str, Any], profile: str, dataset: str | None, root: Path
) -> Job:
    """The execution of one chapter; arguments and errors are those of `run_chapter`."""
    known = chapters(root)
    if name not in known:
        raise ConfigError(f"no chapter {name!r}; {meant(name, known)}")
    chosen = load_profile(root, profile, known)[name]
    final = chapter_parameters(root / known[name], chosen, dataset, parameters)
    stamp = stamps.execution_parts(root, known[name], final, stamps.shared_parts(root))
    return Job.of(root, known[name], profile, final, stamp, is_usual=not parameters)


def record_durations(root: Path | str = ".") -> Path:
    """Write what chapters took on this machine to the file from which readers' are predicted.

    Raises:
        BookError: no chapter was executed on this machine yet.
    """
    root = Path(root).resolve()
    if not (root / LAST).exists():
        raise BookError(f"{LAST} is not there: execute the chapters first")
    return record(root, jobs.speed())


def _found(root: Path, check: Callable[[Path], list[str]]) -> list[str]:
    return [f"{page}, {fault}" for page in pages(root) for fault in check(root / page)]


def _refuse(faults: list[str], what: str) -> None:
    if faults:
        raise BookError(f"{what}:\n" + "\n".join(f"  {fault}" for fault in faults))


def copy_the_rest(root: Path, source: Path) -> None:
    """Copy what belongs to the book besides chapters, and the figures that these have written."""
    others = shutil.ignore_patterns(
        "*.ipynb", "*.json", "flows", "profiles", "slides", "_static", ".*"
    )
    shutil.copytree(root / "book", source / "book", ignore=others, dirs_exist_ok=True)
    if (notation := source / NOTATION).is_file():
        notation.write_text(with_anchors(notation.read_text("utf-8")), "utf-8")
    shutil.copyfile(root / "_toc.yml", source / "_toc.yml")
    write_config(root, source / "_config.yml")
    if (root / "book/_static").is_dir():
        shutil.copytree(root / "book/_static", source / "_static", dirs_exist_ok=True)
    figures = root / executed.EXECUTED / "figures"
    shutil.copytree(figures, source / "figures", dirs_exist_ok=True)
