"""From the name of a data set to candidate lists, each step done once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from filelock import FileLock
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dnrlib.calibration import calibrated
from dnrlib.data import SimulatedWorld, Source, load, stages
from dnrlib.data.prepare import POSITIVE
from dnrlib.data.steps import raw_ids, to_log
from dnrlib.errors import ConfigError, DataError
from dnrlib.files import replacing
from dnrlib.identity import LISTS_CODE, added, code_hash, hash_of
from dnrlib.lists import LOGGED, CandidateLists
from dnrlib.log import SPLITS, TRAIN, VALIDATION, ExposureLog, digest
from dnrlib.logged import read_lists
from dnrlib.protocols import PROTOCOLS, candidate_lists
from dnrlib.retriever import (
    SCHEMES,
    MatrixFactorisation,
    Pairs,
    Plan,
    Retriever,
    RetrieverConfig,
    fit_parts,
    plan,
    positives,
)

CACHE = Path("data/prepared")


@dataclass(frozen=True)
class NoisyTruth:
    """A simulated retriever: the true logits plus a chosen noise; `SimulatedWorld.noisy_logits`."""

    kind: str = "gaussian"
    scale: float = 1.0
    optimism: float = 0.0


@dataclass(frozen=True)
class DataConfig:
    """Everything that decides what the candidate lists are."""

    dataset: str = "ml-1m"
    protocol: str = "shown+sampled"
    retriever: str = "earlier"
    """What it may see (`dnrlib.retriever.plan`), or ``noisy-truth`` on simulated data."""
    candidates: int = 50
    history: int = 20
    list_length: int = 6
    positive: float = POSITIVE
    """The lowest rating that counts as liked; not to be changed where feedback says what is."""
    core: int = 0
    """The k of the k-core; 0 is what is customary for the data set (20 for MovieLens)."""
    folds: int = 5
    train_lists: int = 0
    """Use a random part of the training lists, at most so many; 0 uses all."""
    evaluation_lists: int = 0
    """The same for the validation lists and for the test lists."""
    factorisation: RetrieverConfig = field(default_factory=RetrieverConfig)
    noisy_truth: NoisyTruth = field(default_factory=NoisyTruth)
    seed: int = 0
    feedback: str = added("")
    """Which feedback counts where the data set has several, such as ``is_like`` of KuaiRand; ""
    is what is customary for it."""
    file: str = added("")
    """With dataset = "lists": the file of the reader's own candidate lists (`dnrlib.logged`). Its
    ``candidates`` are 50 only if they are so many, else what keeps most of them."""
    order: str = added("shuffled")
    """Of the candidates. ``given``: the shown ones first, then the others by score, as in public
    code; a model that knows places can then tell what was shown."""
    selection: str = added("validation")
    """Which lists choose the best epoch. ``test``: those that the result is reported on, which is
    a fault that public code has, and here to be measured."""
    calibration: str = added("none")
    """``isotonic``: the scores as probabilities (`dnrlib.calibration`)."""

    def __post_init__(self) -> None:
        if self.dataset == "lists":
            # What the reader's own cascade did, whatever it was.
            object.__setattr__(self, "protocol", LOGGED)
            object.__setattr__(self, "retriever", LOGGED)
            if not self.file:
                raise ConfigError("dataset = 'lists' needs data.file, the file of candidate lists")
            if self.order == "given":
                raise ConfigError(
                    "order = 'given' puts what was shown first: logged lists need not say what was"
                )
        elif self.file:
            raise ConfigError(f"file = {self.file!r} needs dataset = 'lists'")
        logged = (LOGGED,) if self.dataset == "lists" else ()
        choices = {
            "protocol": logged or PROTOCOLS,
            "retriever": logged or (*SCHEMES, "noisy-truth"),
            "order": ("shuffled", "given"),
            "selection": ("validation", "test"),
            "calibration": ("none", "isotonic"),
        }
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(f"{name} = {value!r}: choose one of {', '.join(allowed)}")
        for name in ("train_lists", "evaluation_lists", "core"):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"{name} = {value}: must not be negative")
        if self.history < 1:
            raise ConfigError(f"history = {self.history}: must be at least 1")
        if self.retriever == "noisy-truth" and self.dataset != "simulated":
            raise ConfigError("retriever = 'noisy-truth' needs dataset = 'simulated'")

    @property
    def what(self) -> str:
        """A few words for people."""
        return f"{self.dataset}, {self.protocol}, {self.retriever} scores"


def prepare(
    config: DataConfig,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> CandidateLists:
    """The candidate lists of a configuration; made once, then read from the cache.

    Processes that prepare in the same cache at once wait for each other, so that what is made is
    the same for all of them.

    Args:
        config: what to make; ``dataset`` must be a name, not ``auto``.
        cache: the folder of what was prepared, by default data/prepared.
        say: told what is being done.

    Raises:
        ConfigError, DataError, DnrError: as the steps do.
    """
    cache = cache or CACHE
    if config.dataset == "lists":
        return _as_asked(_subset(_logged(config), config), config)
    source = load(config.dataset, feedback=config.feedback)
    whole = replace(
        config, train_lists=0, evaluation_lists=0,
        order="shuffled", selection="validation", calibration="none",
    )  # fmt: skip
    key = hash_of(whole, _fingerprint(source), code_hash(LISTS_CODE))
    path = cache / f"{config.dataset}-{config.protocol}-{config.retriever}-{key}.safetensors"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".lock"):
            if not path.exists():
                _make(config, source, cache, say).save(path)
    say(f"Reading {path}")
    with _remade_if_deleted(path):
        lists = CandidateLists.load(path)
    return _as_asked(_subset(lists, config), config)


def _logged(config: DataConfig) -> CandidateLists:
    """The reader's own lists: read each time, as the file may have changed."""
    automatic = config.candidates == DataConfig.candidates
    n = None if automatic else config.candidates
    return read_lists(config.file, n, config.history, config.seed)


