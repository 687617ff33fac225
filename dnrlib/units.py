"""Quantities as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """``0.4 s``, ``13 s``, ``4.2 min`` or ``1.5 h``."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
