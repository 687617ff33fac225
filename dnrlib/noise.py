"""Synthetic scores x' = (1 - λ_c) z + λ_c ε: a clean label and a chosen or a learned noise ε."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dnrlib.errors import ConfigError


class Noise(nn.Module):
    """A noise p_φ(x' | z); its sample is drawn from the global random stream.

    Args:
        lambda_c: the share of noise λ_c, in [0, 1].

    Raises:
        ConfigError: ``lambda_c`` outside [0, 1].
    """

    def __init__(self, lambda_c: float):
        super().__init__()
        if not 0 <= lambda_c <= 1:
            raise ConfigError(f"lambda_c = {lambda_c}: must lie in [0, 1]")
        self.lambda_c = lambda_c

    def epsilon(self, z: Float[Tensor, "lists n"]) -> Float[Tensor, "lists n"]:
        """A sample of the noise ε."""
        raise NotImplementedError

    def forward(self, labels: Bool[Tensor, "lists n"]) -> Float[Tensor, "lists n"]:
        """Synthetic scores for given feedback."""
        z = labels.float()
        return (1 - self.lambda_c) * z + self.lambda_c * self.epsilon(z)


class GaussianNoise(Noise):
    """ε ~ N(0, 1). The synthetic scores are not confined to [0, 1], as in the paper."""

    def epsilon(self, z: Float[Tensor, "lists n"]) -> Float[Tensor, "lists n"]:
        """A standard normal sample."""
        return torch.randn_like(z)


class BetaNoise(Noise):
    """ε ~ Beta(a, b); the paper's a = b = 0.5 puts most noise near 0 and 1."""

    concentration: Tensor

    def __init__(self, lambda_c: float, a: float = 0.5, b: float = 0.5):
        super().__init__(lambda_c)
        if a <= 0 or b <= 0:
            raise ConfigError(f"beta = ({a}, {b}): both must be positive")
        self.register_buffer("concentration", torch.tensor([a, b]))

    def epsilon(self, z: Float[Tensor, "lists n"]) -> Float[Tensor, "lists n"]:
        """A sample in [0, 1]."""
        a, b = self.concentration
        return torch.distributions.Beta(a, b, validate_args=False).sample(z.shape)


class MLPNoise(Noise):
    """A trained generator: a two-layer perceptron of the label and of a random seed.

    The paper can be read in two ways. With ``output="scores"`` the perceptron gives x' itself,
    confined to (0, 1) by a sigmoid (λ_c = 1); with ``output="epsilon"`` it gives ε, unconfined,
    and λ_c mixes it with the label.

    Raises:
        ConfigError: unknown ``output``.
    """

    def __init__(self, output: str, lambda_c: float, hidden: int = 128, seed_dim: int = 8):
        super().__init__(1.0 if output == "scores" else lambda_c)
        if output not in ("scores", "epsilon"):
            raise ConfigError(f"generator {output!r} is unknown: choose none, scores or epsilon")
        self.seed_dim = seed_dim
        squash = [nn.Sigmoid()] if output == "scores" else []
        self.mlp = nn.Sequential(
            nn.Linear(1 + seed_dim, hidden), nn.ReLU(), nn.Linear(hidden, 1), *squash
        )

    def epsilon(self, z: Float[Tensor, "lists n"]) -> Float[Tensor, "lists n"]:
        """A differentiable sample."""
        seed = torch.randn(*z.shape, self.seed_dim, device=z.device)
        return self.mlp(torch.cat([z[..., None], seed], dim=-1))[..., 0]
