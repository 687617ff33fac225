"""Candidate lists from a reader's own log: Parquet or CSV, one row for a candidate of a request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from textwrap import fill

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dnrlib.errors import ConfigError, DataError
from dnrlib.lists import LOGGED, CandidateLists
from dnrlib.log import SPLITS, digest
from dnrlib.logged_rows import OPTIONAL, Table, nearest, read_rows
from dnrlib.metrics import auc, rank

MANY = 0.1
"""The share from which on `check` warns of what is left out."""
LEAK = 0.999
"""The AUC from which on a column is suspected to be made from the label."""


def read_lists(
    path: Path | str,
    n: int | None = None,
    history: int = 20,
    seed: int = 0,
    split: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> CandidateLists:
    """The candidate lists of a log, in the bundle that training and evaluation take.

    Columns: ``request``, ``item`` (text or whole numbers), ``score`` (a number), ``label`` (0/1 or
    true/false). Where there are any: ``time`` (of the request: a number, or a date as such or in
    ISO text), ``user`` (text or whole number), ``shown`` (0/1) and numbers ``feature_…`` of the
    candidate. Others are ignored. `check` says how a file is understood.

    - Lists are of one length, as no reranker here knows a mask. A longer request keeps its n best
      by score, as a cascade would; a shorter one is left out, and so is one without a positive.
      The candidates stand in random order.
    - Scores that all lie in [0, 1] are taken as they are. Others become sigmoid((score - m) / s),
      with mean m and standard deviation s of the training lists (``meta["score"]``), which keeps
      their order but for rounding: `check` warns of ties.
    - The earliest requests are for training, the next for validation, the latest for testing.
      Requests of one time stay together, on the earlier side. Without ``time`` the order of the
      file counts.
    - The history is what the user liked in requests of an earlier time, with repeats; those that
      are left out above count as well. A user's first request has none. Without ``user`` all
      requests are of user 0 and without history: a reranker then knows the candidates alone.
    - Without ``shown`` those that are liked count as shown, and an AUC among the shown is not
      defined.
    - Features are standardised by mean and standard deviation of the training lists
      (``meta["features"]``).

    Users are numbered 0, 1, … and items 1, 2, … by their sorted ids in the file, requests by time
    (``list``). What was left out or changed stands in ``meta["note"]``.

    Args:
        path: a file that ends in .parquet, .csv or .csv.gz.
        n: candidates of a list; by default the length that keeps the most candidates, which is
            the usual length of a request if there is one.
        history: items of history.
        seed: of the order of the candidates, and of who stays where scores tie at the cut.
        split: shares of training, validation and test.

    Raises:
        ConfigError: n below 2, history below 1, or shares that do not sum to 1.
        DataError: the file cannot be read, or a column, a value or a whole split is missing or
            wrong; names the row.
    """
    return _made(Path(path), n, history, seed, split)[2]


def check(
    path: Path | str,
    n: int | None = None,
    history: int = 20,
    seed: int = 0,
    split: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> Report:
    """How `read_lists` understands a file; parameters and errors are the same."""
    table, cut, lists = _made(Path(path), n, history, seed, split)
    requests = table.rows.group_by("request").agg(length=pl.len(), liked=pl.col("label").sum())
    training = lists.of_split("train")
    return Report(
        path=str(path),
        columns=table.columns,
        ignored=table.ignored,
        rows=len(table.rows),
        requests=len(requests),
        lengths=_spread(requests["length"]),
        positives=_spread(requests["liked"]),
        n=cut.n,
        splits={name: len(lists.of_split(name)) for name in SPLITS},
        auc=_auc(training.scores, training.labels),
        auc_reversed=_auc(-training.scores, training.labels),
        note=lists.meta["note"],
        warnings=list(_warnings(table, cut, lists)),
    )


def _made(
    path: Path, n: int | None, history: int, seed: int, split: tuple[float, float, float]
) -> tuple[Table, _Cut, CandidateLists]:
    """Each stage of `read_lists`."""
    if n is not None and n < 2:
        raise ConfigError(f"n = {n}: a list needs at least 2 candidates")
    if history < 1:
        raise ConfigError(f"history = {history}: must be at least 1")
    if min(split) <= 0 or abs(sum(split) - 1) > 1e-6:
        raise ConfigError(f"split = {split}: must be three positive shares that sum to 1")
    table = read_rows(path)
    cut = _cut(table, n, seed)
    return table, cut, _bundle(table, cut, history, split)


@dataclass(frozen=True)
class Report:
    """What `check` understood of a file.

    Args:
        path: the file.
        columns: column -> what it was taken as.
        ignored: columns that have no meaning here.
        rows, requests: how many there are.
        lengths, positives: least, median and most candidates, and liked candidates, of a request.
        n: candidates of a list.
        splits: split -> lists.
        auc, auc_reversed: of the score alone and of its reverse, mean over the training lists;
            NaN if none of them has both a liked and another candidate.
        note: ``meta["note"]`` of the lists: what is left out or changed.
        warnings: what a reader should look at before training.
    """

    path: str
    columns: dict[str, str]
    ignored: list[str]
    rows: int
    requests: int
    lengths: tuple[float, float, float]
    positives: tuple[float, float, float]
    n: int
    splits: dict[str, int]
    auc: float
    auc_reversed: float
    note: str
    warnings: list[str]

    def __str__(self) -> str:
        width = max(map(len, self.columns))
        splits = ", ".join(f"{count:,} {name}" for name, count in self.splits.items())
        lines = (
            f"{self.path}: {self.rows:,} rows, {self.requests:,} requests",
            *(f"  {name:<{width}}  {taken}" for name, taken in self.columns.items()),
            *([f"Ignored: {', '.join(self.ignored)}"] if self.ignored else []),
            f"Candidates of a request: {_three(self.lengths)}; liked: {_three(self.positives)}",
            f"Lists of {self.n}: {splits}",
            fill(self.note, 88),
            f"Score alone: AUC {self.auc:.3f}; reversed {self.auc_reversed:.3f} "
            "(mean over training lists)",
            *(fill(f"Warning: {text}", 88, subsequent_indent="  ") for text in self.warnings),
        )
        return "\n".join(lines)


def _three(spread: tuple[float, float, float]) -> str:
    least, median, most = spread
    return f"{least:g} to {most:g}, median {median:g}"


def _spread(counts: pl.Series) -> tuple[float, float, float]:
    least, median, most = np.quantile(counts.to_numpy(), [0, 0.5, 1]).tolist()
    return least, median, most


def _auc(values: Float[Tensor, "lists n"], labels: Bool[Tensor, "lists n"]) -> float:
    return float(auc(rank(values, labels)).nanmean())


def _tensor(column: pl.Series) -> Tensor:
    return torch.tensor(column.to_numpy())


# Cutting into lists ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cut:
    """Lists of n and what they cost.

    Args:
        rows: n for each list that is left, requests in time order, candidates in random order.
        longer: requests that were cut.
        lost: liked candidates that were cut off.
        shorter, without_positive: requests that are left out.
    """

    n: int
    rows: pl.DataFrame
    shorter: int
    longer: int
    lost: int
    without_positive: int

    def lists(self, column: str) -> Tensor:
        """A column as [lists, n]."""
        return _tensor(self.rows[column]).view(-1, self.n)

    def first(self, column: str) -> Tensor:
        """A column of the requests as [lists]."""
        return _tensor(self.rows[column].gather_every(self.n))


def _cut(table: Table, n: int | None, seed: int) -> _Cut:
    """Raises DataError if no list is left."""
    keys = torch.rand(
        len(table.rows), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    rows = table.rows.with_columns(key=pl.Series(keys.numpy()), length=pl.len().over("request"))
    lengths = _tensor(rows.group_by("request").len()["len"]).long()
    n = n or _length_that_keeps_most(lengths)
    if (longest := int(lengths.max())) < n:
        raise DataError(
            table.path,
            f"no request has n = {n} candidates, the longest has {longest}: a list needs at "
            "least 2; give a smaller n or log more candidates",
        )
    whole = rows.filter(pl.col("length") >= n)
    best = whole.sort("request", "score", "key", descending=[False, True, False])
    best = best.filter(pl.int_range(pl.len()).over("request") < n)
    liked = best.filter(pl.col("label").any().over("request"))
    if liked.is_empty():
        raise DataError(
            table.path, f"no list of n = {n} has a positive label: there is nothing to learn"
        )
    return _Cut(
        n,
        liked.sort("request", "key").drop("key", "length"),
        shorter=int((lengths < n).sum()),
        longer=int((lengths > n).sum()),
        lost=int(whole["label"].sum()) - int(best["label"].sum()),
        without_positive=(len(best) - len(liked)) // n,
    )


def _length_that_keeps_most(lengths: Int[Tensor, " requests"]) -> int:
    """The n, of at least 2, for which the requests of that length or more hold n each most."""
    values, counts = lengths.unique(return_counts=True)
    held = values * counts.flip(0).cumsum(0).flip(0)
    return max(int(values[held.argmax()]), 2)


def _bundle(
    table: Table, cut: _Cut, history: int, split: tuple[float, float, float]
) -> CandidateLists:
    number, users, times = (cut.first(name) for name in ("request", "user", "time"))
    places = _split_in_time(table.path, times, split)
    scores, score_scale = _into_unit(table.rows["score"], cut.lists("score"), places == 0)
    features, scales = _standardised_features(table, cut, places == 0)
    rows = table.rows
    meta = {
        "dataset": "lists",
        "note": _note(table, cut, score_scale),
        "log": digest(map(_tensor, rows), *rows.columns),
        "users": rows["user"].n_unique(),
        "items": rows["item"].n_unique(),
        "protocol": LOGGED,
        "retriever": LOGGED,
        "without_positive": cut.without_positive,
        **({"score": score_scale} if score_scale else {}),
        **({"features": scales} if scales else {}),
    }
    return CandidateLists(
        users=users.int(),
        history=_histories(table, number, users, times, history).int(),
        items=cut.lists("item").int(),
        scores=scores.float(),
        labels=cut.lists("label"),
        shown=cut.lists("shown"),
        split=places.to(torch.int8),
        list=number.int(),
        meta=meta,
        features=features,
    ).validate()


def _split_in_time(
    path: Path, times: Int[Tensor, " lists"], shares: tuple[float, float, float]
) -> Int[Tensor, " lists"]:
    """The split of each list: where the first list of its time falls. Times do not decrease."""
    bounds = torch.tensor([round(len(times) * part) for part in accumulate(shares[:2])])
    places = torch.bucketize(torch.searchsorted(times, times), bounds, right=True)
    for split, name in enumerate(SPLITS):
        if not (places == split).any():
            raise DataError(
                path,
                f"{len(times)} lists at {len(times.unique())} times leave none for {name}: log "
                "more requests, give finer times, or leave `time` out if the file is in order",
            )
    return places


def _into_unit(
    all_scores: pl.Series, scores: Float[Tensor, "lists n"], training: Bool[Tensor, " lists"]
) -> tuple[Float[Tensor, "lists n"], list[float]]:
    """Scores in [0, 1], with the mean and the deviation that brought them there if any did."""
    if all_scores.is_between(0, 1).all():
        return scores, []
    standardised, scale = _standardised(scores, training)
    return standardised.sigmoid(), scale


def _standardised(
    values: Float[Tensor, "lists n"], training: Bool[Tensor, " lists"]
) -> tuple[Float[Tensor, "lists n"], list[float]]:
    """With mean and standard deviation of the training lists; 1 where all are the same."""
    known = values[training]
    mean = float(known.mean())
    deviation = float((known - mean).square().mean().sqrt()) or 1.0
    return (values - mean) / deviation, [mean, deviation]


def _standardised_features(
    table: Table, cut: _Cut, training: Bool[Tensor, " lists"]
) -> tuple[Float[Tensor, "lists n f"] | None, dict[str, list[float]]]:
    """The features and what mean and deviation were, by name."""
    if not table.features:
        return None, {}
    found = {name: _standardised(cut.lists(name), training) for name in table.features}
    features = torch.stack([values.float() for values, _ in found.values()], dim=2)
    return features, {name: scale for name, (_, scale) in found.items()}


def _histories(
    table: Table,
    number: Int[Tensor, " lists"],
    users: Int[Tensor, " lists"],
    times: Int[Tensor, " lists"],
    length: int,
) -> Int[Tensor, "lists length"]:
    """What the user liked before, left-padded with 0, latest last; nothing without users."""
    if "user" not in table.columns:
        return torch.zeros(len(number), length, dtype=torch.long)
    liked = table.rows.filter("label").sort("user", "time", "row")
    user, time, item = (_tensor(liked[name]) for name in ("user", "time", "item"))
    span = int(_tensor(table.rows["time"]).max()) + 1
    moments = user * span + time
    rows = torch.searchsorted(moments, users * span + times)[:, None] + torch.arange(-length, 0)
    first = torch.searchsorted(moments, users * span)[:, None]
    return torch.where(rows >= first, item[rows.clamp(min=0)], 0)


# What is said of it ------------------------------------------------------------------------


def _note(table: Table, cut: _Cut, score_scale: list[float]) -> str:
    """What was left out or changed, in sentences."""
    said = [f"One list is {cut.n} candidates of a request"]
    if cut.shorter:
        said.append(f"requests with fewer are left out: {cut.shorter}")
    if cut.longer:
        said.append(
            f"requests with more keep their best by score: {cut.longer}, which lost "
            f"{cut.lost} liked candidates"
        )
    if cut.without_positive:
        said.append(f"lists without a liked candidate are left out: {cut.without_positive}")
    said.append(f"split by {'time' if 'time' in table.columns else 'the order of the file'}")
    if score_scale:
        mean, deviation = score_scale
        said.append(
            f"scores are a sigmoid of the score, standardised by the training lists' mean "
            f"{mean:.6g} and deviation {deviation:.6g}"
        )
    if "user" not in table.columns:
        said.append("no users: all histories are empty")
    if "shown" not in table.columns:
        said.append("what is liked counts as shown")
    return "; ".join(said)


def _warnings(table: Table, cut: _Cut, lists: CandidateLists) -> Iterator[str]:
    """What may be wrong with a file that can be read."""
    for name in OPTIONAL:
        if name not in table.columns and (near := nearest(name, table.ignored)):
            yield f"{near!r} is ignored: rename it {name!r}, if that is what it holds"
    if "time" not in table.columns:
        yield "no time: the split takes the file to be in order, the earliest request first"
    requests = table.rows["request"].n_unique()
    if (share := cut.shorter / requests) >= MANY:
        yield f"{share:.0%} of the requests are shorter than {cut.n}: a smaller n keeps them"
    if (share := cut.without_positive / (requests - cut.shorter)) >= MANY:
        yield f"{share:.0%} of the lists have no positive and are left out"
    ties = _ties(lists.scores) - _ties(cut.lists("score"))
    if (share := ties / lists.scores.numel()) >= MANY:
        yield (
            f"{share:.0%} of the scores tie in their list once they are in [0, 1], as others lie "
            "far away: log them on another scale, such as their logarithm"
        )
    yield from _label_warnings(table, lists)
    yield from _novelty_warnings(table, lists)


def _ties(scores: Float[Tensor, "lists n"]) -> int:
    """How many scores equal the next smaller one of their list."""
    return int((scores.sort(dim=1).values.diff(dim=1) == 0).sum())


def _label_warnings(table: Table, lists: CandidateLists) -> Iterator[str]:
    training = lists.of_split("train")
    found = auc(rank(training.scores, training.labels))
    found = found[~found.isnan()]
    if not len(found):
        yield "no training list has both a liked and another candidate: there is no order to learn"
        return
    if found.mean() + 2 * found.std() / len(found) ** 0.5 < 0.5:  # not by chance
        yield "your score reversed ranks better than your score: is a smaller score better?"
    if table.rows["score"].n_unique() == 1:
        yield "all scores are the same"
    columns = {"score": training.scores}
    if training.features is not None:
        columns |= dict(zip(table.features, training.features.unbind(2), strict=True))
    for name, values in columns.items():
        if not 1 - LEAK < _auc(values, training.labels) < LEAK:
            yield f"{name} alone tells the liked candidates from the others: was it made from them?"
    most = table.rows.filter("label")["item"].value_counts()["count"].to_numpy()
    if most.max() > most.sum() / 2:
        yield f"one item has {most.max() / most.sum():.0%} of the positive labels"


def _novelty_warnings(table: Table, lists: CandidateLists) -> Iterator[str]:
    known = torch.isin(lists.of_split("test").items, lists.of_split("train").items)
    if (share := float((~known).float().mean())) >= MANY:
        yield (
            f"{share:.0%} of the test candidates never occur in training: a reranker that knows "
            "items by their number learns nothing of them"
        )
    if "user" in table.columns:
        empty = float((lists.history == 0).all(dim=1).float().mean())
        if empty >= MANY:
            yield f"{empty:.0%} of the lists have no history: their user liked nothing before"
