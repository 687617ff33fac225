"""Words about items: the texts that data sets come with, and their vectors.

The vectors are those of WordLlama (token vectors of a large language model, squeezed and averaged
over a text), an ordinary package that holds its weights: nothing is downloaded.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor
from torch.nn import functional as F

from dnrlib.data import SimulatedWorld, load, movielens, stages
from dnrlib.data.sources import _obtain
from dnrlib.data.steps import raw_ids, reindex
from dnrlib.errors import ConfigError, DataError
from dnrlib.lists import CandidateLists
from dnrlib.log import digest
from dnrlib.prepare import DataConfig
from dnrlib.rerankers.text import WordedLists

MODEL, DIM = "wordllama l2_supercat", 256
"""What makes the vectors, and their size."""
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
"""What the last columns of ML-100K's u.item mark, in their order."""
AXES = (
    ("grim", "sober", "cheerful", "hilarious"),
    ("slow", "calm", "tense", "explosive"),
    ("historical", "realistic", "fanciful", "magical"),
    ("intimate", "domestic", "sweeping", "cosmic"),
)
"""Words for the quarters of each factor of a simulated item, from low to high."""


# Texts ------------------------------------------------------------------------------------


def item_texts(config: DataConfig) -> list[str]:
    """The text of each item of the lists, in their numbering: the first is that of item 1.

    Raises:
        ConfigError: the data set comes without words about its items.
        DataError: its files are not found or malformed, or an item has no line.
    """
    if config.dataset not in TEXTS:
        raise ConfigError(
            f"dataset = {config.dataset!r} comes without words about its items; choose one of "
            f"{', '.join(TEXTS)}, or add vectors of your own with `dnrlib.semantics.worded`"
        )
    source = load(config.dataset, feedback=config.feedback)
    steps = stages(source, config.core or None, config.positive, config.list_length)
    core = next(frame for step, frame in steps if step.endswith("-core"))
    _, items = raw_ids(reindex(core))
    texts = TEXTS[config.dataset]()
    if lacking := [item for item in items.tolist() if item not in texts]:
        raise DataError(config.dataset, f"item {lacking[0]} is rated but has no title")
    return [texts[item] for item in items.tolist()]


def _films(publication: movielens.Publication) -> dict[int, str]:
    """Raw id -> title, year and genres, as GroupLens writes them: ``Heat (1995). Action, Crime``.

    Raises:
        DataError: naming the file and the first line that has no genres, or is malformed.
    """
    path, member = _obtain(movielens, publication, None, download=False), publication.titles
    read = movielens._from_folder if path.is_dir() else movielens._from_zip
    where, data = f"{path} ({member})", read(path, member)
    titles = movielens.parse_titles(data, where, publication.titles_separator)
    lines = data.decode("latin-1").removesuffix("\n").split("\n")
    rows = [line.split(publication.titles_separator) for line in lines]
    genres = _marked if publication is movielens.ML_100K else _listed
    found = {}
    for number, ((item, title), row) in enumerate(zip(titles.items(), rows, strict=True), start=1):
        if not (kinds := genres(row)):
            raise DataError(where, "does not end with the item's genres", number)
        found[item] = f"{title}. {', '.join(kinds)}"
    return found


def _listed(row: Sequence[str]) -> list[str]:
    """Genres of a line of ML-1M, whose third column has them separated by bars."""
    return row[2].split("|") if len(row) == 3 and row[2] else []


def _marked(row: Sequence[str]) -> list[str]:
    """Genres of a line of ML-100K, whose last columns have a 1 where a genre applies."""
    marks = row[-len(GENRES) :]
    if len(row) != 5 + len(GENRES) or not {*marks} <= {"0", "1"}:
        return []
    return [genre for genre, mark in zip(GENRES, marks, strict=True) if mark == "1"]


def simulated_texts(world: SimulatedWorld) -> dict[int, str]:
    """Raw id -> a made-up description that tells in which quarter each of its factors lies.

    An item has as many words as `AXES`; further factors go untold.
    """
    quarters = np.digitize(world.item_factors, norm.ppf([0.25, 0.5, 0.75]))
    return {
        item: f"A {', '.join(words[q] for words, q in zip(AXES, row, strict=False))} film"
        for item, row in enumerate(quarters)
    }


TEXTS: dict[str, Callable[[], dict[int, str]]] = {
    "ml-1m": lambda: _films(movielens.ML_1M),
    "ml-100k": lambda: _films(movielens.ML_100K),
    "simulated": lambda: simulated_texts(SimulatedWorld()),
}
"""Data set -> raw item id -> its text. Logs of clicks and ratings alone have none."""


# Vectors ----------------------------------------------------------------------------------


def embed(texts: Sequence[str]) -> Float[Tensor, "texts d"]:
    """Unit vectors of texts, in which the mean of all of them was taken off before.

    What all texts share says nothing about any, but makes each nearly parallel to every other (Mu
    and Viswanath, 2018).

    Raises:
        ConfigError: the package is not installed.
    """
    vectors = torch.from_numpy(_wordllama().embed(list(texts), norm=True))
    return F.normalize(vectors - vectors.mean(dim=0), dim=1)


def _wordllama() -> Any:
    """The model, read from the package's own files."""
    try:
        with _logging_as_it_was():
            package = importlib.import_module("wordllama")
    except ImportError as error:
        raise ConfigError("wordllama is not installed: pip install 'dnrlib[text]'") from error
    # its tokenizer is looked for in the cache alone, which by default is to be downloaded
    folder = Path(str(package.__file__)).parent
    return package.WordLlama.load(dim=DIM, cache_dir=folder, disable_download=True)


@contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """WordLlama makes every library's messages appear as it is imported."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


# Lists ------------------------------------------------------------------------------------


def worded(lists: CandidateLists, vectors: Float[Tensor, "items d"], name: str) -> WordedLists:
    """The lists with a vector of each item's text; ``meta["lists"]`` says which they were without.

    Args:
        vectors: of item 1, 2, … in the numbering of the lists.
        name: which texts and which model, for the fingerprint.

    Raises:
        ConfigError: there is not a vector for each item.
    """
    if len(vectors) != lists.meta["items"]:
        raise ConfigError(
            f"{len(vectors)} text vectors for {lists.meta['items']} items: give one for each"
        )
    words = F.pad(vectors, (0, 0, 1, 0))
    meta = lists.meta | {"words": name, "lists": lists.fingerprint}
    return WordedLists(**vars(lists) | {"meta": meta, "words": words})


def with_words(lists: CandidateLists, config: DataConfig) -> WordedLists:
    """The lists of a configuration with the vectors of its data set's texts.

    Raises:
        ConfigError, DataError: as `item_texts` and `embed` do.
    """
    texts = item_texts(config)
    return worded(lists, embed(texts), f"{MODEL} of {digest([], *texts)}")


def with_feature(lists: CandidateLists, values: Float[Tensor, "lists n"]) -> CandidateLists:
    """The lists with one more feature of each candidate, behind those that they have.

    Raises:
        ConfigError: a value is not finite.
    """
    if not values.isfinite().all():
        raise ConfigError("a feature is NaN or infinite: give each candidate a number")
    known = [] if lists.features is None else [lists.features]
    features = torch.cat([*known, values[:, :, None].to(lists.scores)], dim=2)
    meta = lists.meta | {"features": features.shape[2]}
    return replace(lists, features=features, meta=meta)
