"""AdvIR: Adversarial Sampling and Training for Semi-Supervised Information Retrieval.

Park and Chang, WWW 2019.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.rerankers.prm import PRM


class AdvIR(OwnLoss):
    """Hard examples, made harder: negatives that rank high, and vectors moved against the model.

    Adversarial sampling draws the candidates that were not liked by the model's own softmax, as
    many as were liked. Adversarial training adds to the vector of each of these examples, liked
    or not, the perturbation inside a ball that raises the loss most, to first order: along the
    gradient. Nothing flows between stages; what is perturbed here is the item, as DNR perturbs
    the score.

    The paper's scorers see one document at a time; PRM sees the list, so that the examples are
    those places of a list whose loss counts, and they are moved all at once. What is perturbed
    is the candidate's vector before the score enters. The virtual form for unlabelled documents
    is left out, as every candidate has feedback.

    Args:
        users, items, n, history, dim, layers, heads, feed_forward, dropout, score_use: see `PRM`.
        epsilon: radius of the ball, for each candidate's vector.
        weight: of the loss on perturbed vectors.
        temperature: of the softmax that draws negatives.

    Raises:
        ConfigError: as `PRM` does; a negative radius or weight, or no positive temperature.
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
        epsilon: float = 0.1,
        weight: float = 1.0,
        temperature: float = 1.0,
    ):
        super().__init__()
        if epsilon < 0 or weight < 0 or temperature <= 0:
            raise ConfigError(
                f"epsilon = {epsilon}, weight = {weight}, temperature = {temperature}: the first "
                "two must not be negative, and the last must be positive"
            )
        sizes: dict[str, Any] = {"dim": dim, "layers": layers, "heads": heads}
        sizes |= {"feed_forward": feed_forward, "dropout": dropout}
        self.ranker = PRM(users, items, n, history, score_use=score_use, **sizes)
        self.epsilon, self.weight, self.temperature = epsilon, weight, temperature

    def forward(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Logits of the ranker; nothing is perturbed when it serves."""
        return self.ranker(batch, scores)

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """The loss of the examples as they are, and moved."""
        vectors = self.ranker.encode(batch)
        logits = self.ranker.score(vectors, scores)
        examples = self.examples(logits.detach(), batch.labels)
        clean = loss_of(logits, batch.labels, examples)
        moved = vectors + examples[..., None] * self.perturbation(clean, vectors)
        adversarial = loss_of(self.ranker.score(moved, scores), batch.labels, examples)
        return clean + self.weight * adversarial

    def examples(
        self, logits: Float[Tensor, "lists n"], labels: Bool[Tensor, "lists n"]
    ) -> Bool[Tensor, "lists n"]:
        """The liked candidates and, by softmax without replacement, as many that were not."""
        gumbel = -torch.empty_like(logits).exponential_().log()
        keys = (logits / self.temperature + gumbel).masked_fill(labels, -torch.inf)
        place = keys.argsort(dim=1, descending=True).argsort(dim=1)
        return labels | (place < labels.sum(dim=1, keepdim=True))

    def perturbation(
        self, clean: Float[Tensor, ""], vectors: Float[Tensor, "lists n dim"]
    ) -> Float[Tensor, "lists n dim"]:
        """ε g / ‖g‖ with the loss's gradient g at each candidate's vector; held fixed."""
        (gradient,) = torch.autograd.grad(clean, vectors, retain_graph=True)
        return self.epsilon * F.normalize(gradient, dim=2)


def loss_of(
    logits: Float[Tensor, "lists n"],
    labels: Bool[Tensor, "lists n"],
    examples: Bool[Tensor, "lists n"],
) -> Float[Tensor, ""]:
    """-log q_θ(z | x) of the examples, averaged over them."""
    return F.binary_cross_entropy_with_logits(logits[examples], labels[examples].to(logits.dtype))
