"""PRM with disturbed scores: remedies against trust in the score that are simpler than DNR."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dnrlib.errors import ConfigError
from dnrlib.rerankers.prm import PRM

DISTURBANCES = ("dropout", "jitter")
CLAMP = 1e-4
"""Scores nearer to 0 or 1 count as so near: their logits could be infinite."""


class DisturbedPRM(PRM):
    """`PRM` that is trained on disturbed scores and serves on the scores as they are.

    - ``dropout``: with probability ``rate`` all scores of a list become their mean, so that the
      model learns to do without them. It is the whole list, as where a modality is dropped
      (ModDrop, Neverova et al., 2016): were single candidates dropped, the others' scores would
      stay, and with them most of the order. The mean keeps the scale that the layers are used to.
    - ``jitter``: logit x + sigma · ε with ε ~ N(0, 1) for each candidate, back in (0, 1) by the
      sigmoid: noise that is the same for all items and knows no label, and a generator that
      is not trained.

    Meant for direct training; the synthetic scores of denoising training would be disturbed too.
    Of a dropped list, ``score_use="rank"`` ranks ties, by place: an arbitrary order where the
    candidates are shuffled.

    Args:
        users, items, n, history, dim, layers, heads, feed_forward, dropout, shared_dropout,
            score_use: see `PRM`.
        disturbance: ``dropout`` or ``jitter``.
        rate: probability that a list loses its scores, in [0, 1]; for ``dropout``.
        sigma: standard deviation of the noise, in units of the logit; for ``jitter``.

    Raises:
        ConfigError: as `PRM` does; unknown ``disturbance``; ``rate`` or ``sigma`` out of range.
    """

    def __init__(
        self,
        users: int,
        items: int,
        n: int = 50,
        history: int = 20,
        *,
        dim: int = 128,
        layers: int = 2,
        heads: int = 4,
        feed_forward: int = 128,
        dropout: float = 0.1,
        shared_dropout: bool = True,
        score_use: str = "concat",
        disturbance: str = "dropout",
        rate: float = 0.5,
        sigma: float = 1.0,
    ):
        sizes: dict[str, Any] = {"dim": dim, "layers": layers, "heads": heads}
        sizes |= {"feed_forward": feed_forward, "dropout": dropout}
        sizes |= {"shared_dropout": shared_dropout, "score_use": score_use}
        super().__init__(users, items, n, history, **sizes)
        if disturbance not in DISTURBANCES:
            known = ", ".join(DISTURBANCES)
            raise ConfigError(f"disturbance {disturbance!r} is unknown: choose one of {known}")
        if not 0 <= rate <= 1:
            raise ConfigError(f"rate = {rate}: a probability must lie in [0, 1]")
        if not 0 <= sigma < torch.inf:
            raise ConfigError(f"sigma = {sigma}: must be finite and not negative")
        self.disturbance, self.rate, self.sigma = disturbance, rate, sigma

    def extra_repr(self) -> str:
        """Tell disturbances apart that have the same parameters."""
        return f"{self.disturbance}, rate={self.rate}, sigma={self.sigma}"

    def score(
        self, state: Float[Tensor, "lists n dim"], scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Logits of each candidate: while training, given disturbed scores."""
        return super().score(state, self.disturbed(scores) if self.training else scores)

    def disturbed(self, x: Float[Tensor, "lists n"]) -> Float[Tensor, "lists n"]:
        """A draw of the disturbed scores; the gradient goes through."""
        if self.disturbance == "dropout":
            dropped = torch.empty_like(x[:, :1]).bernoulli_(self.rate)
            return torch.lerp(x, x.mean(dim=1, keepdim=True), dropped)
        return (torch.logit(x, CLAMP) + self.sigma * torch.randn_like(x)).sigmoid()