@contextmanager
def _remade_if_deleted(path: Path) -> Iterator[None]:
    try:
        yield
    except (DataError, SafetensorError) as error:
        raise DataError(path, "is damaged; delete it, and it is made again") from error


def _fingerprint(source: Source) -> str:
    columns = (torch.tensor(column.to_numpy()) for column in source.frame)
    return digest(columns, source.name, source.note)


def _make(
    config: DataConfig, source: Source, cache: Path, say: Callable[[str], None]
) -> CandidateLists:
    say(f"Cutting {config.dataset} into lists")
    *_, (_, frame) = stages(source, config.core or None, config.positive, config.list_length)
    log = to_log(frame, source.name, source.note, config.list_length)
    if config.retriever == "noisy-truth":
        scoring = plan(log, "in-sample")
        retrievers: Sequence[Retriever] = [_noisy_truth(log, raw_ids(frame), config)]
    else:
        scoring = plan(log, config.retriever, config.folds, config.seed)
        retrievers = trained_retrievers(log, scoring, config, cache, say)
    say(f"Making candidates: {config.what}")
    lists = candidate_lists(
        log,
        retrievers,
        scoring,
        config.protocol,
        n=config.candidates,
        history=config.history,
        seed=config.seed,
    )
    return replace(lists, meta=lists.meta | {"retriever": config.retriever})


def trained_retrievers(
    log: ExposureLog,
    scoring: Plan,
    config: DataConfig,
    cache: Path,
    say: Callable[[str], None] = lambda text: None,
) -> list[MatrixFactorisation]:
    """The plan's models, trained or read from the cache; the protocols share them."""
    key = hash_of(
        config.factorisation, config.retriever, config.folds, config.seed, log.fingerprint,
        code_hash(LISTS_CODE),
    )  # fmt: skip
    path = cache / f"{config.dataset}-{config.retriever}-retriever-{key}.safetensors"
    parts = [[positives(log, lists)] for lists in scoring.trained_on]
    return kept_retrievers(path, parts, log.users, log.items, config, say)


