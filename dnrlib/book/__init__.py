"""From notebooks without outputs to a checked site.

`build` executes the chapters of `_toc.yml` with papermill under a profile of parameters, those that
nothing has changed for not again, adds to each how it was made, renders them with Jupyter Book and
checks what came out. Anything that is wrong on the way is a `BookError` or a `ConfigError`, and
then there is no site. `current` says which pages of a site are not what the sources give any more.
"""

from dnrlib.book.builder import build, record_durations, run_chapter
from dnrlib.book.notebooks import BookError
from dnrlib.book.parameters import parse_parameters
from dnrlib.book.prose import check_prose
from dnrlib.book.stamps import current

__all__ = [
    "BookError",
    "build",
    "check_prose",
    "current",
    "parse_parameters",
    "record_durations",
    "run_chapter",
]
