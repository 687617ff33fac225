"""The cascade that serves simulated users: retriever, 50 candidates, an arm's order, 6 shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dnrlib.data import SimulatedWorld, load, stages
from dnrlib.data.steps import raw_ids, to_log
from dnrlib.errors import ConfigError
from dnrlib.experiments import FIXED, METHODS, RUNS, RunConfig, compute, run_config, run_name
from dnrlib.files import replacing
from dnrlib.identity import code_hash, hash_of
from dnrlib.lists import CandidateLists
from dnrlib.log import ExposureLog
from dnrlib.prepare import CACHE, DataConfig, prepare, trained_retrievers
from dnrlib.rerankers import build
from dnrlib.retriever import Retriever, first_of, plan
from dnrlib.simulation.exposures import exposures
from dnrlib.simulation.responses import ResponseModel, fit, kept, known_truth
from dnrlib.training import validation_ndcg

WORLDS: dict[str, dict[str, Any]] = {
    "simulated": {
        "data": {"dataset": "simulated"},
        "training": {"epochs": 4, "lambda_e": 2, "batch_size": 64, "learning_rate": 3e-3},
    },
    "ml-1m": {
        "data": {"dataset": "ml-1m", "train_lists": 12000, "evaluation_lists": 2000},
        "training": {"epochs": 4, "lambda_e": 2, "batch_size": 64, "learning_rate": 3e-3},
    },
    "kuairand-pure": {
        "data": {
            "dataset": "kuairand-pure", "retriever": "crossfit",
            "train_lists": 12000, "evaluation_lists": 2000,
        },
        "training": {"epochs": 8, "lambda_e": 4, "batch_size": 64, "learning_rate": 3e-3},
    },
}  # fmt: skip
"""World -> settings of its rerankers: those of experiments/ablations.yml for ML-1M and of
experiments/main.yml for KuaiRand-Pure, so that runs are shared; all were chosen before any test."""
RULES = ("random", "score", "oracle")
"""Arms with nothing to learn: any order, the retriever's, and that of the true expected reward."""
SLATE = 6
LISTS_AT_ONCE = 256
"""That a reranker scores at a time."""
RESPONSES_CODE = ("simulation/responses.py", "simulation/exposures.py")


@dataclass(frozen=True)
class World:
    """Users and items of a log, what retrieves, and what the simulated users do.

    A simulated user is a copy of a user of the log, at the log's end: the items that the log
    showed to that user are seen, and the last of them are the history.
    """

    data: DataConfig
    log: ExposureLog
    retriever: Retriever
    responses: ResponseModel

    @property
    def fingerprint(self) -> str:
        """Hash of the log, the world's data."""
        return self.log.fingerprint


def load_world(
    data: DataConfig,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> World:
    """The world of a data set; retriever and responses are made once, then read from the cache.

    The retriever is the one that scores the test lists: of several the last.

    Raises:
        ConfigError: what users do is not known of this data set, or retrieval needs no training.
        DataError: the data are neither found nor downloaded, or they are malformed.
    """
    cache = cache or CACHE
    if data.retriever == "noisy-truth":
        raise ConfigError("retriever = 'noisy-truth': a test needs one that is trained")
    source = load(data.dataset, feedback=data.feedback)
    *_, (_, frame) = stages(source, data.core or None, data.positive, data.list_length)
    log = to_log(frame, source.name, source.note, data.list_length)
    scoring = plan(log, data.retriever, data.folds, data.seed)
    retriever = trained_retrievers(log, scoring, data, cache, say)[-1]
    if data.dataset == "simulated":
        users, items = raw_ids(frame)
        return World(data, log, retriever, known_truth(SimulatedWorld(), users, items))
    seen = exposures(data.dataset, frame)
    key = hash_of(log.fingerprint, code_hash(RESPONSES_CODE))
    path = cache / f"{data.dataset}-responses-{key}.safetensors"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".responses.lock"):
        responses = kept(path, lambda: fit(seen, log.users, log.items, say=say))
    return World(data, log, retriever, responses)