def kept_retrievers(
    path: Path,
    parts: Sequence[Iterable[Pairs]],
    users: int,
    items: int,
    config: DataConfig,
    say: Callable[[str], None] = lambda text: None,
) -> list[MatrixFactorisation]:
    """One model for each collection of positives (`fit_parts`), kept in a file."""
    if path.exists():
        return _load_retrievers(path, users, items, config.factorisation.dim)
    models = []
    for number, pairs in enumerate(parts, start=1):
        say(f"Training retriever {number} of {len(parts)}")
        models.append(fit_parts(pairs, users, items, config.factorisation, config.seed + number))
    tensors = {
        f"{number}.{name}": tensor
        for number, model in enumerate(models)
        for name, tensor in model.state_dict().items()
    }
    with replacing(path) as partial:
        save_file(tensors, partial)
    return models


def _load_retrievers(path: Path, users: int, items: int, dim: int) -> list[MatrixFactorisation]:
    with _remade_if_deleted(path):
        tensors = load_file(path)
    models = []
    for number in sorted({int(name.split(".")[0]) for name in tensors}):
        model = MatrixFactorisation(users, items, dim).requires_grad_(False)
        prefix = f"{number}."
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        model.load_state_dict(own)
        models.append(model)
    return models


class _Table:
    """A retriever whose logits are known."""

    def __init__(self, table: Float[Tensor, "users items_plus_1"]):
        self.table = table

    def logits(self, users: Int[Tensor, " some"]) -> Float[Tensor, "some items_plus_1"]:
        return self.table[users]


def _noisy_truth(
    log: ExposureLog, ids: tuple[Int[Tensor, " users"], Int[Tensor, " items"]], config: DataConfig
) -> Retriever:
    users, items = ids
    world = SimulatedWorld()
    rows = log.rows()[log.split == TRAIN].flatten()
    seen = torch.zeros(world.users, world.items, dtype=torch.bool)
    seen[users[log.user[rows]], items[log.item[rows] - 1]] = True
    noise = config.noisy_truth
    logits = world.noisy_logits(
        noise.kind, noise.scale, noise.optimism, seen.numpy(), seed=config.seed
    )
    table = torch.from_numpy(logits)[users][:, items]
    return _Table(torch.nn.functional.pad(table, (1, 0)))


def _subset(lists: CandidateLists, config: DataConfig) -> CandidateLists:
    """A random part of each split, in the order of the whole."""
    if not config.train_lists and not config.evaluation_lists:
        return lists
    generator = torch.Generator().manual_seed(config.seed)
    most = {TRAIN: config.train_lists}
    kept = []
    for split in range(len(SPLITS)):
        members = (lists.split == split).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)
        kept.append(members[order[: most.get(split, config.evaluation_lists) or None]])
    part = lists[torch.cat(kept).sort().values]
    sizes = {key: value for key, value in asdict(config).items() if key.endswith("_lists")}
    return replace(part, meta=lists.meta | sizes)


def _as_asked(lists: CandidateLists, config: DataConfig) -> CandidateLists:
    """The lists in another order, chosen on the test lists, or with calibrated scores."""
    if config.calibration == "isotonic":
        lists = calibrated(lists)
    if config.order == "given":
        lists = shown_first(lists)
    if config.selection == "test":
        lists = chosen_on_test(lists)
    return lists


def shown_first(lists: CandidateLists) -> CandidateLists:
    """Each list's shown candidates first, then the others, both from the best score down."""
    by_score = lists.scores.argsort(dim=1, descending=True, stable=True)
    hidden = (~lists.shown).gather(1, by_score).byte()
    order = by_score.gather(1, hidden.argsort(dim=1, stable=True))
    moved = {
        name: getattr(lists, name).gather(1, order)
        for name in ("items", "scores", "labels", "shown")
    }
    if lists.features is not None:
        moved["features"] = lists.features.take_along_dim(order[:, :, None], dim=1)
    return replace(lists, **moved, meta=lists.meta | {"order": "given"})


def chosen_on_test(lists: CandidateLists) -> CandidateLists:
    """The test lists in place of the validation lists as well."""
    test = lists.of_split("test")
    again = replace(test, split=torch.full_like(test.split, VALIDATION))
    parts = [lists.of_split("train"), again, test]
    return CandidateLists.concatenate(parts, lists.meta | {"selection": "test"})
