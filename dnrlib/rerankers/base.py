"""What every reranker is: encode what does not depend on the scores, then score."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists

SCORE_USES = ("none", "rank", "concat", "add", "weight")


class Reranker(nn.Module):
    """q_θ(z | x, u): logits of the feedback z from the scores x and the request u.

    `encode` holds all that does not depend on the scores, so that several score vectors (real,
    synthetic) share it. A model that cannot be split overrides `score` alone; its state is then
    the batch.
    """

    def encode(self, batch: CandidateLists) -> Any:
        """Whatever `score` needs of the request and its candidates."""
        return batch

    def score(self, state: Any, scores: Float[Tensor, "lists n"]) -> Float[Tensor, "lists n"]:
        """Logits for one score vector."""
        raise NotImplementedError

    def forward(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Logits of each candidate's feedback, given the scores to use."""
        return self.score(self.encode(batch), scores)


def initial_rank(scores: Float[Tensor, "lists n"]) -> Tensor:
    """Rank of each candidate by score, 0 for the best."""
    return scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


class ScoreInput(nn.Module):
    """One of five ways in which the scores x may enter the candidates' vectors h.

    - ``none``: h. The scores are not used at all.
    - ``rank``: h + p[rank of x], a learned embedding of the initial rank (PRM, DLCM, SetRank).
    - ``concat``: W [h ; x].
    - ``add``: h + x v, with a learned direction v (a plain constant would vanish in LayerNorm).
    - ``weight``: x h.

    A noise generator can be trained only through the last three: a rank has no gradient.

    Raises:
        ConfigError: unknown ``score_use``.
    """

    def __init__(self, score_use: str, dim: int, n: int):
        super().__init__()
        if score_use not in SCORE_USES:
            raise ConfigError(
                f"score_use {score_use!r} is unknown: choose one of {', '.join(SCORE_USES)}"
            )
        self.score_use = score_use
        if score_use == "rank":
            self.position = nn.Embedding(n, dim)
        if score_use == "concat":
            self.mix = nn.Linear(dim + 1, dim)
        if score_use == "add":
            self.direction = nn.Parameter(torch.randn(dim) / dim**0.5)

    def extra_repr(self) -> str:
        """Tell uses apart that have the same parameters."""
        return self.score_use

    def forward(
        self, h: Float[Tensor, "lists n dim"], scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n dim"]:
        """The candidates' vectors with the scores in them."""
        if self.score_use == "rank":
            return h + self.position(initial_rank(scores))
        x = scores[..., None]
        if self.score_use == "concat":
            return self.mix(torch.cat([h, x], dim=2))
        if self.score_use == "add":
            return h + x * self.direction
        if self.score_use == "weight":
            return x * h
        return h
