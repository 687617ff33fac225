"""A simulated online test: simulated users at several requests, each served by one arm.

What is assumed, and can be changed, stands in `OnlineConfig`. What users do with an item is known
or fitted (`responses`), and candidates and orders are a real cascade's (`cascade`).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dnrlib.engines import map_on_ray, threads_each
from dnrlib.errors import ConfigError
from dnrlib.identity import code_hash, from_dict
from dnrlib.parallel import exit_with
from dnrlib.prepare import DataConfig
from dnrlib.simulation.cascade import (
    SLATE,
    Requests,
    Served,
    World,
    check_arms,
    load_world,
    requests_of,
    rerankers,
    settings,
    utilities,
)
from dnrlib.simulation.experiment import assign, check_shares
from dnrlib.units import duration

CODE = tuple(f"simulation/{name}.py" for name in ("online", "cascade", "responses", "exposures"))
"""What a test depends on, besides the data and the runs of its rerankers."""

Block = tuple[int, int]
"""The first user and the one behind the last."""
Counts = Iterator[Float[np.ndarray, "days_plus_1 metrics _"]]
"""Of each block what its users did: in all the time before, then on each day of the test."""
Engine = Callable[..., Counts]


@dataclass(frozen=True)
class OnlineConfig:
    """Everything that decides a simulated online test."""

    world: str = "simulated"
    """``simulated``, ``ml-1m`` or ``kuairand-pure``."""
    users: int = 10_000
    """Simulated; each is a copy of a user of the log."""
    requests: int = 20
    """Of each user in the test, at most."""
    before: int = 8
    """Requests before the test, at most: then the first arm serves everybody."""
    requests_per_day: int = 4
    """A day has one session, of so many requests at most."""
    arms: Sequence[str] = ("none", "concat", "DNR-G", "DNR-B", "oracle")
    """The control, then the others: names in `cascade.RULES` or of methods that are trained. The
    same name twice is an A/A test."""
    shares: Sequence[float] = ()
    """Of users, one for each arm; none given: all alike."""
    planted: float = 0.0
    """Added, in all arms but the first, to each user's logit of ``realshow``: a known effect."""
    examination: float = 0.9
    """Assumed: the item at place k is looked at with the probability examination^(k - 1); who has
    left off does not look at what follows."""
    patience: tuple[float, float] = (0.95, 0.8)
    """Assumed: probabilities that a session goes on if something of a list was watched, and if
    nothing was."""
    spread: float = 0.5
    """Assumed: standard deviation of each simulated user's own effect, in logits, on every
    behaviour."""
    seed: int = 0
    """Of rerankers, users and chance."""
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    """Settings of the rerankers' runs that differ from those of the world, as in experiments/."""

    def __post_init__(self) -> None:
        for name in ("users", "requests", "requests_per_day"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least 1")
        for name in ("requests", "before"):
            if (value := getattr(self, name)) % self.requests_per_day or value < 0:
                raise ConfigError(
                    f"{name} = {value}: must be whole days, a multiple of requests_per_day = "
                    f"{self.requests_per_day}"
                )
        for name in ("examination", "patience"):
            if not all(0 <= value <= 1 for value in np.atleast_1d(getattr(self, name))):
                raise ConfigError(f"{name} = {getattr(self, name)}: must be in [0, 1]")
        if self.spread < 0:
            raise ConfigError(f"spread = {self.spread}: must not be negative")
        if isinstance(self.arms, str) or not self.arms:
            raise ConfigError(f"arms = {self.arms!r}: must be a list of at least one arm")
        if self.shares and len(self.shares) != len(self.arms):
            raise ConfigError(
                f"shares: {len(self.shares)} for {len(self.arms)} arms, give each one"
            )
        if self.shares:
            check_shares(self.shares)
        check_arms(tuple(self.arms))

    @property
    def days(self) -> int:
        """Of the test."""
        return self.requests // self.requests_per_day


@dataclass(frozen=True)
class Totals:
    """What each user did in the test and before it.

    Args:
        arms: names, the control first.
        user: 0 … users - 1.
        arm: of each user, a place in ``arms``.
        sums, before: metric -> total of each user in the test, and in the time before.
        daily: metric -> totals of each day of the test.
    """

    arms: tuple[str, ...]
    user: Int[np.ndarray, " users"]
    arm: Int[np.ndarray, " users"]
    sums: dict[str, Float[np.ndarray, " users"]]
    before: dict[str, Float[np.ndarray, " users"]]
    daily: dict[str, Float[np.ndarray, "days users"]]

    @property
    def metrics(self) -> tuple[str, ...]:
        """``requests``, ``shows``, the behaviours, and ``app_time`` (seconds) where it is known."""
        return tuple(self.sums)

    @property
    def columns(self) -> dict[str, Float[np.ndarray, " users"]]:
        """``sums``, and ``before`` under names that begin with ``before:``."""
        return self.sums | {f"before:{name}": values for name, values in self.before.items()}


@dataclass(frozen=True)
class Ready:
    """A test that can begin: what serves every user, the same in all processes.

    Args:
        served: the reranker of each arm that has one.
    """

    config: OnlineConfig
    world: World
    served: dict[str, Served]

    @cached_property
    def arm(self) -> Int[np.ndarray, " users"]:
        """Of each user, by a hash."""
        arms = len(self.config.arms)
        shares = self.config.shares or [1 / arms] * arms
        return assign(np.arange(self.config.users), f"online-{self.config.seed}", shares)


def run(
    config: OnlineConfig,
    say: Callable[[str], None] = lambda text: None,
    engine: Engine | None = None,
    batch: int = 1024,
    cache: Path | None = None,
    runs: Path | None = None,
) -> Totals:
    """Do a test.

    Every simulated user has random numbers of its own, so that neither ``engine`` nor ``batch``
    changes what a user meets. A batch changes the rounding of the rerankers' logits, though, and
    with it, rarely, the order of two candidates that are almost level.

    Args:
        say: told what is being done and how far it is.
        engine: of `ENGINES`, where the users are simulated; by default in this process.
        batch: users that are simulated at a time; memory grows with it.
        cache: the folder of what was prepared, by default data/prepared.
        runs: the folder of weights, by default runs/; what is not there is trained.

    Raises:
        ConfigError: a parameter is wrong, or some user has seen too much of the catalogue.
        DataError: the world's data are neither found nor downloaded.
    """
    return carry_out(make_ready(config, say, cache, runs), say, engine, batch)


def world(
    name: str = "simulated",
    say: Callable[[str], None] = lambda text: None,
    cache: Path | None = None,
    data: dict[str, Any] | None = None,
) -> World:
    """The world of that name, as `run` has it.

    Raises:
        ConfigError: there is no such world.
        DataError: its data are neither found nor downloaded.
    """
    return load_world(from_dict(DataConfig, settings(name, data or {}, {})["data"]), cache, say)


def make_ready(
    config: OnlineConfig,
    say: Callable[[str], None] = lambda text: None,
    cache: Path | None = None,
    runs: Path | None = None,
) -> Ready:
    """The first step of `run`: load the world, read or train the rerankers, and draw the arms.

    Raises:
        ConfigError, DataError, TrainingError: as these do.
    """
    arms = tuple(config.arms)
    common = settings(config.world, config.data, config.training)
    found = world(config.world, say, cache, config.data)
    return Ready(config, found, rerankers(arms, common, config.seed, runs, cache, say))


def carry_out(
    test: Ready,
    say: Callable[[str], None] = lambda text: None,
    engine: Engine | None = None,
    batch: int = 1024,
) -> Totals:
    """The second step of `run`: serve all users at all of their requests.

    Raises:
        ConfigError: some user has seen too much of the catalogue, or the engine refuses.
    """
    blocks = _blocks(test, say, engine or in_this_process, batch)
    counts = np.concatenate(blocks, axis=2).astype(np.float64)
    return Totals(
        arms=tuple(test.config.arms),
        user=np.arange(test.config.users),
        arm=test.arm,
        sums=dict(zip(_metrics(test), counts[1:].sum(axis=0), strict=True)),
        before=dict(zip(_metrics(test), counts[0], strict=True)),
        daily=dict(zip(_metrics(test), counts[1:].swapaxes(0, 1), strict=True)),
    )


def _metrics(test: Ready) -> tuple[str, ...]:
    responses = test.world.responses
    names = (behaviour.name for behaviour in responses.behaviours)
    return ("requests", "shows", *names, *(["app_time"] if responses.residuals is not None else []))


# Blocks of users --------------------------------------------------------------------------


def _blocks(
    test: Ready, say: Callable[[str], None], engine: Engine, batch: int
) -> list[Float[np.ndarray, "days_plus_1 metrics _"]]:
    """The counts of all users, block by block; says how long the rest will take."""
    users = test.config.users
    blocks = [(first, min(first + batch, users)) for first in range(0, users, batch)]
    began, found = time.perf_counter(), []
    for (_, end), counts in zip(blocks, engine(test, blocks), strict=True):
        found.append(counts)
        left = (time.perf_counter() - began) / end * (users - end)
        say(f"Simulated {end:,} of {users:,} users, {duration(left)} left")
    return found


def in_this_process(test: Ready, blocks: Sequence[Block]) -> Counts:
    """One block after the other."""
    yield from (_block(test, *block) for block in blocks)


def in_processes(test: Ready, blocks: Sequence[Block], *, workers: int = 2) -> Counts:
    """In processes of this machine, which share the cores."""
    given = (test, threads_each(workers), os.getpid())
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, given) as pool:
        try:
            yield from pool.map(_my_block, blocks)
        finally:
            pool.shutdown(cancel_futures=True)


