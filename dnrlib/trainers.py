"""Which trainer a reranker needs: that of the likelihood, or of a loss of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.training import Epoch, Trainer, TrainingConfig


class OwnLossTrainer(Trainer):
    """Trains an `OwnLoss` reranker; phases, noise and generator are those of `Trainer`.

    ``L_direct`` and ``L_z`` of the curves are the reranker's own loss with real and with synthetic
    scores; the generator ascends on the latter.

    Raises:
        ConfigError: as `Trainer` does, or for settings that such a loss has no use for.
    """

    reranker: OwnLoss

    def __init__(
        self,
        reranker: nn.Module,
        train: CandidateLists,
        validation: CandidateLists,
        config: TrainingConfig,
        seed: int = 0,
        fabric: Any = None,
    ):
        name = type(reranker).__name__
        if not isinstance(reranker, OwnLoss):
            raise ConfigError(f"{name} has no loss of its own: use Trainer")
        if config.likelihood != TrainingConfig.likelihood:
            raise ConfigError(
                f"likelihood = {config.likelihood!r}: {name} is trained by a loss of its own"
            )
        if config.estimator == "exact" and config.noise != "none":
            raise ConfigError(f"estimator = 'exact': only 'mixed' is there for {name}'s own loss")
        super().__init__(reranker, train, validation, config, seed, fabric)
        self.negative_log_likelihood = self._own_loss

    def _logits(self, batch: CandidateLists, scores: Tensor) -> CandidateLists:  # type: ignore[override]
        """What the loss needs in place of logits: the lists with the scores to use."""
        return replace(batch, scores=scores)

    def _own_loss(self, lists: CandidateLists, labels: Tensor) -> Float[Tensor, ""]:
        with self.fabric.autocast():
            return self.reranker.loss(lists, lists.scores).float()

    def _average_gradients(self, parameters: list[Tensor]) -> None:
        """As `Trainer` does, but a parameter that this stage leaves out stays without gradient."""
        super()._average_gradients([p for p in parameters if p.grad is not None])

    def _check_generator_is_heard(self) -> None:
        batch = self.lists[:2]
        scores = batch.scores.clone().requires_grad_()
        loss = self.reranker.loss(replace(batch, scores=scores), scores)
        gradient = None
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, scores, allow_unused=True)
        if gradient is None:
            raise ConfigError(
                f"generator = {self.config.generator!r}: the reranker's loss has no gradient in "
                "the scores, so that L_adv cannot train it. Use score_use = concat, add or weight, "
                "or generator = 'none'"
            )

    def epoch(self, number: int, on_progress: Any) -> Epoch:
        """As `Trainer.epoch`; the reranker is told before."""
        self.reranker.begin_epoch(number, self.config.epochs, self.lists)
        return super().epoch(number, on_progress)


def trainer_for(kind: type[nn.Module]) -> type[Trainer]:
    """The trainer that a class of rerankers needs."""
    return OwnLossTrainer if issubclass(kind, OwnLoss) else Trainer
