"""IRGAN: A Minimax Game for Unifying Generative and Discriminative Information Retrieval Models.

Wang et al., SIGIR 2017.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.losses import softmax
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.rerankers.prm import PRM

PLAYERS = ("generator", "discriminator")


class IRGAN(OwnLoss):
    """A generator picks candidates; a discriminator tells them from those that were liked.

    The generator p_θ(i | u) is a softmax over the candidates and learns by policy gradient from
    what the discriminator D thinks of its picks; D learns from liked candidates and from picks.
    Of the authors' code we have the reward 2 D - 1, the generator's draws from a mixture with
    the liked items, with importance weights, and, from its part on answers to questions, that D
    is never given a liked item as a pick. Its part on items evaluates and keeps the generator,
    which is therefore what `forward` gives by default.

    Ours differs: both players learn from the same batch, each with the other held fixed, in place
    of turns of many epochs; they are PRM over the list, not matrix factorisations over the
    catalogue; the mean reward under p_θ, which a list is short enough to compute, is a baseline;
    and the feedback's likelihood stays in the generator's loss, in place of training it before.
    In trials without it the generator soon lost what it had learnt.

    Args:
        users, items, n, history, dim, layers, heads, feed_forward, dropout, score_use: of both
            players, see `PRM`.
        samples: candidates that are drawn from each list, for each player.
        temperature: of the picks for the discriminator; the authors' code for items has 0.2.
        liked_share: of liked candidates in the draws for the generator.
        likelihood: weight of the feedback's likelihood in the generator's loss; the paper has none.
        serve: whose logits `forward` gives: ``generator`` or ``discriminator``.

    Raises:
        ConfigError: as `PRM` does; unknown ``serve``; a number outside of its range.
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
        score_use: str = "none",
        samples: int = 12,
        temperature: float = 1.0,
        liked_share: float = 0.2,
        likelihood: float = 1.0,
        serve: str = "generator",
    ):
        super().__init__()
        if serve not in PLAYERS:
            raise ConfigError(f"serve {serve!r} is unknown: choose one of {', '.join(PLAYERS)}")
        if samples < 1 or temperature <= 0 or not 0 <= liked_share < 1 or likelihood < 0:
            raise ConfigError(
                f"samples = {samples}, temperature = {temperature}, liked_share = {liked_share}, "
                f"likelihood = {likelihood}: must be at least 1, positive, in [0, 1), at least 0"
            )
        sizes: dict[str, Any] = {"dim": dim, "layers": layers, "heads": heads}
        sizes |= {"feed_forward": feed_forward, "dropout": dropout}
        self.generator, self.discriminator = (
            PRM(users, items, n, history, score_use=score_use, **sizes) for _ in PLAYERS
        )
        self.samples, self.temperature, self.liked_share = samples, temperature, liked_share
        self.likelihood, self.serve = likelihood, serve

    def forward(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Logits of the player that serves."""
        player = self.generator if self.serve == "generator" else self.discriminator
        return player(batch, scores)

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """Both players' losses; the gradient of each is that player's alone."""
        generated, judged = self.generator(batch, scores), self.discriminator(batch, scores)
        generator = self.policy_loss(generated, judged.detach(), batch.labels)
        generator = generator + self.likelihood * softmax(generated, batch.labels)
        return generator + self.judge_loss(judged, generated.detach(), batch.labels)

    def judge_loss(
        self,
        judged: Float[Tensor, "lists n"],
        generated: Float[Tensor, "lists n"],
        labels: Bool[Tensor, "lists n"],
    ) -> Float[Tensor, ""]:
        """-E log D over liked candidates - E log(1 - D) over the generator's picks."""
        picks = (generated / self.temperature).masked_fill(labels, -1e9)
        picked = self.draw(picks.softmax(dim=1))
        liked = (F.softplus(-judged) * labels).sum(dim=1) / labels.sum(dim=1).clamp(min=1)
        return (liked + F.softplus(judged.gather(1, picked)).mean(dim=1)).mean()

    def policy_loss(
        self,
        generated: Float[Tensor, "lists n"],
        judged: Float[Tensor, "lists n"],
        labels: Bool[Tensor, "lists n"],
    ) -> Float[Tensor, ""]:
        """-E (r - b) log p_θ by draws from a mixture of p_θ and what was liked, r = 2 D - 1."""
        log_p = generated.log_softmax(dim=1)
        p, reward = log_p.detach().exp(), 2 * judged.sigmoid() - 1
        liked = labels / labels.sum(dim=1, keepdim=True).clamp(min=1)
        drawn_from = (1 - self.liked_share) * p + self.liked_share * liked
        advantage = (reward - (p * reward).sum(dim=1, keepdim=True)) * p / drawn_from
        drawn = self.draw(drawn_from)
        return -(advantage.gather(1, drawn) * log_p.gather(1, drawn)).mean()

    def draw(self, probabilities: Float[Tensor, "lists n"]) -> Int[Tensor, "lists samples"]:
        """Candidates, with replacement."""
        return probabilities.multinomial(self.samples, replacement=True)