def on_ray(
    test: Ready,
    blocks: Sequence[Block],
    *,
    address: str | None = None,
    cpus_per_run: float = 1.0,
) -> Counts:
    """As tasks of a Ray cluster, each a block; world and rerankers travel to the workers once.

    Args:
        address, cpus_per_run: as in `dnrlib.engines.run_on_ray`; a run is a block of users.

    Raises:
        ConfigError, DnrError: as `dnrlib.engines.run_on_ray` does.
    """
    shared = (test, code_hash(CODE), max(1, int(cpus_per_run)))
    yield from map_on_ray(_block_there, shared, blocks, address=address, cpus=cpus_per_run)


ENGINES: dict[str, Engine] = {"local": in_processes, "ray": on_ray}
"""Name -> generator of the counts of blocks of users, in their order; the options differ."""


def _block_there(shared: tuple[Ready, str, int], first: int, end: int) -> Any:
    """A block, on a machine that may have other code."""
    test, code, threads = shared
    if code_hash(CODE) != code:
        raise ConfigError(f"dnrlib on {socket.gethostname()} has other code than here")
    torch.set_num_threads(threads)
    return _block(test, first, end)


_mine: list[Ready] = []
"""In a worker process: the test that it works on."""


def _begin(test: Ready, threads: int, parent: int) -> None:
    exit_with(parent)
    torch.set_num_threads(threads)
    _mine.append(test)


