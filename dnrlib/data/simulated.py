"""A world with a known truth: who would like what, what was shown, and what a retriever knows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int
from scipy.special import expit

from dnrlib.data.interactions import SCHEMA, Source
from dnrlib.errors import ConfigError

NOISES = ("gaussian", "heavy-tailed", "popularity")
DAY, MINUTE = 86_400, 60


@dataclass(frozen=True)
class SimulatedWorld:
    """Users, items, their true affinities, and a logging policy that has shown some of them.

    The logit of user u liking item i is

        bias + leniency · b_u + quality · b_i + taste · p_u·q_i / sqrt(factors)

    with every b, p, q standard normal. The logging policy draws the items of each user without
    replacement from a softmax (the Gumbel top-k trick, Kool et al. 2019) over

        (logit + hype · h_i + blur · e_ui) / temperature

    where h and e are standard normal: hype makes items popular whatever they are worth, blur is
    what the policy does not know. It shows them in random order, so no list of a user is better
    than another by design, and the feedback is Bernoulli. User u of the truth's arrays has the
    raw id u, item i the raw id i. The same seed gives the same world.

    Args:
        users, items: how many there are.
        lists: lists shown to each user, one a day.
        list_length: items in a list.
        factors: dimension of p and q.
        bias, leniency, quality, taste, hype, blur: as above, in logits.
        temperature: of the logging policy; small is greedy, large is random.
        seed: of everything.

    Raises:
        ConfigError: there are too few items to show each once, or the temperature is not positive.
    """

    users: int = 600
    items: int = 400
    lists: int = 12
    list_length: int = 6
    factors: int = 4
    bias: float = -1.0
    leniency: float = 0.5
    quality: float = 0.5
    taste: float = 2.0
    hype: float = 0.5
    blur: float = 1.0
    temperature: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.lists * self.list_length > self.items:
            raise ConfigError(
                f"items is {self.items}, but each user is shown lists · list_length = "
                f"{self.lists * self.list_length} different items"
            )
        if self.temperature <= 0:
            raise ConfigError(f"temperature is {self.temperature}, but must be positive")

    @cached_property
    def user_factors(self) -> Float[np.ndarray, "users factors"]:
        """p, the tastes of the users."""
        return self._normal(0, self.users, self.factors)

    @cached_property
    def item_factors(self) -> Float[np.ndarray, "items factors"]:
        """q, the properties of the items."""
        return self._normal(1, self.items, self.factors)

    @cached_property
    def hypes(self) -> Float[np.ndarray, " items"]:
        """h, how much the logging policy pushes each item, whatever it is worth."""
        return self._normal(2, self.items)

    @cached_property
    def logits(self) -> Float[np.ndarray, "users items"]:
        """The true logits."""
        leniency = self.leniency * self._normal(3, self.users, 1)
        quality = self.quality * self._normal(4, self.items)
        affinity = self.user_factors @ self.item_factors.T / np.sqrt(self.factors)
        return (self.bias + leniency + quality + self.taste * affinity).astype(np.float32)

    @property
    def probability(self) -> Float[np.ndarray, "users items"]:
        """The true probability, in (0, 1), that a user likes an item."""
        return expit(self.logits)

    @cached_property
    def liked(self) -> Bool[np.ndarray, "users items"]:
        """The feedback that each user gives to each item when it is shown."""
        return self._rng(5).random(self.logits.shape, dtype=np.float32) < self.probability

    @cached_property
    def shown(self) -> Int[np.ndarray, "users lists list_length"]:
        """The items that the logging policy has shown, in order."""
        rng = self._rng(6)
        known = self.logits + self.hype * self.hypes
        known += self.blur * rng.standard_normal(known.shape, dtype=np.float32)
        keys = known / self.temperature + rng.gumbel(size=known.shape)
        best = np.argsort(-keys, axis=1)[:, : self.lists * self.list_length]
        return rng.permuted(best, axis=1).reshape(self.users, self.lists, self.list_length)

    def frame(self) -> pl.DataFrame:
        """The interactions in the schema of ``Source.frame``; the rating is 5 if liked, else 1."""
        user, day, place = (index.ravel() for index in np.indices(self.shown.shape))
        item = self.shown.ravel()
        rating = np.where(self.liked[user, item], 5, 1)
        columns = {"user": user, "item": item, "rating": rating, "time": day * DAY + place * MINUTE}
        return pl.DataFrame(columns).cast(SCHEMA)

    def source(self) -> Source:
        """The interactions as a source; its note states the world."""
        return Source(name="simulated", frame=self.frame(), note=str(self), core=5)

    def noisy_logits(
        self,
        kind: str = "gaussian",
        scale: float = 1.0,
        optimism: float = 0.0,
        seen: Bool[np.ndarray, "users items"] | None = None,
        seed: int = 0,
    ) -> Float[np.ndarray, "users items"]:
        """What a retriever makes of the truth: logits + scale · noise, the noise of variance 1.

        Args:
            kind: ``gaussian``; ``heavy-tailed``, Student's t with 3 degrees of freedom;
                ``popularity``, the hype of an item, the same for every user and seed.
            scale: 0 is the perfect retriever, a very large scale carries no information (among
                the items shown, popularity then even misleads: hype got them there, not taste).
            optimism: added where a seen item was liked and taken off where it was not, as in
                scores of interactions that the retriever was trained on.
            seen: the pairs that the retriever was trained on.
            seed: of the noise.

        Raises:
            ConfigError: ``kind`` is none of these.
        """
        logits = self.logits + np.float32(scale) * self._noise(kind, seed)
        if seen is not None:
            logits += optimism * seen * np.where(self.liked, 1, -1)
        return logits

    def _noise(self, kind: str, seed: int) -> np.ndarray:
        rng = self._rng(7, seed)
        if kind == "gaussian":
            return rng.standard_normal(self.logits.shape, dtype=np.float32)
        if kind == "heavy-tailed":
            return (rng.standard_t(3, self.logits.shape) / np.sqrt(3)).astype(np.float32)
        if kind == "popularity":
            return self.hypes
        raise ConfigError(f"kind is {kind!r}, but must be one of {', '.join(NOISES)}")

    def _normal(self, stream: int, *shape: int) -> np.ndarray:
        return self._rng(stream).standard_normal(shape, dtype=np.float32)

    def _rng(self, *stream: int) -> np.random.Generator:
        """Independent streams, so that one setting does not change what another draws."""
        return np.random.default_rng([self.seed, *stream])
