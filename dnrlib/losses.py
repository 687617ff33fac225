"""The losses of DNR, in the paper's symbols, in nats.

Each is an average over candidates but `softmax`, which is one over lists: with it the generator's
two terms are on different scales.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

Scalar = Float[Tensor, ""]


def bernoulli(logits: Float[Tensor, "lists n"], labels: Bool[Tensor, "lists n"]) -> Scalar:
    """-log q_θ(z | x) / n with independent feedback, q_θ(z_i = 1 | x) = sigmoid(logit_i)."""
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def softmax(logits: Float[Tensor, "lists n"], labels: Bool[Tensor, "lists n"]) -> Scalar:
    """PRM's listwise loss: cross entropy of softmax(logits) to the labels, normalised to one."""
    target = labels / labels.sum(dim=1, keepdim=True).clamp(min=1)
    return -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()


LIKELIHOODS: dict[str, Callable[..., Scalar]] = {"bernoulli": bernoulli, "softmax": softmax}
"""L_direct when the logits come from the real scores x, L_z when from synthetic scores x'.
L_adv, as the paper trains it, is the negative of L_z: φ minimises log q_θ(z | x')."""


def moments(x: Float[Tensor, "lists n"], weight: Float[Tensor, "lists n"]) -> tuple[Scalar, Scalar]:
    """Weighted mean and variance; the variance is kept above 1e-6, where its gradient ends."""
    total = weight.sum().clamp(min=1)
    mean = (weight * x).sum() / total
    variance = (weight * (x - mean) ** 2).sum() / total
    return mean, variance.clamp(min=1e-6)


def gaussian_kl(p: tuple[Scalar, Scalar], q: tuple[Scalar, Scalar]) -> Scalar:
    """KL( N(m_p, v_p) ‖ N(m_q, v_q) ) from means and variances."""
    (mean_p, var_p), (mean_q, var_q) = p, q
    return 0.5 * ((var_q / var_p).log() + (var_p + (mean_p - mean_q) ** 2) / var_q - 1)


def conditional_regulariser(
    synthetic: Float[Tensor, "lists n"],
    labels: Bool[Tensor, "lists n"],
    scores: Float[Tensor, "others n"],
) -> Scalar:
    """L_x = KL( p_φ(x' | z) ‖ p_x(x) ) / n, given z as the formula has it.

    Assumes that candidates are independent and that only the first two moments matter: x' given
    z = 0, x' given z = 1 and x are each taken as normal. Zero only if x' says nothing of z, so
    it pulls against everything that makes x' a score.
    """
    real = moments(scores, torch.ones_like(scores))
    positive = labels.to(scores.dtype)
    liked, disliked = (
        weight.mean() * gaussian_kl(moments(synthetic, weight), real)
        for weight in (positive, 1 - positive)
    )
    return liked + disliked


def pooled_regulariser(
    synthetic: Float[Tensor, "lists n"],
    labels: Bool[Tensor, "lists n"],
    scores: Float[Tensor, "others n"],
) -> Scalar:
    """KL( p_φ(x') ‖ p_x(x) ) over both labels together, each side taken as normal.

    Never above the conditional form (the divergence is convex), and zero when the generated
    scores as a whole have the real ones' moments, which is what the paper's figure 5 compares.
    """
    generated = moments(synthetic, torch.ones_like(synthetic))
    return gaussian_kl(generated, moments(scores, torch.ones_like(scores)))


REGULARISERS: dict[str, Callable[..., Scalar]] = {
    "conditional": conditional_regulariser,
    "pooled": pooled_regulariser,
}
