"""Fetch a published file: resumed if it was interrupted, checked, and renamed in one step."""

from __future__ import annotations

import hashlib
import shutil
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from dnrlib.errors import DataError

RANGE_NOT_SATISFIABLE = 416
PARTIAL_CONTENT = 206


def md5(path: Path) -> str:
    """MD5 of a file, in hexadecimal digits."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def download(url: str, target: Path, checksum: str, timeout: float = 10.0) -> Path:
    """Download ``url`` to ``target`` and return ``target``.

    Bytes go to ``<target>.part``, which the next call continues after an interruption; the file
    takes its own name only once its MD5 is right. Processes that want the same file wait for the
    first of them.

    Args:
        checksum: the MD5 that the publisher states.
        timeout: seconds without an answer after which the server counts as unreachable.

    Raises:
        DataError: the server cannot be reached, the connection broke, or the MD5 is wrong.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{part}.lock"):
            if not target.exists():
                _fetch(url, part, timeout)
                _check(url, part, checksum)
                part.replace(target)
    except (OSError, HTTPException) as error:
        raise DataError(
            url,
            f"cannot be downloaded ({error}). Run the command again (it resumes), or put the file "
            f"at {target} yourself, or use the simulated data (DATASET=simulated).",
        ) from error
    return target


def _fetch(url: str, part: Path, timeout: float) -> None:
    """Append to ``part`` what it still lacks."""
    done = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={done}-"})
    try:
        response = urlopen(request, timeout=timeout)
    except HTTPError as error:
        if error.code == RANGE_NOT_SATISFIABLE:
            return
        raise
    with response:
        if response.status != PARTIAL_CONTENT:
            done = 0
        length = response.headers["Content-Length"]
        total = done + int(length) if length else None
        with part.open("ab" if done else "wb") as file, _progress_bar() as progress:
            task = progress.add_task(url.rsplit("/", 1)[-1], total=total, completed=done)
            shutil.copyfileobj(progress.wrap_file(response, task_id=task), file)
    if total and part.stat().st_size < total:
        raise ConnectionError(f"it broke off after {part.stat().st_size} of {total} bytes")


def _check(url: str, part: Path, checksum: str) -> None:
    actual = md5(part)
    if actual != checksum:
        part.unlink()
        raise DataError(
            url,
            f"has MD5 {actual}, the publisher states {checksum}. The download was deleted: run the "
            "command again.",
        )


def _progress_bar() -> Progress:
    """A bar on standard error; plain text in notebooks, whose widgets need the network."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, force_jupyter=False),
    )
