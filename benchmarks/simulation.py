"""Speed of the simulated online test: users who are served at many requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks.common import figure, interleaved, ratios, seconds
from benchmarks.inference import threads
from dnrlib.rerankers import build
from dnrlib.simulation import online
from dnrlib.simulation.cascade import LISTS_AT_ONCE, RULES, Served, requests_of
from dnrlib.simulation.online import OnlineConfig, Ready, carry_out, in_processes
from dnrlib.timings import Figure
from dnrlib.training import score_lists

TOPIC = "simulation"
USERS, REQUESTS = 100_000, 20
"""Of the test whose time is predicted."""
ARMS = ("none", "concat", "DNR-G", "DNR-B", "oracle", "score", "random")


def measure(quick: bool) -> list[Figure]:
    """Requests a second of one process beside the reranker's own lists a second; a whole test."""
    world = online.world("simulated")
    config = OnlineConfig(users=256 if quick else 2048, requests=REQUESTS, before=0)
    served = dict.fromkeys(ARMS, _untrained(world))  # time does not depend on the weights
    rows = []
    with threads(1):
        cases: dict[str, Callable[[], float]] = {
            arm: _requests(Ready(replace(config, arms=(arm,)), world, served))
            for arm in ("score", "none")
        }
        state = requests_of(world, torch.arange(LISTS_AT_ONCE), REQUESTS, 50, 20)
        lists = state.lists(torch.arange(LISTS_AT_ONCE))
        reranker = served["none"].reranker
        cases["bare"] = lambda: len(lists) / seconds(lambda: score_lists(reranker, lists))
        values = interleaved(cases, 1 if quick else 5)
    how = f"one process, one thread, {config.users:,} users, up to {REQUESTS} requests"
    rows += [
        figure(TOPIC, f"arm {arm}", values[arm], "requests/s", how) for arm in ("score", "none")
    ]
    rows.append(
        figure(
            TOPIC, "arm none over its reranker alone", ratios(values, "none", "bare"), "x", how,
            reference=f"PRM on batches of {LISTS_AT_ONCE} lists: 1.00",
        )
    )  # fmt: skip
    rows.append(_whole(Ready(replace(config, before=8, arms=ARMS), world, served), quick))
    return rows


def _untrained(world: online.World) -> Served:
    """A PRM of random weights."""
    lists = requests_of(world, torch.arange(2), 1, 50, 20).lists(torch.arange(2))
    sized = replace(lists, meta={"users": world.log.users, "items": world.log.items})
    return Served("", build("prm", sized, score_use="concat").eval(), 0.0)


def _requests(test: Ready) -> Callable[[], float]:
    """Requests a second."""

    def case() -> float:
        totals = []
        took = seconds(lambda: totals.append(carry_out(test)))
        return float(totals[0].sums["requests"].sum()) / took

    return case


def _whole(test: Ready, quick: bool) -> Figure:
    """Minutes of a test with all arms, from what more users take two processes.

    What the processes take to start is in both times, and so in neither's difference.
    """

    def minutes() -> float:
        few = test.config.users
        many = replace(test, config=replace(test.config, users=3 * few))
        took = [
            seconds(lambda one=one: carry_out(one, engine=in_processes, batch=256))
            for one in (test, many)
        ]
        return (took[1] - took[0]) / (2 * few) * USERS / 60

    arms = f"{len(ARMS)} arms, {len(ARMS) - len(RULES)} of them PRM"
    return figure(
        TOPIC,
        f"{USERS:,} users, up to {test.config.before} and {REQUESTS} requests",
        [minutes() for _ in range(1 if quick else 3)],
        "min",
        f"two processes of one thread, from {3 * test.config.users:,} users; {arms}",
        goal=10,
        at_least=False,
    )
