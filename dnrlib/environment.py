"""What a result was computed with: commit, machine and versions."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from dnrlib import __version__


def commit(root: Path | str = ".") -> str:
    """The commit that is checked out in `root`, marked where files differ from it.

    Records and measurements do not count: what one run leaves does not make the next one's code
    another.
    """
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD")
        left = [f":(exclude){folder}" for folder in ("results", "measurements")]
        changed = _git(root, "status", "--porcelain", "--", ".", *left)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name} with local changes" if changed else name


def machine() -> str:
    """Processor and number of cores that this process may use."""
    return f"{_processor()}, {cores()} cores, {platform.system()}"


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def versions(packages: Iterable[str] = ("torch", "numpy")) -> dict[str, str]:
    """Versions of Python, of dnrlib and of the installed packages."""
    own = {"python": platform.python_version(), "dnrlib": __version__}
    return own | {name: version(name) for name in packages}


def _git(root: Path | str, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
