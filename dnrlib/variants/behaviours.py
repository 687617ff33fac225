"""Denoising training of several kinds of feedback: synthetic scores made of all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.losses import gaussian_kl, moments
from dnrlib.metrics import ndcg, rank
from dnrlib.noise import Noise
from dnrlib.rerankers.several import SeveralPRM, bernoulli_of_heads, scored
from dnrlib.trainers import OwnLossTrainer
from dnrlib.training import Epoch, TrainingConfig, synthetic_lists, turn_gradient

Scalar = Float[Tensor, ""]


class MeanNoise(Noise):
    """x' = (1 - λ_c) z̄ + λ_c ε, where z̄ is the mean of z_1 … z_b and ε that of another noise."""

    def __init__(self, noise: Noise):
        super().__init__(noise.lambda_c)
        self.noise = noise

    def forward(self, labels: Bool[Tensor, "lists n b"]) -> Float[Tensor, "lists n"]:
        """Synthetic scores for given feedback of several kinds."""
        mean = labels.float().mean(dim=2)
        return (1 - self.lambda_c) * mean + self.lambda_c * self.noise.epsilon(mean)


class BehaviourNoise(Noise):
    """`MLPNoise` of several kinds of feedback: a perceptron of z_1 … z_b and of a random seed.

    With ``output="scores"`` it gives x' itself, with ``"epsilon"`` the ε of `MeanNoise`. Of one
    kind it is `MLPNoise` to the last bit.
    """

    def __init__(
        self, kinds: int, output: str, lambda_c: float, hidden: int = 128, seed_dim: int = 8
    ):
        super().__init__(1.0 if output == "scores" else lambda_c)
        self.seed_dim = seed_dim
        squash = [nn.Sigmoid()] if output == "scores" else []
        self.mlp = nn.Sequential(
            nn.Linear(kinds + seed_dim, hidden), nn.ReLU(), nn.Linear(hidden, 1), *squash
        )

    def forward(self, labels: Bool[Tensor, "lists n b"]) -> Float[Tensor, "lists n"]:
        """A differentiable sample of synthetic scores."""
        z = labels.float()
        seed = torch.randn(*z.shape[:2], self.seed_dim, device=z.device)
        made = self.mlp(torch.cat([z, seed], dim=2))[:, :, 0]
        return (1 - self.lambda_c) * z.mean(dim=2) + self.lambda_c * made


def regulariser_of_all(
    synthetic: Float[Tensor, "lists n"],
    labels: Bool[Tensor, "lists n b"],
    scores: Float[Tensor, "others n"],
) -> Scalar:
    """L_x = KL( p_φ(x' | z_1 … z_b) ‖ p_x(x) ) / n, with x' normal given each pattern of feedback.

    Of one kind it is `dnrlib.losses.conditional_regulariser`.
    """
    real = moments(scores, torch.ones_like(scores))
    digits = 2 ** torch.arange(labels.shape[2], device=labels.device)
    pattern = (labels * digits).sum(dim=2)
    terms = [
        weight.mean() * gaussian_kl(moments(synthetic, weight), real)
        for weight in ((pattern == one).to(scores.dtype) for one in pattern.unique())
    ]
    return torch.stack(terms).sum()


def mean_ndcg(reranker: SeveralPRM, lists: CandidateLists, k: int = 6) -> float:
    """Mean NDCG@k of the kinds that the reranker learns, each over the lists that have it.

    A kind that no list has counts for nothing.
    """
    logits = scored(reranker, reranker.logits_of_heads, lists)
    labels = reranker.feedback(lists, reranker.behaviours)
    values = [
        ndcg(rank(logit, label), k).nanmean()
        for logit, label in zip(logits.unbind(dim=2), labels.unbind(dim=2), strict=True)
    ]
    return float(torch.stack(values).nanmean())


class BehaviourTrainer(OwnLossTrainer):
    """Trains a `SeveralPRM` as the paper trains a model of one kind of feedback.

    Synthetic scores are made of all kinds in the reranker's ``noise_of``, by `MeanNoise` in phase
    one and by `BehaviourNoise` in phase two. All losses are means over the kinds that it learns,
    and the best epoch is that of `mean_ndcg`.

    Raises:
        ConfigError: as `OwnLossTrainer` does; another reranker; kinds that the lists do not have;
            or a regulariser other than ``conditional``.
    """

    reranker: SeveralPRM

    def __init__(
        self,
        reranker: nn.Module,
        train: CandidateLists,
        validation: CandidateLists,
        config: TrainingConfig,
        seed: int = 0,
        fabric: Any = None,
    ):
        if not isinstance(reranker, SeveralPRM):
            name = type(reranker).__name__
            raise ConfigError(f"trainer = 'behaviours' trains prm-behaviours, not {name}")
        if config.generator != "none" and config.regulariser != "conditional":
            raise ConfigError(
                f"regulariser = {config.regulariser!r}: of several kinds of feedback there is "
                "'conditional' alone"
            )
        reranker.feedback(train[:1], [*reranker.behaviours, *reranker.noise_of])
        super().__init__(reranker, train, validation, config, seed, fabric)
        self.regulariser = regulariser_of_all
        if self.heuristic:
            self.heuristic = MeanNoise(self.heuristic)
        if self.generator:
            torch.manual_seed(seed)
            kinds = len(reranker.noise_of)
            made = BehaviourNoise(kinds, config.generator, config.lambda_c)
            self.generator = made.to(train.scores.device)
            self.generator_optimiser = torch.optim.Adam(
                self.generator.parameters(), lr=config.generator_learning_rate, fused=True
            )

    def one_pass(
        self, batch: CandidateLists, noise: Noise | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """As `Trainer.one_pass`, with synthetic scores and losses of several kinds."""
        config = self.config
        if noise is None or not config.lambda_m:
            return super().one_pass(batch, noise)
        m = synthetic_lists(len(batch), config.lambda_m)
        known = self.reranker.feedback(batch[:m], self.reranker.noise_of)
        wanted = self.reranker.feedback(batch, self.reranker.behaviours)
        synthetic = noise(known)
        heard = turn_gradient(synthetic, config.adversarial_weight / config.lambda_m)
        with self.fabric.autocast():
            scores = torch.cat([heard, batch.scores[m:]])
            logits = self.reranker.logits_of_heads(batch, scores).float()
        losses = {
            "L_direct": bernoulli_of_heads(logits[m:], wanted[m:]),
            "L_z": bernoulli_of_heads(logits[:m], wanted[:m]),
        }
        objective = losses["L_direct"] + config.lambda_m * losses["L_z"]
        if noise is self.generator:
            losses |= {
                "L_adv": -losses["L_z"],
                "L_x": self.regulariser(synthetic, known, batch.scores),
            }
            objective = objective + config.regulariser_weight * losses["L_x"]
        return losses, objective

    def epoch(self, number: int, on_progress: Any) -> Epoch:
        """As `OwnLossTrainer.epoch`; the validation is that of all kinds that are learnt."""
        row = super().epoch(number, on_progress)
        with self.fabric.autocast():
            return replace(row, validation=mean_ndcg(self.reranker, self.validation))
