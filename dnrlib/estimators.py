"""How noisy are the estimates of the gradient of L_direct + λ_m L_z? Measured, not assumed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.training import Trainer


@dataclass(frozen=True)
class GradientVariance:
    """Variances of one list's gradient in θ, summed over the weights.

    Args:
        direct, denoising: V_direct of L_direct and V_z of L_z.
        covariance: of the two, on the same list.
        lambda_m: the weight λ_m of L_z.
    """

    direct: float
    denoising: float
    covariance: float
    lambda_m: float

    @property
    def exact(self) -> float:
        """V_direct + λ² V_z + 2 λ C: every list carries both kinds of scores."""
        weight = self.lambda_m
        return self.direct + weight**2 * self.denoising + 2 * weight * self.covariance

    def mixed(self, share: float) -> float:
        """V_direct / (1 - s) + λ² V_z / s: a share s of the lists carries synthetic scores."""
        return self.direct / (1 - share) + self.lambda_m**2 * self.denoising / share

    @property
    def best_share(self) -> float:
        """The share that makes `mixed` least (Neyman's allocation)."""
        noise = self.lambda_m * self.denoising**0.5
        return noise / (self.direct**0.5 + noise)


def gradient_variance(
    trainer: Trainer, draws: int = 200, lists: int = 16, seed: int = 0
) -> GradientVariance:
    """Measure the variances at the trainer's present weights, which stay as they are.

    Each draw is a random batch, noise and dropout; the gradient of a mean over lists has the
    variance of one list's over their number. The dropout of both losses is the same, as in the
    exact form.

    Args:
        draws: batches; the error of each variance falls with their square root.
        lists: in a batch.

    Raises:
        ConfigError: the trainer has no heuristic noise.
    """
    noise = trainer.heuristic
    if noise is None:
        raise ConfigError("noise = 'none': there is no denoising loss whose gradient could vary")
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    trainer.reranker.train()
    rows = []
    for _ in range(draws):
        batch = trainer.lists[torch.randperm(len(trainer.lists), generator=generator)[:lists]]
        rows.append(_gradients(trainer, batch, noise(batch.labels)))
    direct, denoising = torch.stack(rows).double().unbind(1)
    direct, denoising = direct - direct.mean(dim=0), denoising - denoising.mean(dim=0)

    def product(a: Tensor, b: Tensor) -> float:
        return lists * float((a * b).sum()) / (draws - 1)

    return GradientVariance(
        product(direct, direct),
        product(denoising, denoising),
        product(direct, denoising),
        trainer.config.lambda_m,
    )


def _gradients(
    trainer: Trainer, batch: CandidateLists, synthetic: Tensor
) -> Float[Tensor, "two weights"]:
    """The gradients of L_direct and of L_z, under the same dropout where they share an encoder."""
    weights = [p for p in trainer.reranker.parameters() if p.requires_grad]
    state = trainer.reranker.encode(batch)
    rows = []
    for scores in (batch.scores, synthetic):
        logits = trainer.reranker.score(state, scores)
        loss = trainer.negative_log_likelihood(logits, batch.labels)
        found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        parts = [
            (torch.zeros_like(w) if g is None else g).flatten()
            for w, g in zip(weights, found, strict=True)
        ]
        rows.append(torch.cat(parts))
    return torch.stack(rows)