def settings(world: str, data: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """What the runs of a world's rerankers have in common.

    Raises:
        ConfigError: there is no such world.
    """
    if world not in WORLDS:
        raise ConfigError(f"world = {world!r}: choose one of {', '.join(WORLDS)}")
    own = WORLDS[world]
    return {"data": own["data"] | dict(data), "training": own["training"] | dict(training)}


def check_arms(arms: tuple[str, ...]) -> None:
    """Raise ConfigError if an arm is neither a rule nor a method that is trained."""
    known = (*RULES, *(method for method in METHODS if method not in FIXED))
    for arm in arms:
        if arm not in known:
            raise ConfigError(f"arms: {arm!r} is unknown, choose from {', '.join(known)}")


@dataclass(frozen=True)
class Served:
    """A trained reranker that serves an arm.

    Args:
        run: the name of its run.
        validation: its NDCG@6 on the validation lists, in [0, 1].
    """

    run: str
    reranker: nn.Module
    validation: float


def rerankers(
    arms: tuple[str, ...],
    common: Mapping[str, Any],
    seed: int,
    runs: Path | None = None,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Served]:
    """The reranker of each arm that has one: read from the folder of runs, or trained there.

    Args:
        common: as from `settings`.
        seed: of the runs.
        runs: the folder of weights, by default runs/.
        cache: the folder of what was prepared, by default data/prepared.

    Raises:
        ConfigError, DataError, TrainingError: as preparing and training do.
    """
    configs = _configs(arms, common, seed)
    if not configs:
        return {}
    lists = _lists(configs, cache, say)
    return {arm: _served(config, lists, runs or RUNS, say) for arm, config in configs.items()}


def run_names(
    arms: tuple[str, ...],
    common: Mapping[str, Any],
    seed: int,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, str]:
    """The name of the run that makes each arm's reranker, which changes with lists and code.

    Args, raises: as `rerankers`, but nothing is trained.
    """
    configs = _configs(arms, common, seed)
    if not configs:
        return {}
    lists = _lists(configs, cache, say)
    return {arm: run_name(config, lists) for arm, config in configs.items()}


def _configs(arms: tuple[str, ...], common: Mapping[str, Any], seed: int) -> dict[str, RunConfig]:
    trained = [arm for arm in dict.fromkeys(arms) if arm not in RULES]
    return {arm: run_config({**common, "method": arm, "seed": seed}) for arm in trained}


def _lists(
    configs: Mapping[str, RunConfig], cache: Path | None, say: Callable[[str], None]
) -> CandidateLists:
    """On which all of them are trained."""
    return prepare(next(iter(configs.values())).data, cache, say=say)


def _served(
    config: RunConfig, lists: CandidateLists, runs: Path, say: Callable[[str], None]
) -> Served:
    """No record is written: what is trained here has none of its own."""
    name = run_name(config, lists)
    path = runs / name / "reranker.safetensors"
    if not path.exists():
        say(f"Training {config.what}")
        _, weights = compute(config, lists, runs / name / "checkpoint.pt", say=say)
        with replacing(path) as partial:
            save_file(weights["reranker"], partial)
    reranker = build(config.reranker, lists, **config.options)
    reranker.load_state_dict(load_file(path))
    validation = validation_ndcg(reranker.eval(), lists.of_split("validation"))
    return Served(name, reranker.requires_grad_(False), validation)


# One block of users -----------------------------------------------------------------------


@dataclass
class Requests:
    """What the cascade knows of simulated users between their requests; it changes.

    Each user has a queue, all unseen items that may ever be needed, by the retriever's score. The
    candidates are the first 50 of it that were not shown yet: the 44 that an order left over, and
    the next 6.

    Args:
        users: the users of the log that they are copies of.
        queue, scores: items and the retriever's scores in [0, 1], the best first.
        candidates: places in the queue.
        following: the next place in the queue.
        history: the last items that each watched, left-padded with 0, latest last.
    """

    users: Int[Tensor, " users"]
    queue: Int[Tensor, "users length"]
    scores: Float[Tensor, "users length"]
    candidates: Int[Tensor, "users n"]
    following: Int[Tensor, " users"]
    history: Int[Tensor, "users history"]

    def lists(self, who: Int[Tensor, " some"]) -> CandidateLists:
        """The candidates of some users as rerankers know them; the labels mean nothing."""
        places = self.candidates[who]
        items = self.queue[who].gather(1, places)
        nothing = torch.zeros_like(items, dtype=torch.bool)
        return CandidateLists(
            users=self.users[who],
            history=self.history[who],
            items=items,
            scores=self.scores[who].gather(1, places),
            labels=nothing,
            shown=nothing,
            split=torch.zeros_like(who),
            list=who,
        )

    def serve(
        self, who: Int[Tensor, " some"], best: Int[Tensor, "some slate"]
    ) -> Int[Tensor, "some slate"]:
        """Show the candidates at these places, best first; they are never candidates again."""
        places = self.candidates[who]
        shown = self.queue[who].gather(1, places.gather(1, best))
        free = torch.ones_like(places, dtype=torch.bool).scatter(1, best, False)
        slate = best.shape[1]
        left = first_of(places, free, places.shape[1] - slate)
        coming = self.following[who, None] + torch.arange(slate)
        self.candidates[who] = torch.cat([left, coming], dim=1)
        self.following[who] += slate
        return shown

    def watched(
        self,
        who: Int[Tensor, " some"],
        shown: Int[Tensor, "some slate"],
        watched: Bool[Tensor, "some slate"],
    ) -> None:
        """The items that were watched become the latest of the history."""
        longer = torch.cat([self.history[who], torch.where(watched, shown, 0)], dim=1)
        # padding goes to the left, all else keeps its order
        order = (longer > 0).byte().argsort(dim=1, stable=True)
        self.history[who] = longer.gather(1, order)[:, -self.history.shape[1] :]


def requests_of(
    world: World, users: Int[Tensor, " some"], requests: int, n: int, history: int
) -> Requests:
    """Users at the end of the log, with queues that last for so many requests.

    Args:
        users: of the log, in increasing order; copies of a user stand together and share scores.

    Raises:
        ConfigError: the catalogue has too few items that some user has not seen.
    """
    real, place = users.unique_consecutive(return_inverse=True)
    logits = _unseen(world, real)
    length = n + SLATE * requests
    least = int(logits.isfinite().sum(dim=1).min())
    if least < length:
        raise ConfigError(
            f"requests: {requests} in all need {length} items that a user has not seen, but some "
            f"user of {world.log.name} has {least}; lower requests, before or data.candidates"
        )
    best = logits.topk(length, dim=1)
    first, end = world.log.user_start[users], world.log.user_start[users + 1]
    rows = end[:, None] + torch.arange(-history, 0)
    return Requests(
        users=users,
        queue=best.indices[place],
        scores=best.values.sigmoid()[place],
        candidates=torch.arange(n).repeat(len(users), 1),
        following=torch.full_like(users, n),
        history=torch.where(rows >= first[:, None], world.log.item[rows.clamp(min=0)], 0),
    )


def _unseen(world: World, real: Int[Tensor, " some"]) -> Float[Tensor, "some items_plus_1"]:
    """The retriever's logits, minus infinity where the log showed the item to the user."""
    log = world.log
    place = torch.full((log.users,), -1)
    place[real] = torch.arange(len(real))
    row = place[log.user]
    mine = row >= 0
    logits = world.retriever.logits(real).clone()
    logits[row[mine], log.item[mine]] = -torch.inf
    logits[:, 0] = -torch.inf
    return logits


def utilities(
    arm: str,
    lists: CandidateLists,
    responses: ResponseModel,
    served: Mapping[str, Served],
    any_order: Float[Tensor, "lists n"] | None,
) -> Float[Tensor, "lists n"]:
    """By what an arm orders the candidates, the largest first.

    Args:
        any_order: numbers in [0, 1) for the arm ``random``.
    """
    if arm == "score":
        return lists.scores
    if arm == "oracle":
        return responses.liking(lists.users, lists.items)
    if arm == "random":
        assert any_order is not None
        return any_order
    parts = [lists[i : i + LISTS_AT_ONCE] for i in range(0, len(lists), LISTS_AT_ONCE)]
    reranker = served[arm].reranker
    return torch.cat([reranker(part, part.scores) for part in parts])
