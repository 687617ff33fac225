"""How long a chapter is going to take, from how long it took."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dnrlib.environment import machine
from dnrlib.files import replacing

LAST = Path("_build/durations.json")
"""Of the last executions on this machine: key of an execution -> seconds."""
RECORDED = Path("book/durations.json")
"""The same, recorded once for readers who have no last execution, and the speed of that machine."""


def key_of(chapter: str, profile: str, dataset: str) -> str:
    """What executions have in common that take about as long."""
    return f"{chapter}, {profile}, {dataset}"


def predicted(root: Path, key: str, speed: Callable[[], float]) -> float | None:
    """Seconds: of the last execution on this machine, else the recorded ones at its speed.

    What a chapter finds done already, such as prepared lists or recorded runs, it does not do
    again: the first execution on a machine takes longer than the next.

    Args:
        key: see `key_of`.
        speed: how fast this machine trains (`dnrlib.costs.reference_speed`); asked if needed.

    Returns:
        None where neither is known.
    """
    last = read(root / LAST)
    if last.get("machine") == machine() and (seconds := _seconds(last, key)) is not None:
        return seconds
    recorded = read(root / RECORDED)
    seconds, its_speed = _seconds(recorded, key), recorded.get("speed")
    return seconds * its_speed / speed() if seconds is not None and its_speed else None


def note(root: Path, key: str, seconds: float) -> None:
    """Remember an execution; those of another machine that has shared the folder are dropped."""
    last = read(root / LAST)
    known = last["seconds"] if last.get("machine") == machine() else {}
    _write(root / LAST, {"machine": machine(), "seconds": {**known, key: round(seconds, 1)}})


def record(root: Path, speed: float) -> Path:
    """Write the last executions on this machine to `RECORDED`, in place of what it has."""
    last, path = read(root / LAST), root / RECORDED
    _write(path, {"speed": round(speed, 1), **last})
    return path


def _seconds(content: dict[str, Any], key: str) -> float | None:
    value = content.get("seconds", {}).get(key)
    return float(value) if isinstance(value, int | float) else None


def read(path: Path) -> dict[str, Any]:
    """Nothing if it is not there or damaged: the next execution replaces it."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("seconds"), dict) else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
