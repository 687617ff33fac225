"""How long a chapter is going to take, from how long it took."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

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
    if last.get("machine") == machine() and key in last["seconds"]:
        return last["seconds"][key]
    recorded = read(root / RECORDED)
    if "speed" not in recorded or key not in recorded["seconds"]:
        return None
    return recorded["seconds"][key] * recorded["speed"] / speed()


def note(root: Path, key: str, seconds: float) -> None:
    """Remember an execution; those of another machine that has shared the folder are dropped."""
    path = root / LAST
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # chapters end side by side
        last = read(path)
        known = last["seconds"] if last.get("machine") == machine() else {}
        _write(path, {"machine": machine(), "seconds": {**known, key: round(seconds, 1)}})


def record(root: Path, speed: float) -> Path:
    """Add the last executions on this machine to `RECORDED`, in place of what it has of them.

    The others stay; where they come from another machine, as what they would take on this one.
    """
    last, path = read(root / LAST), root / RECORDED
    before = read(path)
    factor = before.get("speed", speed) / speed if before.get("machine") != machine() else 1.0
    scaled = {key: round(seconds * factor, 1) for key, seconds in before["seconds"].items()}
    seconds = {**scaled, **last["seconds"]}
    _write(path, {"machine": machine(), "speed": round(speed, 1), "seconds": seconds})
    return path


def read(path: Path) -> dict[str, Any]:
    """What is sound of it, with ``seconds`` in any case: the next execution replaces the rest."""
    try:
        content = json.loads(path.read_text("utf-8"))
        seconds = {k: float(v) for k, v in content["seconds"].items() if isinstance(v, int | float)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {"seconds": {}}
    return {**content, "seconds": seconds}


def _write(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
