"""Whether denoising helps a reader's own cascade: from a file of logged lists to one HTML file.

`runs` does the runs, `score` looks at the score alone, `answer` has the rule of the answer,
`extras` measures robustness, cost and the place on the map, `pictures` draws and `page` writes.
"""

from __future__ import annotations

from dnrlib.report.answer import Answer, Contrast, answered, contrasts, lists_needed
from dnrlib.report.found import Found, find
from dnrlib.report.page import page_of, write
from dnrlib.report.runs import Asked, Plan, plan

__all__ = [
    "Answer",
    "Asked",
    "Contrast",
    "Found",
    "Plan",
    "answered",
    "contrasts",
    "find",
    "lists_needed",
    "page_of",
    "plan",
    "write",
]