def _my_block(block: Block) -> Float[np.ndarray, "days_plus_1 metrics _"]:
    return _block(_mine[0], *block)


@torch.inference_mode()
def _block(test: Ready, first: int, end: int) -> Float[np.ndarray, "days_plus_1 metrics _"]:
    """All requests of some users; the first of the days is all the time before the test."""
    config, world = test.config, test.world
    users = np.arange(first, end)
    real = torch.from_numpy(users * world.log.users // config.users)
    steps = config.before + config.requests
    state = requests_of(world, real, steps, world.data.candidates, world.data.history)
    outcomes = world.responses.outcomes
    draws = _draws(config.seed, users, steps, SLATE * outcomes + 2)
    effects = config.spread * _own(config.seed, users)[:, None].expand(-1, outcomes).clone()
    arm = torch.from_numpy(test.arm[first:end])
    counts = np.zeros((1 + config.days, len(_metrics(test)), len(users)), np.float32)
    going_on = torch.ones(len(users), dtype=torch.bool)
    for step in range(steps):
        if step % config.requests_per_day == 0:
            going_on[:] = True
        if step == config.before:
            effects[:, 0] += config.planted * (arm != 0)
        in_test = step >= config.before
        day = 1 + (step - config.before) // config.requests_per_day if in_test else 0
        who = going_on.nonzero()[:, 0]
        served = arm[who] if in_test else torch.zeros_like(who)
        shown = _shown(test, state, who, served, users, step)
        uniform = draws[who, step]
        looked = uniform[:, :1] < config.examination ** torch.arange(SLATE)
        happened, seconds = world.responses.draw(
            real[who], shown, effects[who], uniform[:, 2:].unflatten(1, (SLATE, outcomes))
        )
        happened &= looked[:, :, None]
        state.watched(who, shown, happened[:, :, 0])
        counts[day, :, who.numpy()] += _counted(happened, seconds, looked)
        satisfied = happened[:, :, 0].any(dim=1)
        going_on[who] = uniform[:, 1] < torch.where(satisfied, *config.patience)
    return counts


def _shown(
    test: Ready, state: Requests, who: Tensor, served: Tensor, users: np.ndarray, step: int
) -> Int[Tensor, "some slate"]:
    """The slate of each user, by the order of its arm."""
    lists = state.lists(who)
    best = torch.empty(len(who), SLATE, dtype=torch.long)
    for number in served.unique().tolist():
        mine = (served == number).nonzero()[:, 0]
        name, some = test.config.arms[number], lists[mine]
        chance = None
        if name == "random":
            n = some.items.shape[1]
            chance = _draws(test.config.seed, users[who[mine].numpy()], 1, n, purpose=2 + step)[
                :, 0
            ]
        orders = utilities(name, some, test.world.responses, test.served, chance)
        best[mine] = orders.topk(SLATE, dim=1).indices
    return state.serve(who, best)


def _counted(
    happened: Tensor, seconds: Tensor | None, looked: Tensor
) -> Float[np.ndarray, "some metrics"]:
    """Of a request of each user."""
    request = torch.ones(len(happened), 1)
    columns = [request, SLATE * request, happened.sum(dim=1)]
    if seconds is not None:
        columns.append((seconds * looked).sum(dim=1, keepdim=True))
    return torch.cat(columns, dim=1).numpy()


def _draws(
    seed: int, users: Int[np.ndarray, " some"], steps: int, width: int, purpose: int = 0
) -> Float[Tensor, "some steps width"]:
    """Numbers in [0, 1) that a user, and a purpose, has alone."""
    streams = (_stream(seed, user, purpose) for user in users.tolist())
    return torch.from_numpy(
        np.stack([stream.random((steps, width), dtype=np.float32) for stream in streams])
    )


def _own(seed: int, users: Int[np.ndarray, " some"]) -> Float[Tensor, " some"]:
    """Standard normal, of each user."""
    values = [_stream(seed, user, 1).standard_normal() for user in users.tolist()]
    return torch.tensor(values, dtype=torch.float32)


def _stream(seed: int, user: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, user + (purpose << 40)]))
