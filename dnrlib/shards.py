"""Candidate lists of logs that do not fit into memory: one file a part of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from dnrlib.data.stream import Cutting, LogParts, files_of, log_in_parts
from dnrlib.errors import ConfigError
from dnrlib.identity import LISTS_CODE, code_hash, hash_of
from dnrlib.log import ExposureLog
from dnrlib.prepare import DataConfig, kept_retrievers
from dnrlib.protocols import candidate_lists
from dnrlib.retriever import SCHEMES, ExactIndex, Index, Pairs, Plan, Retriever, plan, positives


def prepare_streaming(
    config: DataConfig,
    source: Path,
    cache: Path,
    parts: int = 0,
    index: Callable[[Any], Index] = ExactIndex,
    say: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Candidate lists of interactions in Parquet that need not fit into memory.

    The log is that of `dnrlib.prepare.prepare`, in parts (`log_in_parts`); the retriever is trained
    part by part, and its vectors are in memory. What was finished before an interruption is kept.

    Args:
        config: as for `prepare`; ``dataset`` is a name of the reader's choice.
        source: as for `dnrlib.data.stream.scan`. A file counts as changed when its size or its
            time of change is another.
        cache: folder for the log, the retriever and the shards.
        parts: of the log, at most; by default one for each million rows.
        index: as for `candidate_lists`.
        say: told what is being done.

    Returns:
        The shards, safetensors files for `CandidateLists.load`; see `candidate_shards`.

    Raises:
        ConfigError: the lists are to be a random part of all, or the retriever is none of those
            that are trained.
        ConfigError, DataError, DnrError: as the steps do.
    """
    if config.retriever not in SCHEMES:
        raise ConfigError(f"retriever = {config.retriever!r}: choose one of {', '.join(SCHEMES)}")
    if config.train_lists or config.evaluation_lists:
        raise ConfigError("train_lists and evaluation_lists: a stream makes all lists")
    cutting = Cutting(config.core or Cutting.core, config.positive, config.list_length, parts)
    stamps = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files_of(source)
    ]
    key = hash_of(astuple(cutting), stamps, code_hash(LISTS_CODE))
    say(f"Cutting {config.dataset} into lists")
    log = log_in_parts(source, cache / f"{config.dataset}-log-{key}", cutting, config.dataset)
    key = hash_of(config.factorisation, config.folds, config.seed, key)
    with FileLock(cache / ".lock"):
        retrievers = kept_retrievers(
            cache / f"{config.dataset}-{config.retriever}-retriever-{key}.safetensors",
            [_Positives(log, config, model) for model in range(_models(config))],
            log.users,
            log.items,
            config,
            say,
        )
    kind = getattr(index, "__name__", repr(index))
    key = hash_of(config, key, kind)
    folder = cache / f"{config.dataset}-{config.protocol}-{config.retriever}-{key}"
    say(f"Making candidates: {config.what}")
    return candidate_shards(log, retrievers, config, folder, index)


def candidate_shards(
    parts: LogParts,
    retrievers: Sequence[Retriever],
    config: DataConfig,
    folder: Path,
    index: Callable[[Any], Index] = ExactIndex,
) -> list[Path]:
    """The candidate lists of each part in a file; a file that is there already is kept.

    Users, items and lists are numbered as in the whole log, and each list has the shown items,
    labels, history and retrieved candidates that `candidate_lists` gives it. What is drawn at
    random, sampled candidates and the order within a list, is the same only for a log in one part:
    each part draws from a stream of its own, so that parts can be made in any order. A shard may
    hold no list; ``meta`` counts what was left out of this shard, and says which it is.

    Args:
        retrievers: those of the plan for ``config.retriever``.
        config: of which protocol, candidates, history, retriever, folds and seed are used.
        folder: for the shards; it belongs to this log, these retrievers and this configuration.

    Raises:
        ConfigError, DnrError: as `candidate_lists` does.
    """
    searched = {id(retriever): index(retriever) for retriever in retrievers}
    paths = [folder / f"{number:05}-of-{len(parts):05}.safetensors" for number in range(len(parts))]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        for number, (log, scoring) in enumerate(_planned(parts, config)):
            if paths[number].exists():
                continue
            lists = candidate_lists(
                log,
                retrievers,
                scoring,
                config.protocol,
                n=config.candidates,
                history=config.history,
                seed=config.seed + (number << 32),  # a stream of its own, the usual one for part 0
                index=lambda retriever: searched[id(retriever)],
                part=True,
            )
            first = sum(parts.lists[:number])
            meta = lists.meta | {"retriever": config.retriever, "shard": number}
            replace(lists, list=lists.list + first, meta=meta).save(paths[number])
    return paths


def _planned(parts: LogParts, config: DataConfig) -> Iterator[tuple[ExposureLog, Plan]]:
    """Each part with its part of the plan of the whole log."""
    generator = torch.Generator().manual_seed(config.seed)
    for log in parts:
        yield log, plan(log, config.retriever, config.folds, generator)


def _models(config: DataConfig) -> int:
    """How many models the plan has."""
    return config.folds + 1 if config.retriever == "crossfit" else 1


@dataclass(frozen=True)
class _Positives:
    """What one model of the plan is trained on, part by part, as often as it is asked for."""

    parts: LogParts
    config: DataConfig
    model: int

    def __iter__(self) -> Iterator[Pairs]:
        for log, scoring in _planned(self.parts, self.config):
            yield positives(log, scoring.trained_on[self.model])
