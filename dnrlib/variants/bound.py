"""The evidence bound as the objective of reranker and generator, and the same turned round."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor, nn
from torch.distributions import Beta, kl_divergence

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.noise import Noise
from dnrlib.training import TrainingConfig, synthetic_lists, turn_gradient
from dnrlib.variants.light import UNIFORM, LearnedBeta, LightBeta, concentration

EDGE = 1e-4
"""Scores are kept so far from 0 and 1 where a logarithm is taken of them."""


def fitted_beta(scores: Float[Tensor, "*_"]) -> Beta:
    """The Beta law of greatest likelihood for scores in [0, 1], in their precision."""
    inside = scores.flatten().clamp(EDGE, 1 - EDGE).double().cpu().numpy()
    a, b, _, _ = stats.beta.fit(inside, floc=0, fscale=1)
    return Beta(scores.new_tensor(a), scores.new_tensor(b), validate_args=False)


class Bound(LightBeta):
    """θ descends on L_direct + λ_m L_z as before, and φ on the bound itself, L_z + L_x.

    With the reranker as the likelihood of a model p_x(x) q_θ(z | x, u), and all in means over
    candidates,

        -log p_θ(z | u) / n <= L_z + L_x,   L_x = KL( p_φ(x' | z) ‖ p_x ).

    No gradient is turned: the generator helps the reranker. p_φ is a Beta law for each candidate,
    and p_x the one fitted to all training scores, so that L_x is exact. Candidates are taken as
    independent and p_x as the same for all requests, which they are not.

    Args, raises: as `LightBeta`; a ConfigError for settings by which it would be no such bound.
    """

    toward: ClassVar[float] = 1.0
    """The sign of L_z in what the generator descends on."""

    def __init__(
        self,
        reranker: nn.Module,
        train: CandidateLists,
        validation: CandidateLists,
        config: TrainingConfig,
        seed: int = 0,
        fabric: Any = None,
    ):
        for name in ("estimator", "likelihood", "adversarial_weight", "regulariser"):
            only, given = getattr(TrainingConfig, name), getattr(config, name)
            if given != only:
                raise ConfigError(f"{name} = {given!r}: {type(self).__name__} knows {only!r} only")
        super().__init__(reranker, train, validation, config, seed, fabric)
        self.prior = fitted_beta(train.scores)

    def law(self, batch: CandidateLists) -> Beta:
        """p_φ(x' | z) of each candidate, [lists n]."""
        assert isinstance(self.generator, LearnedBeta)
        return self.generator.law(batch.labels.float())

    def one_pass(
        self, batch: CandidateLists, noise: Noise | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """As `Trainer.one_pass`; with the generator, φ hears L_z with its own sign and L_x exactly.

        The gradient of L_z reaches φ without the weight λ_m, which is the reranker's.
        """
        if noise is None or noise is not self.generator:
            return super().one_pass(batch, noise)
        config = self.config
        m = synthetic_lists(len(batch), config.lambda_m)
        law = self.law(batch[:m])
        heard = turn_gradient(law.rsample(), -self.toward / config.lambda_m)
        logits = self._logits(batch, torch.cat([heard, batch.scores[m:]]))
        losses = {
            "L_direct": self.negative_log_likelihood(logits[m:], batch.labels[m:]),
            "L_z": self.negative_log_likelihood(logits[:m], batch.labels[:m]),
            "L_x": kl_divergence(law, self.prior).mean(),
        }
        objective = losses["L_direct"] + config.lambda_m * losses["L_z"]
        return losses, objective + config.regulariser_weight * losses["L_x"]


class LightBetaExact(Bound):
    """`Bound` with the sign of L_z turned for φ: the paper's game, with the same exact L_x."""

    toward = -1.0


class RequestBeta(Noise):
    """x' ~ Beta(a, b) with a and b from a two-layer perceptron of z and of a logit; uniform first.

    The logit is what the reranker would say without the candidate's score.
    """

    def __init__(self, hidden: int = 32) -> None:
        super().__init__(1.0)
        last = nn.Linear(hidden, 2)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, UNIFORM)
        self.mlp = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), last)

    def law(self, z: Float[Tensor, "lists n"], logit: Float[Tensor, "lists n"]) -> Beta:
        """p_φ(x' | z, u) of each candidate."""
        a, b = concentration(self.mlp(torch.stack([z, logit], dim=-1))).unbind(-1)
        return Beta(a, b, validate_args=False)

    def epsilon(self, z: Float[Tensor, "lists n"]) -> Float[Tensor, "lists n"]:
        """Not to be had from the label alone.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("this generator wants the request besides the label: use its `law`")


class BoundOfRequest(Bound):
    """`Bound` whose generator also hears what the reranker says of a candidate without its score.

    The model's posterior, ∝ p_x(x) q_θ(z | x, u), depends on the request through the reranker; of
    one candidate whose logit is additive in score and request, a number tells all of it. That
    number is taken with the scores of a whole list at the prior's mean.
    """

    @staticmethod
    def untrained() -> Noise:
        """The generator before it is trained."""
        return RequestBeta()

    def law(self, batch: CandidateLists) -> Beta:
        """p_φ(x' | z, u) of each candidate, [lists n]; no gradient goes to θ."""
        assert isinstance(self.generator, RequestBeta)
        with torch.no_grad():
            logit = self._logits(batch, self.prior.mean.expand_as(batch.scores))
        return self.generator.law(batch.labels.float(), logit)
